/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_value: which rows of a group stay, by one block, without sorting.
 *
 * With the full search range OTSU's winner ends a run of equal p (between two tokens of equal p its
 * criterion is convex in k, so an end of the run is no worse), and MEAN and IQR are thresholds: the
 * answer is a value of the curve, not a rank. p falls as the key rises, so values are offsets o =
 * 2^20 - p.
 *   OTSU  a histogram of the offsets, a bound for each bin, exact evaluation of the rows that can
 *         win: cut/otsu.cuh
 *   k     (TOPK, RATIO, IQR's quartiles, any k that a clamp has moved): the k-th key by radix
 *         select; rows of that very key are ties, the first ones stay: cut/select.cuh
 * Precision: the choice is exact; fp32 only decides what is looked at. Limits: where more than LIST
 * rows can win the caller sorts instead.
 */
#ifndef TAILCUT_CUT_VALUE_CUH_
#define TAILCUT_CUT_VALUE_CUH_

#include "cut/block.cuh"

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
  uint32_t counts[32], bounds[32], warps[32], fixed[32];
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
 * underflows it rounds to 0 either way), so no doubles are needed; two factors, because 2^156 is
 * none. */
#define TC_OFFSET_NONE 0xFFFFFFFFu /* of a row that is not usable */
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

/* What the block's threads know together of their rows' keys: one barrier. What the rule does
 * not ask for is not worked out: `above` is THRESHOLD's, magnitude AUTO's. */
template <class S>
__device__ __forceinline__ tc_stats tc_value_stats(tc_value_space<S> &space,
                                                   const uint32_t (&key)[S::ITEMS],
                                                   const tailcut_rule &rule) {
  const bool counts = rule.detector == TAILCUT_THRESHOLD;
  const bool scales = rule.scale == TAILCUT_SCALE_AUTO && !counts;
  uint32_t first = TC_KEY_NONE, last = 0, counted = 0, other = 0;
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    const bool usable = key[i] < TC_KEY_UNUSABLE;
    counted += usable ? 0x10001u : key[i] == TC_KEY_UNUSABLE; /* usable ones, candidates */
    first = min(first, key[i]);
    if (usable) last = max(last, key[i]);
  }
  if (counts) {
    const uint32_t tau_key = tc_tau_key(rule);
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) other += key[i] <= tau_key;
    other = __reduce_add_sync(TC_FULL, other);
  } else if (scales) {
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      const uint32_t bits = tc_float_bits(tc_key_score(key[i])) & 0x7FFFFFFFu; /* NaN's are more */
      if (bits < 0x7F800000u) other = max(other, bits);
    }
    other = __reduce_max_sync(TC_FULL, other);
  }
  counted = __reduce_add_sync(TC_FULL, counted);
  first = __reduce_min_sync(TC_FULL, first);
  last = __reduce_max_sync(TC_FULL, last);
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

/* Sums over a warp, in every lane. */
__device__ __forceinline__ uint32_t tc_value_total(uint32_t v) {
  return __reduce_add_sync(TC_FULL, v);
}
__device__ __forceinline__ uint64_t tc_value_total(uint64_t v) { /* of values below 2^40 */
  return __reduce_add_sync(TC_FULL, (uint32_t)(v & 0x1FFFFFu)) +
         ((uint64_t)__reduce_add_sync(TC_FULL, (uint32_t)(v >> 21)) << 21);
}

#endif /* TAILCUT_CUT_VALUE_CUH_ */
