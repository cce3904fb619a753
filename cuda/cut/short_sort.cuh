/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_short_sort: from scores to kept rows of one group by sorting, by one block in shared memory.
 *
 * Formulas: METHOD.md, "Order" and "Detectors"; curve.h. Strategy: rows are sorted by key (block
 * radix sort, stable: ties by row), rows that are no candidates behind all others; the curve as
 * integers in shared memory; one detector (detect.cuh); a byte per row says whether it stays; kept
 * rows in order by prefix sums. Precision: exact, the same bits as src/cpu/cut.c.
 */
#ifndef TAILCUT_CUT_SHORT_SORT_CUH_
#define TAILCUT_CUT_SHORT_SORT_CUH_

#include <cub/block/block_radix_sort.cuh>

#include "cut/cut.cuh"

template <int THREADS, int ITEMS>
struct tc_block_space {
  typedef cub::BlockRadixSort<uint32_t, THREADS, ITEMS, int32_t> sort;
  static constexpr int ROWS = THREADS * ITEMS;
  union {
    typename sort::TempStorage sort_space;
    int32_t q[ROWS];
  };
  uint8_t keep[ROWS];
  typename tc_block<THREADS / 32>::space block;
};

/* Group c, of no more than ROWS rows. Writes its kept rows to `kept` (any memory of this
 * block's) and, where `reports`, what args.out asks for; MARKS: those too. Returns their number. */
template <bool MARKS, int THREADS, int ITEMS>
__device__ inline int32_t tc_cut_block(tc_block_space<THREADS, ITEMS> &space,
                                       const tc_cut_args &args, const tc_cut_group &c, bool reports,
                                       int32_t *kept) {
  typedef tc_block_space<THREADS, ITEMS> space_type;
  tc_block<THREADS / 32> block(space.block);
  const tailcut_rule &rule = args.rule;
  const int32_t n = c.group.n, first = (int32_t)threadIdx.x * ITEMS;
  const bool low = rule.order == TAILCUT_LOW;

  uint32_t keys[ITEMS];
  int32_t rows[ITEMS];
  tc_stats stats = tc_stats_none();
  const uint32_t tau_key = tc_tau_key(rule);
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    rows[i] = first + i;
    keys[i] = rows[i] < n ? tc_load_key(c, low, rows[i]) : TC_KEY_NONE;
    tc_stats_add(&stats, keys[i], tau_key);
  }
  stats = block.reduce(stats, tc_stats_none(), tc_stats_join());
  typename space_type::sort(space.sort_space).Sort(keys, rows);
  __syncthreads();

  int32_t k;
  bool whole;
  const bool bad = (c.flags & TAILCUT_FLAG_BAD_REFERENCE) != 0;
  if (!tc_decide_plainly(rule, c.number, stats, bad, &k, &whole)) {
    const double factor = tc_stats_factor(rule, stats);
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
      if (first + i < stats.usable) space.q[first + i] = tc_quantise(tc_key_score(keys[i]), factor);
    }
    __syncthreads();
    k = tc_detect_curve(block, rule, space.q, stats.usable, stats.candidates);
  }
  k = tc_clamp_count(&rule, k, stats.candidates);
  const tc_spread spread = tc_spread_of(rule.spread, k, stats.usable);
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    if (rows[i] >= n) continue;
    const bool stays = keys[i] == TC_KEY_NONE ? tc_stays_unranked(c.roles, rows[i])
                                              : tc_spread_keeps(spread, first + i);
    space.keep[rows[i]] = stays;
    if (!reports) continue;
    if (args.out.mask != nullptr) tc_cut_mask(args, c)[rows[i]] = stays;
    tc_cut_report_order(args, c, rows[i], first + i, keys[i]);
  }
  __syncthreads();
  const int32_t count = tc_emit(
      block, n, [&](int32_t row) { return space.keep[row] != 0; }, c.group.first, kept);
  if (MARKS && args.out.marks != nullptr) tc_cut_marks(block, args, c, space.keep);
  if (reports) {
    tc_cut_clear_mask(args, c, (int32_t)threadIdx.x, THREADS);
    if (threadIdx.x == 0)
      tc_cut_report(args, c, count, tc_flags_out(c.flags, stats.candidates, stats.usable, whole));
  }
  return count;
}

#endif /* TAILCUT_CUT_SHORT_SORT_CUH_ */
