/* SPDX-License-Identifier: Apache-2.0 */
/* run: the steps of run calls, as launches. */
#include "host/run.h"

int tc_run_needs_resolve(const tc_cuda_run *run, int32_t most) {
  return run->call->batch.cu_seqlens != NULL && run->call->batch.segments > most;
}

tailcut_status tc_run_resolve(tc_cuda_run *run, int32_t *flags) {
  LAUNCH(resolve, run->device, &run->segments, run->call->input_flags, run->space.start,
         run->space.n, run->space.tiles, flags, run->stream);
  run->segments.start = run->space.start;
  run->segments.n = run->space.n;
  run->segments.tiles = run->space.tiles;
  run->segments.flags = flags;
  return TAILCUT_OK;
}

tailcut_status tc_run_score(tc_cuda_run *run, float *scores, int32_t *flags, int stores_flags) {
  const tc_call *call = run->call;
  const int32_t segments = call->batch.segments;
  if (call->reference.source != TAILCUT_REFERENCE_MEAN) {
    LAUNCH(score, run->device, &run->segments, &call->tokens, &call->reference, 0, segments, scores,
           flags, stores_flags, run->stream);
    return TAILCUT_OK;
  }
  const int32_t group = run->space.directions_group;
  for (int32_t first = 0; first < segments; first += group) {
    const int32_t count = segments - first < group ? segments - first : group;
    tailcut_reference direction = TAILCUT_REFERENCE_INITIALIZER;
    direction.source = TAILCUT_REFERENCE_MEAN;
    direction.dtype = TAILCUT_F32;
    direction.data = run->space.directions;
    direction.segment_stride = call->tokens.dim;
    LAUNCH(direction, run->device, &run->segments, &call->tokens, NULL, first, count, &run->space,
           run->space.directions, run->stream);
    LAUNCH(score, run->device, &run->segments, &call->tokens, &direction, first, count, scores,
           flags, stores_flags, run->stream);
  }
  return TAILCUT_OK;
}

tailcut_status tc_run_cut(tc_cuda_run *run, const float *scores, int32_t *flags,
                          int needs_offsets) {
  const tailcut_selection *selection = &run->call->selection;
  const int packed = selection->kept != NULL && selection->kept_placement == TAILCUT_PACKED;
  tc_cuda_cut_out out;
  out.counts = run->space.counts = selection->counts;
  if (selection->kept != NULL && !packed) run->space.kept = selection->kept;
  out.kept = run->space.kept;
  out.flags = flags;
  out.curve = selection->curve;
  out.ranks = selection->ranks;
  out.host_counts = selection->host_counts;
  LAUNCH(cut, run->device, &run->segments, scores, run->call->roles, run->call->input_flags,
         &run->call->rule, &out, run->space.cut, run->stream);
  if (selection->new_cu_seqlens != NULL) run->space.new_cu = selection->new_cu_seqlens;
  if (selection->new_cu_seqlens != NULL || packed || needs_offsets) {
    LAUNCH(scan, run->device, run->call->batch.segments, out.counts, run->space.new_cu,
           run->stream);
  }
  if (packed) {
    LAUNCH(pack, run->device, &run->segments, out.kept, out.counts, run->space.new_cu,
           selection->kept, run->stream);
  }
  return TAILCUT_OK;
}

tailcut_status tc_run_compact(tc_cuda_run *run, uint64_t done, const int32_t *kept,
                              int32_t kept_placement, const int32_t *counts,
                              const int32_t *new_cu) {
  const tc_call *call = run->call;
  tailcut_rows rows[TC_ROWS_PER_LAUNCH];
  int32_t count = 0;
  for (int32_t i = 0; i < call->num_rows; i++) {
    if (i >= 64 || !(done >> i & 1)) rows[count++] = tc_rows_at(call, i);
    if (count == 0 || (count < TC_ROWS_PER_LAUNCH && i < call->num_rows - 1)) continue;
    LAUNCH(compact, run->device, &run->segments, kept, kept_placement, counts, new_cu, rows, count,
           run->stream);
    count = 0;
  }
  return TAILCUT_OK;
}

int tc_run_counts_candidates(const tc_call *call) {
  if (call->batch.cu_seqlens == NULL && call->batch.lengths == NULL) return 0;
  if (call->batch.segments <= TC_CHUNK_SEGMENTS) return 0;
  for (int32_t i = 0; i < call->num_rows; i++) {
    const tailcut_rows r = tc_rows_at(call, i);
    if (r.placement == TAILCUT_PACKED && (r.flags & TAILCUT_ROWS_ZERO_TAIL)) return 1;
  }
  return 0;
}
