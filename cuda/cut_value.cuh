/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_value: which rows of a group stay, by one block, without sorting.
 *
 * With the full search range OTSU's winner ends a run of equal p (between two tokens of equal p its
 * criterion is convex in k, so an end of the run is no worse), and MEAN and IQR are thresholds: the answer
 * is a value of the curve, not a rank. p falls as the key rises, so values are offsets o = 2^20 - p.
 *   OTSU   a histogram of the offsets over the group's own range, count and sum of a bin in one word
 *          and one shared atomic a row; prefix sums; an upper bound of the criterion in each bin; the
 *          rows of the bins that can win go to a list and are evaluated exactly.
 *   k      (TOPK, RATIO, IQR's quartiles, any k that a clamp has moved): the k-th key by radix select
 *          over the keys' own range; rows of that very key are ties, the first ones stay.
 * Bound of a bin (ranks [a,b), offsets from ol on, width w): d(k) = k T - N S_k is convex along the
 * curve; its tangents at the bin's ends, of slopes T - N ol and T - N (ol + w), meet at k = a + x with x =
 * (rows' distance to the bin's far end) / w and y = b - k, where |d| is at most U. B = d^2 / (k (N - k)) is
 * convex for affine d, so B <= max(B(a), B(b), U^2 / ((a + x) (N - b + y))). Evaluated in fp32 with room
 * for its rounding (2^-20.4 for the bound, 2^-21.3 for the value at an end).
 * Precision: the choice is exact; fp32 only decides what is looked at. Limits: where more than LIST rows
 * can win the caller sorts instead.
 */
#ifndef TAILCUT_CUT_VALUE_CUH_
#define TAILCUT_CUT_VALUE_CUH_

#include "cut.cuh"

template <int ROWS>
struct tc_value_sum { /* of offsets from the smallest: at least one is 0 */
  typedef uint64_t type;
};
template <>
struct tc_value_sum<2048> {
  typedef uint32_t type;
};

template <int THREADS_, int ITEMS_, int LOG_>
struct tc_value_shape {
  static constexpr int THREADS = THREADS_, ITEMS = ITEMS_, LOG = LOG_, WARPS = THREADS / 32;
  static constexpr int ROWS = THREADS * ITEMS, BINS = 1 << LOG, EACH = BINS / THREADS;
  static constexpr int LIST = ROWS < 2048 ? (ROWS > BINS ? ROWS : BINS) : 2048;
  static constexpr int COUNT_BITS = 32 - __builtin_clz((unsigned)ROWS), LOW_BITS = 32 - COUNT_BITS;
  typedef typename tc_value_sum<(ROWS <= 2048 ? 2048 : ROWS)>::type sum;
  static_assert(EACH >= 1 && ITEMS <= 8 && WARPS <= 32, "every thread has a bin");
};

/* Count and sum of the rows before a bin in one word; a sum has no more than PACK bits. */
template <class S>
struct tc_value_prefix {
  static constexpr int PACK = sizeof(typename S::sum) == 4 ? 32 : 42;
  uint64_t word;
  __device__ void set(uint32_t count, typename S::sum sum) { word = (uint64_t)count << PACK | sum; }
  __device__ uint32_t count() const { return (uint32_t)(word >> PACK); }
  __device__ typename S::sum sum() const {
    return (typename S::sum)(word & (((uint64_t)1 << PACK) - 1));
  }
};

template <class S>
struct tc_value_space {
  uint32_t bins[S::BINS];
  uint32_t list[S::LIST + 32]; /* the last 32: read as a whole, never a row's */
  tc_value_prefix<S> prefix[S::BINS + 1];
  uint4 extremes[S::WARPS];
  uint32_t counts[32], bounds[32], warps[32];
  typename S::sum sums[32];
  uint2 alive[32];
  uint64_t best_value[32];
  uint32_t best_offset[32];
  uint32_t listed, crowded, digit, before, inside;
  typename tc_block<S::WARPS>::space block;
};

/* Rows with a key below this one stay, and the first `ties` of those that have it. */
struct tc_cutoff {
  uint32_t key;
  int32_t ties;
};

/* 2^20 - p of a usable key: 0 .. 2^21, rising with the key. s * 2^(30-e) is exact in fp32 (where it
 * underflows it rounds to 0 either way), so no doubles are needed; two factors, because 2^156 is none. */
struct tc_value_scale {
  float first, second;
};
__device__ __forceinline__ tc_value_scale tc_value_scale_of(int32_t exponent) {
  const int32_t up = 30 - exponent, part = min(up, 127);
  return {__uint_as_float((uint32_t)(127 + part) << 23),
          __uint_as_float((uint32_t)(127 + up - part) << 23)};
}
__device__ __forceinline__ uint32_t tc_value_offset(uint32_t key, tc_value_scale scale) {
  float v = __fmul_rn(__fmul_rn(tc_key_score(key), scale.first), scale.second);
  v = fminf(fmaxf(v, -1073741824.0f), 1073741824.0f);
  return (uint32_t)((1 << 20) - (__float2int_rn(v) >> 10));
}

/* What the block's threads know together of their rows' keys: one barrier. */
template <class S>
__device__ __forceinline__ tc_stats tc_value_stats(tc_value_space<S> &space,
                                                   const uint32_t (&key)[S::ITEMS],
                                                   uint32_t tau_key) {
  tc_stats own = tc_stats_none();
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    const uint32_t k = key[i];
    const bool usable = k < TC_KEY_UNUSABLE;
    const uint32_t bits = tc_float_bits(tc_key_score(k)) & 0x7FFFFFFFu;
    own.candidates += k != TC_KEY_NONE;
    own.usable += usable;
    own.above += usable && k <= tau_key;
    own.first = min(own.first, k);
    if (usable) own.last = max(own.last, k);
    if (usable && bits < 0x7F800000u) own.magnitude = max(own.magnitude, bits);
  }
  const uint32_t counted =
      __reduce_add_sync(TC_FULL, (uint32_t)own.candidates | (uint32_t)own.usable << 16);
  const uint32_t first = __reduce_min_sync(TC_FULL, own.first);
  const uint32_t last = __reduce_max_sync(TC_FULL, own.last);
  /* THRESHOLD needs no scale. */
  const uint32_t other = tau_key != 0 ? __reduce_add_sync(TC_FULL, (uint32_t)own.above)
                                      : __reduce_max_sync(TC_FULL, own.magnitude);
  if ((threadIdx.x & 31) == 0) space.extremes[threadIdx.x / 32] = {first, last, counted, other};
  __syncthreads();
  tc_stats s = tc_stats_none();
  uint32_t all = 0;
#pragma unroll
  for (int w = 0; w < S::WARPS; w++) {
    const uint4 v = space.extremes[w];
    s.first = min(s.first, v.x);
    s.last = max(s.last, v.y);
    all += v.z;
    s.magnitude = max(s.magnitude, v.w);
    s.above += (int32_t)v.w;
  }
  s.candidates = (int32_t)(all & 0xFFFFu);
  s.usable = (int32_t)(all >> 16);
  return s;
}

/* Inclusive sums over a warp. */
template <class T>
__device__ __forceinline__ T tc_value_upto(T v) {
  const uint32_t lane = threadIdx.x & 31;
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    const T other = __shfl_up_sync(TC_FULL, v, step);
    if (lane >= (uint32_t)step) v += other;
  }
  return v;
}
__device__ __forceinline__ uint32_t tc_value_total(uint32_t v) { return __reduce_add_sync(TC_FULL, v); }
__device__ __forceinline__ uint64_t tc_value_total(uint64_t v) { /* of values below 2^40 */
  return __reduce_add_sync(TC_FULL, (uint32_t)(v & 0x1FFFFFu)) +
         ((uint64_t)__reduce_add_sync(TC_FULL, (uint32_t)(v >> 21)) << 21);
}

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

/* OTSU's winner as the greatest offset that stays. *whole: the criterion is 0 everywhere. False: too
 * many rows can win. At least 3 rows are usable and not all have one offset; bins are clear. */
template <class S>
__device__ inline bool tc_value_otsu(tc_value_space<S> &space, const uint32_t (&key)[S::ITEMS],
                                     const tc_stats &stats, tc_value_scale scale, uint32_t *cut,
                                     bool *whole) {
  typedef typename S::sum SUM;
  const int thread = (int)threadIdx.x, lane = thread & 31, warp = thread / 32;
  const uint32_t first = tc_value_offset(stats.first, scale);
  const uint32_t range = tc_value_offset(stats.last, scale) - first;
  const int shift = max(0, 32 - __clz((int)range) - S::LOG); /* a bin is 2^shift offsets wide */
  const uint32_t n = (uint32_t)stats.usable, mask = (1u << shift) - 1;
  uint32_t r[S::ITEMS];
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    const bool usable = key[i] < TC_KEY_UNUSABLE;
    r[i] = usable ? tc_value_offset(key[i], scale) - first : 0xFFFFFFFFu;
    if (usable) {
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
      if (r[i] == 0xFFFFFFFFu) continue;
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
  uint32_t before = tc_value_upto(all);
  SUM sum_before = tc_value_upto(whole_sum);
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
    if (r[i] != 0xFFFFFFFFu && j >= from && j <= to) {
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

/* The cutoff that keeps k of the candidates, whose keys are this block's. */
template <class S>
__device__ inline tc_cutoff tc_value_select(tc_value_space<S> &space,
                                            const uint32_t (&key)[S::ITEMS], const tc_stats &stats,
                                            int32_t k) {
  const int thread = (int)threadIdx.x, lane = thread & 31, warp = thread / 32;
  if (k <= 0) return {0, 0};
  if (k >= stats.usable) return {TC_KEY_UNUSABLE, k - stats.usable};
  uint32_t low = stats.first, range = stats.last - stats.first, left = (uint32_t)k;
  for (;;) { /* the k-th is the left-th of the keys low .. low + range */
    const int shift = range > 0 ? max(0, 32 - __clz((int)range) - S::LOG) : 0;
    __syncthreads(); /* the bins are no longer read */
#pragma unroll
    for (int e = 0; e < S::EACH; e++) space.bins[thread + e * S::THREADS] = 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      const uint32_t at = key[i] - low;
      if (key[i] < TC_KEY_UNUSABLE && key[i] >= low && at <= range) {
        atomicAdd(&space.bins[at >> shift], 1u);
      }
    }
    __syncthreads();
    uint32_t count[S::EACH], all = 0;
#pragma unroll
    for (int e = 0; e < S::EACH; e++) {
      count[e] = space.bins[thread * S::EACH + e];
      all += count[e];
    }
    uint32_t before = tc_value_upto(all);
    if (lane == 31) space.counts[warp] = before;
    __syncthreads();
    const uint32_t others = lane < S::WARPS ? space.counts[lane] : 0;
    before += tc_value_total(lane < warp ? others : 0u) - all;
#pragma unroll
    for (int e = 0; e < S::EACH; e++) {
      if (before < left && left <= before + count[e]) {
        space.digit = (uint32_t)(thread * S::EACH + e);
        space.before = before;
        space.inside = count[e];
      }
      before += count[e];
    }
    __syncthreads();
    low += space.digit << shift;
    left -= space.before;
    range = min(range - (space.digit << shift), (1u << shift) - 1);
    if (shift == 0) return {low, (int32_t)left};
    if (space.inside <= 32) break;
  }
  /* The few keys left, compared with each other by every warp. */
  if (thread == 0) space.listed = 0;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    if (key[i] < TC_KEY_UNUSABLE && key[i] >= low && key[i] - low <= range) {
      space.list[atomicAdd(&space.listed, 1u)] = key[i];
    }
  }
  __syncthreads();
  const uint32_t listed = space.inside;
  const uint32_t own = (uint32_t)lane < listed ? space.list[lane] : TC_KEY_NONE;
  uint32_t less = 0, same = 0;
  for (uint32_t q = 0; q < listed; q++) {
    const uint32_t other = __shfl_sync(TC_FULL, own, (int)q);
    less += other < own;
    same += other == own;
  }
  const uint32_t is_it = __ballot_sync(TC_FULL, less < left && left <= less + same);
  const int who = __ffs((int)is_it) - 1;
  return {__shfl_sync(TC_FULL, own, who), (int32_t)(left - __shfl_sync(TC_FULL, less, who))};
}

/* How candidates stay: those with an offset up to this one, or by key. */
struct tc_value_choice {
  bool by_offset;
  uint32_t offset;
  tc_cutoff cutoff;
};

/* The choice before the clamps; false: sort instead. */
template <class S>
__device__ inline bool tc_value_choose(tc_value_space<S> &space, const tailcut_rule &rule, int32_t g,
                                       const uint32_t (&key)[S::ITEMS], const tc_stats &stats,
                                       bool bad, tc_value_scale scale, tc_value_choice *choice,
                                       bool *whole) {
  int32_t k;
  *choice = {false, 0, {0, 0}};
  if (tc_decide_plainly(rule, g, stats, bad, &k, whole)) {
    if (rule.detector == TAILCUT_THRESHOLD && !*whole) { /* clamps may still move it */
      choice->cutoff = {tc_tau_key(rule) + 1, 0};
    } else {
      choice->cutoff = tc_value_select(space, key, stats,
                                       tc_clamp_count(&rule, k, stats.candidates));
    }
    return true;
  }
  const uint32_t first = tc_value_offset(stats.first, scale);
  const uint32_t last = tc_value_offset(stats.last, scale);
  double threshold; /* MEAN, IQR: a value p stays when it is above */
  if (rule.detector == TAILCUT_OTSU) {
    bool flat = first == last;
    choice->by_offset = true;
    choice->offset = last;
    if (!flat && !tc_value_otsu(space, key, stats, scale, &choice->offset, &flat)) return false;
    if (flat) choice->cutoff = {TC_KEY_UNUSABLE, stats.candidates - stats.usable};
    choice->by_offset = !flat;
    return true;
  }
  if (rule.detector == TAILCUT_MEAN) {
    tc_block<S::WARPS> block(space.block);
    tc_moments m = {0, 0};
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      if (key[i] >= TC_KEY_UNUSABLE) continue;
      const int64_t p = (1 << 20) - (int64_t)tc_value_offset(key[i], scale);
      m = m + tc_moments{p, p * p};
    }
    m = block.sum(m);
    threshold = tc_mean_threshold(stats.usable, m.s1, m.s2, rule.lambda);
  } else { /* IQR */
    const int32_t n = stats.usable;
    const tc_cutoff q3 = tc_value_select(space, key, stats, (n - 1) / 4 + 1);
    const tc_cutoff q1 = tc_value_select(space, key, stats, (int32_t)(3 * (int64_t)(n - 1) / 4) + 1);
    const int64_t p3 = (1 << 20) - (int64_t)tc_value_offset(q3.key, scale);
    const int64_t p1 = (1 << 20) - (int64_t)tc_value_offset(q1.key, scale);
    threshold = (double)tc_iqr_fence(p3, p1) * 0.5; /* exact */
  }
  /* p > threshold as o <= 2^20 - floor(threshold) - 1. */
  const double most = 1048575.0 - floor(threshold);
  if (most >= 0.0) {
    choice->by_offset = true;
    choice->offset = (uint32_t)min(most, 4194304.0);
  } else {
    choice->cutoff = {0, 0};
  }
  return true;
}

#endif /* TAILCUT_CUT_VALUE_CUH_ */
