/* SPDX-License-Identifier: Apache-2.0 */
/* prune: the forms of prune_visual: one launch, two, or the parts. */
#include "host/run.h"

static int any_packed(const tc_call *call) {
  for (int32_t i = 0; i < call->num_rows; i++) {
    if (tc_rows_at(call, i).placement == TAILCUT_PACKED) return 1;
  }
  return 0;
}

/* The row arrays that the launches before have not moved. */
static tailcut_status compact_rest(tc_cuda_run *run, uint64_t done) {
  if (run->segments.n == NULL && tc_run_counts_candidates(run->call)) {
    const tailcut_status status = tc_run_resolve(run, run->space.resolved_flags);
    if (status != TAILCUT_OK) return status;
  }
  return tc_run_compact(run, done, run->space.kept, TAILCUT_LOCAL, run->call->selection.counts,
                        run->space.new_cu);
}

/* Whether segments must be resolved before a kernel that takes whole ones, or MEAN's direction. */
static int needs_resolve(const tc_cuda_run *run) {
  const int mean = run->call->reference.source == TAILCUT_REFERENCE_MEAN;
  return tc_run_needs_resolve(run, mean ? run->space.directions_group : TC_CHUNK_SEGMENTS);
}

/* What the call asks for, in the caller's arrays or the workspace; a LOCAL kept list also where
 * row arrays are left for compact (rest). */
static tc_cuda_prune_out wanted(tc_cuda_run *run, int rest) {
  const tailcut_selection *selection = &run->call->selection;
  const int packed = selection->kept != NULL && selection->kept_placement == TAILCUT_PACKED;
  const int offsets = packed || selection->new_cu_seqlens != NULL || any_packed(run->call);
  tc_cuda_prune_out out;
  if (selection->new_cu_seqlens != NULL) run->space.new_cu = selection->new_cu_seqlens;
  if (selection->kept != NULL && !packed) run->space.kept = selection->kept;
  out.cut.counts = selection->counts;
  out.cut.kept = rest || (selection->kept != NULL && !packed) ? run->space.kept : NULL;
  out.cut.flags = selection->flags;
  out.cut.curve = selection->curve;
  out.cut.ranks = selection->ranks;
  out.cut.host_counts = selection->host_counts;
  out.kept_packed = packed ? selection->kept : NULL;
  out.new_cu = offsets ? run->space.new_cu : NULL;
  out.lasting = offsets && run->call->batch.segments > 1 ? run->space.lasting : NULL;
  return out;
}

/* One launch for the whole batch (more where MEAN's directions or very many segments need them),
 * and one for the row arrays that did not ride along. */
static tailcut_status prune_fused(tc_cuda_run *run, tc_fused_plan *plan, uint64_t rides) {
  const tc_call *call = run->call;
  const int32_t segments = call->batch.segments;
  const int mean = call->reference.source == TAILCUT_REFERENCE_MEAN;
  int rest = 0;
  for (int32_t i = 0; i < call->num_rows; i++) rest |= i >= 64 || !(rides >> i & 1);
  if (needs_resolve(run)) {
    const tailcut_status status = tc_run_resolve(run, run->space.flags);
    if (status != TAILCUT_OK) return status;
    plan->segments = run->segments;
  }
  plan->out = wanted(run, rest);
  plan->scores = call->selection.scores;
  const int32_t most = mean                        ? run->space.directions_group
                       : plan->out.lasting != NULL ? TC_CHUNK_SEGMENTS
                                                   : segments;
  for (plan->first = 0; plan->first < segments; plan->first += most) {
    plan->count = segments - plan->first < most ? segments - plan->first : most;
    plan->reference_dtype = call->reference.dtype;
    plan->reference_stride = call->reference.segment_stride * tc_dtype_size(plan->reference_dtype);
    if (mean) {
      LAUNCH(direction, run->device, &run->segments, &call->tokens, NULL, plan->first, plan->count,
             &run->space, run->space.directions, run->stream);
      plan->reference = run->space.directions;
      plan->reference_stride = (int64_t)call->tokens.dim * 4;
    } else if (call->reference.data != NULL) {
      plan->reference = (const char *)call->reference.data + plan->first * plan->reference_stride;
    }
    LAUNCH(fused, plan, run->stream);
  }
  return rest ? compact_rest(run, rides) : TAILCUT_OK;
}

/* Whether two launches will do: score, then cut and compact together. */
static int makes_a_pair(const tc_cuda_run *run) {
  const tailcut_batch *batch = &run->call->batch;
  return run->device->fuses && batch->max_tokens - batch->prefix_rows <= TC_PAIR_TOKENS;
}

/* Two launches for the whole batch (more as for prune_fused). */
static tailcut_status prune_pair(tc_cuda_run *run, float *scores) {
  const tc_call *call = run->call;
  const int32_t segments = call->batch.segments;
  const int rest = call->num_rows > TC_PAIR_ARRAYS;
  tc_pair_plan plan;
  tailcut_status status = TAILCUT_OK;
  if (needs_resolve(run)) status = tc_run_resolve(run, run->space.resolved_flags);
  if (status == TAILCUT_OK) status = tc_run_score(run, scores, run->space.flags, 1);
  if (status != TAILCUT_OK) return status;
  plan.segments = run->segments;
  plan.scores = scores;
  plan.flags = run->space.flags;
  plan.rule = call->rule;
  plan.out = wanted(run, rest);
  plan.num_rows = rest ? TC_PAIR_ARRAYS : call->num_rows;
  for (int32_t i = 0; i < plan.num_rows; i++) {
    plan.rows[i] = tc_rows_at(call, i);
  }
  const int32_t most = plan.out.lasting != NULL ? TC_CHUNK_SEGMENTS : segments;
  for (plan.first = 0; plan.first < segments; plan.first += most) {
    plan.count = segments - plan.first < most ? segments - plan.first : most;
    LAUNCH(pair, run->device, &plan, run->stream);
  }
  return rest ? compact_rest(run, ((uint64_t)1 << TC_PAIR_ARRAYS) - 1) : TAILCUT_OK;
}

tailcut_status tc_run_prune_visual(tc_cuda_run *run) {
  const tc_call *call = run->call;
  int32_t *flags = call->selection.flags != NULL ? call->selection.flags : run->space.flags;
  float *scores = call->selection.scores != NULL ? call->selection.scores : run->space.scores;
  tc_fused_plan plan;
  uint64_t rides;
  if (tc_fused_make(&plan, run->device, call, &run->segments, &rides)) {
    return prune_fused(run, &plan, rides);
  }
  if (makes_a_pair(run)) return prune_pair(run, scores);
  tailcut_status status = tc_run_resolve(run, flags);
  if (status == TAILCUT_OK) status = tc_run_score(run, scores, flags, 0);
  if (status == TAILCUT_OK) status = tc_run_cut(run, scores, flags, any_packed(call));
  if (status != TAILCUT_OK) return status;
  return tc_run_compact(run, 0, run->space.kept, TAILCUT_LOCAL, run->space.counts,
                        run->space.new_cu);
}
