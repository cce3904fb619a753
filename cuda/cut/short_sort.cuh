/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_short_sort: from scores to kept rows of one group by sorting, by one block in shared memory.
 *
 * Formulas: METHOD.md, "Order" and "Detectors"; curve.h. Strategy: rows are sorted by key (block
 * radix sort, stable: ties by row), rows that are no candidates behind all others; the curve as
 * integers in shared memory; one detector (detect.cuh); a byte per row says whether it stays.
 * Precision: exact, the same bits as src/cpu/cut.c.
 */
#ifndef TAILCUT_CUT_SHORT_SORT_CUH_
#define TAILCUT_CUT_SHORT_SORT_CUH_

#include <cub/block/block_radix_sort.cuh>

#include "cut/short_space.cuh"

template <class S>
struct tc_short_sort_space {
  typedef cub::BlockRadixSort<uint32_t, S::THREADS, S::ITEMS, int32_t> sort;
  union {
    typename sort::TempStorage sort_space;
    int32_t q[S::ROWS];
  };
  uint8_t keep[S::ROWS];
  typename tc_block<S::WARPS>::space block;
};

template <class S>
union tc_short_memory {
  tc_short_space<S> value;
  tc_short_sort_space<S> sorting;
  __device__ tc_short_memory() {}
};

/* As tc_short_cut (cut/short.cuh). Not inlined, so that its registers are not the common case's; it
 * finds the group again rather than have it on a stack. */
template <bool MARKS, class S>
__device__ __noinline__ int32_t tc_short_sort(tc_short_memory<S> &shared, const tc_cut_args &args,
                                              int32_t number, bool reports, int32_t *kept) {
  tc_short_sort_space<S> &space = shared.sorting;
  tc_block<S::WARPS> block(space.block);
  __syncthreads();
  const tc_cut_group c = tc_cut_open(args, number);
  const tailcut_rule &rule = args.rule;
  const int32_t n = c.group.n, first = (int32_t)threadIdx.x * S::ITEMS;

  uint32_t keys[S::ITEMS];
  int32_t rows[S::ITEMS];
  tc_stats stats = tc_stats_none();
  const uint32_t tau_key = tc_tau_key(rule);
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    rows[i] = first + i;
    keys[i] = rows[i] < n ? tc_load_key(c, rule.order == TAILCUT_LOW, rows[i]) : TC_KEY_NONE;
    tc_stats_add(&stats, keys[i], tau_key);
  }
  stats = block.reduce(stats, tc_stats_none(), tc_stats_join());
  typename tc_short_sort_space<S>::sort(space.sort_space).Sort(keys, rows);
  __syncthreads();

  int32_t k;
  bool whole;
  const bool bad = (c.flags & TAILCUT_FLAG_BAD_REFERENCE) != 0;
  if (!tc_decide_plainly(rule, c.number, stats, bad, &k, &whole)) {
    const bool scales = rule.scale == TAILCUT_SCALE_AUTO;
    const double factor = tc_scale_factor(scales ? tc_scale_exponent(stats.magnitude) : 0);
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      if (first + i < stats.usable) space.q[first + i] = tc_quantise(tc_key_score(keys[i]), factor);
    }
    __syncthreads();
    k = tc_detect_curve<1>(block, rule, space.q, stats.usable, stats.candidates);
  }
  k = tc_clamp_count(&rule, k, stats.candidates);
  const tc_spread spread = tc_spread_of(rule.spread, k, stats.usable);
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    if (rows[i] >= n) continue;
    space.keep[rows[i]] = keys[i] == TC_KEY_NONE ? tc_stays_unranked(c.roles, rows[i])
                                                 : tc_spread_keeps(spread, first + i);
    if (reports) tc_cut_report_order(args, c, rows[i], first + i, keys[i]);
  }
  __syncthreads();
  const int32_t row = tc_short_row<S>();
  uint32_t stay[S::ITEMS];
  int32_t own = 0, count;
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    stay[i] = __ballot_sync(TC_FULL, row + i * 32 < n && space.keep[row + i * 32] != 0);
    own += __popc(stay[i]);
  }
  const int32_t before = block.before(own, &count);
  tc_short_emit<MARKS, S>(args, c, stay, before, kept);
  if (reports) tc_short_report<S>(args, c, stay, count, stats, whole);
  return count;
}

#endif /* TAILCUT_CUT_SHORT_SORT_CUH_ */
