/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bins: the curve of a segment without sorting it: how many scores, and with what sum, fall into each
 * of 2,049 bins of 1,024 curve values; then, only for bins that can still hold the answer, how many
 * fall on each single value.
 *
 * With P = p + 2^20 (0 .. 2^21) bin j = 2048 - (P >> 10), so that ascending bins are descending
 * scores. Strategy: every block of the gang counts its own rows in shared memory; each block adds up
 * one slice of the bins over all blocks and hands it to all; then every block holds all prefix sums
 * and decides alike without further talk. Single values of surviving bins are counted where their
 * block is, by remote atomics on integers, in as many rounds as the memory needs. Lanes that hit one
 * bin together are added up first: equal scores would queue up at one address. Precision: exact. A
 * prefix packs count and sum of P into 64 bits: 21 + 42.
 */
#ifndef TAILCUT_BINS_CUH_
#define TAILCUT_BINS_CUH_

#include "cut_long.cuh"

#define TC_BINS 2049
#define TC_BIN_VALUES 1024
#define TC_P_OFFSET 1048576 /* 2^20 */

/* The rows of a segment that a block owns. The first `cached` keys lie in shared memory. */
struct tc_rows_view {
  const float *scores;
  const uint8_t *roles;
  uint32_t *cache;
  int32_t first, count, cached;

  __device__ uint32_t load(int32_t i) const { return tc_load_key(scores, roles, first + i); }
  __device__ uint32_t key(int32_t i) const { return i < cached ? cache[i] : load(i); }

  /* f(key) by whole warps; TC_KEY_NONE behind the end. */
  template <class F>
  __device__ void each(F f) const {
#pragma unroll 2
    for (int32_t base = (int32_t)threadIdx.x & ~31; base < count; base += TC_LONG_THREADS) {
      const int32_t i = base + ((int32_t)threadIdx.x & 31);
      f(i < count ? key(i) : TC_KEY_NONE);
    }
  }
};

/* Sums over the threads of a block before this one, and over all. Ends with all sums read. */
template <class T>
__device__ T tc_block_before(T v, T *warp_sums, T *total) {
  const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5;
  T upto = v, earlier = T(), all = T();
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    const T other = __shfl_up_sync(TC_FULL, upto, step);
    if (lane >= step) upto += other;
  }
  if (lane == 31) warp_sums[warp] = upto;
  __syncthreads();
  for (int w = 0; w < TC_LONG_WARPS; w++) {
    if (w < warp) earlier += warp_sums[w];
    all += warp_sums[w];
  }
  __syncthreads();
  *total = all;
  return earlier + upto - v;
}

/* counts[i] += 1 for the active lanes, those that agree with the first active one in one go. */
__device__ __forceinline__ void tc_add_one(uint32_t *counts, int32_t i, bool active) {
  const int lane = (int)threadIdx.x & 31;
  const uint32_t some = __ballot_sync(TC_FULL, active);
  if (some == 0) return;
  const int leader = __ffs((int)some) - 1;
  const int32_t common = __shfl_sync(TC_FULL, i, leader);
  const uint32_t same = __ballot_sync(TC_FULL, active && i == common);
  if (lane == leader) {
    atomicAdd(&counts[i], (uint32_t)__popc(same));
  } else if (active && i != common) {
    atomicAdd(&counts[i], 1u);
  }
}

struct tc_bins {
  uint32_t counts[TC_BINS], sums[TC_BINS]; /* of this block's rows; sums of P mod 1024 */
  uint64_t prefix[TC_BINS + 1];            /* exclusive: count << 42 | sum of P */
  int16_t slot[TC_BINS];                   /* number among the survivors, -1: none */
  int16_t survivor[TC_BINS];               /* bin of survivor s */
  uint64_t warp_sums[TC_LONG_WARPS];

  __device__ int32_t count_before(int32_t j) const { return (int32_t)(prefix[j] >> 42); }
  /* Sum of p before bin j. */
  __device__ int64_t sum_before(int32_t j) const {
    return (int64_t)(prefix[j] & (((uint64_t)1 << 42) - 1)) -
           (int64_t)count_before(j) * TC_P_OFFSET;
  }
  /* Smallest p of bin j; the greatest is 1023 more. */
  __device__ static int32_t least(int32_t j) {
    return (TC_BINS - 1 - j) * TC_BIN_VALUES - TC_P_OFFSET;
  }
};

/* Counts the curve values p of a block's usable rows and makes the prefix sums of the gang's. `p_of`
 * gives p of a key. */
template <class Gang, class ValueOf>
__device__ void tc_bins_fill(Gang &gang, tc_bins &bins, const tc_rows_view &rows, ValueOf p_of) {
  const int t = (int)threadIdx.x;
  for (int j = t; j < TC_BINS; j += TC_LONG_THREADS) bins.counts[j] = bins.sums[j] = 0;
  __syncthreads();
  rows.each([&](uint32_t key) {
    const bool active = key < TC_KEY_UNUSABLE;
    const int32_t p = active ? p_of(key) + TC_P_OFFSET : 0;
    const int32_t j = TC_BINS - 1 - (p >> 10);
    const uint32_t some = __ballot_sync(TC_FULL, active);
    if (some == 0) return;
    const int leader = __ffs((int)some) - 1;
    const int32_t common = __shfl_sync(TC_FULL, j, leader);
    const bool joins = active && j == common;
    const uint32_t same = __ballot_sync(TC_FULL, joins);
    const uint32_t sum = __reduce_add_sync(TC_FULL, joins ? (uint32_t)p & 1023 : 0);
    if (gang.lane == leader) {
      atomicAdd(&bins.counts[j], (uint32_t)__popc(same));
      atomicAdd(&bins.sums[j], sum);
    } else if (active && !joins) {
      atomicAdd(&bins.counts[j], 1u);
      atomicAdd(&bins.sums[j], (uint32_t)p & 1023);
    }
  });
  gang.sync();
  const int slice = (TC_BINS + gang.ctas - 1) / gang.ctas;
  for (int i = t; i < slice && gang.cta * slice + i < TC_BINS; i += TC_LONG_THREADS) {
    const int j = gang.cta * slice + i;
    uint64_t count = 0, sum = 0;
#pragma unroll 2
    for (int c = 0; c < gang.ctas; c++) {
      count += *gang.peer(&bins.counts[j], c);
      sum += *gang.peer(&bins.sums[j], c);
    }
    sum += count * (uint64_t)((TC_BINS - 1 - j) * TC_BIN_VALUES);
#pragma unroll 2
    for (int c = 0; c < gang.ctas; c++) *gang.peer(&bins.prefix[j], c) = count << 42 | sum;
  }
  gang.sync();
  constexpr int EACH = (TC_BINS + TC_LONG_THREADS - 1) / TC_LONG_THREADS;
  uint64_t mine[EACH], own = 0, total;
  for (int i = 0; i < EACH; i++) {
    mine[i] = t * EACH + i < TC_BINS ? bins.prefix[t * EACH + i] : 0;
    own += mine[i];
  }
  uint64_t before = tc_block_before(own, bins.warp_sums, &total);
  for (int i = 0; i < EACH; i++) {
    if (t * EACH + i < TC_BINS) bins.prefix[t * EACH + i] = before;
    before += mine[i];
  }
  if (t == 0) bins.prefix[TC_BINS] = total;
  __syncthreads();
}

/* Marks the bins that survive(j) names; returns their number. All blocks come to the same marks. */
template <class Survive>
__device__ int32_t tc_bins_mark(tc_bins &bins, Survive survive) {
  uint64_t own = 0, total;
  uint32_t marks = 0;
  int i = 0;
  for (int j = (int)threadIdx.x; j < TC_BINS; j += TC_LONG_THREADS, i++) {
    const bool stays = bins.count_before(j + 1) > bins.count_before(j) && survive(j);
    marks |= (uint32_t)stays << i;
    own += stays;
  }
  int32_t next = (int32_t)tc_block_before(own, bins.warp_sums, &total);
  i = 0;
  for (int j = (int)threadIdx.x; j < TC_BINS; j += TC_LONG_THREADS, i++) {
    bins.slot[j] = -1;
    if (marks >> i & 1) {
      bins.survivor[next] = (int16_t)j;
      bins.slot[j] = (int16_t)next++;
    }
  }
  __syncthreads();
  return (int32_t)total;
}

/* Counts the single values of the marked bins and calls visit(a, b, sum, p) for each value p that
 * occurs: it holds the ranks a .. b-1, and the p before rank a sum up to `sum`. Each value is visited
 * by one thread of the gang. `values` is shared memory of `slots` bins. */
template <class Gang, class ValueOf, class Visit>
__device__ void tc_bins_visit(Gang &gang, tc_bins &bins, const tc_rows_view &rows, int32_t marked,
                              uint32_t *values, int32_t slots, ValueOf p_of, Visit visit) {
  const int width = __ffs(gang.ctas) - 1; /* a power of two */
  const int32_t round = slots << width;
  for (int32_t first = 0; first < marked; first += round) {
    const int32_t used = min(slots, ((marked - first - 1) >> width) + 1);
    for (int i = (int)threadIdx.x; i < used * TC_BIN_VALUES; i += TC_LONG_THREADS) values[i] = 0;
    gang.sync();
    rows.each([&](uint32_t key) {
      int32_t s = -1, at = 0;
      if (key < TC_KEY_UNUSABLE) {
        const int32_t p = p_of(key) + TC_P_OFFSET;
        s = bins.slot[TC_BINS - 1 - (p >> 10)] - first;
        at = 1023 - (p & 1023);
      }
      const bool active = s >= 0 && s < round;
      const int32_t place = active ? s * TC_BIN_VALUES + at : -1;
      const uint32_t some = __ballot_sync(TC_FULL, active);
      if (some == 0) return;
      const int leader = __ffs((int)some) - 1;
      const int32_t common = __shfl_sync(TC_FULL, place, leader);
      const bool joins = active && place == common;
      const uint32_t same = __ballot_sync(TC_FULL, joins);
      if (active && (!joins || gang.lane == leader)) {
        uint32_t *there = gang.peer(values, s & (gang.ctas - 1));
        atomicAdd(&there[(s >> width) * TC_BIN_VALUES + at], joins ? (uint32_t)__popc(same) : 1u);
      }
    });
    gang.sync();
    for (int32_t l = gang.warp; l < used; l += TC_LONG_WARPS) {
      const int32_t s = first + (l << width) + gang.cta;
      if (s >= marked) break;
      const int32_t j = bins.survivor[s], least = tc_bins::least(j);
      int32_t rank = bins.count_before(j), offsets = 0;
      const int32_t bin_rank = rank;
      const int64_t bin_sum = bins.sum_before(j);
      for (int32_t base = 0; base < TC_BIN_VALUES; base += 32) {
        const int32_t o = 1023 - base - gang.lane;
        const int32_t count = (int32_t)values[l * TC_BIN_VALUES + base + gang.lane];
        if (__ballot_sync(TC_FULL, count > 0) == 0) continue;
        const int32_t upto = tc_warp_scan(count, gang.lane);
        const int32_t offset_upto = tc_warp_scan(count * o, gang.lane);
        if (count > 0) {
          const int32_t a = rank + upto - count;
          const int64_t sum =
              bin_sum + (int64_t)(a - bin_rank) * least + offsets + offset_upto - count * o;
          visit(a, a + count, sum, least + o);
        }
        rank += __shfl_sync(TC_FULL, upto, 31);
        offsets += __shfl_sync(TC_FULL, offset_upto, 31);
      }
    }
    __syncthreads(); /* the values are cleared next */
  }
}

#endif /* TAILCUT_BINS_CUH_ */
