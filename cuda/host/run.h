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
  tc_groups groups;
  tc_cuda_space space;
  int32_t *resolved_flags; /* [segments] where segments are resolved, or will be: */
  int resolves_beside;     /* by the launch of directions, which is yet to come */
  tc_chain chain;
  tc_mark *marks; /* the space's, where the cut leaves them for compact; else NULL */
} tc_cuda_run;

/* LAUNCH(step, arguments but the chain): the error is named after the step. */
#define LAUNCH(step, ...)                                                \
  do {                                                                   \
    const cudaError_t error_ = tc_cuda_##step(__VA_ARGS__, &run->chain); \
    if (error_ != cudaSuccess) return tc_cuda_status(error_, #step);     \
    run->chain.follows = run->device->chains;                            \
  } while (0)

/* Kernels find ragged segments themselves: a block for whole segments goes through the offsets, a
 * block for a tile of rows searches them. With more segments than this the latter is dearer than
 * resolve's launch. */
#define TC_FEW_SEGMENTS 32
/* Whether resolve must come first for a call of more than `most` segments; with groups it must, if
 * only to check their offsets. */
int tc_run_needs_resolve(const tc_cuda_run *run, int32_t most);
tailcut_status tc_run_resolve(tc_cuda_run *run, int32_t *flags);
/* The same for a call that begins with directions: resolve's work goes beside them, if one launch
 * makes them all, which then finds more than TC_FEW_SEGMENTS itself: for once, in place of a launch
 * that nothing can overlap. */
tailcut_status tc_run_resolve_beside(tc_cuda_run *run, int32_t *flags);
/* Directions of a group of segments, of the rows that `roles` name, into the space; flags of
 * segments that are not resolved, where not NULL, are cleared. */
tailcut_status tc_run_directions(tc_cuda_run *run, const uint8_t *roles, int32_t first,
                                 int32_t count, int32_t *flags);

/* Scores by the call's reference; MEAN's directions are made for a group of segments at a time. */
tailcut_status tc_run_score(tc_cuda_run *run, float *scores, int32_t *flags, int stores_flags);

/* sequence.c: relevance of every row by the call's policy, and flags as score's part has them (or
 * NULL); where segments are not resolved the flags need not be set before. */
int tc_run_relevance_needs_resolve(const tc_cuda_run *run);
tailcut_status tc_run_score_sequence(tc_cuda_run *run, float *scores, int32_t *flags);
tailcut_status tc_run_relevance(tc_cuda_run *run);

/* Fewer segments than this: each kernel lets the next one start at once, to wait beside it. */
#define TC_SEVERAL 8

/* The cut: counts, kept (LOCAL), offsets where they are needed, in the caller's arrays or the
 * workspace. scored_flags: what score has stored of segments that are not resolved, or NULL: the
 * call's input_flags hold. */
tc_cut_args tc_run_cut_args(tc_cuda_run *run, const float *scores, int32_t *scored_flags,
                            int needs_offsets);
tailcut_status tc_run_cut(tc_cuda_run *run, const float *scores, int32_t *scored_flags,
                          int needs_offsets);
/* Whether the caller wants the kept indices PACKED: they are compacted like rows. */
int tc_run_packs_kept(const tc_cuda_run *run);

/* The row arrays of the call but those of the mask `done` (bit i: array i, below the 64th), and the
 * PACKED kept list of a cut where `packs_kept`. */
tailcut_status tc_run_compact(tc_cuda_run *run, uint64_t done, int packs_kept, const int32_t *kept,
                              int32_t kept_placement, const int32_t *counts, const int32_t *new_cu);
/* merge.c: similarities of all windows into the space, where scoring has not left them there. */
tailcut_status tc_run_similarities(tc_cuda_run *run);
/* Merges those arrays of the call that ask for it. kept: a cut's or TIDIED, so LOCAL. */
tailcut_status tc_run_merge(tc_cuda_run *run, const int32_t *kept, const int32_t *counts,
                            const int32_t *new_cu);
tailcut_status tc_run_merge_part(tc_cuda_run *run);
/* Whether an array of the call is PACKED: one of its rows, or the sizes of merged ones. */
int tc_run_any_packed(const tc_call *call);
/* Whether compact turns the keys of the call's arrays; if not, why. */
tailcut_status tc_run_can_turn(const tc_call *call);
/* Whether compact must be told how many candidates there are in all: a packed tail ends with them,
 * and each of its blocks would count them. */
int tc_run_counts_candidates(const tc_call *call);

/* prune.c: prune_visual and prune_sequence. */
tailcut_status tc_run_prune(tc_cuda_run *run);

#endif /* TAILCUT_CUDA_RUN_H_ */
