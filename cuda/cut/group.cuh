/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_group: from scores to kept rows of one group without sorting, by one block: the choice is
 * made, ballots and one exchange say how many rows stay; where a clamp moves that number, the k-th
 * key is selected; kept rows go out in order. A group in which too many rows can win is sorted
 * instead.
 */
#ifndef TAILCUT_CUT_GROUP_CUH_
#define TAILCUT_CUT_GROUP_CUH_

#include "cut/otsu.cuh"
#include "cut/select.cuh"

/* How candidates stay: those with an offset up to this one, or by key. */
struct tc_value_choice {
  bool by_offset;
  uint32_t offset;
  tc_cutoff cutoff;
};

/* The choice before the clamps; false: sort instead. offset: filled in where the choice is by
 * offset. */
template <class S>
__device__ inline bool tc_value_choose(tc_value_space<S> &space, const tailcut_rule &rule,
                                       int32_t g, const uint32_t (&key)[S::ITEMS],
                                       const tc_stats &stats, bool bad,
                                       uint32_t (&offset)[S::ITEMS], tc_value_choice *choice,
                                       bool *whole) {
  int32_t k;
  *choice = {false, 0, {0, 0}};
  if (tc_decide_plainly(rule, g, stats, bad, &k, whole)) {
    if (rule.detector == TAILCUT_THRESHOLD && !*whole) { /* clamps may still move it */
      choice->cutoff = {tc_tau_key(rule) + 1, 0};
    } else {
      choice->cutoff =
          tc_value_select(space, key, stats, tc_clamp_count(&rule, k, stats.candidates));
    }
    return true;
  }
  const tc_value_scale scale =
      tc_value_scale_of(rule.scale == TAILCUT_SCALE_AUTO ? tc_scale_exponent(stats.magnitude) : 0);
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    offset[i] = key[i] < TC_KEY_UNUSABLE ? tc_value_offset(key[i], scale) : TC_OFFSET_NONE;
  }
  double threshold; /* MEAN, IQR: a value p stays when it is above */
  if (rule.detector == TAILCUT_OTSU) {
    const uint32_t first = tc_value_offset(stats.first, scale);
    const uint32_t last = tc_value_offset(stats.last, scale);
    bool flat = first == last;
    if (!flat && !tc_value_otsu(space, offset, stats.usable, first, last, &choice->offset, &flat)) {
      return false;
    }
    if (flat) choice->cutoff = {TC_KEY_UNUSABLE, stats.candidates - stats.usable};
    choice->by_offset = !flat;
    return true;
  }
  if (rule.detector == TAILCUT_MEAN) {
    tc_block<S::WARPS> block(space.block);
    tc_moments m = {0, 0};
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      if (offset[i] == TC_OFFSET_NONE) continue;
      const int64_t p = (1 << 20) - (int64_t)offset[i];
      m = m + tc_moments{p, p * p};
    }
    m = block.sum(m);
    threshold = tc_mean_threshold(stats.usable, m.s1, m.s2, rule.lambda);
  } else { /* IQR */
    const int32_t n = stats.usable;
    const tc_cutoff q3 = tc_value_select(space, key, stats, (n - 1) / 4 + 1);
    const tc_cutoff q1 =
        tc_value_select(space, key, stats, (int32_t)(3 * (int64_t)(n - 1) / 4) + 1);
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

/* Rows that stay of a thread's: bits per item, kept and tied ones. */
template <class S>
struct tc_votes {
  uint32_t stay[S::ITEMS], tied[S::ITEMS];
};

template <class S>
union tc_group_space {
  tc_value_space<S> value;
  tc_block_space<S::THREADS, S::ITEMS> sorting;
  __device__ tc_group_space() {}
};

/* Votes on the choice; returns, the same in all threads, how many candidates stay. *before:
 * stays (low half) and ties (high half) of the warps before; *fixed: rows in all that stay
 * without being asked. */
template <class S>
__device__ inline int32_t tc_vote(tc_value_space<S> &space, const tc_cut_group &c,
                                  const uint32_t (&key)[S::ITEMS],
                                  const uint32_t (&offset)[S::ITEMS], const tc_value_choice &choice,
                                  tc_votes<S> *v, uint32_t *before, int32_t *fixed) {
  const int lane = (int)(threadIdx.x & 31), warp = (int)(threadIdx.x / 32);
  const bool roles = c.roles != nullptr;
  uint32_t counted = 0, unasked = 0;
  if (choice.by_offset && !roles) {
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      v->stay[i] = __ballot_sync(TC_FULL, offset[i] <= choice.offset);
      v->tied[i] = 0;
      counted += __popc(v->stay[i]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      const uint32_t k = key[i];
      bool stays = choice.by_offset ? offset[i] <= choice.offset : k < choice.cutoff.key;
      const bool ties = !choice.by_offset && k == choice.cutoff.key && choice.cutoff.ties > 0;
      if (roles) {
        const int32_t row = warp * 32 * S::ITEMS + i * 32 + lane;
        const bool unranked =
            k == TC_KEY_NONE && row < c.group.n && tc_stays_unranked(c.roles, row);
        stays |= unranked;
        unasked += __popc(__ballot_sync(TC_FULL, unranked));
      }
      v->stay[i] = __ballot_sync(TC_FULL, stays);
      v->tied[i] = __ballot_sync(TC_FULL, ties);
      counted += __popc(v->stay[i]) + (__popc(v->tied[i]) << 16);
    }
  }
  if (lane == 0) {
    space.warps[warp] = counted;
    space.fixed[warp] = unasked;
  }
  __syncthreads();
  const uint32_t others = lane < S::WARPS ? space.warps[lane] : 0;
  const uint32_t total = tc_value_total(others);
  *before = tc_value_total(lane < warp ? others : 0u);
  *fixed = 0;
  if (roles) *fixed = (int32_t)tc_value_total(lane < S::WARPS ? space.fixed[lane] : 0u);
  return (int32_t)(total & 0xFFFFu) - *fixed + min((int32_t)(total >> 16), choice.cutoff.ties);
}

/* Apart, so that its registers are not the common case's; it finds the group again rather than
 * have it on a stack. */
template <class S>
__device__ __noinline__ int32_t tc_sort_instead(tc_group_space<S> &shared, const tc_cut_args &args,
                                                int32_t number, bool reports, int32_t *kept) {
  __syncthreads();
  const tc_cut_group c = tc_cut_open(args, number);
  return tc_cut_block(shared.sorting, args, c, reports, kept != nullptr ? kept : c.kept);
}

/* What must be so before tc_cut_rows begins: one barrier lies between. */
template <class S>
__device__ __forceinline__ void tc_cut_prepare(tc_value_space<S> &space) {
#pragma unroll
  for (int e = 0; e < S::EACH; e++) space.bins[threadIdx.x + e * S::THREADS] = 0;
  if (threadIdx.x == 0) space.listed = 0;
}

/* Group c, of no more than S::ROWS rows. Writes its kept rows to `kept` (any memory of this
 * block's) and, where `reports`, what args.out asks for. Returns their number, the same in all
 * threads. */
template <class S>
__device__ __forceinline__ int32_t tc_cut_rows(tc_group_space<S> &shared, const tc_cut_args &args,
                                               const tc_cut_group &c, bool reports, int32_t *kept) {
  tc_value_space<S> &space = shared.value;
  const int thread = (int)threadIdx.x, lane = thread & 31, warp = thread / 32;
  const int32_t base = warp * 32 * S::ITEMS + lane, n = c.group.n;
  const tailcut_rule &rule = args.rule;
  const bool low = rule.order == TAILCUT_LOW;
  uint32_t key[S::ITEMS];
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    key[i] = base + i * 32 < n ? tc_load_key(c, low, base + i * 32) : TC_KEY_NONE;
  }
  const tc_stats stats = tc_value_stats(space, key, rule);
  uint32_t offset[S::ITEMS];
  tc_value_choice choice;
  bool whole;
  if (!tc_value_choose(space, rule, c.number, key, stats,
                       (c.flags & TAILCUT_FLAG_BAD_REFERENCE) != 0, offset, &choice, &whole)) {
    return tc_sort_instead<S>(shared, args, c.number, reports, kept == c.kept ? nullptr : kept);
  }
  tc_votes<S> v;
  uint32_t before;
  int32_t fixed, k = tc_vote(space, c, key, offset, choice, &v, &before, &fixed);
  const int32_t clamped = tc_clamp_count(&rule, k, stats.candidates);
  if (clamped != k) {
    choice.by_offset = false;
    choice.cutoff = tc_value_select(space, key, stats, clamped);
    __syncthreads(); /* the first votes have been counted */
    k = tc_vote(space, c, key, offset, choice, &v, &before, &fixed);
  }
  const uint32_t below = (1u << lane) - 1;
  const int32_t ties = choice.by_offset ? 0 : choice.cutoff.ties;
  int32_t seen = (int32_t)(before >> 16), next = (int32_t)(before & 0xFFFFu) + min(seen, ties);
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    const bool tied = v.tied[i] >> lane & 1 && seen + __popc(v.tied[i] & below) < ties;
    const bool stays = v.stay[i] >> lane & 1 || tied;
    const uint32_t staying = v.tied[i] != 0 ? __ballot_sync(TC_FULL, stays) : v.stay[i];
    if (stays) kept[next + __popc(staying & below)] = c.group.first + base + i * 32;
    if (reports && base + i * 32 < n) tc_cut_mask(args, c, base + i * 32, stays);
    next += __popc(staying);
    seen += __popc(v.tied[i]);
  }
  if (reports) {
    tc_cut_clear_mask(args, c, thread, S::THREADS);
    if (thread == 0) tc_cut_report(args, c, k + fixed, tc_flags_out(c.flags, stats, whole));
  }
  return k + fixed;
}

#endif /* TAILCUT_CUT_GROUP_CUH_ */
