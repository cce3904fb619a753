/* SPDX-License-Identifier: Apache-2.0 */
/* prune: prune_visual: a batch of images in one launch, a few in two, anything else as a chain
 * of score, cut and compact; row arrays that do not ride along are compacted behind.
 * prune_sequence: the same chain with relevance in score's place. */
#include "host/run.h"

/* Whether the kernels of the chain cannot, or had better not, find the segments themselves. */
static int needs_resolve(const tc_cuda_run *run) {
  const tc_call *call = run->call;
  if (tc_run_counts_candidates(call)) return 1;
  if (call->roles != NULL) return tc_run_relevance_needs_resolve(run);
  const int mean = call->reference.source == TAILCUT_REFERENCE_MEAN;
  const int32_t group = run->space.directions_group;
  return tc_run_needs_resolve(run, mean && group < TC_FEW_SEGMENTS ? group : TC_FEW_SEGMENTS);
}

/* What the fused kernels get; rows: room for TC_FUSED_ARRAYS. */
static tc_fused_call fused_call(tc_cuda_run *run, float *scores, uint64_t rides,
                                tailcut_rows *rows) {
  const tc_call *call = run->call;
  tc_fused_call fused;
  fused.cut = tc_run_cut_args(run, scores, run->space.flags,
                              tc_run_packs_kept(run) || tc_run_any_packed(call));
  fused.tokens = &call->tokens;
  fused.reference = &call->reference;
  fused.rows = rows;
  fused.num_rows = 0;
  for (int32_t i = 0; i < 64 && i < call->num_rows; i++) {
    if (rides >> i & 1) rows[fused.num_rows++] = tc_rows_at(call, i);
  }
  fused.scores = scores;
  fused.flags = run->space.flags;
  return fused;
}

static int begins_with_directions(const tc_call *call) {
  return call->roles != NULL ? call->options.policy == TAILCUT_MEAN_COSINE
                             : call->reference.source == TAILCUT_REFERENCE_MEAN;
}

static tailcut_status score_rows(tc_cuda_run *run, float *scores) {
  int32_t *flags = run->space.flags;
  const int resolves = needs_resolve(run);
  tailcut_status status = TAILCUT_OK;
  if (resolves && begins_with_directions(run->call)) {
    status = tc_run_resolve_beside(run, flags);
  } else if (resolves) {
    status = tc_run_resolve(run, flags);
  }
  if (status != TAILCUT_OK) return status;
  if (run->call->roles != NULL) return tc_run_score_sequence(run, scores, flags);
  return tc_run_score(run, scores, flags, !resolves);
}

/* Whether the cut tells compact what stays by marks. */
static int stages(const tc_cuda_run *run) {
  const tc_call *call = run->call;
  tailcut_rows rows[TC_FUSED_ARRAYS];
  if (call->num_rows > TC_FUSED_ARRAYS || tc_run_packs_kept(run) || call->merge.window > 0) {
    return 0;
  }
  for (int32_t i = 0; i < call->num_rows; i++) rows[i] = tc_rows_at(call, i);
  return tc_cuda_compact_stages(run->device, &run->segments, rows, call->num_rows);
}

tailcut_status tc_run_prune(tc_cuda_run *run) {
  const tc_call *call = run->call;
  float *scores = call->selection.scores != NULL ? call->selection.scores : run->space.scores;
  const int packs_kept = tc_run_packs_kept(run);
  uint64_t rides = 0;
  const int merges = call->merge.window > 0;
  const tc_fusion fusion = merges || tc_run_counts_candidates(call)
                               ? TC_FUSE_NOTHING
                               : tc_fused_takes(run->device, call, &rides);
  tailcut_rows rows[TC_FUSED_ARRAYS];
  tailcut_status status = TAILCUT_OK;
  if (fusion != TC_FUSE_ALL) status = score_rows(run, scores);
  if (status == TAILCUT_OK && merges) status = tc_run_similarities(run);
  if (status != TAILCUT_OK) return status;
  if (fusion == TC_FUSE_NOTHING) {
    if (!merges && stages(run)) run->marks = run->space.marks;
    status = tc_run_cut(run, scores, run->space.flags, packs_kept || tc_run_any_packed(call));
    if (status != TAILCUT_OK) return status;
  } else {
    const tc_fused_call fused = fused_call(run, scores, rides, rows);
    if (fusion == TC_FUSE_ALL) {
      LAUNCH(fused, run->device, &fused);
    } else {
      LAUNCH(fused_rest, run->device, &fused);
    }
  }
  return tc_run_compact(run, rides, packs_kept, run->space.kept, TAILCUT_LOCAL, run->space.counts,
                        run->space.new_cu);
}
