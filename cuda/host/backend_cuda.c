/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda: CUDA's row of the backend table: the run calls as sequences of launches.
 *
 * A run call sets the handle's device, enqueues on the caller's stream and restores the caller's
 * device. It allocates nothing and waits for nothing: create has loaded every kernel. */
#include <stdlib.h>
#include <string.h>

#include "host/layout.h"
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

/* --------------------------------------------------------------------------------- the calls -- */

static tailcut_status run_score(tc_cuda_run *run) {
  const tc_call *call = run->call;
  const int32_t group = run->space.directions_group;
  const int32_t most = group < TC_FEW_SEGMENTS ? group : TC_FEW_SEGMENTS;
  if (call->out_flags == NULL && !tc_run_needs_resolve(run, most)) {
    return tc_run_score(run, call->out_scores, NULL, 0);
  }
  int32_t *flags = call->out_flags != NULL ? call->out_flags : run->space.flags;
  const tailcut_status status = call->reference.source == TAILCUT_REFERENCE_MEAN
                                    ? tc_run_resolve_beside(run, flags)
                                    : tc_run_resolve(run, flags);
  return status != TAILCUT_OK ? status : tc_run_score(run, call->out_scores, flags, 0);
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
  const tc_call *call = run->call;
  const int packs_kept = tc_run_packs_kept(run);
  tailcut_status status = TAILCUT_OK;
  if (tc_run_needs_resolve(run, TC_CHUNK_SEGMENTS)) {
    status = tc_run_resolve(run, run->space.flags);
  }
  if (status == TAILCUT_OK) {
    status = tc_run_cut(run, call->in_scores, NULL, packs_kept);
  }
  if (status != TAILCUT_OK || !packs_kept) return status;
  return tc_run_compact(run, 0, 1, run->space.kept, TAILCUT_LOCAL, run->space.counts,
                        run->space.new_cu);
}

static tailcut_status run_compact(tc_cuda_run *run) {
  const tc_call *call = run->call;
  if (tc_run_needs_resolve(run, TC_FEW_SEGMENTS) || tc_run_counts_candidates(call)) {
    const tailcut_status status = tc_run_resolve(run, run->space.flags);
    if (status != TAILCUT_OK) return status;
  }
  return tc_run_compact(run, 0, 0, call->kept, call->kept_placement, call->counts,
                        call->new_cu_seqlens);
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
  tc_cuda_run run;
  int previous = 0;
  tailcut_status status = tc_run_can_turn(call);
  if (status != TAILCUT_OK) return status;
  memset(&run, 0, sizeof run);
  run.device = handle->state;
  run.call = call;
  run.chain.stream = call->stream;
  run.segments.segments = call->batch.segments;
  run.segments.max_tokens = call->batch.max_tokens;
  run.segments.prefix_rows = call->batch.prefix_rows;
  run.segments.total = call->batch.total_tokens;
  run.segments.cu_seqlens = call->batch.cu_seqlens;
  run.segments.lengths = call->batch.lengths;
  if (call->batch.group_cu_seqlens != NULL) {
    run.groups.groups = call->batch.groups;
    run.groups.offsets = call->batch.group_cu_seqlens;
  }
  const tailcut_limits limits = tc_call_limits(call);
  tc_cuda_lay_out(&run.space, call->workspace, run.device, kind, &limits);
  run.groups.segment = run.space.group_segment;
  status = tc_cuda_status(cudaGetDevice(&previous), "cudaGetDevice");
  if (status != TAILCUT_OK) return status;
  if (previous != run.device->device) {
    status = tc_cuda_status(cudaSetDevice(run.device->device), "cudaSetDevice");
    if (status != TAILCUT_OK) return status;
  }
  status = call->batch.segments > 0 ? body(&run) : without_segments(&run);
  if (previous != run.device->device) cudaSetDevice(previous);
  return status;
}

#define TC_RUN(name, kind, body)                                                  \
  static tailcut_status cuda_##name(tailcut_handle handle, const tc_call *call) { \
    return start(handle, call, kind, body);                                       \
  }
TC_RUN(score, TAILCUT_CALL_SCORE, run_score)
TC_RUN(mean_direction, TAILCUT_CALL_MEAN_DIRECTION, run_mean_direction)
TC_RUN(cut, TAILCUT_CALL_CUT, run_cut)
TC_RUN(compact, TAILCUT_CALL_COMPACT, run_compact)
TC_RUN(relevance, TAILCUT_CALL_RELEVANCE, tc_run_relevance)
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
