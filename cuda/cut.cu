/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut: the launches of the cut: short segments (cut_short.cu), then long ones (cut_long.cu), each
 * only where the host's bounds allow any. Both kernels skip what is the other's.
 */
#include "cut.cuh"

extern "C" size_t tc_cuda_cut_scratch(const tc_cuda *device, const tailcut_limits *limits) {
  return tc_cut_plan(device, limits->segments, limits->max_tokens, limits->total_tokens).scratch;
}

extern "C" cudaError_t tc_cuda_cut(const tc_cuda *device, const tc_segments *segments,
                                   const float *scores, const uint8_t *roles,
                                   const tailcut_rule *rule, const tc_cuda_cut_out *out,
                                   char *scratch, cudaStream_t stream) {
  const tc_cut_args args = {*segments, scores, roles, *rule, *out};
  if (segments->segments == 0) return cudaSuccess;
  const tc_long_plan plan = tc_cut_plan(device, segments->segments,
                                        segments->max_tokens - segments->cls_row, segments->total);
  const cudaError_t error = tc_cut_short(args, stream);
  if (error != cudaSuccess || plan.clusters == 0) return error;
  return tc_cut_long(device, args, plan, scratch, stream);
}

extern "C" cudaError_t tc_cuda_load_cut(tc_cuda *device) {
  const cudaError_t error = tc_cut_short_load();
  return error != cudaSuccess ? error : tc_cut_long_load(device);
}
