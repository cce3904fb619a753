/* SPDX-License-Identifier: Apache-2.0 */
/* run: a run call on its way, and the steps that calls are made of (run.c). */
#ifndef TAILCUT_CUDA_RUN_H_
#define TAILCUT_CUDA_RUN_H_

#include "cuda.h"

/* One call on its way: the first error ends it. */
typedef struct tc_cuda_run {
  const tc_cuda *device;
  const tc_call *call;
  tc_segments segments;
  tc_cuda_space space;
  cudaStream_t stream;
} tc_cuda_run;

/* LAUNCH(step, arguments): the error is named after the step. */
#define LAUNCH(step, ...)                                            \
  do {                                                               \
    const cudaError_t error_ = tc_cuda_##step(__VA_ARGS__);          \
    if (error_ != cudaSuccess) return tc_cuda_status(error_, #step); \
  } while (0)

/* Kernels find ragged segments themselves: a block for whole segments goes through the offsets, a
 * block for a tile of rows searches them. With more segments than this the latter is dearer than
 * resolve's launch. */
#define TC_FEW_SEGMENTS 32
/* Whether resolve must come first for a call of more than `most` segments. */
int tc_run_needs_resolve(const tc_cuda_run *run, int32_t most);
tailcut_status tc_run_resolve(tc_cuda_run *run, int32_t *flags);

/* Scores by the call's reference; MEAN's directions are made for a group of segments at a time. */
tailcut_status tc_run_score(tc_cuda_run *run, float *scores, int32_t *flags, int stores_flags);

/* The cut and what follows from it: counts, kept, offsets in the caller's arrays or the workspace. */
tailcut_status tc_run_cut(tc_cuda_run *run, const float *scores, int32_t *flags, int needs_offsets);

/* Row arrays but those of the mask `done` (bit i: array i, below the 64th). */
tailcut_status tc_run_compact(tc_cuda_run *run, uint64_t done, const int32_t *kept,
                              int32_t kept_placement, const int32_t *counts, const int32_t *new_cu);
/* Whether compact must be told how many candidates there are in all: a packed tail ends with them,
 * and each of its blocks would count them. */
int tc_run_counts_candidates(const tc_call *call);

/* prune.c */
tailcut_status tc_run_prune_visual(tc_cuda_run *run);

#endif /* TAILCUT_CUDA_RUN_H_ */
