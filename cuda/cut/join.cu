/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_join: the kept lists of a segment's groups, one behind the other, and what is reported of the
 * segment.
 *
 * Strategy: a block per segment. The groups of a segment are neighbours among the offsets: a warp
 * finds the first; chunk by chunk their counts are summed up and each warp copies lists. Precision:
 * integers. Limits: a segment's groups are one block's work: about 1 us per 1,000 groups
 * [estimate].
 */
#include "cut/cut.cuh"

namespace {

constexpr int THREADS = 256, WARPS = THREADS / 32;

__global__ void __launch_bounds__(THREADS) cut_join(const __grid_constant__ tc_cut_args args) {
  __shared__ tc_block<WARPS>::space space;
  __shared__ int32_t place[THREADS];
  tc_block<WARPS> block(space);
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
    for (int32_t base = g0; base < g1; base += THREADS) {
      const int32_t g = base + (int32_t)threadIdx.x;
      const int32_t count = g < g1 ? args.group_counts[g] : 0;
      int32_t total;
      place[threadIdx.x] = sum + block.prefix(count, &total);
      __syncthreads();
      for (int32_t i = block.warp; i < THREADS && base + i < g1; i += WARPS) {
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

cudaError_t tc_cut_join(const tc_cut_args &args, const tc_chain *chain) {
  return tc_launch(cut_join, (unsigned)args.segments.segments, THREADS, 0, chain, args);
}

void tc_cut_join_load(cudaError_t *error) { tc_load(cut_join, error); }
