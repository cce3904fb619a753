/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_block: from scores to kept rows of one segment, by one block in shared memory.
 *
 * Formulas: METHOD.md, "Order" and "Detectors"; curve.h. Strategy: rows are sorted by key (block
 * radix sort, stable: ties by row), rows that are no candidates behind all others; the curve as
 * integers in shared memory; one detector (detect.cuh); a byte per row says whether it stays; kept
 * rows in order by prefix sums. Precision: exact, the same bits as src/cpu/cut.c.
 */
#ifndef TAILCUT_CUT_BLOCK_CUH_
#define TAILCUT_CUT_BLOCK_CUH_

#include <cub/block/block_radix_sort.cuh>

#include "cut.cuh"

template <int THREADS, int ITEMS>
struct tc_block_space {
  typedef cub::BlockRadixSort<uint32_t, THREADS, ITEMS, int32_t> sort;
  static constexpr int ROWS = THREADS * ITEMS;
  union {
    typename sort::TempStorage sort_space;
    int32_t q[ROWS];
  };
  uint8_t keep[ROWS];
  typename tc_gang<false, THREADS / 32>::space gang;
};

/* Segment b, of no more than ROWS rows; `flags`: what is known of it so far. Writes the kept rows to
 * `kept` (any memory of this block's) and, where `reports`, what args.out asks for. Returns their
 * number. */
template <int THREADS, int ITEMS>
__device__ inline int32_t tc_cut_block(tc_block_space<THREADS, ITEMS> &space,
                                       const tc_cut_args &args, int32_t b,
                                       const tc_segment &segment, int32_t flags, bool reports,
                                       int32_t *kept) {
  typedef tc_block_space<THREADS, ITEMS> space_type;
  tc_gang<false, THREADS / 32> gang(space.gang);
  const tailcut_rule &rule = args.rule;
  const int32_t n = segment.n, first = (int32_t)threadIdx.x * ITEMS;
  const float *scores = args.scores + segment.start;
  const uint8_t *roles = args.roles != nullptr ? args.roles + segment.start : nullptr;

  uint32_t keys[ITEMS];
  int32_t rows[ITEMS];
  tc_stats stats = tc_stats_none();
  const uint32_t tau_key = tc_tau_key(rule);
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    rows[i] = first + i;
    keys[i] = rows[i] < n ? tc_load_key(scores, roles, rows[i]) : TC_KEY_NONE;
    tc_stats_add(&stats, keys[i], tau_key);
  }
  stats = gang.reduce(stats, tc_stats_none(), tc_stats_join());
  typename space_type::sort(space.sort_space).Sort(keys, rows);
  __syncthreads();

  int32_t k;
  bool whole;
  if (!tc_decide_plainly(rule, stats, (flags & TAILCUT_FLAG_BAD_REFERENCE) != 0, &k, &whole)) {
    const double factor = tc_stats_factor(rule, stats);
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
      if (first + i < stats.usable) space.q[first + i] = tc_quantise(tc_key_score(keys[i]), factor);
    }
    __syncthreads();
    k = tc_detect_curve(gang, rule, space.q, stats.usable, stats.candidates);
  }
  k = tc_clamp_count(&rule, k, stats.candidates);
  const tc_spread spread = tc_spread_of(rule.spread, k, stats.usable);
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    if (rows[i] >= n) continue;
    space.keep[rows[i]] = keys[i] == TC_KEY_NONE ? tc_stays_unranked(roles, rows[i])
                                                 : tc_spread_keeps(spread, first + i);
    if (reports) tc_cut_report_order(args.out, segment.start, rows[i], first + i, keys[i]);
  }
  __syncthreads();
  const int32_t count = tc_emit(
      gang, n, 0, [&](int32_t row) { return space.keep[row] ? TC_KEEP : TC_DROP; }, kept);
  if (reports && threadIdx.x == 0) {
    tc_cut_report(args.out, b, count, tc_flags_out(flags, stats, whole));
  }
  return count;
}

#endif /* TAILCUT_CUT_BLOCK_CUH_ */
