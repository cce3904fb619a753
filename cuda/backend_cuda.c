/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda: CUDA's row of the backend table: the run calls as sequences of launches.
 *
 * A run call sets the handle's device, enqueues on the caller's stream and restores the caller's
 * device. It allocates nothing and waits for nothing: create has loaded every kernel. */
#include <stdlib.h>
#include <string.h>

#include "cuda.h"
#include "fused.h"
#include "layout.h"

static void cuda_destroy(tailcut_handle handle) { free(handle->state); }

/* --------------------------------------------------------------------------------- workspace -- */

static size_t cuda_workspace_size(tailcut_handle handle, int32_t kind,
                                  const tailcut_limits *limits) {
  tc_cuda_space space;
  return tc_cuda_lay_out(&space, NULL, handle->state, kind, limits);
}

static tailcut_status cuda_workspace_init(tailcut_handle handle, void *workspace, size_t size,
                                          void *stream) {
  const tc_cuda *device = handle->state;
  int previous = 0;
  if (size > sizeof(tc_cuda_lasting)) size = sizeof(tc_cuda_lasting);
  if (size == 0) return TAILCUT_OK;
  tailcut_status status = tc_cuda_status(cudaGetDevice(&previous), "cudaGetDevice");
  if (status != TAILCUT_OK) return status;
  status = tc_cuda_status(cudaSetDevice(device->device), "cudaSetDevice");
  if (status == TAILCUT_OK) {
    status = tc_cuda_status(cudaMemsetAsync(workspace, 0, size, stream), "cudaMemsetAsync");
  }
  cudaSetDevice(previous);
  return status;
}

/* ---------------------------------------------------------------------------------- the calls -- */

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

static tailcut_status resolve(tc_cuda_run *run, int32_t *flags) {
  LAUNCH(resolve, run->device, &run->segments, run->call->input_flags, run->space.start,
         run->space.n, run->space.tiles, flags, run->stream);
  run->segments.start = run->space.start;
  run->segments.n = run->space.n;
  run->segments.tiles = run->space.tiles;
  run->segments.flags = flags;
  return TAILCUT_OK;
}

/* Kernels find ragged segments themselves: a block for whole segments goes through the offsets, a
 * block for a tile of rows searches them. With more segments than this the latter is dearer than
 * resolve's launch. */
#define TC_FEW_SEGMENTS 32

static int needs_resolve(const tc_cuda_run *run, int32_t most) {
  return run->call->batch.cu_seqlens != NULL && run->call->batch.segments > most;
}

/* Scores by the call's reference; MEAN's directions are made for a group of segments at a time. */
static tailcut_status score(tc_cuda_run *run, float *scores, int32_t *flags, int stores_flags) {
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

/* The cut and what follows from it: counts, kept, offsets in the caller's arrays or the workspace. */
static tailcut_status cut(tc_cuda_run *run, const float *scores, int32_t *flags,
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

/* Row arrays but those of the mask `done` (bit i: array i, below the 64th). */
static tailcut_status compact(tc_cuda_run *run, uint64_t done, const int32_t *kept,
                              int32_t kept_placement, const int32_t *counts,
                              const int32_t *new_cu) {
  const tc_call *call = run->call;
  tailcut_rows rows[TC_ROWS_PER_LAUNCH];
  int32_t count = 0;
  for (int32_t i = 0; i < call->num_rows; i++) {
    if (i >= 64 || !(done >> i & 1)) rows[count++] = tc_rows_at(call->rows, i, &call->batch);
    if (count == 0 || (count < TC_ROWS_PER_LAUNCH && i < call->num_rows - 1)) continue;
    LAUNCH(compact, run->device, &run->segments, kept, kept_placement, counts, new_cu, rows, count,
           run->stream);
    count = 0;
  }
  return TAILCUT_OK;
}

/* Whether compact must be told how many candidates there are in all: a packed tail ends with them,
 * and each of its blocks would count them. */
static int counts_candidates(const tc_call *call) {
  if (call->batch.cu_seqlens == NULL && call->batch.lengths == NULL) return 0;
  if (call->batch.segments <= TC_CHUNK_SEGMENTS) return 0;
  for (int32_t i = 0; i < call->num_rows; i++) {
    const tailcut_rows r = tc_rows_at(call->rows, i, &call->batch);
    if (r.placement == TAILCUT_PACKED && (r.flags & TAILCUT_ROWS_ZERO_TAIL)) return 1;
  }
  return 0;
}

static int any_packed(const tc_call *call) {
  for (int32_t i = 0; i < call->num_rows; i++) {
    if (tc_rows_at(call->rows, i, &call->batch).placement == TAILCUT_PACKED) return 1;
  }
  return 0;
}

static tailcut_status run_score(tc_cuda_run *run) {
  const tc_call *call = run->call;
  if (call->out_flags == NULL && !needs_resolve(run, TC_FEW_SEGMENTS)) {
    return score(run, call->out_scores, NULL, 0);
  }
  int32_t *flags = call->out_flags != NULL ? call->out_flags : run->space.flags;
  const tailcut_status status = resolve(run, flags);
  return status != TAILCUT_OK ? status : score(run, call->out_scores, flags, 0);
}

static tailcut_status run_mean_direction(tc_cuda_run *run) {
  const tc_call *call = run->call;
  const int32_t group = run->space.directions_group;
  if (needs_resolve(run, group)) {
    const tailcut_status status = resolve(run, run->space.flags);
    if (status != TAILCUT_OK) return status;
  }
  for (int32_t first = 0; first < call->batch.segments; first += group) {
    const int32_t left = call->batch.segments - first;
    LAUNCH(direction, run->device, &run->segments, &call->tokens, call->roles, first,
           left < group ? left : group, &run->space,
           call->direction + (size_t)first * (size_t)call->tokens.dim, run->stream);
  }
  return TAILCUT_OK;
}

static tailcut_status run_cut(tc_cuda_run *run) {
  const tailcut_batch *batch = &run->call->batch;
  const tailcut_selection *selection = &run->call->selection;
  if (batch->max_tokens - batch->cls_row <= TC_CUT_SHORT &&
      !needs_resolve(run, TC_CHUNK_SEGMENTS)) {
    return cut(run, run->call->in_scores, selection->flags, 0);
  }
  int32_t *flags = selection->flags != NULL ? selection->flags : run->space.flags;
  const tailcut_status status = resolve(run, flags);
  return status != TAILCUT_OK ? status : cut(run, run->call->in_scores, flags, 0);
}

static tailcut_status run_compact(tc_cuda_run *run) {
  const tc_call *call = run->call;
  if (needs_resolve(run, TC_FEW_SEGMENTS) || counts_candidates(call)) {
    const tailcut_status status = resolve(run, run->space.flags);
    if (status != TAILCUT_OK) return status;
  }
  return compact(run, 0, call->kept, call->kept_placement, call->counts, call->new_cu_seqlens);
}

/* The row arrays that the launches before have not moved. */
static tailcut_status compact_rest(tc_cuda_run *run, uint64_t done, const int32_t *counts) {
  if (run->segments.n == NULL && counts_candidates(run->call)) {
    const tailcut_status status = resolve(run, run->space.resolved_flags);
    if (status != TAILCUT_OK) return status;
  }
  return compact(run, done, run->space.kept, TAILCUT_LOCAL, counts, run->space.new_cu);
}

/* One launch for the whole batch (more where MEAN's directions or very many segments need them),
 * and one for the row arrays that did not ride along. */
static tailcut_status prune_fused(tc_cuda_run *run, tc_fused_plan *plan, uint64_t rides) {
  const tc_call *call = run->call;
  const tailcut_selection *selection = &call->selection;
  const int32_t segments = call->batch.segments;
  const int mean = call->reference.source == TAILCUT_REFERENCE_MEAN;
  const int packed = selection->kept != NULL && selection->kept_placement == TAILCUT_PACKED;
  const int offsets = packed || selection->new_cu_seqlens != NULL || any_packed(call);
  int rest = 0;
  for (int32_t i = 0; i < call->num_rows; i++) rest |= i >= 64 || !(rides >> i & 1);
  if (needs_resolve(run, mean ? run->space.directions_group : TC_CHUNK_SEGMENTS)) {
    const tailcut_status status = resolve(run, run->space.flags);
    if (status != TAILCUT_OK) return status;
    plan->segments = run->segments;
  }
  if (selection->new_cu_seqlens != NULL) run->space.new_cu = selection->new_cu_seqlens;
  if (selection->kept != NULL && !packed) run->space.kept = selection->kept;
  plan->ordered = offsets && segments > 1;
  plan->lasting = run->space.lasting;
  plan->counts = selection->counts;
  plan->kept = rest || (selection->kept != NULL && !packed) ? run->space.kept : NULL;
  plan->kept_packed = packed ? selection->kept : NULL;
  plan->new_cu = offsets ? run->space.new_cu : NULL;
  plan->flags = selection->flags;
  plan->ranks = selection->ranks;
  plan->host_counts = selection->host_counts;
  plan->scores = selection->scores;
  plan->curve = selection->curve;
  const int32_t most = mean            ? run->space.directions_group
                       : plan->ordered ? TC_CHUNK_SEGMENTS
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
  return rest ? compact_rest(run, rides, plan->counts) : TAILCUT_OK;
}

/* Whether two launches will do: score, then cut and compact together. */
static int makes_a_pair(const tc_cuda_run *run) {
  const tailcut_batch *batch = &run->call->batch;
  return run->device->fuses && batch->max_tokens - batch->cls_row <= TC_PAIR_TOKENS;
}

/* Two launches for the whole batch (more as for prune_fused). */
static tailcut_status prune_pair(tc_cuda_run *run, float *scores) {
  const tc_call *call = run->call;
  const tailcut_selection *selection = &call->selection;
  const int32_t segments = call->batch.segments;
  const int mean = call->reference.source == TAILCUT_REFERENCE_MEAN;
  const int packed = selection->kept != NULL && selection->kept_placement == TAILCUT_PACKED;
  const int offsets = packed || selection->new_cu_seqlens != NULL || any_packed(call);
  const int rest = call->num_rows > TC_PAIR_ARRAYS;
  tc_pair_plan plan;
  tailcut_status status = TAILCUT_OK;
  if (needs_resolve(run, mean ? run->space.directions_group : TC_CHUNK_SEGMENTS)) {
    status = resolve(run, run->space.resolved_flags);
  }
  if (status == TAILCUT_OK) status = score(run, scores, run->space.flags, 1);
  if (status != TAILCUT_OK) return status;
  if (selection->new_cu_seqlens != NULL) run->space.new_cu = selection->new_cu_seqlens;
  if (selection->kept != NULL && !packed) run->space.kept = selection->kept;
  plan.segments = run->segments;
  plan.scores = scores;
  plan.flags = run->space.flags;
  plan.rule = call->rule;
  plan.out.counts = selection->counts;
  plan.out.kept = rest || (selection->kept != NULL && !packed) ? run->space.kept : NULL;
  plan.out.flags = selection->flags;
  plan.out.curve = selection->curve;
  plan.out.ranks = selection->ranks;
  plan.out.host_counts = selection->host_counts;
  plan.kept_packed = packed ? selection->kept : NULL;
  plan.new_cu = offsets ? run->space.new_cu : NULL;
  plan.ordered = offsets && segments > 1;
  plan.lasting = run->space.lasting;
  plan.num_rows = rest ? TC_PAIR_ARRAYS : call->num_rows;
  for (int32_t i = 0; i < plan.num_rows; i++) {
    plan.rows[i] = tc_rows_at(call->rows, i, &call->batch);
  }
  const int32_t most = plan.ordered ? TC_CHUNK_SEGMENTS : segments;
  for (plan.first = 0; plan.first < segments; plan.first += most) {
    plan.count = segments - plan.first < most ? segments - plan.first : most;
    LAUNCH(pair, run->device, &plan, run->stream);
  }
  if (!rest) return TAILCUT_OK;
  return compact_rest(run, ((uint64_t)1 << TC_PAIR_ARRAYS) - 1, selection->counts);
}

static tailcut_status run_prune_visual(tc_cuda_run *run) {
  const tc_call *call = run->call;
  int32_t *flags = call->selection.flags != NULL ? call->selection.flags : run->space.flags;
  float *scores = call->selection.scores != NULL ? call->selection.scores : run->space.scores;
  tc_fused_plan plan;
  uint64_t rides;
  if (tc_fused_make(&plan, run->device, call, &run->segments, &rides)) {
    return prune_fused(run, &plan, rides);
  }
  if (makes_a_pair(run)) return prune_pair(run, scores);
  tailcut_status status = resolve(run, flags);
  if (status == TAILCUT_OK) status = score(run, scores, flags, 0);
  if (status == TAILCUT_OK) status = cut(run, scores, flags, any_packed(call));
  if (status != TAILCUT_OK) return status;
  return compact(run, 0, run->space.kept, TAILCUT_LOCAL, run->space.counts, run->space.new_cu);
}

static tailcut_status start(tailcut_handle handle, const tc_call *call, int32_t kind,
                            tailcut_status (*body)(tc_cuda_run *run)) {
  tc_cuda_run run;
  int previous = 0;
  memset(&run, 0, sizeof run);
  run.device = handle->state;
  run.call = call;
  run.stream = call->stream;
  run.segments.segments = call->batch.segments;
  run.segments.max_tokens = call->batch.max_tokens;
  run.segments.cls_row = call->batch.cls_row;
  run.segments.total = call->batch.total_tokens;
  run.segments.cu_seqlens = call->batch.cu_seqlens;
  run.segments.lengths = call->batch.lengths;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = call->batch.segments;
  limits.max_tokens = call->batch.max_tokens;
  limits.total_tokens = call->batch.total_tokens;
  limits.dim = call->tokens.dim;
  tc_cuda_lay_out(&run.space, call->workspace, run.device, kind, &limits);
  tailcut_status status = tc_cuda_status(cudaGetDevice(&previous), "cudaGetDevice");
  if (status != TAILCUT_OK) return status;
  if (previous != run.device->device) {
    status = tc_cuda_status(cudaSetDevice(run.device->device), "cudaSetDevice");
    if (status != TAILCUT_OK) return status;
  }
  if (call->batch.segments > 0) {
    status = body(&run);
  } else if (call->selection.new_cu_seqlens != NULL) {
    status = tc_cuda_status(cudaMemsetAsync(call->selection.new_cu_seqlens, 0, 4, run.stream),
                            "cudaMemsetAsync");
  }
  if (previous != run.device->device) cudaSetDevice(previous);
  return status;
}

#define TC_RUN(name, kind)                                                        \
  static tailcut_status cuda_##name(tailcut_handle handle, const tc_call *call) { \
    return start(handle, call, kind, run_##name);                                 \
  }
TC_RUN(score, TAILCUT_CALL_SCORE)
TC_RUN(mean_direction, TAILCUT_CALL_MEAN_DIRECTION)
TC_RUN(cut, TAILCUT_CALL_CUT)
TC_RUN(compact, TAILCUT_CALL_COMPACT)
TC_RUN(prune_visual, TAILCUT_CALL_PRUNE_VISUAL)

static tailcut_status cuda_stage_2(tailcut_handle handle, const tc_call *call) {
  (void)handle, (void)call;
  return tc_fail(TAILCUT_ERROR_UNSUPPORTED,
                 "relevance and prune_sequence are not in the CUDA backend yet: use a CPU handle, "
                 "or scores of your own with tailcut_cut and tailcut_compact");
}

const tc_backend tc_backend_cuda = {
    "cuda",
    TAILCUT_DEVICE_CUDA,
    tc_cuda_create,
    cuda_destroy,
    cuda_workspace_size,
    cuda_workspace_init,
    {NULL, cuda_score, cuda_mean_direction, cuda_cut, cuda_compact, cuda_stage_2, cuda_prune_visual,
     cuda_stage_2},
};
