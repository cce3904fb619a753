/* SPDX-License-Identifier: Apache-2.0 */
/* cases: the sizes that are timed on the CPU (cuda_cases.c: on CUDA). 576x1024 is one image of CLIP
 * ViT-L/14 at 336 pixels; 64 of them are out of every cache; 16384 tokens are a video; a sequence
 * inside a language model is 2304 image tokens and 64 of text. */
#include "bench.h"

const bench_case bench_cases[] = {
    {"score", 1, 576, 1024, TAILCUT_F16, true},
    {"score", 1, 576, 1024, TAILCUT_F32, false},
    {"score", 64, 576, 1024, TAILCUT_F16, true},
    {"score", 64, 576, 1024, TAILCUT_BF16, false},
    {"score", 64, 576, 1024, TAILCUT_F32, false},
    {"score", 1, 16384, 1024, TAILCUT_F16, false},
    {"score", 64, 729, 1152, TAILCUT_F16, false},
    {"cut", 1, 576, 0, TAILCUT_F32, true},
    {"cut", 64, 576, 0, TAILCUT_F32, false},
    {"cut", 1, 65536, 0, TAILCUT_F32, false},
    {"compact", 1, 576, 1024, TAILCUT_F16, true},
    {"compact", 64, 576, 1024, TAILCUT_F16, false},
    {"mean_direction", 1, 576, 1024, TAILCUT_F16, true},
    {"mean_direction", 64, 576, 1024, TAILCUT_F16, false},
    {"relevance", 1, 2368, 4096, TAILCUT_F16, false},
    {"relevance", 8, 640, 4096, TAILCUT_BF16, false},
    {"prune_visual", 1, 576, 1024, TAILCUT_F16, true},
    {"prune_visual", 1, 576, 1024, TAILCUT_F32, true},
    {"prune_visual", 64, 576, 1024, TAILCUT_F16, false},
    {"prune_visual", 1, 16384, 1024, TAILCUT_F16, false},
};
const int bench_case_count = sizeof bench_cases / sizeof bench_cases[0];
