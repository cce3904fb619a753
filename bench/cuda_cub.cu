/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda_cub: prune_visual with packed rows as one puts it together from CUB, to compare with.
 * tailcut's scores are given; a block per image sorts them (CUB's block sort: its segmented sort
 * takes twice as long and needs libstdc++), cuts by OTSU with CUB's scans and lists what is kept;
 * a gather moves the kept rows by 16 bytes. The scores have no NaN.
 */
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "cuda_cub.h"
#include "curve.h"

/* A split, the better and then the earlier one. */
struct split {
  double value;
  int32_t rank;
};
struct better {
  __device__ split operator()(const split &a, const split &b) const {
    if (a.value != b.value) return a.value > b.value ? a : b;
    return a.rank < b.rank ? a : b;
  }
};

/* How many of n sorted scores are kept: valid in thread 0. Thread t has ranks t * ITEMS and up. */
template <int THREADS, int ITEMS>
static __device__ int32_t cut(const float (&sorted)[ITEMS], int32_t n) {
  typedef cub::BlockScan<int64_t, THREADS> value_scan;
  typedef cub::BlockReduce<split, THREADS> best_split;
  __shared__ union {
    typename value_scan::TempStorage scan;
    typename best_split::TempStorage best;
  } room;
  const int32_t first = (int32_t)threadIdx.x * ITEMS;
  int64_t head = 0, total = 0, sums[ITEMS], mine = 0;
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    const int32_t p = tc_curve_value(tc_quantise(sorted[i], tc_scale_factor(0)));
    mine += first + i < n ? p : 0;
    sums[i] = mine;
  }
  value_scan(room.scan).ExclusiveSum(mine, head, total);
  __syncthreads();
  split best = {0.0, 0};
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    const int32_t r = first + i;
    if (r < n - 1) best = better()(best, {tc_otsu_value(n, r + 1, head + sums[i], total), r});
  }
  best = best_split(room.best).Reduce(best, better());
  return best.value > 0.0 ? best.rank + 1 : n;
}

template <int THREADS, int ITEMS>
static __global__ void __launch_bounds__(THREADS)
    choose(const float *scores, int32_t n, int32_t *counts, int32_t *kept) {
  typedef cub::BlockRadixSort<float, THREADS, ITEMS, int32_t> sort;
  typedef cub::BlockScan<int32_t, THREADS> count_scan;
  __shared__ union {
    typename sort::TempStorage sort;
    typename count_scan::TempStorage scan;
  } room;
  __shared__ uint8_t chosen[THREADS * ITEMS];
  __shared__ int32_t k;
  const int64_t start = (int64_t)blockIdx.x * n;
  const int32_t first = (int32_t)threadIdx.x * ITEMS;
  float keys[ITEMS];
  int32_t index[ITEMS];
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    index[i] = first + i;
    keys[i] = index[i] < n ? scores[start + index[i]] : -2.0f; /* behind every cosine */
  }
  sort(room.sort).SortDescending(keys, index);
  const int32_t found = cut<THREADS, ITEMS>(keys, n);
  if (threadIdx.x == 0) counts[blockIdx.x] = k = found;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < ITEMS; i++) chosen[index[i]] = first + i < k;
  __syncthreads();
  int32_t mine = 0, at = 0;
#pragma unroll
  for (int i = 0; i < ITEMS; i++) mine += chosen[first + i];
  count_scan(room.scan).ExclusiveSum(mine, at);
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    if (chosen[first + i]) kept[start + at++] = first + i;
  }
}

/* A warp a row. */
enum { THREADS = 256, WARPS = THREADS / 32 };

static __global__ void gather(const uint4 *from, uint4 *to, int32_t pieces, const int32_t *counts,
                              const int32_t *kept, int32_t n, int32_t *cu) {
  typedef cub::BlockReduce<int32_t, THREADS> count_sum;
  __shared__ typename count_sum::TempStorage room;
  __shared__ int32_t base;
  const int32_t b = (int32_t)blockIdx.y;
  int32_t before = 0;
  for (int32_t i = (int32_t)threadIdx.x; i < b; i += THREADS) before += counts[i];
  before = count_sum(room).Sum(before);
  if (threadIdx.x == 0) base = before;
  if (threadIdx.x == 0 && blockIdx.x == 0) {
    cu[b] = before;
    if (b == (int32_t)gridDim.y - 1) cu[b + 1] = before + counts[b];
  }
  __syncthreads();
  const int32_t j = (int32_t)(blockIdx.x * WARPS + threadIdx.x / 32);
  if (j >= counts[b]) return;
  const uint4 *row = from + ((int64_t)b * n + kept[(int64_t)b * n + j]) * pieces;
  uint4 *place = to + (int64_t)(base + j) * pieces;
  for (int32_t i = (int32_t)threadIdx.x % 32; i < pieces; i += 32) place[i] = row[i];
}

extern "C" cudaError_t bench_cub_prune(int32_t segments, int32_t n, const float *scores,
                                       const void *from, void *to, size_t row_bytes,
                                       int32_t *counts, int32_t *kept, int32_t *cu,
                                       cudaStream_t stream) {
  const unsigned images = (unsigned)segments;
  if (n <= 1024) {
    choose<256, 4><<<images, 256, 0, stream>>>(scores, n, counts, kept);
  } else {
    choose<512, BENCH_CUB_MOST_TOKENS / 512><<<images, 512, 0, stream>>>(scores, n, counts, kept);
  }
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  const dim3 grid((unsigned)((n + WARPS - 1) / WARPS), images);
  gather<<<grid, THREADS, 0, stream>>>((const uint4 *)from, (uint4 *)to, (int32_t)(row_bytes / 16),
                                       counts, kept, n, cu);
  return cudaGetLastError();
}
