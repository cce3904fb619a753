/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decide: how many tokens are kept, from keys and ranks that every block of a cluster holds.
 *
 * Formulas: METHOD.md's detectors; arithmetic: curve.h. Strategy: nothing is sorted. The pass that
 * counts a token's better keys adds their curve values too, so OTSU, CHORD and MASS need only the
 * owner of a token (value at its rank; the best of all is exchanged), MEAN and THRESHOLD keys
 * alone, IQR keys and ranks; GAP and CURVATURE find their neighbours in q scattered by rank. Each
 * warp works alone on what its block's shared memory holds. Precision: integers; doubles as
 * curve.h writes them. Limits: at most 2,047 candidates (sums in int32).
 */
#ifndef TAILCUT_DECIDE_CUH_
#define TAILCUT_DECIDE_CUH_

#include "cuda.h"

#define TC_WARP 0xFFFFFFFFu

/* A token as it travels: its key and its q (NaN: 0). */
struct tc_entry {
  uint32_t key;
  int32_t q;
};

/* The best of some tokens: greatest value, then smallest rank. Value 0: none. */
struct tc_best {
  uint64_t value;
  uint64_t rank;
};

/* What a whole curve shows, the same in every lane. */
struct tc_curve {
  int32_t usable;      /* N' */
  int32_t total;       /* sum of p */
  int32_t first, last; /* p_0 and p_{N'-1} */
};

__device__ inline tc_best tc_better(tc_best a, tc_best b) {
  return b.value > a.value || (b.value == a.value && b.rank < a.rank) ? b : a;
}

__device__ inline tc_best tc_warp_best(tc_best x) {
  for (int stride = 16; stride > 0; stride /= 2) {
    tc_best other;
    other.value = __shfl_xor_sync(TC_WARP, x.value, stride);
    other.rank = __shfl_xor_sync(TC_WARP, x.rank, stride);
    x = tc_better(x, other);
  }
  return x;
}

__device__ inline int64_t tc_warp_sum(int64_t x) {
  for (int stride = 16; stride > 0; stride /= 2) x += __shfl_xor_sync(TC_WARP, x, stride);
  return x;
}

__device__ inline tc_curve tc_curve_of(const tc_entry *entries, int32_t n, int lane) {
  tc_curve c = {0, 0, INT32_MIN, INT32_MAX};
  for (int32_t j = lane; j < n; j += 32) {
    const tc_entry e = entries[j];
    if (e.key == TC_KEY_NAN) continue;
    const int32_t p = tc_curve_value(e.q);
    c.usable++;
    c.total += p;
    c.first = max(c.first, p);
    c.last = min(c.last, p);
  }
  c.usable = __reduce_add_sync(TC_WARP, c.usable);
  c.total = __reduce_add_sync(TC_WARP, c.total);
  c.first = __reduce_max_sync(TC_WARP, c.first);
  c.last = __reduce_min_sync(TC_WARP, c.last);
  return c;
}

/* Whether the rule's k depends on the scores at all, and whether it has enough of them. */
__device__ inline bool tc_rule_reads_curve(const tailcut_rule &rule) {
  return rule.detector != TAILCUT_TOPK && rule.detector != TAILCUT_RATIO;
}

/* The candidate for k = rank + 1 that a token of this rank stands for; `sum`: of the p up to and
 * with its own. For OTSU, CHORD and MASS. */
__device__ inline tc_best tc_token_value(const tailcut_rule &rule, const tc_curve &c, int32_t rank,
                                         int32_t p, int32_t sum) {
  tc_best b = {0, (uint64_t)(uint32_t)rank};
  const int32_t n = c.usable;
  if (rule.detector == TAILCUT_MASS) {
    const int64_t total = (int64_t)c.total - (int64_t)n * c.last;
    const int64_t head = (int64_t)sum - ((int64_t)rank + 1) * c.last;
    b.value = total != 0 && (double)head >= rule.mass * (double)total;
    return b;
  }
  if (rank < tc_search_begin(n, rule.search_lo) || rank >= tc_search_end(n, rule.search_hi)) {
    return b;
  }
  if (rule.detector == TAILCUT_CHORD) {
    b.value = (uint64_t)tc_chord_value(n, rank, c.first, p, c.last);
  } else if (rank < n - 1) { /* OTSU; never negative, so its bits are in order */
    b.value = (uint64_t)__double_as_longlong(tc_otsu_value(n, rank + 1, sum, c.total));
  }
  return b;
}

__device__ inline int32_t tc_count_mean(const tailcut_rule &rule, const tc_curve &c,
                                        const tc_entry *entries, int32_t n, int lane) {
  int64_t squares = 0;
  for (int32_t j = lane; j < n; j += 32) {
    const tc_entry e = entries[j];
    const int64_t p = e.key == TC_KEY_NAN ? 0 : tc_curve_value(e.q);
    squares += p * p;
  }
  squares = tc_warp_sum(squares);
  const double threshold = tc_mean_threshold(c.usable, c.total, squares, rule.lambda);
  int32_t k = 0;
  for (int32_t j = lane; j < n; j += 32) {
    const tc_entry e = entries[j];
    k += e.key != TC_KEY_NAN && (double)tc_curve_value(e.q) > threshold;
  }
  return __reduce_add_sync(TC_WARP, k);
}

__device__ inline int32_t tc_count_threshold(const tailcut_rule &rule, const tc_entry *entries,
                                             int32_t n, int lane) {
  int32_t k = 0;
  for (int32_t j = lane; j < n; j += 32) {
    const uint32_t key = entries[j].key;
    k += key != TC_KEY_NAN && tc_key_score(key) >= rule.tau;
  }
  return __reduce_add_sync(TC_WARP, k);
}

__device__ inline int32_t tc_count_iqr(const tc_curve &c, const tc_entry *entries,
                                       const int32_t *ranks, int32_t n, int lane) {
  const int32_t at3 = (c.usable - 1) / 4, at1 = (int32_t)(3 * (int64_t)(c.usable - 1) / 4);
  int32_t q3 = INT32_MIN, q1 = INT32_MIN, k = 0;
  for (int32_t j = lane; j < n; j += 32) {
    const int32_t p = tc_curve_value(entries[j].q);
    if (ranks[j] == at3) q3 = p;
    if (ranks[j] == at1) q1 = p;
  }
  const int64_t fence =
      tc_iqr_fence(__reduce_max_sync(TC_WARP, q3), __reduce_max_sync(TC_WARP, q1));
  for (int32_t j = lane; j < n; j += 32) {
    const tc_entry e = entries[j];
    k += e.key != TC_KEY_NAN && 2 * (int64_t)tc_curve_value(e.q) > fence;
  }
  return __reduce_add_sync(TC_WARP, k);
}

/* GAP and CURVATURE over q in rank order. */
__device__ inline tc_best tc_neighbour_best(const tailcut_rule &rule, const int32_t *sorted,
                                            int32_t n, int lane) {
  tc_best best = {0, 0};
  const bool gap = rule.detector == TAILCUT_GAP;
  const int32_t w = gap ? 0 : tc_curvature_window(n, rule.window);
  int32_t begin = tc_search_begin(n, rule.search_lo), end = tc_search_end(n, rule.search_hi);
  if (begin < w) begin = w;
  if ((int64_t)end > (int64_t)n - (gap ? 1 : w)) end = gap ? n - 1 : n - w;
  for (int32_t r = begin + lane; r < end; r += 32) {
    const int64_t value = gap ? (int64_t)sorted[r] - sorted[r + 1]
                              : (int64_t)sorted[r - w] - 2 * (int64_t)sorted[r] + sorted[r + w];
    const tc_best b = {value > 0 ? (uint64_t)value : 0, (uint64_t)(uint32_t)r};
    if (b.value > best.value) best = b; /* r ascends: the first of equals stays */
  }
  return tc_warp_best(best);
}

/* k before the clamps. best: of all tokens' tc_token_value. Called by whole warps. */
__device__ inline int32_t tc_decide(const tailcut_rule &rule, const tc_curve &c, tc_best best,
                                    const tc_entry *entries, const int32_t *ranks,
                                    const int32_t *sorted, int32_t n, int lane) {
  switch (rule.detector) {
    case TAILCUT_MEAN:
      return tc_count_mean(rule, c, entries, n, lane);
    case TAILCUT_THRESHOLD:
      return tc_count_threshold(rule, entries, n, lane);
    case TAILCUT_IQR:
      return tc_count_iqr(c, entries, ranks, n, lane);
    case TAILCUT_GAP:
    case TAILCUT_CURVATURE:
      best = tc_neighbour_best(rule, sorted, c.usable, lane);
      break;
    default:
      break;
  }
  return best.value == 0 ? n : (int32_t)best.rank + 1;
}

#endif /* TAILCUT_DECIDE_CUH_ */
