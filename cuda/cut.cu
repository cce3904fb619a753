/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut: the launches of the cut: short segments (cut_short.cu), then long ones (cut_bins.cu, or
 * cut_long.cu where the order itself is needed), each only where the host's bounds allow any. The
 * kernels skip what is the other's, so lengths may differ at every replay of a captured graph.
 */
#include "cut.cuh"

tc_long_plan tc_cut_plan(const tc_cuda *device, int64_t segments, int64_t max_tokens,
                         int64_t total) {
  tc_long_plan plan = {1, 0, TC_CUT_SHORT, 0, 0};
  int64_t most = total / (TC_CUT_SHORT + 1); /* long segments there can be */
  if (most > segments) most = segments;
  if (most > device->sms) most = device->sms;
  if (max_tokens <= TC_CUT_SHORT || most == 0) return plan;
  /* At most 256 MiB, or room for 16 clusters where they need more. */
  plan.slot = (size_t)max_tokens * 16;
  plan.scratch = (size_t)most * plan.slot;
  size_t cap = (size_t)256 << 20;
  if (cap < 16 * plan.slot) cap = 16 * plan.slot;
  if (plan.scratch > cap) plan.scratch = cap;
  const int64_t room = (int64_t)(plan.scratch / plan.slot);
  if (most > room) most = room;
  /* The widest cluster that leaves a block 1,024 rows and lets all long segments run at once. */
  while (plan.ctas * 2 <= device->cluster_max && plan.ctas * 2 * most <= device->sms &&
         plan.ctas * 2 * 1024 <= max_tokens) {
    plan.ctas *= 2;
  }
  plan.clusters = (int32_t)most;
  return plan;
}

static bool needs_order(const tc_cut_args &args) {
  return args.rule.detector == TAILCUT_GAP || args.rule.detector == TAILCUT_CURVATURE ||
         args.rule.spread > 0.0 || args.out.curve != nullptr || args.out.ranks != nullptr;
}

extern "C" size_t tc_cuda_cut_scratch(const tc_cuda *device, const tailcut_limits *limits) {
  return tc_cut_plan(device, limits->segments, limits->max_tokens, limits->total_tokens).scratch;
}

extern "C" cudaError_t tc_cuda_cut(const tc_cuda *device, const tc_segments *segments,
                                   const float *scores, const uint8_t *roles,
                                   const int32_t *input_flags, const tailcut_rule *rule,
                                   const tc_cuda_cut_out *out, char *scratch, const tc_chain *chain) {
  const tc_cut_args args = {*segments, scores, roles, *rule, *out, input_flags};
  if (segments->segments == 0) return cudaSuccess;
  tc_long_plan plan = tc_cut_plan(device, segments->segments,
                                  segments->max_tokens - segments->prefix_rows, segments->total);
  /* Where each segment has a cluster, and all are long or they are few, one launch does it. */
  const bool all_long = segments->cu_seqlens == nullptr && segments->lengths == nullptr;
  if (segments->segments <= plan.clusters && (all_long || segments->segments <= 4)) plan.least = -1;
  const cudaError_t error = plan.least < 0 ? cudaSuccess : tc_cut_short(args, chain);
  if (error != cudaSuccess || plan.clusters == 0) return error;
  return needs_order(args) ? tc_cut_long(args, plan, scratch, chain)
                           : tc_cut_bins(device, args, plan, chain);
}

extern "C" cudaError_t tc_cuda_load_cut(tc_cuda *device) {
  cudaError_t error = tc_cut_short_load();
  if (error == cudaSuccess) error = tc_cut_long_load(device);
  return error == cudaSuccess ? tc_cut_bins_load(device) : error;
}
