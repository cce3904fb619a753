/* SPDX-License-Identifier: Apache-2.0 */
/*
 * detect: k from the sorted curve, by a block.
 *
 * Formulas: curve.h. The order of src/cpu/detect.c: rules that need no curve, segments that are
 * kept whole, then one detector. Strategy: one pass over the curve per sum, one per maximum. A
 * maximum is compared as its bits (values are never negative), ties by rank, so the order of the
 * reduction does not matter; sums are integers. Precision: exact, the same bits as the CPU. Limits:
 * q may lie in shared or global memory; what other threads wrote there must be visible (a barrier).
 */
#ifndef TAILCUT_DETECT_CUH_
#define TAILCUT_DETECT_CUH_

#include "common/block.cuh"

/* Sort keys of a segment's rows: tc_key, but NaN scores come before rows that are no candidates. */
#define TC_KEY_UNUSABLE 0xFFFFFFFEu /* a candidate whose score is NaN */
#define TC_KEY_NONE 0xFFFFFFFFu     /* no candidate: not ranked */

__device__ __forceinline__ uint32_t tc_row_key(float score, bool low) {
  const float s = tc_ordered(score, low);
  return s == s ? tc_key(s) : TC_KEY_UNUSABLE;
}

/* What is known of a segment's scores without their order. */
struct tc_stats {
  int32_t candidates, usable; /* N and N' */
  int32_t above;              /* scores that THRESHOLD keeps */
  uint32_t magnitude;         /* bits of the largest finite |score| */
  uint32_t first, last;       /* keys of the best and of the worst usable score */
};

__device__ __forceinline__ tc_stats tc_stats_none() { return {0, 0, 0, 0, TC_KEY_NONE, 0}; }

struct tc_stats_join {
  __device__ tc_stats operator()(tc_stats a, tc_stats b) const {
    return {a.candidates + b.candidates,   a.usable + b.usable,   a.above + b.above,
            max(a.magnitude, b.magnitude), min(a.first, b.first), max(a.last, b.last)};
  }
};

/* tau as a key: scores that THRESHOLD keeps have this key or a smaller one. */
__device__ __forceinline__ uint32_t tc_tau_key(const tailcut_rule &rule) {
  if (rule.detector != TAILCUT_THRESHOLD) return 0;
  return tc_key(tc_ordered(rule.tau, rule.order == TAILCUT_LOW));
}

/* What a block's threads know together of their rows' keys, up to 65,535 of them. What the rule
 * does not ask for is not worked out: `above` is THRESHOLD's, magnitude AUTO's. */
template <int ITEMS, class Block>
__device__ __forceinline__ tc_stats tc_stats_of(Block &block, const uint32_t (&key)[ITEMS],
                                                const tailcut_rule &rule) {
  const bool counts = rule.detector == TAILCUT_THRESHOLD;
  const bool scales = rule.scale == TAILCUT_SCALE_AUTO && !counts;
  uint4 v = {TC_KEY_NONE, 0, 0, 0}; /* first, last, usable << 16 | candidates, above or magnitude */
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    const bool usable = key[i] < TC_KEY_UNUSABLE;
    v.x = min(v.x, key[i]);
    v.y = max(v.y, usable ? key[i] : 0u);
    v.z += usable ? 0x10001u : key[i] == TC_KEY_UNUSABLE;
  }
  if (counts) {
    const uint32_t tau_key = tc_tau_key(rule);
#pragma unroll
    for (int i = 0; i < ITEMS; i++) v.w += key[i] <= tau_key;
  } else if (scales) {
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
      const uint32_t bits = tc_float_bits(tc_key_score(key[i])) & 0x7FFFFFFFu; /* NaN's are more */
      if (bits < 0x7F800000u) v.w = max(v.w, bits);
    }
  }
  v = block.combine(v, make_uint4(TC_KEY_NONE, 0, 0, 0), [=](uint4 own) -> uint4 {
    uint32_t w = 0;
    if (counts) w = __reduce_add_sync(TC_FULL, own.w);
    if (scales) w = __reduce_max_sync(TC_FULL, own.w);
    return {__reduce_min_sync(TC_FULL, own.x), __reduce_max_sync(TC_FULL, own.y),
            __reduce_add_sync(TC_FULL, own.z), w};
  });
  return {(int32_t)(v.z & 0xFFFFu),
          (int32_t)(v.z >> 16),
          counts ? (int32_t)v.w : 0,
          scales ? v.w : 0u,
          v.x,
          v.y};
}

/* k of group g before the clamps where no curve is needed; returns whether that is so. */
__device__ inline bool tc_decide_plainly(const tailcut_rule &rule, int32_t g, const tc_stats &s,
                                         bool bad, int32_t *k, bool *whole) {
  *whole = false;
  *k = 0;
  if (rule.detector == TAILCUT_TOPK) {
    *k = min(tc_topk_count(&rule, g), s.candidates);
  } else if (rule.detector == TAILCUT_RATIO) {
    *k = tc_ratio_count(&rule, s.candidates);
  } else if (tc_keeps_whole(rule.detector, s.usable, bad)) {
    *whole = s.candidates > 0;
    *k = s.candidates;
  } else if (rule.detector == TAILCUT_THRESHOLD) {
    *k = s.above;
  } else {
    return false;
  }
  return true;
}

/* Among a segment's flags on their way out: it has candidates. */
#define TC_FLAG_CANDIDATES (1 << 30)

/* Flags on their way out. */
__device__ inline int32_t tc_flags_out(int32_t flags, int32_t candidates, int32_t usable,
                                       bool whole) {
  if (candidates == 0) return flags & TAILCUT_FLAG_INVALID;
  flags |= TC_FLAG_CANDIDATES;
  if (usable < candidates) flags |= TAILCUT_FLAG_NAN;
  if (usable == 0) flags |= TAILCUT_FLAG_NO_SCORE;
  return whole ? flags | TAILCUT_FLAG_WHOLE : flags;
}

/* A value that is to be the greatest (0: none), where it is, and how many rows that keeps. */
struct alignas(16) tc_best {
  uint64_t value;
  uint32_t place, k;
  /* At equal values the smaller place is better. */
  __device__ __forceinline__ void offer(uint64_t v, uint32_t where, uint32_t rows) {
    if (v > value || (v == value && where < place)) *this = {v, where, rows};
  }
};
__device__ __forceinline__ tc_best tc_best_none() { return {0, 0xFFFFFFFFu, 0}; }

/* The best of a warp's, of which no two have one place. */
__device__ __forceinline__ tc_best tc_warp_best(const tc_best &own) {
  const uint32_t high = (uint32_t)(own.value >> 32), low = (uint32_t)own.value;
  const uint32_t h = __reduce_max_sync(TC_FULL, high);
  const uint32_t l = __reduce_max_sync(TC_FULL, high == h ? low : 0u);
  const bool best = high == h && low == l;
  const uint32_t place = __reduce_min_sync(TC_FULL, best ? own.place : 0xFFFFFFFFu);
  const uint32_t k = __reduce_max_sync(TC_FULL, best && own.place == place ? own.k : 0u);
  return {(uint64_t)h << 32 | l, place, k};
}
template <class Block>
__device__ __forceinline__ tc_best tc_block_best(Block &block, const tc_best &own) {
  return block.combine(own, tc_best_none(), tc_warp_best);
}

/* The greatest of a block's values, of which none is below 0. */
template <class Block>
__device__ __forceinline__ float tc_block_most(Block &block, float own) {
  return __uint_as_float(block.combine(__float_as_uint(own), 0u, [](uint32_t v) {
    return (uint32_t)__reduce_max_sync(TC_FULL, v);
  }));
}

/* The ranks a detector may choose. */
struct tc_range {
  int32_t begin, end;
};

__device__ inline tc_range tc_range_of(const tailcut_rule &rule, int32_t n) {
  tc_range range = {tc_search_begin(n, rule.search_lo), tc_search_end(n, rule.search_hi)};
  switch (rule.detector) {
    case TAILCUT_OTSU:
    case TAILCUT_GAP:
      range.end = min(range.end, n - 1);
      break;
    case TAILCUT_CURVATURE: {
      const int32_t w = min(n, tc_curvature_window(n, rule.window)); /* n: no rank is left */
      range.begin = max(range.begin, w);
      range.end = min(range.end, n - w);
      break;
    }
    default:
      break;
  }
  return range;
}

/* k of the rank that maximises value(r) within the range. */
template <class Block, class Value>
__device__ int32_t tc_argmax(Block &block, tc_range range, int32_t all, Value value) {
  tc_best best = tc_best_none();
  for (int32_t r = range.begin + (int32_t)threadIdx.x; r < range.end; r += block.THREADS) {
    const int64_t v = value(r);
    if (v > 0) best.offer((uint64_t)v, (uint32_t)r, (uint32_t)r + 1);
  }
  best = tc_block_best(block, best);
  return best.value > 0 ? (int32_t)best.k : all;
}

/* Visits (r, sum of p_0 .. p_r) of every rank; `total` is the sum of all. BATCH: ranks of a thread
 * that are loaded at once; more than 1 where q is in global memory. */
template <int BATCH, class Block, class Visit>
__device__ void tc_with_sums(Block &block, const int32_t *q, int32_t n, Visit visit) {
  int32_t lo, hi;
  int64_t sum = 0, total;
  block.run(n, &lo, &hi);
  for (int32_t r = lo + block.lane; r < hi; r += 32) sum += tc_curve_value(q[r]);
  sum = block.before(tc_warp_reduce(sum, tc_plus()), &total);
  for (int32_t base = lo; base < hi; base += 32 * BATCH) {
    int32_t p[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      const int32_t r = base + i * 32 + block.lane;
      p[i] = r < hi ? tc_curve_value(q[r]) : 0;
    }
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      const int32_t r = base + i * 32 + block.lane, upto = tc_warp_upto(p[i]);
      if (r < hi) visit(r, sum + upto, total);
      sum += __shfl_sync(TC_FULL, upto, 31);
    }
  }
}

template <int BATCH, class Block>
__device__ int32_t tc_detect_otsu(Block &block, const int32_t *q, int32_t n, tc_range range,
                                  int32_t all) {
  tc_best best = tc_best_none();
  tc_with_sums<BATCH>(block, q, n, [&](int32_t r, int64_t sum, int64_t total) {
    if (r < range.begin || r >= range.end) return;
    const double v = tc_otsu_value(n, r + 1, sum, total);
    if (v > 0.0) {
      best.offer((uint64_t)__double_as_longlong(v), (uint32_t)r, (uint32_t)r + 1);
    }
  });
  best = tc_block_best(block, best);
  return best.value > 0 ? (int32_t)best.k : all;
}

template <int BATCH, class Block>
__device__ int32_t tc_detect_mass(Block &block, const int32_t *q, int32_t n, double share,
                                  int32_t all) {
  const int64_t last = tc_curve_value(q[n - 1]);
  int32_t k = all;
  tc_with_sums<BATCH>(block, q, n, [&](int32_t r, int64_t sum, int64_t total) {
    const int64_t weight = total - n * last;
    if (weight == 0 || r >= k) return;
    if ((double)(sum - (r + 1) * last) >= share * (double)weight) k = r + 1;
  });
  return block.reduce(k, all, [](int32_t a, int32_t b) { return min(a, b); });
}

struct tc_moments {
  int64_t s1, s2;
  __device__ tc_moments operator+(tc_moments o) const { return {s1 + o.s1, s2 + o.s2}; }
};

/* Number of ranks whose p pleases. */
template <class Block, class Pleases>
__device__ int32_t tc_count(Block &block, const int32_t *q, int32_t n, Pleases pleases) {
  int32_t k = 0;
  for (int32_t r = (int32_t)threadIdx.x; r < n; r += block.THREADS)
    k += pleases(tc_curve_value(q[r]));
  return block.sum(k);
}

template <class Block>
__device__ int32_t tc_detect_mean(Block &block, const int32_t *q, int32_t n, double lambda) {
  tc_moments m = {0, 0};
  for (int32_t r = (int32_t)threadIdx.x; r < n; r += block.THREADS) {
    const int64_t p = tc_curve_value(q[r]);
    m = m + tc_moments{p, p * p};
  }
  m = block.sum(m);
  const double threshold = tc_mean_threshold(n, m.s1, m.s2, lambda);
  return tc_count(block, q, n, [=](int32_t p) { return (double)p > threshold; });
}

/* k before the clamps from the curve q_0 >= q_1 >= ... of n usable scores, n >= 3. Called by the
 * whole block. */
template <int BATCH, class Block>
__device__ int32_t tc_detect_curve(Block &block, const tailcut_rule &rule, const int32_t *q,
                                   int32_t n, int32_t all) {
  const tc_range range = tc_range_of(rule, n);
  switch (rule.detector) {
    case TAILCUT_CHORD: {
      const int64_t p0 = tc_curve_value(q[0]), last = tc_curve_value(q[n - 1]);
      return tc_argmax(block, range, all, [=](int32_t r) {
        return tc_chord_value(n, r, p0, tc_curve_value(q[r]), last);
      });
    }
    case TAILCUT_GAP:
      return tc_argmax(block, range, all, [=](int32_t r) { return (int64_t)q[r] - q[r + 1]; });
    case TAILCUT_CURVATURE: {
      const int32_t w = tc_curvature_window(n, rule.window);
      return tc_argmax(block, range, all,
                       [=](int32_t r) { return (int64_t)q[r - w] - 2 * (int64_t)q[r] + q[r + w]; });
    }
    case TAILCUT_IQR: {
      const int64_t fence = tc_iqr_fence(tc_curve_value(q[(n - 1) / 4]),
                                         tc_curve_value(q[(int32_t)(3 * (int64_t)(n - 1) / 4)]));
      return tc_count(block, q, n, [=](int32_t p) { return 2 * (int64_t)p > fence; });
    }
    case TAILCUT_MEAN:
      return tc_detect_mean(block, q, n, rule.lambda);
    case TAILCUT_MASS:
      return tc_detect_mass<BATCH>(block, q, n, rule.mass, all);
    default:
      return tc_detect_otsu<BATCH>(block, q, n, range, all);
  }
}

#endif /* TAILCUT_DETECT_CUH_ */
