/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resolve: where each segment starts, how many candidates it has, whether its bounds hold.
 *
 * Rules: src/cpu/segments.c. Strategy: one block walks over the segments, 4,096 at a time, with a
 * running maximum of the offsets (an offset below any earlier one is invalid) and running sums of
 * tiles and candidates. Limits: latency-bound, about one trip to L2 per 4,096 segments; the fused
 * kernel does without it.
 *
 * Ladder: 1. one block, 4 segments per thread and round. Prediction 3 us up to 4,096 segments, 40 us
 * at 10^5; not measured.
 */
#include <cub/block/block_scan.cuh>

#include "common/launch.cuh"
#include "common/segments.cuh"

namespace {

constexpr int THREADS = 1024, ITEMS = 4;
/* Warp scans: the default one spills at 1,024 threads. */
typedef cub::BlockScan<int32_t, THREADS, cub::BLOCK_SCAN_WARP_SCANS> max_scan;
typedef cub::BlockScan<uint64_t, THREADS, cub::BLOCK_SCAN_WARP_SCANS> sum_scan;

struct larger {
  __device__ int32_t operator()(int32_t a, int32_t b) const { return a > b ? a : b; }
};

__global__ void __launch_bounds__(THREADS)
    resolve(tc_segments s, const int32_t *input_flags, int32_t *start, int32_t *n, int32_t *tiles,
            int32_t *flags) {
  __shared__ union {
    max_scan::TempStorage max;
    sum_scan::TempStorage sum;
  } temp;
  int32_t highest = 0;
  uint64_t sum = 0; /* tiles in the upper half, candidates in the lower: neither overflows */
  for (int64_t base = 0; base < s.segments; base += THREADS * ITEMS) {
    const int64_t mine = base + (int64_t)threadIdx.x * ITEMS;
    int32_t top = 0, before = 0, chunk_top = 0;
    if (s.cu_seqlens != nullptr) {
      for (int64_t b = mine; b < mine + ITEMS && b < s.segments; b++) {
        top = max(top, s.cu_seqlens[b]);
      }
      max_scan(temp.max).ExclusiveScan(top, before, 0, larger(), chunk_top);
      __syncthreads();
    }
    before = max(before, highest);
    highest = max(highest, chunk_top);
    tc_segment found[ITEMS];
    uint64_t own = 0, earlier = 0, chunk = 0;
    for (int i = 0; i < ITEMS; i++) {
      const int64_t b = mine + i;
      found[i] = {0, 0, true};
      if (b >= s.segments) continue;
      if (s.cu_seqlens != nullptr) before = max(before, s.cu_seqlens[b]);
      found[i] = tc_segment_judge(s, (int32_t)b, before);
      int32_t bits = found[i].valid ? 0 : TAILCUT_FLAG_INVALID;
      if (input_flags != nullptr) {
        bits |= input_flags[b] & (TAILCUT_FLAG_BAD_REFERENCE | TAILCUT_FLAG_INVALID);
        if (bits & TAILCUT_FLAG_INVALID) found[i].n = 0;
      }
      flags[b] = bits;
      own +=
          (uint64_t)(uint32_t)((found[i].n + TC_BLOCK - 1) / TC_BLOCK) << 32 | (uint32_t)found[i].n;
    }
    sum_scan(temp.sum).ExclusiveSum(own, earlier, chunk);
    __syncthreads();
    earlier += sum;
    sum += chunk;
    for (int i = 0; i < ITEMS; i++) {
      const int64_t b = mine + i;
      if (b >= s.segments) break;
      start[b] = found[i].start;
      n[b] = found[i].n;
      tiles[b] = (int32_t)(earlier >> 32);
      earlier +=
          (uint64_t)(uint32_t)((found[i].n + TC_BLOCK - 1) / TC_BLOCK) << 32 | (uint32_t)found[i].n;
    }
  }
  if (threadIdx.x == 0) {
    n[s.segments] = (int32_t)(uint32_t)sum;
    tiles[s.segments] = (int32_t)(sum >> 32);
  }
}

}  // namespace

extern "C" cudaError_t tc_cuda_resolve(const tc_cuda *, const tc_segments *segments,
                                       const int32_t *input_flags, int32_t *start, int32_t *n,
                                       int32_t *tiles, int32_t *flags, const tc_chain *chain) {
  return tc_launch(resolve, 1, THREADS, 0, chain, *segments, input_flags, start, n, tiles, flags);
}

extern "C" cudaError_t tc_cuda_load_resolve(tc_cuda *) {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, resolve);
}
