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
 * room for all groups of any length; then, where there are groups, their lists are joined.
 */
#include "cut/cut.cuh"
#include "cut/long.cuh"

namespace {

constexpr int JOINERS = 256;

/* ------------------------------------------------------------------------------ groups' lists --
 *
 * The kept lists of a segment's groups, one behind the other, and what is reported of the segment.
 * A block per segment. The groups of a segment are neighbours among the offsets: a warp finds the
 * first; chunk by chunk their counts are summed up and each warp copies lists. Limits: a segment's
 * groups are one block's work: about 1 us per 1,000 groups [estimate]. */
__global__ void __launch_bounds__(JOINERS) cut_join(const __grid_constant__ tc_cut_args args) {
  __shared__ tc_block<JOINERS / 32>::space space;
  __shared__ int32_t place[JOINERS];
  tc_block<JOINERS / 32> block(space);
  tc_wait_previous();
  const int32_t b = (int32_t)blockIdx.x;
  const tc_segment segment = tc_segment_at(args.segments, b);
  int32_t sum = 0;
  if (segment.n > 0) {
    int32_t g0 = 0, g1 = 0;
    if (block.warp == 0) {
      const int64_t begin = args.segments.cu_seqlens != nullptr
                                ? segment.start
                                : (int64_t)b * args.segments.max_tokens;
      g0 = tc_first_group(args.groups, begin);
      g1 = tc_first_group(args.groups, tc_rows_end(args.segments, b));
    }
    g0 = block.reduce(g0, 0, [](int32_t x, int32_t y) { return max(x, y); });
    g1 = block.reduce(g1, 0, [](int32_t x, int32_t y) { return max(x, y); });
    for (int32_t base = g0; base < g1; base += JOINERS) {
      const int32_t g = base + (int32_t)threadIdx.x;
      const int32_t count = g < g1 ? args.group_counts[g] : 0;
      int32_t total;
      place[threadIdx.x] = sum + block.prefix(count, &total);
      __syncthreads();
      for (int32_t i = block.warp; i < JOINERS && base + i < g1; i += JOINERS / 32) {
        const tc_group group = tc_group_at(args.segments, args.groups, nullptr, base + i);
        if (group.b < 0) continue;
        const int32_t *from = args.group_kept + group.start + group.first;
        int32_t *to = args.out.kept + group.start + place[i];
        for (int32_t j = block.lane; j < args.group_counts[base + i]; j += 32) to[j] = from[j];
      }
      sum += total;
      __syncthreads(); /* before the next chunk's places */
    }
  }
  if (threadIdx.x == 0) {
    const int32_t flags = args.group_flags[b];
    args.out.counts[b] = sum;
    if (args.out.host_counts != nullptr) args.out.host_counts[b] = sum;
    if (args.out.flags != nullptr) {
      args.out.flags[b] =
          flags & TC_FLAG_CANDIDATES ? flags & ~TC_FLAG_CANDIDATES : flags & TAILCUT_FLAG_INVALID;
    }
  }
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
  if (error == cudaSuccess && args->groups.groups > 0) {
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
