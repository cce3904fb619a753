/* SPDX-License-Identifier: Apache-2.0 */
/* merge: merging as a step of prune_visual and as a call of its own: similarities, what to follow
 * of a list from outside, the arrays that are merged; all others are compact's. */
#include "host/run.h"

tailcut_status tc_run_similarities(tc_cuda_run *run) {
  const tc_call *call = run->call;
  if (call->reference.source == TAILCUT_REFERENCE_NOVELTY) return TAILCUT_OK; /* there already */
  LAUNCH(novelty, run->device, &run->segments, &run->groups, &call->tokens, call->merge.window,
         NULL, NULL, 0, run->space.similarities, run->space.novelty, run->space.lasting);
  return TAILCUT_OK;
}

tailcut_status tc_run_merge(tc_cuda_run *run) {
  const tc_call *call = run->call;
  const int own_list = call->kept == NULL;
  const tc_merge_call merge = {
      .segments = run->segments,
      .groups = run->groups,
      .options = call->merge,
      .limits = tc_call_limits(call),
      .similarities = run->space.similarities,
      .kept = run->lists.kept,
      .counts = run->lists.counts,
      .new_cu = run->lists.new_cu,
      .tidied = !own_list,
      .sizes_placement = own_list ? call->selection.kept_placement : call->kept_placement,
      .scratch = run->space.merge,
      .lasting = run->space.lasting};
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
  tailcut_status status = tc_run_take_lists(run);
  if (status == TAILCUT_OK) status = tc_run_similarities(run);
  if (status != TAILCUT_OK) return status;
  LAUNCH(merge_tidy, run->device, &run->segments, call->kept, call->kept_placement, call->counts,
         call->new_cu_seqlens, &limits, run->space.kept, run->space.merge);
  run->lists.kept = run->space.kept;
  if (call->kept_placement == TAILCUT_PACKED) run->lists.placement = TC_KEPT_TIDIED;
  return tc_run_compact(run);
}
