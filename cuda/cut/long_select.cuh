/* SPDX-License-Identifier: Apache-2.0 */
/* cut_long_select: from the counts of a digit to the next part of the key. Shared by the kernels of
 * cut/long_select.cu and cut/long_emit.cu: each finds the digit that the kernel before counted. */
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

/* A cut that a kernel before has left in global memory, in every thread. Read by one warp. */
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

#endif /* TAILCUT_CUT_LONG_SELECT_CUH_ */
