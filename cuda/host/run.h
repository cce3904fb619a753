/* SPDX-License-Identifier: Apache-2.0 */
/* run: a run call on its way, and the steps that calls are made of. */
#ifndef TAILCUT_CUDA_RUN_H_
#define TAILCUT_CUDA_RUN_H_

#include "cuda.h"

/* One call on its way: the first error ends it. */
typedef struct tc_cuda_run {
  const tc_cuda *device;
  const tc_call *call;
  tc_segments segments;
  tc_groups groups;
  tc_cuda_space space;
  int32_t *resolved_flags; /* [segments] where segments are resolved */
  tc_lists lists;          /* what rows are compacted by: a cut's, or the caller's */
  uint64_t moved;          /* bit i: array i needs no compaction */
  tc_chain chain;
} tc_cuda_run;

/* LAUNCH(step, arguments but the chain): the error is named after the step. */
#define LAUNCH(step, ...)                                                \
  do {                                                                   \
    const cudaError_t error_ = tc_cuda_##step(__VA_ARGS__, &run->chain); \
    if (error_ != cudaSuccess) return tc_cuda_status(error_, #step);     \
    run->chain.follows = run->device->chains;                            \
  } while (0)

/* layout.c: lays a workspace out from `base` for a call of `kind`; with base NULL only counts.
 * Returns the bytes needed. */
size_t tc_cuda_lay_out(tc_cuda_space *space, void *base, const tc_cuda *device, int32_t kind,
                       const tailcut_limits *limits);

/* run.c. Kernels find ragged segments themselves: a block for whole segments goes through the
 * offsets, a block for a tile of rows searches them. With more segments than this the latter is
 * dearer than resolve's launch. */
#define TC_FEW_SEGMENTS 32
/* Whether resolve must come first for a call of more than `most` segments; with groups it must, if
 * only to check their offsets. */
int tc_run_needs_resolve(const tc_cuda_run *run, int32_t most);
/* The same for a call whose rows are compacted: a packed tail ends with the last of all candidates,
 * and each of its blocks would count them. */
int tc_run_counts_candidates(const tc_call *call);
tailcut_status tc_run_resolve(tc_cuda_run *run, int32_t *flags);

/* Scores by the call's reference, or relevance of every row by its policy; flags as score's part
 * has them, or NULL. resolves: segments are resolved, at first or beside the directions that a
 * score begins with; where they are not, flags need not be set before. */
int tc_run_scores_need_resolve(const tc_cuda_run *run);
tailcut_status tc_run_scores(tc_cuda_run *run, float *scores, int32_t *flags, int resolves);

/* The cut, and what it keeps as lists: in the caller's arrays or the workspace. scored_flags: what
 * scoring has stored of segments that are not resolved, or NULL: the call's input_flags hold.
 * marks: the cut leaves them for compact. */
tc_cut_args tc_run_cut_args(tc_cuda_run *run, const float *scores, const int32_t *scored_flags);
tailcut_status tc_run_cut(tc_cuda_run *run, const float *scores, const int32_t *scored_flags,
                          int marks);

/* The lists that the caller gives. */
tailcut_status tc_run_take_lists(tc_cuda_run *run);
/* Compaction, with merging where the call asks for it, by the lists; of a PACKED kept list too. */
int tc_run_packs_kept(const tc_call *call);
tailcut_status tc_run_compact(tc_cuda_run *run);
/* Whether compact turns the keys of the call's arrays; if not, why. */
tailcut_status tc_run_can_turn(const tc_call *call);

/* merge.c: similarities of all windows into the space, where scoring has not left them there; the
 * arrays of the call that ask for merging; tailcut_merge. */
tailcut_status tc_run_similarities(tc_cuda_run *run);
tailcut_status tc_run_merge(tc_cuda_run *run);
tailcut_status tc_run_merge_part(tc_cuda_run *run);

/* prune.c: prune_visual and prune_sequence. */
tailcut_status tc_run_prune(tc_cuda_run *run);

#endif /* TAILCUT_CUDA_RUN_H_ */
