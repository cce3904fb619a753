/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_short: from scores to kept rows of one group by one block, everything on chip: the choice is
 * made, ballots and one exchange say how many rows stay; where a clamp moves that number, the k-th
 * key is selected; kept rows go out in order.
 *
 * With the full search range OTSU's winner is a value (cut/otsu.cuh), and MEAN and IQR are
 * thresholds: the answer is a value of the curve, not a rank, and nothing is sorted. k (TOPK,
 * RATIO, IQR's quartiles, any k that a clamp has moved) is the k-th key by radix select; rows of
 * that very key are ties, the first ones stay (cut/short_space.cuh).
 * A group in which too many rows can win, or whose order itself is asked for, is sorted: rows by
 * key (block radix sort, stable: ties by row), rows that are no candidates behind all others; the
 * curve as integers in shared memory; one detector (detect.cuh); a byte per row says whether it
 * stays.
 * Precision: exact, the same bits as src/cpu/cut.c.
 */
#ifndef TAILCUT_CUT_SHORT_CUH_
#define TAILCUT_CUT_SHORT_CUH_

#include <cub/block/block_radix_sort.cuh>

#include "cut/short_otsu.cuh"

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
  tc_join_space<S::THREADS> join;
  __device__ tc_short_memory() {}
};

/* As tc_short_cut. Not inlined, so that its registers are not the common case's; it
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
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    rows[i] = first + i;
    keys[i] = rows[i] < n ? tc_load_key(c, rule.order == TAILCUT_LOW, rows[i]) : TC_KEY_NONE;
  }
  const tc_stats stats = tc_stats_of(block, keys, rule);
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

/* How candidates stay: those with an offset up to this one, or by key. */
struct tc_short_choice {
  bool by_offset;
  uint32_t offset;
  tc_cutoff cutoff;
};

/* The choice before the clamps; false: sort instead. offset: filled in where the choice is by
 * offset. */
template <class S>
__device__ inline bool tc_short_choose(tc_short_space<S> &space, tc_block<S::WARPS> &block,
                                       const tailcut_rule &rule, int32_t g,
                                       const uint32_t (&key)[S::ITEMS], const tc_stats &stats,
                                       bool bad, uint32_t (&offset)[S::ITEMS],
                                       tc_short_choice *choice, bool *whole) {
  int32_t k;
  *choice = {false, 0, {0, 0}};
  if (tc_decide_plainly(rule, g, stats, bad, &k, whole)) {
    if (rule.detector == TAILCUT_THRESHOLD && !*whole) { /* clamps may still move it */
      choice->cutoff = {tc_tau_key(rule) + 1, 0};
    } else {
      choice->cutoff =
          tc_short_select(space, key, stats, tc_clamp_count(&rule, k, stats.candidates));
    }
    return true;
  }
  const bool otsu = rule.detector == TAILCUT_OTSU;
  tc_scale scale = {0x1p15f, 0x1p15f}; /* UNIT's */
  if (rule.scale == TAILCUT_SCALE_AUTO) scale = tc_scale_of(tc_scale_exponent(stats.magnitude));
  const auto offset_of = [&](uint32_t key) { return tc_key_offset(key, scale); };
  const uint32_t first = otsu ? offset_of(stats.first) : 0; /* that OTSU's are counted from */
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    offset[i] = key[i] < TC_KEY_UNUSABLE ? offset_of(key[i]) - first : TC_NO_OFFSET;
  }
  if (otsu) {
    const uint32_t range = offset_of(stats.last) - first;
    bool flat = range == 0;
    if (!flat && !tc_short_otsu(space, block, offset, (uint32_t)stats.usable, range,
                                &choice->offset, &flat)) {
      return false;
    }
    if (flat) choice->cutoff = {TC_KEY_UNUSABLE, stats.candidates - stats.usable};
    choice->by_offset = !flat;
    return true;
  }
  double threshold; /* MEAN, IQR: a value p stays when it is above */
  if (rule.detector == TAILCUT_MEAN) {
    tc_moments m = {0, 0};
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      if (offset[i] == TC_NO_OFFSET) continue;
      const int64_t p = (1 << 20) - (int64_t)offset[i];
      m = m + tc_moments{p, p * p};
    }
    m = block.sum(m);
    threshold = tc_mean_threshold(stats.usable, m.s1, m.s2, rule.lambda);
  } else { /* IQR */
    const int32_t n = stats.usable;
    const tc_cutoff q3 = tc_short_select(space, key, stats, (n - 1) / 4 + 1);
    const tc_cutoff q1 =
        tc_short_select(space, key, stats, (int32_t)(3 * (int64_t)(n - 1) / 4) + 1);
    const int64_t p3 = (1 << 20) - (int64_t)offset_of(q3.key);
    const int64_t p1 = (1 << 20) - (int64_t)offset_of(q1.key);
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

/* Of each of a thread's items a bit per lane: rows that stay, rows of the cutoff's very key. What
 * the warps before have of both (low and high half); candidates that stay, and rows that stay
 * without being asked, of all. */
template <class S>
struct tc_short_votes {
  uint32_t stay[S::ITEMS], tied[S::ITEMS], before;
  int32_t k, fixed;
};

/* Votes on the choice. row: of the thread's first item. */
template <class S>
__device__ inline void tc_short_vote(tc_short_space<S> &space, const tc_cut_group &c, int32_t row,
                                     const uint32_t (&key)[S::ITEMS],
                                     const uint32_t (&offset)[S::ITEMS],
                                     const tc_short_choice &choice, tc_short_votes<S> *v) {
  tc_block<S::WARPS> block(space.votes);
  const bool roles = c.roles != nullptr;
  uint32_t counted = 0, unasked = 0;
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) v->tied[i] = 0;
  if (choice.by_offset && !roles) {
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      v->stay[i] = __ballot_sync(TC_FULL, offset[i] <= choice.offset);
      counted += __popc(v->stay[i]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      bool stays = choice.by_offset ? offset[i] <= choice.offset : key[i] < choice.cutoff.key;
      if (roles) {
        const bool unranked = key[i] == TC_KEY_NONE && row + i * 32 < c.group.n &&
                              tc_stays_unranked(c.roles, row + i * 32);
        stays |= unranked;
        unasked += __popc(__ballot_sync(TC_FULL, unranked));
      }
      v->stay[i] = __ballot_sync(TC_FULL, stays);
      if (choice.cutoff.ties > 0) v->tied[i] = __ballot_sync(TC_FULL, key[i] == choice.cutoff.key);
      counted += __popc(v->stay[i]) + (__popc(v->tied[i]) << 16);
    }
  }
  uint32_t total, fixed = 0;
  v->before =
      tc_short_before(block, counted, &total, [](uint32_t own) { return tc_short_total(own); });
  if (roles) block.before(unasked, &fixed);
  v->fixed = (int32_t)fixed;
  v->k = (int32_t)(total & 0xFFFFu) - v->fixed + min((int32_t)(total >> 16), choice.cutoff.ties);
}

/* Group c, of no more than S::ROWS rows; tc_short_prepare has been called. Writes its kept rows to
 * `kept` (any memory of this block's; NULL: where the group's list belongs) and, where `reports`,
 * what args.out asks for. MARKS: those are left too where asked for, and the list is not where it
 * is not. Returns their number, the same in all threads. */
template <bool MARKS, class S>
__device__ __forceinline__ int32_t tc_short_cut(tc_short_memory<S> &shared, const tc_cut_args &args,
                                                const tc_cut_group &c, bool reports,
                                                int32_t *kept) {
  tc_short_space<S> &space = shared.value;
  const uint32_t lane = threadIdx.x & 31;
  const int32_t row = tc_short_row<S>(), n = c.group.n;
  const tailcut_rule &rule = args.rule;
  uint32_t key[S::ITEMS], offset[S::ITEMS];
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    const float score = row + i * 32 < n ? __ldcg(c.scores + row + i * 32) : 0.0f;
    key[i] = tc_row_key(score, rule.order == TAILCUT_LOW);
  }
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    if (row + i * 32 >= n) key[i] = TC_KEY_NONE;
  }
  if (c.roles != nullptr) {
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      if (row + i * 32 < n && !tc_is_candidate(c.roles[row + i * 32])) key[i] = TC_KEY_NONE;
    }
  }
  tc_block<S::WARPS> block(space.block);
  const tc_stats stats = tc_stats_of(block, key, rule);
  tc_short_choice choice;
  bool whole;
  if (!tc_short_choose(space, block, rule, c.number, key, stats,
                       (c.flags & TAILCUT_FLAG_BAD_REFERENCE) != 0, offset, &choice, &whole)) {
    return tc_short_sort<MARKS, S>(shared, args, c.number, reports, kept);
  }
  tc_short_votes<S> v;
  tc_short_vote(space, c, row, key, offset, choice, &v);
  const int32_t clamped = tc_clamp_count(&rule, v.k, stats.candidates);
  if (clamped != v.k) {
    choice = {false, 0, tc_short_select(space, key, stats, clamped)};
    __syncthreads(); /* the first votes have been counted */
    tc_short_vote(space, c, row, key, offset, choice, &v);
  }
  const uint32_t below = (1u << lane) - 1;
  int32_t seen = (int32_t)(v.before >> 16);
  int32_t next = (int32_t)(v.before & 0xFFFFu) + min(seen, choice.cutoff.ties);
  if (choice.cutoff.ties > 0) { /* the first ones stay */
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      const bool first = seen + __popc(v.tied[i] & below) < choice.cutoff.ties;
      seen += __popc(v.tied[i]);
      v.stay[i] |= __ballot_sync(TC_FULL, first) & v.tied[i];
    }
  }
  tc_short_emit<MARKS, S>(args, c, v.stay, next, kept);
  if (reports) tc_short_report<S>(args, c, v.stay, v.k + v.fixed, stats, whole);
  return v.k + v.fixed;
}

#endif /* TAILCUT_CUT_SHORT_CUH_ */
