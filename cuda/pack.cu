/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack: new_cu_seqlens from counts, and kept indices from LOCAL to PACKED placement.
 *
 * Formula: new_cu[b] = counts[0] + .. + counts[b-1]; packed[new_cu[b] + j] = kept[start(b) + j].
 * Strategy: scan: one block walks over the counts, 8,192 at a time, the next ones loaded before the
 * current are summed. pack: a warp per tile of 64 places, so that nothing depends on where the
 * results begin. Precision: integers; the sum of all counts is at most the rows of the batch.
 * Limits: the scan is bound by latency, about 1 us per 8,192 segments.
 *
 * Ladder: 1. as described. Prediction: 2.5 us each up to 8,192 segments, most of it the launch; not
 * measured.
 */
#include <cub/block/block_scan.cuh>

#include "common/launch.cuh"
#include "common/tiles.cuh"

namespace {

constexpr int SCAN_THREADS = 1024, SCAN_ITEMS = 8, SCAN_CHUNK = SCAN_THREADS * SCAN_ITEMS;
constexpr int PACK_THREADS = 256, PACK_WARPS = PACK_THREADS / 32;

/* Items tid, tid + SCAN_THREADS, ... of a chunk: loads of neighbours are contiguous. */
__device__ inline void load_counts(int32_t *own, const int32_t *counts, int64_t base,
                                   int32_t segments) {
#pragma unroll
  for (int i = 0; i < SCAN_ITEMS; i++) {
    const int64_t b = base + i * SCAN_THREADS + (int)threadIdx.x;
    own[i] = b < segments ? counts[b] : 0;
  }
}

__global__ void __launch_bounds__(SCAN_THREADS)
    scan(int32_t segments, const int32_t *counts, int32_t *new_cu) {
  typedef cub::BlockScan<int32_t, SCAN_THREADS, cub::BLOCK_SCAN_WARP_SCANS> block_scan;
  __shared__ block_scan::TempStorage temp;
  __shared__ int32_t chunk[SCAN_CHUNK + SCAN_CHUNK / 32]; /* one word of padding in 33 */
  int32_t own[SCAN_ITEMS], sum = 0;
  load_counts(own, counts, 0, segments);
  for (int64_t base = 0; base < segments; base += SCAN_CHUNK) {
#pragma unroll
    for (int i = 0; i < SCAN_ITEMS; i++) {
      const int at = i * SCAN_THREADS + (int)threadIdx.x;
      chunk[at + at / 32] = own[i];
    }
    load_counts(own, counts, base + SCAN_CHUNK, segments);
    __syncthreads();
    int32_t item[SCAN_ITEMS], total = 0;
#pragma unroll
    for (int i = 0; i < SCAN_ITEMS; i++) {
      const int at = (int)threadIdx.x * SCAN_ITEMS + i;
      item[i] = chunk[at + at / 32];
    }
    block_scan(temp).ExclusiveSum(item, item, total);
#pragma unroll
    for (int i = 0; i < SCAN_ITEMS; i++) {
      const int at = (int)threadIdx.x * SCAN_ITEMS + i;
      chunk[at + at / 32] = item[i] + sum;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < SCAN_ITEMS; i++) {
      const int at = i * SCAN_THREADS + (int)threadIdx.x;
      if (base + at < segments) new_cu[base + at] = chunk[at + at / 32];
    }
    sum += total;
    __syncthreads();
  }
  if (threadIdx.x == 0) new_cu[segments] = sum;
}

__global__ void __launch_bounds__(PACK_THREADS)
    pack(const __grid_constant__ tc_segments s, const __grid_constant__ tc_tiles t,
         const int32_t *kept, const int32_t *counts, const int32_t *new_cu, int32_t *packed) {
  const int64_t tiles = tc_tiles_total(t, s);
  const int64_t step = (int64_t)gridDim.x * PACK_WARPS;
  const int32_t lane = (int32_t)(threadIdx.x & 31);
  for (int64_t tile = (int64_t)blockIdx.x * PACK_WARPS + threadIdx.x / 32; tile < tiles;
       tile += step) {
    int32_t index;
    const int32_t b = tc_tile_find(t, s, tile, &index);
    if (b < 0) continue;
    const int32_t start = tc_segment_at(s, b).start, count = counts[b], to = new_cu[b];
    const int32_t end = min(count, (index + 1) * TC_BLOCK);
    for (int32_t j = index * TC_BLOCK + lane; j < end; j += 32) packed[to + j] = kept[start + j];
  }
}

}  // namespace

extern "C" cudaError_t tc_cuda_scan(const tc_cuda *, int32_t segments, const int32_t *counts,
                                    int32_t *new_cu, const tc_chain *chain) {
  return tc_launch(scan, 1, SCAN_THREADS, 0, chain, segments, counts, new_cu);
}

extern "C" cudaError_t tc_cuda_pack(const tc_cuda *, const tc_segments *segments,
                                    const int32_t *kept, const int32_t *counts,
                                    const int32_t *new_cu, int32_t *packed, const tc_chain *chain) {
  if (segments->segments <= 0) return cudaSuccess;
  const tc_tiles t = tc_tiles_of(*segments, 0, segments->segments);
  return tc_launch(pack, tc_grid((t.bound + PACK_WARPS - 1) / PACK_WARPS), PACK_THREADS, 0, chain,
                   *segments, t, kept, counts, new_cu, packed);
}

extern "C" cudaError_t tc_cuda_load_pack(tc_cuda *) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, scan);
  return error != cudaSuccess ? error : cudaFuncGetAttributes(&attributes, pack);
}
