/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_otsu: OTSU's winner by one block that holds the keys, without sorting.
 *
 * Strategy: a histogram of the offsets over the group's own range, count and sum of a bin in one
 * word and one shared atomic a row; prefix sums; an upper bound of the criterion in each bin; the
 * rows of the bins that can win go to a list and are evaluated exactly.
 * Bound of a bin (ranks [a,b), offsets from ol on, width w): d(k) = k T - N S_k is convex along the
 * curve; its tangents at the bin's ends, of slopes T - N ol and T - N (ol + w), meet at k = a + x
 * with x = (rows' distance to the bin's far end) / w and y = b - k, where |d| is at most U. B = d^2
 * / (k (N - k)) is convex for affine d, so B <= max(B(a), B(b), U^2 / ((a + x) (N - b + y))).
 * Evaluated in fp32 with room for its rounding (2^-20.4 for the bound, 2^-21.3 for the value at an
 * end).
 * Precision: the answer is exact; fp32 only decides what is looked at. Limits: see false below.
 */
#ifndef TAILCUT_CUT_OTSU_CUH_
#define TAILCUT_CUT_OTSU_CUH_

#include "cut/value.cuh"

__device__ __forceinline__ float tc_value_ratio(float d, float den) {
  return den > 0.0f ? __fdividef(d * d, den) : 0.0f;
}

/* Upper bound of OTSU's criterion inside a bin, and about its value at the bin's end. */
template <class SUM>
__device__ __forceinline__ float tc_value_bound(uint32_t a, SUM sa, uint32_t b, SUM sb, uint32_t ol,
                                                int shift, uint32_t n, SUM total, float *end) {
  const uint32_t c = b - a;
  const float fa = (float)a, fb = (float)b, fn = (float)n;
  const float da = (float)(int64_t)((uint64_t)a * total - (uint64_t)n * sa);
  const float db = (float)(int64_t)((uint64_t)b * total - (uint64_t)n * sb);
  const float at_end = tc_value_ratio(db, fb * (fn - fb));
  *end = at_end;
  if (c < 2) return at_end;
  const float inverse = __uint_as_float((127u - (uint32_t)shift) << 23);
  const uint32_t low = (uint32_t)(sb - sa - (SUM)c * ol); /* at most c << shift, below 2^25 */
  const float y = (float)low * inverse, x = (float)((c << shift) - low) * inverse;
  const float xs = x * (float)(int64_t)((uint64_t)total - (uint64_t)n * ol);
  const float u = da + xs + (fabsf(da) + fabsf(xs)) * 0x1p-21f;
  return fmaxf(fmaxf(at_end, tc_value_ratio(da, fa * (fn - fa))),
               tc_value_ratio(u, (fa + x) * ((fn - fb) + y)));
}
__device__ __forceinline__ bool tc_value_survives(float bound, float best) {
  return bound * (1.0f + 0x1.8p-20f) >= best * (1.0f - 0x1p-20f);
}

/* The greater value, at equal values the smaller offset, of all lanes. */
__device__ __forceinline__ void tc_value_best(uint64_t &value, uint32_t &offset) {
  const uint32_t high = __reduce_max_sync(TC_FULL, (uint32_t)(value >> 32));
  const uint32_t low =
      __reduce_max_sync(TC_FULL, (uint32_t)(value >> 32) == high ? (uint32_t)value : 0u);
  const uint64_t top = (uint64_t)high << 32 | low;
  offset = __reduce_min_sync(TC_FULL, value == top ? offset : 0xFFFFFFFFu);
  value = top;
}

/* OTSU's winner as the greatest offset that stays, of offsets first .. last (TC_OFFSET_NONE: no
 * usable row). *whole: the criterion is 0 everywhere. False: too many rows can win. At least 3
 * rows are usable and not all have one offset; bins are clear. */
template <class S>
__device__ inline bool tc_value_otsu(tc_value_space<S> &space, const uint32_t (&offset)[S::ITEMS],
                                     int32_t usable, uint32_t first, uint32_t last, uint32_t *cut,
                                     bool *whole) {
  typedef typename S::sum SUM;
  const int thread = (int)threadIdx.x, lane = thread & 31, warp = thread / 32;
  const int shift = max(0, 32 - __clz((int)(last - first)) - S::LOG); /* bins are 2^shift wide */
  const uint32_t n = (uint32_t)usable, mask = (1u << shift) - 1;
  uint32_t r[S::ITEMS];
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    r[i] = offset[i] - first; /* none: far behind all bins */
    if (offset[i] != TC_OFFSET_NONE) {
      atomicAdd(&space.bins[r[i] >> shift], (1u << S::LOW_BITS) + (r[i] & mask));
    }
  }
  __syncthreads();
  uint32_t count[S::EACH], all = 0, crowded = 0;
  SUM sum[S::EACH], whole_sum = 0;
#pragma unroll
  for (int e = 0; e < S::EACH; e++) {
    const uint32_t j = (uint32_t)(thread * S::EACH + e), word = space.bins[j];
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
      if (offset[i] == TC_OFFSET_NONE) continue;
      atomicAdd(&space.bins[r[i] >> shift], 1u);
      atomicAdd(&low[r[i] >> shift], r[i] & mask);
    }
    __syncthreads();
#pragma unroll
    for (int e = 0; e < S::EACH; e++) {
      const uint32_t j = (uint32_t)(thread * S::EACH + e);
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
  if (lane == 31) {
    space.counts[warp] = before;
    space.sums[warp] = sum_before;
  }
  __syncthreads();
  const uint32_t others = lane < S::WARPS ? space.counts[lane] : 0;
  const SUM other_sums = lane < S::WARPS ? space.sums[lane] : 0;
  const SUM total = tc_value_total(other_sums);
  before += tc_value_total(lane < warp ? others : 0u) - all;
  sum_before += tc_value_total(lane < warp ? other_sums : (SUM)0) - whole_sum;

  float bound[S::EACH], most = 0.0f;
#pragma unroll
  for (int e = 0; e < S::EACH; e++) {
    const uint32_t j = (uint32_t)(thread * S::EACH + e);
    float end = 0.0f;
    space.prefix[j].set(before, sum_before);
    bound[e] = -1.0f;
    if (count[e] != 0) {
      bound[e] = tc_value_bound<SUM>(before, sum_before, before + count[e], sum_before + sum[e],
                                     j << shift, shift, n, total, &end);
    }
    most = fmaxf(most, end);
    before += count[e];
    sum_before += sum[e];
  }
  if (thread == S::THREADS - 1) space.prefix[S::BINS].set(before, sum_before);
  const uint32_t warp_most = __reduce_max_sync(TC_FULL, __float_as_uint(most));
  if (lane == 0) space.bounds[warp] = warp_most;
  __syncthreads();
  most = __uint_as_float(__reduce_max_sync(TC_FULL, lane < S::WARPS ? space.bounds[lane] : 0u));
  uint32_t from = 0xFFFFFFFFu, to = 0;
#pragma unroll
  for (int e = 0; e < S::EACH; e++) {
    if (bound[e] < 0.0f || !tc_value_survives(bound[e], most)) continue;
    from = min(from, (uint32_t)(thread * S::EACH + e));
    to = (uint32_t)(thread * S::EACH + e);
  }
  from = __reduce_min_sync(TC_FULL, from);
  to = __reduce_max_sync(TC_FULL, to);
  if (lane == 0) space.alive[warp] = {from, to};
  __syncthreads();
  const uint2 others_alive = lane < S::WARPS ? space.alive[lane] : make_uint2(0xFFFFFFFFu, 0);
  from = __reduce_min_sync(TC_FULL, others_alive.x);
  to = __reduce_max_sync(TC_FULL, others_alive.y);

  /* The rows of bins from .. to, one of which wins. */
  const tc_value_prefix<S> base = space.prefix[from];
  const uint32_t listed = space.prefix[to + 1].count() - base.count(), origin = from << shift;
  if (listed > (uint32_t)S::LIST) return false;
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    const uint32_t j = r[i] >> shift;
    if (j >= from && j <= to) {
      space.list[atomicAdd(&space.listed, 1u)] = r[i] - origin;
    }
  }
  if (thread < 32) space.list[listed + (uint32_t)thread] = 0xFFFFFFFFu;
  __syncthreads();
  uint64_t best = 0;
  uint32_t best_offset = 0xFFFFFFFFu;
  const auto evaluate = [&](uint32_t v) {
    uint32_t below = 0;
    SUM below_sum = 0;
#pragma unroll 2
    for (uint32_t q = 0; q < listed; q += 4) { /* behind the list stands what is above all */
      const uint4 u = *(const uint4 *)&space.list[q];
      if (u.x <= v) below++, below_sum += u.x;
      if (u.y <= v) below++, below_sum += u.y;
      if (u.z <= v) below++, below_sum += u.z;
      if (u.w <= v) below++, below_sum += u.w;
    }
    const uint32_t k = base.count() + below;
    if (k >= n) return;
    const uint64_t s = (uint64_t)base.sum() + (uint64_t)below * origin + below_sum;
    const double d = (double)(int64_t)((uint64_t)k * total - (uint64_t)n * s);
    const double value = tc_otsu_ratio(d, (double)k, (double)(n - k)); /* never negative */
    const uint64_t bits = (uint64_t)__double_as_longlong(value);
    if (bits > best || (bits == best && v < best_offset)) {
      best = bits;
      best_offset = v;
    }
  };
  if (listed <= 32) { /* nearly always; every warp by itself, without another barrier */
    if ((uint32_t)lane < listed) evaluate(space.list[lane]);
    tc_value_best(best, best_offset);
  } else {
    for (uint32_t i = (uint32_t)thread; i < listed; i += S::THREADS) evaluate(space.list[i]);
    tc_value_best(best, best_offset);
    if (lane == 0) {
      space.best_value[warp] = best;
      space.best_offset[warp] = best_offset;
    }
    __syncthreads();
    best = lane < S::WARPS ? space.best_value[lane] : 0;
    best_offset = lane < S::WARPS ? space.best_offset[lane] : 0xFFFFFFFFu;
    tc_value_best(best, best_offset);
  }
  *cut = first + origin + best_offset;
  *whole = best == 0;
  return true;
}

#endif /* TAILCUT_CUT_OTSU_CUH_ */
