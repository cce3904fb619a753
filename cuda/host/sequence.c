/* SPDX-License-Identifier: Apache-2.0 */
/* sequence: relevance of a sequence's rows, by policy. */
#include "host/run.h"

static int is_mean(const tc_call *call) { return call->options.policy == TAILCUT_MEAN_COSINE; }

int tc_run_relevance_needs_resolve(const tc_cuda_run *run) {
  const int32_t group = run->space.directions_group;
  return !is_mean(run->call) ||
         tc_run_needs_resolve(run, group < TC_FEW_SEGMENTS ? group : TC_FEW_SEGMENTS);
}

/* Directions of the query rows, then every candidate against its segment's. */
static tailcut_status mean_cosine(tc_cuda_run *run, float *scores, int32_t *flags) {
  const tc_call *call = run->call;
  const int32_t segments = call->batch.segments, group = run->space.directions_group;
  for (int32_t first = 0; first < segments; first += group) {
    const int32_t count = segments - first < group ? segments - first : group;
    const tailcut_status status = tc_run_directions(run, call->roles, first, count, flags);
    if (status != TAILCUT_OK) return status;
    LAUNCH(mean_cosine, run->device, &run->segments, &call->tokens, call->roles, first, count,
           &run->space, scores, flags);
  }
  return TAILCUT_OK;
}

tailcut_status tc_run_score_sequence(tc_cuda_run *run, float *scores, int32_t *flags) {
  const tc_call *call = run->call;
  switch (call->options.policy) {
    case TAILCUT_MAX_COSINE:
      LAUNCH(maxcos, run->device, &run->segments, &call->tokens, call->roles, scores, flags,
             run->space.relevance, run->space.lasting);
      return TAILCUT_OK;
    case TAILCUT_ATTENTION:
      LAUNCH(attention, run->device, &run->segments, call->roles, &call->options, scores, flags,
             run->space.relevance, run->space.lasting);
      return TAILCUT_OK;
    default:
      return mean_cosine(run, scores, flags);
  }
}

tailcut_status tc_run_relevance(tc_cuda_run *run) {
  const tc_call *call = run->call;
  if (call->out_flags == NULL && !tc_run_relevance_needs_resolve(run)) {
    return tc_run_score_sequence(run, call->out_scores, NULL);
  }
  int32_t *flags = call->out_flags != NULL ? call->out_flags : run->space.flags;
  const tailcut_status status =
      is_mean(call) ? tc_run_resolve_beside(run, flags) : tc_run_resolve(run, flags);
  return status != TAILCUT_OK ? status : tc_run_score_sequence(run, call->out_scores, flags);
}
