/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long_select: the key of a long group's k-th row, without sorting: stages of cut/long.cu.
 *
 * Strategy: radix select over the keys between the best and the worst usable one, 11 bits at a
 * time, so three stages at most. Each finds the digit that the one before has counted (all blocks
 * alike: 2,048 counts are read faster than another stage starts), then counts its own among the
 * rows that are still undecided, in shared memory, with one reduction per digit and block. Rows of
 * the very key of the cut are ties: the first ones by number stay (cut/long_emit.cuh). Precision:
 * exact.
 */
#ifndef TAILCUT_CUT_LONG_SELECT_CUH_
#define TAILCUT_CUT_LONG_SELECT_CUH_

#include "cut/long.cuh"

struct tc_select_space {
  tc_long_block::space block;
  tc_long_cut cut;
  uint32_t digit, before;
};

/* How many of the undecided bits the next digit takes. */
__device__ __forceinline__ int32_t tc_digit_bits(int32_t width) {
  return min(width, TC_LONG_DIGIT_BITS);
}

/* The group's cut once the digits of a level are counted: `cut` (the same in all threads) is what
 * was known before. Called by the block; s.digit and s.before may not be in use. */
__device__ inline tc_long_cut tc_select_digit(tc_long_block &block, tc_select_space &s,
                                              tc_long_cut cut, const uint32_t *digits) {
  static_assert(TC_LONG_DIGITS == 4 * TC_LONG_THREADS, "4 digits a thread");
  if (cut.width == 0) return cut;
  const uint4 w = __ldcg((const uint4 *)digits + threadIdx.x);
  const int32_t counts[4] = {(int32_t)w.x, (int32_t)w.y, (int32_t)w.z, (int32_t)w.w};
  const int32_t sum = counts[0] + counts[1] + counts[2] + counts[3];
  int32_t total, before = block.prefix(sum, &total);
#pragma unroll
  for (int e = 0; e < 4; e++) {
    if (before < cut.k && cut.k <= before + counts[e]) { /* one thread, one e */
      s.digit = threadIdx.x * 4 + e;
      s.before = (uint32_t)before;
    }
    before += counts[e];
  }
  __syncthreads();
  cut.width -= tc_digit_bits(cut.width);
  cut.key += s.digit << cut.width;
  cut.k -= (int32_t)s.before;
  return cut;
}

/* A cut that a stage before has left in global memory, in every thread. Read by one warp. */
__device__ inline tc_long_cut tc_select_open(tc_select_space &s, const tc_long_cut *from) {
  constexpr int WORDS = sizeof(tc_long_cut) / 4;
  if (threadIdx.x < WORDS) {
    ((uint32_t *)&s.cut)[threadIdx.x] = __ldcg((const uint32_t *)from + threadIdx.x);
  }
  __syncthreads();
  return s.cut;
}

/* The cut as far as it is known without counting digits: k, and the range of keys. otsu_k: k before
 * the clamps where the rule needs a curve. */
__device__ inline tc_long_cut tc_select_first(tc_long_block &block, const tc_long &a,
                                              const tc_long_tile &tile, const int32_t *otsu_k) {
  const tailcut_rule &rule = a.cut.rule;
  const tc_stats stats = tc_long_stats(block, a, tile);
  const bool bad = (tile.flags & TAILCUT_FLAG_BAD_REFERENCE) != 0;
  int32_t k;
  bool whole;
  if (!tc_decide_plainly(rule, tile.number, stats, bad, &k, &whole)) k = __ldcg(otsu_k);
  k = tc_clamp_count(&rule, k, stats.candidates);
  tc_long_cut cut = {0, 0, 0, stats.candidates, stats.usable, whole};
  if (k >= stats.usable) { /* all that have a score, and NaN rows by number */
    cut.key = TC_KEY_UNUSABLE;
    cut.k = k - stats.usable;
  } else if (rule.detector == TAILCUT_THRESHOLD && !whole && k == stats.above) {
    cut.key = tc_tau_key(rule);
    cut.k = INT32_MAX;
  } else if (k > 0) {
    cut.key = stats.first;
    cut.k = k;
    if (k > 1 && stats.last > stats.first) cut.width = 32 - __clz((int)(stats.last - stats.first));
  }
  return cut;
}

struct tc_digit_space {
  tc_select_space select;
  alignas(16) uint32_t counts[TC_LONG_DIGITS];
};

template <int QUADS>
__device__ __forceinline__ void tc_long_digit(tc_digit_space &s, const tc_long &a,
                                              const tc_long_tile &tile, int level,
                                              const uint32_t *before) {
  tc_long_block block(s.select.block);
  const uint32_t t = threadIdx.x;
  ((uint4 *)s.counts)[t] = make_uint4(0, 0, 0, 0);
  tc_long_rows<QUADS> rows;
  tc_long_load(a, tc_long_group(a, tile), tc_long_first<QUADS>(tile.index), &rows);
  tc_long_await(before, (uint32_t)a.bound);
  tc_long_cut *cuts = a.cuts + tile.slot * TC_LONG_LEVELS;
  uint32_t *digits = a.digits + (size_t)tile.slot * TC_LONG_LEVELS * TC_LONG_DIGITS;
  tc_long_cut cut;
  if (level == 0) {
    cut = tc_select_first(block, a, tile, &a.states[tile.slot].k);
  } else {
    cut = tc_select_open(s.select, cuts + level - 1);
    cut = tc_select_digit(block, s.select, cut, digits + (level - 1) * TC_LONG_DIGITS);
  }
  if (tile.index == 0 && t == 0) cuts[level] = cut;
  if (cut.width == 0) return;
  const int32_t bits = tc_digit_bits(cut.width);
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    const uint32_t key = tc_long_key(rows, i), d = (key - cut.key) >> (cut.width - bits);
    if (key < TC_KEY_UNUSABLE && key >= cut.key && d < 1u << bits) atomicAdd(&s.counts[d], 1u);
  }
  __syncthreads();
  uint32_t *to = digits + level * TC_LONG_DIGITS;
#pragma unroll
  for (int e = 0; e < TC_LONG_DIGITS / TC_LONG_THREADS; e++) {
    const uint32_t d = t + e * TC_LONG_THREADS;
    if (s.counts[d] > 0) atomicAdd(&to[d], s.counts[d]);
  }
}

#endif /* TAILCUT_CUT_LONG_SELECT_CUH_ */
