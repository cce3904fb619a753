/* SPDX-License-Identifier: Apache-2.0 */
/* prune: prune_visual: a batch of images in one launch, anything else as a chain of score, cut and
 * compact. */
#include "host/run.h"

static int any_packed(const tc_call *call) {
  for (int32_t i = 0; i < call->num_rows; i++) {
    if (tc_rows_at(call, i).placement == TAILCUT_PACKED) return 1;
  }
  return 0;
}

/* Whether the kernels of the chain cannot, or had better not, find the segments themselves. */
static int needs_resolve(const tc_cuda_run *run) {
  const tc_call *call = run->call;
  const int mean = call->reference.source == TAILCUT_REFERENCE_MEAN;
  const int32_t group = run->space.directions_group;
  return tc_run_counts_candidates(call) ||
         tc_run_needs_resolve(run, mean && group < TC_FEW_SEGMENTS ? group : TC_FEW_SEGMENTS);
}

/* A batch in one launch, and one more for the row arrays that it does not move. */
static tailcut_status prune_fused(tc_cuda_run *run, float *scores, uint64_t rides) {
  const tc_call *call = run->call;
  const int packs_kept = tc_run_packs_kept(run);
  tailcut_rows rows[TC_FUSED_ARRAYS];
  tc_fused_call fused;
  fused.cut = tc_run_cut_args(run, scores, run->space.flags, packs_kept || any_packed(call));
  fused.tokens = &call->tokens;
  fused.reference = &call->reference;
  fused.rows = rows;
  fused.num_rows = 0;
  for (int32_t i = 0; i < 64 && i < call->num_rows; i++) {
    if (rides >> i & 1) rows[fused.num_rows++] = tc_rows_at(call, i);
  }
  fused.scores = scores;
  fused.flags = run->space.flags;
  LAUNCH(fused, run->device, &fused);
  return tc_run_compact(run, rides, packs_kept, run->space.kept, TAILCUT_LOCAL, run->space.counts,
                        run->space.new_cu);
}

tailcut_status tc_run_prune_visual(tc_cuda_run *run) {
  const tc_call *call = run->call;
  float *scores = call->selection.scores != NULL ? call->selection.scores : run->space.scores;
  const int packs_kept = tc_run_packs_kept(run);
  const int resolves = needs_resolve(run);
  uint64_t rides;
  tailcut_status status = TAILCUT_OK;
  if (!tc_run_counts_candidates(call) && tc_fused_takes(run->device, call, &rides)) {
    return prune_fused(run, scores, rides);
  }
  if (resolves) status = tc_run_resolve(run, run->space.flags);
  if (status == TAILCUT_OK) status = tc_run_score(run, scores, run->space.flags, !resolves);
  if (status == TAILCUT_OK) {
    status = tc_run_cut(run, scores, run->space.flags, packs_kept || any_packed(call));
  }
  if (status != TAILCUT_OK) return status;
  return tc_run_compact(run, 0, packs_kept, run->space.kept, TAILCUT_LOCAL, run->space.counts,
                        run->space.new_cu);
}
