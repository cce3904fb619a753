/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda: CUDA's row of the backend table: the run calls as sequences of launches.
 *
 * A run call sets the handle's device, enqueues on the caller's stream and restores the caller's
 * device. It allocates nothing and waits for nothing: create has loaded every kernel. */
#include <stdlib.h>

#include "host/run.h"

static void cuda_destroy(tailcut_handle handle) { free(handle->state); }

/* --------------------------------------------------------------------------------- workspace -- */

static size_t cuda_workspace_size(tailcut_handle handle, int32_t kind,
                                  const tailcut_limits *limits) {
  tc_cuda_space space;
  return tc_cuda_lay_out(&space, NULL, handle->state, kind, limits);
}

static tailcut_status cuda_workspace_init(tailcut_handle handle, void *workspace, size_t size,
                                          void *stream) {
  int previous = 0;
  if (size > sizeof(tc_cuda_lasting)) size = sizeof(tc_cuda_lasting);
  if (size == 0) return TAILCUT_OK;
  tailcut_status status = tc_cuda_enter(handle->state, &previous);
  if (status != TAILCUT_OK) return status;
  status = tc_cuda_status(cudaMemsetAsync(workspace, 0, size, stream), "cudaMemsetAsync");
  tc_cuda_leave(handle->state, previous);
  return status;
}

/* --------------------------------------------------------------------------------- the calls -- */

/* score and relevance */
static tailcut_status run_scores(tc_cuda_run *run) {
  int32_t *flags = run->call->out_flags;
  const int resolves = flags != NULL || tc_run_scores_need_resolve(run);
  if (resolves && flags == NULL) flags = run->space.flags;
  return tc_run_scores(run, run->call->out_scores, flags, resolves);
}

static tailcut_status run_mean_direction(tc_cuda_run *run) {
  const tc_call *call = run->call;
  const int32_t group = run->space.directions_group;
  if (tc_run_needs_resolve(run, group)) {
    const tailcut_status status = tc_run_resolve(run, run->space.flags);
    if (status != TAILCUT_OK) return status;
  }
  for (int32_t first = 0; first < call->batch.segments; first += group) {
    const int32_t left = call->batch.segments - first;
    LAUNCH(direction, run->device, &run->segments, &call->tokens, call->roles, first,
           left < group ? left : group, &run->space,
           call->direction + (size_t)first * (size_t)call->tokens.dim, NULL, NULL);
  }
  return TAILCUT_OK;
}

static tailcut_status run_cut(tc_cuda_run *run) {
  tailcut_status status = TAILCUT_OK;
  if (tc_run_needs_resolve(run, TC_CHUNK_SEGMENTS)) {
    status = tc_run_resolve(run, run->space.flags);
  }
  if (status == TAILCUT_OK) status = tc_run_cut(run, run->call->in_scores, NULL, 0);
  return status == TAILCUT_OK ? tc_run_compact(run) : status; /* a PACKED kept list */
}

static tailcut_status run_compact(tc_cuda_run *run) {
  const tailcut_status status = tc_run_take_lists(run);
  return status == TAILCUT_OK ? tc_run_compact(run) : status;
}

/* No segments: all that is left to say is that nothing is kept. */
static tailcut_status without_segments(tc_cuda_run *run) {
  const tailcut_selection *selection = &run->call->selection;
  cudaError_t error = cudaSuccess;
  if (selection->new_cu_seqlens != NULL) {
    error = cudaMemsetAsync(selection->new_cu_seqlens, 0, 4, run->chain.stream);
  }
  if (error == cudaSuccess && selection->group_counts != NULL) {
    error = cudaMemsetAsync(selection->group_counts, 0, (size_t)run->groups.groups * 4,
                            run->chain.stream);
  }
  return tc_cuda_status(error, "cudaMemsetAsync");
}

static tailcut_status start(tailcut_handle handle, const tc_call *call, int32_t kind,
                            tailcut_status (*body)(tc_cuda_run *run)) {
  const tailcut_batch *batch = &call->batch;
  const tailcut_limits limits = tc_call_limits(call);
  tc_cuda_run run = {.device = handle->state,
                     .call = call,
                     .chain.stream = call->stream,
                     .segments = {.segments = batch->segments,
                                  .max_tokens = batch->max_tokens,
                                  .prefix_rows = batch->prefix_rows,
                                  .total = batch->total_tokens,
                                  .cu_seqlens = batch->cu_seqlens,
                                  .lengths = batch->lengths}};
  int previous = 0;
  tailcut_status status = tc_run_can_turn(call);
  if (status != TAILCUT_OK) return status;
  tc_cuda_lay_out(&run.space, call->workspace, run.device, kind, &limits);
  if (batch->group_cu_seqlens != NULL) {
    run.groups.groups = batch->groups;
    run.groups.offsets = batch->group_cu_seqlens;
  }
  run.groups.segment = run.space.group_segment;
  status = tc_cuda_enter(run.device, &previous);
  if (status != TAILCUT_OK) return status;
  status = batch->segments > 0 ? body(&run) : without_segments(&run);
  tc_cuda_leave(run.device, previous);
  return status;
}

#define TC_RUN(name, kind, body)                                                  \
  static tailcut_status cuda_##name(tailcut_handle handle, const tc_call *call) { \
    return start(handle, call, kind, body);                                       \
  }
TC_RUN(score, TAILCUT_CALL_SCORE, run_scores)
TC_RUN(mean_direction, TAILCUT_CALL_MEAN_DIRECTION, run_mean_direction)
TC_RUN(cut, TAILCUT_CALL_CUT, run_cut)
TC_RUN(compact, TAILCUT_CALL_COMPACT, run_compact)
TC_RUN(relevance, TAILCUT_CALL_RELEVANCE, run_scores)
TC_RUN(prune_visual, TAILCUT_CALL_PRUNE_VISUAL, tc_run_prune)
TC_RUN(prune_sequence, TAILCUT_CALL_PRUNE_SEQUENCE, tc_run_prune)
TC_RUN(merge, TAILCUT_CALL_MERGE, tc_run_merge_part)

const tc_backend tc_backend_cuda = {
    "cuda",
    TAILCUT_DEVICE_CUDA,
    tc_cuda_create,
    cuda_destroy,
    cuda_workspace_size,
    cuda_workspace_init,
    {NULL, cuda_score, cuda_mean_direction, cuda_cut, cuda_compact, cuda_relevance,
     cuda_prune_visual, cuda_prune_sequence, cuda_merge},
    tc_cuda_read,
};
