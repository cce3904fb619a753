/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut: the launches of the cut, by the host's bounds. The kernels skip what is another form's, so
 * lengths may differ at every replay of a captured graph.
 *
 *   rows of a group     rule                          form
 *   up to TC_CUT_SHORT  OTSU (whole range), TOPK,     by value, one block       cut/short.cuh
 *   (8,192)             RATIO, THRESHOLD, MEAN, IQR
 *                       any; spread, curve, ranks     by sorting, one block     cut/short_sort.cuh
 *   more                OTSU (whole range)            by value, all blocks      cut/long_bins.cuh
 *                       TOPK, RATIO, clamped ones     by digits of the key      cut/long_select.cuh
 *                       THRESHOLD                     by the key of tau         cut/long.cu
 *                       any; spread, curve, ranks     by sorting                cut/long_sort.cu
 *
 * Where both lengths are possible both are launched, short ones first, unless the long form has
 * room for all groups of any length. Where there are groups, these launches join their lists too
 * (cut/join.cuh); more than TC_CHUNK_SEGMENTS segments take one more for that.
 */
#include "cut/join.cuh"
#include "cut/long.cuh"

namespace {

constexpr int JOINERS = 256;

/* The lists of segment blockIdx.x (cut/join.cuh), where there are more of them than have counts. */
__global__ void __launch_bounds__(JOINERS) cut_join(const __grid_constant__ tc_cut_args args) {
  __shared__ tc_join_space<JOINERS> space;
  tc_block<JOINERS / 32> block(space.block);
  tc_wait_previous();
  const int32_t b = (int32_t)blockIdx.x;
  const int32_t g0 = block.warp == 0 ? tc_first_group(args.groups, args.segments.start[b]) : 0;
  tc_join_segment(block, space, args, b,
                  block.reduce(g0, 0, [](int32_t x, int32_t y) { return max(x, y); }));
  tc_cut_done(block, args);
}

}  // namespace

extern "C" int tc_cuda_cuts_by_value(const tailcut_rule *rule) {
  switch (rule->detector) {
    case TAILCUT_OTSU:
      return rule->search_lo == 0.0 && rule->search_hi == 1.0;
    case TAILCUT_TOPK:
    case TAILCUT_RATIO:
    case TAILCUT_THRESHOLD:
    case TAILCUT_MEAN:
    case TAILCUT_IQR:
      return 1;
    default:
      return 0;
  }
}

bool tc_cut_sorts(const tc_cut_args &args) {
  return args.rule.spread > 0.0 || args.out.curve != nullptr || args.out.ranks != nullptr ||
         !tc_cuda_cuts_by_value(&args.rule);
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
  if (!all_long && !tc_cut_long_takes_all(*args)) {
    error = tc_cut_short(*args, tc_cut_sorts(*args), &link);
    link.follows = device->chains;
  }
  if (error == cudaSuccess && most > TC_CUT_SHORT) {
    error = tc_cut_long(args, scratch, &link);
    link.follows = device->chains;
  }
  if (error == cudaSuccess && args->groups.groups > 0 && !tc_cut_joins(*args)) {
    error = tc_launch(cut_join, (unsigned)args->segments.segments, JOINERS, 0, &link, *args);
  }
  return error;
}

extern "C" cudaError_t tc_cuda_load_cut(tc_cuda *) {
  cudaError_t error = cudaSuccess;
  tc_cut_short_load(&error);
  tc_load(cut_join, &error);
  tc_cut_long_load(&error);
  return error;
}
