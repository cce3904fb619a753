/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_cases: the sizes that are timed on CUDA. 576x1024 is one image of CLIP ViT-L/14 at 336
 * pixels; a server sees 1 to 256 of them at once. 256, 1024x1280 and 2880 tokens are smaller and
 * larger images; 65536 tokens in one segment are a video. */
#if defined(TAILCUT_HAVE_CUDA)

#include "cuda.h"

#define ONE_F16(step) \
  { step, 1, 576, 1024, TAILCUT_F16, .quick = true }
#define MANY_F16(step)                                       \
  {step, 64, 576, 1024, TAILCUT_F16, .quick = true},         \
      {step, 256, 576, 1024, TAILCUT_F16, .quick = false}, { \
    step, 1, 65536, 1024, TAILCUT_F16, .quick = false        \
  }
#define OTHERS(step)                                        \
  {step, 1, 576, 1024, TAILCUT_BF16, .quick = false},       \
      {step, 64, 576, 1024, TAILCUT_BF16, .quick = false},  \
      {step, 1, 576, 1024, TAILCUT_F32, .quick = false},    \
      {step, 64, 576, 1024, TAILCUT_F32, .quick = false},   \
      {step, 1, 256, 1024, TAILCUT_F16, .quick = false},    \
      {step, 1, 1024, 1280, TAILCUT_F16, .quick = false}, { \
    step, 1, 2880, 1024, TAILCUT_F16, .quick = false        \
  }

/* First those that targets.py asks for: where the time is limited the last ones are left out. */
static const bench_case cases[] = {
    ONE_F16("prune_visual"),
    {"prune_visual", 8, 576, 1024, TAILCUT_F16, .quick = true},
    {"prune_visual", 1, 2048, 1024, TAILCUT_F16, .quick = true},
    MANY_F16("prune_visual"),
    {"cut", 1, 576, 0, TAILCUT_F32, .quick = true},
    {"cut", 1, 2048, 0, TAILCUT_F32, .quick = true},
    {"cut", 1, 8192, 0, TAILCUT_F32, .quick = true},
    {"cut", 1, 65536, 0, TAILCUT_F32, .quick = true},
    {"cut", 1, 1048576, 0, TAILCUT_F32, .quick = false},
    BENCH_SEQUENCE(576, 64, 4096, F16, 2, 8, false, true),
    MANY_F16("compact"),
    MANY_F16("score"),
    BENCH_SEQUENCE(4096, 2048, 8192, F16, 32, 8, false, false),
    ONE_F16("novelty"),
    MANY_F16("novelty"),
    ONE_F16("prune_novelty"),
    {"prune_novelty", 64, 576, 1024, TAILCUT_F16, .quick = false},
    ONE_F16("prune_merge"),
    {"prune_merge", 64, 576, 1024, TAILCUT_F16, .quick = false},
    ONE_F16("score"),
    ONE_F16("compact"),
    {"score", 8, 576, 1024, TAILCUT_F16, .quick = false},
    {"compact", 8, 576, 1024, TAILCUT_F16, .quick = false},
    {"cut", 1, 1024, 0, TAILCUT_F32, .quick = false},
    {"cut", 1, 4096, 0, TAILCUT_F32, .quick = false},
    {"cut", 1, 16384, 0, TAILCUT_F32, .quick = false},
    {"cut", 8, 576, 0, TAILCUT_F32, .quick = false},
    {"cut", 64, 576, 0, TAILCUT_F32, .quick = false},
    {"cut", 256, 576, 0, TAILCUT_F32, .quick = false},
    /* Layers of LLaVA-1.5-7B and -13B, of Qwen2.5-VL-7B, of a model of 70B parameters. */
    BENCH_SEQUENCE(576, 64, 4096, F16, 2, 8, true, false),
    BENCH_SEQUENCE(576, 64, 4096, F16, 2, 32, false, false),
    BENCH_SEQUENCE(576, 64, 4096, F16, 32, 32, true, false),
    BENCH_SEQUENCE(576, 64, 5120, F16, 2, 40, false, false),
    BENCH_SEQUENCE(64, 16, 3584, BF16, 2, 4, true, false),
    BENCH_SEQUENCE(1024, 256, 3584, BF16, 2, 4, true, false),
    BENCH_SEQUENCE(1024, 256, 3584, BF16, 32, 4, true, false),
    BENCH_SEQUENCE(4096, 512, 3584, BF16, 32, 4, true, false),
    BENCH_SEQUENCE(4096, 2048, 8192, BF16, 2, 8, false, false),
    BENCH_SEQUENCE(4096, 2048, 8192, BF16, 32, 8, true, false),
    OTHERS("prune_visual"),
    OTHERS("score"),
    OTHERS("compact"),
};

/* For the simulator with --quick: the same steps, small. 2500 and 2100 rows take the forms for rows
 * that do not fit on chip. */
static const bench_case small_cases[] = {
    {"score", 2, 40, 64, TAILCUT_F16, .quick = true},
    {"novelty", 2, 40, 64, TAILCUT_F16, .quick = true},
    {"prune_novelty", 2, 70, 64, TAILCUT_F16, .quick = true},
    {"prune_merge", 2, 70, 64, TAILCUT_F16, .quick = true},
    {"cut", 2, 70, 0, TAILCUT_F32, .quick = true},
    {"compact", 2, 40, 64, TAILCUT_BF16, .quick = true},
    {"prune_visual", 2, 40, 64, TAILCUT_F16, .quick = true},
    {"prune_visual", 1, 33, 48, TAILCUT_F32, .quick = true},
    {"cut", 1, 2500, 0, TAILCUT_F32, .quick = true},
    {"prune_visual", 1, 2100, 8, TAILCUT_F16, .quick = true},
    BENCH_SEQUENCE(40, 9, 64, BF16, 2, 1, true, true),
    BENCH_SEQUENCE(21, 6, 64, F16, 3, 2, false, true),
};

const bench_case *bench_cuda_cases(bool quick, int *count) {
  const bool small = quick && bench_the_gpu.simulated;
  *count = small ? (int)(sizeof small_cases / sizeof small_cases[0])
                 : (int)(sizeof cases / sizeof cases[0]);
  return small ? small_cases : cases;
}

#else
typedef int bench_cuda_cases_is_not_built;
#endif
