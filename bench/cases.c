/* SPDX-License-Identifier: Apache-2.0 */
/* cases: the sizes that are timed on the CPU (cuda_cases.c: on CUDA). 576x1024 is one image of CLIP
 * ViT-L/14 at 336 pixels; 64 of them are out of every cache; 16384 tokens are a video; a sequence
 * inside a language model is 2304 image tokens and 64 of text. prune_sequence: a layer that is
 * 4096 wide with 8 heads of K/V; of LLaVA-1.5-7B and -13B; of Qwen2.5-VL-7B; of a model of 70B
 * parameters. novelty: the scores of that source; prune_novelty and prune_merge: prune_visual with
 * it, and with what is dropped merged as well. */
#include "bench.h"

const bench_case bench_cases[] = {
    {"score", 1, 576, 1024, TAILCUT_F16, .quick = true},
    {"score", 1, 576, 1024, TAILCUT_F32, .quick = false},
    {"score", 64, 576, 1024, TAILCUT_F16, .quick = true},
    {"score", 64, 576, 1024, TAILCUT_BF16, .quick = false},
    {"score", 64, 576, 1024, TAILCUT_F32, .quick = false},
    {"score", 1, 16384, 1024, TAILCUT_F16, .quick = false},
    {"score", 64, 729, 1152, TAILCUT_F16, .quick = false},
    {"cut", 1, 576, 0, TAILCUT_F32, .quick = true},
    {"cut", 64, 576, 0, TAILCUT_F32, .quick = false},
    {"cut", 1, 65536, 0, TAILCUT_F32, .quick = false},
    {"compact", 1, 576, 1024, TAILCUT_F16, .quick = true},
    {"compact", 64, 576, 1024, TAILCUT_F16, .quick = false},
    {"mean_direction", 1, 576, 1024, TAILCUT_F16, .quick = true},
    {"mean_direction", 64, 576, 1024, TAILCUT_F16, .quick = false},
    {"relevance", 1, 2368, 4096, TAILCUT_F16, .quick = false},
    {"relevance", 8, 640, 4096, TAILCUT_BF16, .quick = false},
    {"prune_visual", 1, 576, 1024, TAILCUT_F16, .quick = true},
    {"prune_visual", 1, 576, 1024, TAILCUT_F32, .quick = true},
    {"prune_visual", 64, 576, 1024, TAILCUT_F16, .quick = false},
    {"prune_visual", 1, 16384, 1024, TAILCUT_F16, .quick = false},
    {"novelty", 1, 576, 1024, TAILCUT_F16, .quick = false},
    {"prune_novelty", 1, 576, 1024, TAILCUT_F16, .quick = true},
    {"prune_novelty", 64, 576, 1024, TAILCUT_F16, .quick = false},
    {"prune_merge", 1, 576, 1024, TAILCUT_F16, .quick = true},
    {"prune_merge", 64, 576, 1024, TAILCUT_F16, .quick = false},
    BENCH_SEQUENCE(576, 64, 4096, F16, 2, 8, false, true),
    BENCH_SEQUENCE(576, 64, 4096, F16, 2, 32, false, false),
    BENCH_SEQUENCE(576, 64, 5120, F16, 2, 40, false, false),
    BENCH_SEQUENCE(1024, 256, 3584, BF16, 2, 4, true, false),
    BENCH_SEQUENCE(1024, 256, 3584, BF16, 32, 4, true, false),
    BENCH_SEQUENCE(64, 16, 3584, BF16, 2, 4, true, false),
    BENCH_SEQUENCE(4096, 2048, 8192, BF16, 2, 8, false, false),
};
const int bench_case_count = sizeof bench_cases / sizeof bench_cases[0];
