/* SPDX-License-Identifier: Apache-2.0 */
/* merge: merging as a step of prune_visual and as a call of its own: similarities, what to follow
 * of a list from outside, the arrays that are merged; all others are compact's. */
#include "host/run.h"

int tc_run_any_packed(const tc_call *call) {
  if (call->merge.sizes_out != NULL && call->selection.kept_placement == TAILCUT_PACKED) return 1;
  for (int32_t i = 0; i < call->num_rows; i++) {
    if (tc_rows_at(call, i).placement == TAILCUT_PACKED) return 1;
  }
  return 0;
}

tailcut_status tc_run_similarities(tc_cuda_run *run) {
  const tc_call *call = run->call;
  if (call->reference.source == TAILCUT_REFERENCE_NOVELTY) return TAILCUT_OK; /* there already */
  LAUNCH(novelty, run->device, &run->segments, &run->groups, &call->tokens, call->merge.window,
         NULL, NULL, 0, run->space.similarities, run->space.novelty, run->space.lasting);
  return TAILCUT_OK;
}

static tc_merge_call merge_call(const tc_cuda_run *run, const int32_t *kept, const int32_t *counts,
                                const int32_t *new_cu) {
  const tc_call *call = run->call;
  const int fused = call->kept == NULL; /* the list is the call's own */
  tc_merge_call merge;
  merge.segments = run->segments;
  merge.groups = run->groups;
  merge.options = call->merge;
  merge.limits = tc_call_limits(call);
  merge.similarities = run->space.similarities;
  merge.kept = kept;
  merge.counts = counts;
  /* A cut has written offsets only where somebody asks for them. */
  merge.new_cu = !fused || tc_run_packs_kept(run) || tc_run_any_packed(call) ? new_cu : NULL;
  merge.tidied = !fused;
  merge.sizes_placement = fused ? call->selection.kept_placement : call->kept_placement;
  merge.scratch = run->space.merge;
  merge.lasting = run->space.lasting;
  return merge;
}

tailcut_status tc_run_merge(tc_cuda_run *run, const int32_t *kept, const int32_t *counts,
                            const int32_t *new_cu) {
  const tc_call *call = run->call;
  const tc_merge_call merge = merge_call(run, kept, counts, new_cu);
  int wanted = call->merge.sizes_out != NULL || call->merge.joins_out != NULL;
  tailcut_rows rows[TC_ROWS_PER_LAUNCH];
  int32_t count = 0;
  for (int32_t i = 0; i <= call->num_rows; i++) {
    const int last = i == call->num_rows;
    if (!last) rows[count] = tc_rows_at(call, i);
    if (!last && rows[count].flags & TAILCUT_ROWS_MERGE) count++;
    if (count == 0 && !wanted) continue;
    if (count < TC_ROWS_PER_LAUNCH && !last) continue;
    LAUNCH(merge, run->device, &merge, rows, count);
    count = wanted = 0;
  }
  return TAILCUT_OK;
}

tailcut_status tc_run_merge_part(tc_cuda_run *run) {
  const tc_call *call = run->call;
  const tailcut_limits limits = tc_call_limits(call);
  const int packed = call->kept_placement == TAILCUT_PACKED;
  tailcut_status status = TAILCUT_OK;
  if (tc_run_needs_resolve(run, TC_FEW_SEGMENTS) || tc_run_counts_candidates(call)) {
    status = tc_run_resolve(run, run->space.flags);
  }
  if (status == TAILCUT_OK) status = tc_run_similarities(run);
  if (status != TAILCUT_OK) return status;
  LAUNCH(merge_tidy, run->device, &run->segments, call->kept, call->kept_placement, call->counts,
         call->new_cu_seqlens, &limits, run->space.kept, run->space.merge);
  return tc_run_compact(run, 0, 0, run->space.kept, packed ? TC_KEPT_TIDIED : TAILCUT_LOCAL,
                        call->counts, call->new_cu_seqlens);
}
