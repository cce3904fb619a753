/* SPDX-License-Identifier: Apache-2.0 */
/*
 * select: the key of the k-th row in rank order, by a gang, without sorting.
 *
 * Strategy: radix select. The keys lie between the best and the worst usable one; what can still be the
 * answer is halved in bits at each level (13 bits at most): every block counts the digits of its
 * rows in shared memory, warps of the gang add up the blocks' counts, and the digit in which the
 * count reaches k is the next part of the key. Rows of that very key are ties: the first ones by row
 * number stay. Precision: exact.
 */
#ifndef TAILCUT_SELECT_CUH_
#define TAILCUT_SELECT_CUH_

#include "bins.cuh"

#define TC_SELECT_BITS 13

/* Rows with a smaller key stay, and the first `ties` of those with this key. */
struct tc_cutoff {
  uint32_t key;
  int32_t ties;
};

/* The last key in first .. last for which stays(key), which holds up to some key and not behind it; it
 * holds for `first`. By whole warps: 32 keys are asked at once. */
template <class Stays>
__device__ uint32_t tc_last_key(uint32_t first, uint32_t last, Stays stays) {
  const uint32_t lane = threadIdx.x & 31;
  while (first < last) {
    /* Lane i asks for the end of the i-th of 32 parts; what lies behind the last true one is next. */
    const uint32_t part = (last - first - 1) / 32 + 1;
    const bool inside = lane * (uint64_t)part + part <= last - first;
    const uint32_t yes = __ballot_sync(TC_FULL, inside && stays(first + lane * part + part));
    const uint32_t reached = first + (uint32_t)__popc(yes) * part;
    last = min((uint64_t)last, (uint64_t)reached + part - 1);
    first = reached;
  }
  return first;
}

/* The digit of `digits` in which the gang's counts reach k, and the count before it. */
template <class Gang>
__device__ uint64_t tc_select_digit(Gang &gang, uint32_t *counts, int32_t digits, int32_t k) {
  const auto count_of = [&](int32_t d) {
    int32_t count = 0;
#pragma unroll 4
    for (int c = 0; c < gang.ctas; c++) count += (int32_t)*gang.peer(&counts[d], c);
    return count;
  };
  int32_t lo, hi, own = 0, total;
  gang.run(digits, &lo, &hi);
  for (int32_t d = lo + gang.lane; d < hi; d += 32) own += count_of(d);
  own = tc_warp_reduce(own, tc_plus());
  int32_t before = gang.before(own, &total);
  uint64_t found = 0; /* digit << 32 | count before */
  if (before < k && k <= before + own) {
    for (int32_t base = lo; base < hi; base += 32) {
      const int32_t count = base + gang.lane < hi ? count_of(base + gang.lane) : 0;
      const int32_t upto = before + tc_warp_scan(count, gang.lane);
      if (upto - count < k && k <= upto) {
        found = (uint64_t)(uint32_t)(base + gang.lane) << 32 | (uint32_t)(upto - count);
      }
      before = __shfl_sync(TC_FULL, upto, 31);
    }
  }
  return gang.reduce(found, (uint64_t)0, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
}

/* The cutoff that keeps k of the candidates. `counts` is shared memory for 2^13 words. */
template <class Gang>
__device__ tc_cutoff tc_select(Gang &gang, const tc_rows_view &rows, const tc_stats &stats,
                               int32_t k, uint32_t *counts) {
  if (k <= 0) return {0, 0};
  if (k >= stats.usable) return {TC_KEY_UNUSABLE, k - stats.usable};
  uint32_t base = stats.first;
  int width = stats.last > base ? 32 - __clz((int)(stats.last - base)) : 0;
  const int levels = (width + TC_SELECT_BITS - 1) / TC_SELECT_BITS;
  const int most = levels > 0 ? (width + levels - 1) / levels : 0;
  while (width > 0) {
    const int bits = min(width, most), shift = width - bits;
    const int32_t digits = 1 << bits;
    for (int32_t d = (int32_t)threadIdx.x; d < digits; d += TC_LONG_THREADS) counts[d] = 0;
    __syncthreads();
    rows.each([&](uint32_t key) {
      const uint32_t digit = key < TC_KEY_UNUSABLE && key >= base ? (key - base) >> shift : digits;
      tc_add_one(counts, (int32_t)digit, digit < (uint32_t)digits);
    });
    gang.sync();
    const uint64_t found = tc_select_digit(gang, counts, digits, k);
    base += (uint32_t)(found >> 32) << shift;
    k -= (int32_t)(uint32_t)found;
    width = shift;
  }
  return {base, k};
}

#endif /* TAILCUT_SELECT_CUH_ */
