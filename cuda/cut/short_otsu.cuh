/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_short_otsu: OTSU's winner by one block that holds the keys, without sorting.
 *
 * Strategy: a histogram of the offsets over the group's own range, count and sum of a bin in one
 * word and one shared atomic a row; prefix sums; an upper bound of the criterion in each bin
 * (cut/otsu.cuh); the rows of the bins that can win go to a list and are evaluated exactly.
 * Precision: exact. Limits: see false below.
 */
#ifndef TAILCUT_CUT_SHORT_OTSU_CUH_
#define TAILCUT_CUT_SHORT_OTSU_CUH_

#include "cut/short_space.cuh"

/* Rows and the sum of their offsets. */
template <class SUM>
struct tc_short_head {
  uint32_t count;
  SUM sum;
};

/* OTSU's winner as the greatest offset that stays; offsets are counted from the group's smallest
 * on, `range` is its greatest, n how many there are (TC_NO_OFFSET: no usable row). *whole: the
 * criterion is 0 everywhere. False: too many rows can win. At least 3 rows are usable and not all
 * have one offset; bins are clear. */
template <class S>
__device__ inline bool tc_short_otsu(tc_short_space<S> &space, tc_block<S::WARPS> &block,
                                     const uint32_t (&offset)[S::ITEMS], uint32_t n, uint32_t range,
                                     uint32_t *cut, bool *whole) {
  typedef typename S::sum SUM;
  const uint32_t thread = threadIdx.x, lane = thread & 31;
  const int shift = max(0, 32 - __clz((int)range) - S::LOG); /* bins are 2^shift wide */
  const uint32_t mask = (1u << shift) - 1;
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    if (offset[i] != TC_NO_OFFSET) {
      atomicAdd(&space.bins[offset[i] >> shift], (1u << S::LOW_BITS) + (offset[i] & mask));
    }
  }
  __syncthreads();
  uint32_t count[S::EACH], all = 0, crowded = 0;
  SUM sum[S::EACH], whole_sum = 0;
#pragma unroll
  for (int e = 0; e < S::EACH; e++) {
    const uint32_t j = thread * S::EACH + e, word = space.bins[j];
    count[e] = word >> S::LOW_BITS;
    crowded |= count[e] >= (1u << S::LOW_BITS) >> shift; /* the sum may have run into the count */
    sum[e] = (SUM)count[e] * (j << shift) + (word & ((1u << S::LOW_BITS) - 1));
  }
  if (__syncthreads_or((int)crowded)) { /* again, in two words */
    uint32_t *low = space.list;
#pragma unroll
    for (int e = 0; e < S::EACH; e++) {
      space.bins[thread * S::EACH + e] = low[thread * S::EACH + e] = 0;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      if (offset[i] == TC_NO_OFFSET) continue;
      atomicAdd(&space.bins[offset[i] >> shift], 1u);
      atomicAdd(&low[offset[i] >> shift], offset[i] & mask);
    }
    __syncthreads();
#pragma unroll
    for (int e = 0; e < S::EACH; e++) {
      const uint32_t j = thread * S::EACH + e;
      count[e] = space.bins[j];
      sum[e] = (SUM)count[e] * (j << shift) + low[j];
    }
  }
#pragma unroll
  for (int e = 0; e < S::EACH; e++) {
    all += count[e];
    whole_sum += sum[e];
  }
  uint32_t before = tc_warp_upto(all);
  SUM sum_before = tc_warp_upto(whole_sum);
  tc_short_head<SUM> total;
  const tc_short_head<SUM> warps =
      tc_short_before(block, tc_shuffle(tc_short_head<SUM>{before, sum_before}, 31), &total,
                      [](const tc_short_head<SUM> &v) -> tc_short_head<SUM> {
                        return {tc_short_total(v.count), tc_short_total(v.sum)};
                      });
  const tc_otsu<SUM> otsu = {n, total.sum};
  before += warps.count - all;
  sum_before += warps.sum - whole_sum;

  float bound[S::EACH], most = 0.0f;
#pragma unroll
  for (int e = 0; e < S::EACH; e++) {
    const uint32_t j = thread * S::EACH + e, upto = before + count[e];
    const SUM sum_upto = sum_before + sum[e];
    float end = 0.0f;
    bound[e] = -1.0f;
    if (count[e] != 0) {
      bound[e] = otsu.bound(before, sum_before, upto, sum_upto, j << shift, shift, &end);
    }
    most = fmaxf(most, end);
    space.upto[j + 1] = before = upto;
    space.upto_sum[j + 1] = sum_before = sum_upto;
  }
  most = tc_block_most(block, most);
  uint2 alive = {TC_NO_OFFSET, 0};
#pragma unroll
  for (int e = 0; e < S::EACH; e++) {
    const uint32_t j = thread * S::EACH + e;
    if (bound[e] >= 0.0f && otsu.survives(bound[e], most)) alive = {min(alive.x, j), j};
  }
  alive = block.combine(alive, make_uint2(TC_NO_OFFSET, 0), [](uint2 own) {
    return make_uint2(__reduce_min_sync(TC_FULL, own.x), __reduce_max_sync(TC_FULL, own.y));
  });
  const uint32_t from = alive.x, to = alive.y;

  /* The rows of bins from .. to, one of which wins, by their distance to the first of these bins:
   * below 2^21 but for one. ONE more, so that a sum of up to 32 of them has their number on top. */
  constexpr uint32_t ONE = 1u << 26;
  const uint32_t base = space.upto[from], listed = space.upto[to + 1] - base;
  const uint32_t origin = from << shift, span = (to + 1 - from) << shift;
  if (listed > (uint32_t)S::LIST) return false;
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    if (offset[i] - origin < span) { /* none: far behind all bins */
      space.list[atomicAdd(&space.listed, 1u)] = offset[i] - origin + ONE;
    }
  }
  if (thread < 32) space.list[listed + thread] = TC_NO_OFFSET;
  __syncthreads();
  tc_best best = tc_best_none();
  const SUM base_sum = space.upto_sum[from];
  const auto value_at = [&](uint32_t k, uint32_t below, SUM below_sum) {
    return otsu.exact(k, base_sum + (SUM)below * origin + below_sum);
  };
  if (listed <= 32) { /* nearly always; every warp by itself, without another barrier */
    const uint32_t v = space.list[lane];
    uint32_t sums = 0;
    for (uint32_t q = 0; q < listed; q += 8) { /* behind the list stands what is above all */
#pragma unroll
      for (int e = 0; e < 8; e += 4) {
        const uint4 u = *(const uint4 *)&space.list[q + e];
        sums += u.x <= v ? u.x : 0u;
        sums += u.y <= v ? u.y : 0u;
        sums += u.z <= v ? u.z : 0u;
        sums += u.w <= v ? u.w : 0u;
      }
    }
    const uint32_t k = base + sums / ONE;
    if (lane < listed && k < n) best = {value_at(k, sums / ONE, sums % ONE), v - ONE, k};
    best = tc_warp_best(best);
  } else {
    for (uint32_t i = thread; i < listed; i += S::THREADS) {
      const uint32_t v = space.list[i];
      uint32_t below = 0;
      SUM sums = 0;
#pragma unroll 2
      for (uint32_t q = 0; q < listed; q += 4) {
        const uint4 u = *(const uint4 *)&space.list[q];
        if (u.x <= v) below++, sums += u.x;
        if (u.y <= v) below++, sums += u.y;
        if (u.z <= v) below++, sums += u.z;
        if (u.w <= v) below++, sums += u.w;
      }
      const uint32_t k = base + below;
      if (k < n) best.offer(value_at(k, below, sums - (SUM)below * ONE), v - ONE, k);
    }
    best = tc_block_best(block, best);
  }
  *cut = origin + best.place;
  *whole = best.value == 0;
  return true;
}

#endif /* TAILCUT_CUT_SHORT_OTSU_CUH_ */
