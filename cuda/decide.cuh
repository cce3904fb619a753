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

#include "detect.cuh"

/* A token as it travels: its key and its q (NaN: 0). */
struct tc_entry {
  uint32_t key;
  int32_t q;
};

/* What a whole curve shows, the same in every lane. stats: candidates, usable and above alone. */
struct tc_curve {
  tc_stats stats;
  int32_t total;       /* sum of p */
  int32_t first, last; /* p_0 and p_{N'-1} */
};

__device__ inline tc_curve tc_curve_of(const tailcut_rule &rule, const tc_entry *entries, int32_t n,
                                       int lane) {
  const uint32_t tau_key = tc_tau_key(rule);
  tc_curve c = {tc_stats_none(), 0, INT32_MIN, INT32_MAX};
  for (int32_t j = lane; j < n; j += 32) {
    const tc_entry e = entries[j];
    if (e.key == TC_KEY_NAN) continue;
    const int32_t p = tc_curve_value(e.q);
    c.stats.usable++;
    c.stats.above += e.key <= tau_key;
    c.total += p;
    c.first = max(c.first, p);
    c.last = min(c.last, p);
  }
  c.stats.candidates = n;
  c.stats.usable = __reduce_add_sync(TC_FULL, c.stats.usable);
  c.stats.above = __reduce_add_sync(TC_FULL, c.stats.above);
  c.total = __reduce_add_sync(TC_FULL, c.total);
  c.first = __reduce_max_sync(TC_FULL, c.first);
  c.last = __reduce_min_sync(TC_FULL, c.last);
  return c;
}

/* The split behind a token of this rank, k = rank + 1, as OTSU, CHORD and MASS value it; `sum`: of
 * the p up to and with its own. */
__device__ inline tc_best tc_split_value(const tailcut_rule &rule, const tc_curve &c, int32_t rank,
                                         int32_t p, int32_t sum) {
  const int32_t n = c.stats.usable;
  const tc_range range = tc_range_of(rule, n);
  tc_best b = {0, rank, 0};
  if (rule.detector == TAILCUT_MASS) { /* any split that suffices; the smallest rank wins */
    const int64_t total = (int64_t)c.total - (int64_t)n * c.last;
    const int64_t head = (int64_t)sum - ((int64_t)rank + 1) * c.last;
    b.value = total != 0 && (double)head >= rule.mass * (double)total;
  } else if (rank >= range.begin && rank < range.end) {
    if (rule.detector == TAILCUT_CHORD) {
      b.value = (uint64_t)tc_chord_value(n, rank, c.first, p, c.last);
    } else { /* never negative, so its bits are in order */
      b.value = (uint64_t)__double_as_longlong(tc_otsu_value(n, rank + 1, sum, c.total));
    }
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
  squares = tc_warp_reduce(squares, tc_plus());
  const double threshold = tc_mean_threshold(c.stats.usable, c.total, squares, rule.lambda);
  int32_t k = 0;
  for (int32_t j = lane; j < n; j += 32) {
    const tc_entry e = entries[j];
    k += e.key != TC_KEY_NAN && (double)tc_curve_value(e.q) > threshold;
  }
  return __reduce_add_sync(TC_FULL, k);
}

__device__ inline int32_t tc_count_iqr(const tc_curve &c, const tc_entry *entries,
                                       const int32_t *ranks, int32_t n, int lane) {
  const int32_t at3 = (c.stats.usable - 1) / 4,
                at1 = (int32_t)(3 * (int64_t)(c.stats.usable - 1) / 4);
  int32_t q3 = INT32_MIN, q1 = INT32_MIN, k = 0;
  for (int32_t j = lane; j < n; j += 32) {
    const int32_t p = tc_curve_value(entries[j].q);
    if (ranks[j] == at3) q3 = p;
    if (ranks[j] == at1) q1 = p;
  }
  const int64_t fence =
      tc_iqr_fence(__reduce_max_sync(TC_FULL, q3), __reduce_max_sync(TC_FULL, q1));
  for (int32_t j = lane; j < n; j += 32) {
    const tc_entry e = entries[j];
    k += e.key != TC_KEY_NAN && 2 * (int64_t)tc_curve_value(e.q) > fence;
  }
  return __reduce_add_sync(TC_FULL, k);
}

/* GAP and CURVATURE over q in rank order. */
__device__ inline tc_best tc_neighbour_best(const tailcut_rule &rule, const int32_t *sorted,
                                            int32_t n, int lane) {
  const bool gap = rule.detector == TAILCUT_GAP;
  const int32_t w = gap ? 0 : tc_curvature_window(n, rule.window);
  const tc_range range = tc_range_of(rule, n);
  tc_best best = tc_best_none();
  for (int32_t r = range.begin + lane; r < range.end; r += 32) {
    const int64_t value = gap ? (int64_t)sorted[r] - sorted[r + 1]
                              : (int64_t)sorted[r - w] - 2 * (int64_t)sorted[r] + sorted[r + w];
    if (value > 0) best.offer((uint64_t)value, r);
  }
  return tc_warp_reduce(best, tc_best_join());
}

/* k before the clamps, of a rule that needs the curve and has enough of it (tc_decide_plainly).
 * best: of all tokens' tc_split_value. Called by whole warps. */
__device__ inline int32_t tc_decide(const tailcut_rule &rule, const tc_curve &c, tc_best best,
                                    const tc_entry *entries, const int32_t *ranks,
                                    const int32_t *sorted, int32_t n, int lane) {
  switch (rule.detector) {
    case TAILCUT_MEAN:
      return tc_count_mean(rule, c, entries, n, lane);
    case TAILCUT_IQR:
      return tc_count_iqr(c, entries, ranks, n, lane);
    case TAILCUT_GAP:
    case TAILCUT_CURVATURE:
      best = tc_neighbour_best(rule, sorted, c.stats.usable, lane);
      break;
    default:
      break;
  }
  return best.value == 0 ? n : best.rank + 1;
}

#endif /* TAILCUT_DECIDE_CUH_ */
