/* SPDX-License-Identifier: Apache-2.0 */
/* prune: prune_visual as a chain: score, cut, compact. */
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

tailcut_status tc_run_prune_visual(tc_cuda_run *run) {
  const tc_call *call = run->call;
  float *scores = call->selection.scores != NULL ? call->selection.scores : run->space.scores;
  const int packs_kept = tc_run_packs_kept(run);
  const int resolves = needs_resolve(run);
  tailcut_status status = TAILCUT_OK;
  if (resolves) status = tc_run_resolve(run, run->space.flags);
  if (status == TAILCUT_OK) status = tc_run_score(run, scores, run->space.flags, !resolves);
  if (status == TAILCUT_OK) {
    status = tc_run_cut(run, scores, run->space.flags, packs_kept || any_packed(call));
  }
  if (status != TAILCUT_OK) return status;
  return tc_run_compact(run, packs_kept, run->space.kept, TAILCUT_LOCAL, run->space.counts,
                        run->space.new_cu);
}
