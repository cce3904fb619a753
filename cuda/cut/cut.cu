/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut: the launches of the cut: short groups (cut/value.cu, or cut/sort.cu where the order itself
 * is needed), then long ones (cut/long.cu), each only where the host's bounds allow any; then,
 * where there are groups, their lists joined (cut/join.cu). The kernels skip what is the other's,
 * so lengths may differ at every replay of a captured graph.
 */
#include "cut/cut.cuh"
#include "cut/long.cuh"

static bool needs_order(const tc_cut_args &args) {
  return args.rule.spread > 0.0 || args.out.curve != nullptr || args.out.ranks != nullptr ||
         !tc_cuda_cuts_by_value(&args.rule);
}

extern "C" size_t tc_cuda_cut_scratch(const tc_cuda *device, const tailcut_limits *limits) {
  return tc_cut_long_scratch(device, limits);
}

extern "C" cudaError_t tc_cuda_cut(const tc_cuda *device, const tc_cut_args *args, char *scratch,
                                   const tc_chain *chain) {
  tc_chain link = *chain;
  const int32_t most = args->segments.max_tokens - args->segments.prefix_rows;
  /* Invalid segments are reported by the short kernels, whatever their length. */
  const bool all_valid = args->in_flags == nullptr || args->scored;
  const bool all_long = most > TC_CUT_SHORT && args->groups.groups == 0 && all_valid &&
                        args->segments.cu_seqlens == nullptr && args->segments.lengths == nullptr;
  cudaError_t error = cudaSuccess;
  if (args->segments.segments == 0) return cudaSuccess;
  if (!all_long) {
    error =
        needs_order(*args) ? tc_cut_sort(device, *args, &link) : tc_cut_value(device, *args, &link);
    link.follows = device->chains;
  }
  if (error == cudaSuccess && most > TC_CUT_SHORT) {
    error = tc_cut_long(device, args, scratch, &link);
    link.follows = device->chains;
  }
  if (error == cudaSuccess && args->groups.groups > 0) error = tc_cut_join(*args, &link);
  return error;
}

extern "C" cudaError_t tc_cuda_load_cut(tc_cuda *device) {
  cudaError_t error = tc_cut_value_load();
  if (error == cudaSuccess) error = tc_cut_sort_load();
  if (error == cudaSuccess) error = tc_cut_join_load();
  return error == cudaSuccess ? tc_cut_long_load(device) : error;
}
