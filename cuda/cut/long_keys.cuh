/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long_keys: stages of cut/long.cu that go by digits of the key: the key of a long group's k-th
 * row; or its rows in order, for any detector, a search range, spread, curve, ranks.
 *
 * Selecting: radix select over the keys between the best and the worst usable one, 11 bits at a
 * time, so three stages at most. Each finds the digit that the one before has counted (all blocks
 * alike: 2,048 counts are read faster than another stage starts), then counts its own among the
 * rows that are still undecided, in shared memory, with one reduction per digit and block. Rows of
 * the very key of the cut are ties: the first ones by number stay (cut/long_emit.cuh).
 * Sorting: stable radix sort of (key, row), 8 bits at a time, by all blocks and all groups at once:
 * per digit one stage counts every tile's digits, the next adds up the counts of the tiles before
 * (a thread a digit, all blocks alike) and moves each row to its place. The last one leaves the
 * curve as integers beside the rows. Then one block per group decides k (detect.cuh), and each
 * rank's row is marked and reported. CUB's device sort would do, but it clears its counters by
 * memset nodes, takes one group at a time, and its launches are as many.
 * Precision: exact, the same bits as src/cpu/cut.c. Limits: TC_LONG_TILES tiles of a group; a
 * group's detector is one block's work: 1M rows are read by 512 threads, two or three times.
 * Measured: bench/NOTES.md, "cut".
 */
#ifndef TAILCUT_CUT_LONG_KEYS_CUH_
#define TAILCUT_CUT_LONG_KEYS_CUH_

#include "cut/long.cuh"

struct tc_select_space {
  tc_long_block::space block;
  tc_long_cut cut;
  tc_digit digit;
};

/* How many of the undecided bits the next digit takes. */
__device__ __forceinline__ int32_t tc_digit_bits(int32_t width) {
  return min(width, TC_LONG_DIGIT_BITS);
}

/* The group's cut once the digits of a level are counted: `cut` (the same in all threads) is what
 * was known before. Called by the block. */
__device__ inline tc_long_cut tc_select_digit(tc_long_block &block, tc_select_space &s,
                                              tc_long_cut cut, const uint32_t *digits) {
  static_assert(TC_LONG_DIGITS == 4 * TC_LONG_THREADS, "4 digits a thread");
  if (cut.width == 0) return cut;
  const uint4 w = __ldcg((const uint4 *)digits + threadIdx.x);
  const uint32_t counts[4] = {w.x, w.y, w.z, w.w};
  const tc_digit digit = tc_find_digit(block, s.digit, counts, (uint32_t)cut.k);
  cut.width -= tc_digit_bits(cut.width);
  cut.key += digit.place << cut.width;
  cut.k -= (int32_t)digit.before;
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

/* The cut as far as it is known without counting digits: k, and the range of keys. otsu: what says
 * k before the clamps where the rule needs a curve. */
__device__ inline tc_long_cut tc_select_first(tc_long_block &block, const tc_long &a,
                                              const tc_long_tile &tile, const tc_best *otsu) {
  const tailcut_rule &rule = a.cut.rule;
  const tc_stats stats = tc_long_stats(block, a, tile);
  const bool bad = (tile.flags & TAILCUT_FLAG_BAD_REFERENCE) != 0;
  int32_t k;
  bool whole;
  if (!tc_decide_plainly(rule, tile.number, stats, bad, &k, &whole)) {
    const tc_best best = tc_load_best(otsu);
    k = best.value > 0 ? (int32_t)best.k : stats.candidates;
  }
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

/* Counts the digits of a level. */
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
    cut = tc_select_first(block, a, tile, &a.states[tile.slot].best);
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

/* ---------------------------------------------------------------------------------- sorting -- */

#define TC_SORT_DIGITS 256
#define TC_SORT_PASSES 4

/* The i-th row or rank of a thread: a warp owns consecutive ones, 32 at a time, so that their order
 * is that of warp, i and lane. */
template <int QUADS>
__device__ __forceinline__ int32_t tc_sort_place(const tc_long_tile &tile, int i) {
  const int32_t warp = tile.index * TC_LONG_WARPS + (int32_t)(threadIdx.x >> 5);
  return warp * 128 * QUADS + i * 32 + (int32_t)(threadIdx.x & 31);
}

/* What pass `pass` finds there: key << 32 | row; behind the end 0. */
template <int QUADS>
__device__ __forceinline__ void tc_sort_load(const tc_long &a, const tc_cut_group &c,
                                             const tc_long_tile &tile, int pass,
                                             uint64_t (&items)[4 * QUADS]) {
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    const int32_t at = tc_sort_place<QUADS>(tile, i);
    items[i] = 0;
    if (at >= c.group.n) continue;
    if (pass > 0) {
      items[i] = __ldcg(a.items[(pass - 1) & 1] + tile.base + at);
    } else {
      const uint32_t key = tc_load_key(c, a.cut.rule.order == TAILCUT_LOW, at);
      items[i] = (uint64_t)key << 32 | (uint32_t)at;
    }
  }
}

__device__ __forceinline__ uint32_t tc_sort_digit(uint64_t item, int pass) {
  return (uint32_t)(item >> (32 + 8 * pass)) & (TC_SORT_DIGITS - 1);
}

struct tc_sort_space {
  tc_long_block::space block;
  uint32_t half[2][TC_SORT_DIGITS];               /* the second half of the threads' sums */
  uint32_t places[TC_LONG_WARPS][TC_SORT_DIGITS]; /* a warp's rows of a digit; then where they go */
};

/* Of a tile's rows: how many have each digit; in the first pass statistics too. */
template <int QUADS>
__device__ __forceinline__ void tc_sort_count(tc_sort_space &s, const tc_long &a,
                                              const tc_long_tile &tile, int pass,
                                              const uint32_t *before) {
  const uint32_t t = threadIdx.x;
  uint32_t *counts = s.places[0];
  if (t < TC_SORT_DIGITS) counts[t] = 0;
  tc_long_await(before, (uint32_t)a.bound);
  if (pass == 0) tc_long_make_stats<QUADS>(s.block, a, tile);
  const tc_cut_group c = tc_long_group(a, tile);
  uint64_t items[4 * QUADS];
  tc_sort_load<QUADS>(a, c, tile, pass, items);
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    if (tc_sort_place<QUADS>(tile, i) < c.group.n) {
      atomicAdd(&counts[tc_sort_digit(items[i], pass)], 1u);
    }
  }
  __syncthreads();
  if (t < TC_SORT_DIGITS)
    a.counts[(size_t)(tile.first + tile.index) * TC_SORT_DIGITS + t] = counts[t];
}

/* places: from the number of each warp's rows of a digit to where its first one goes. */
__device__ void tc_sort_find(tc_long_block &block, tc_sort_space &s, const tc_long &a,
                             const tc_long_tile &tile) {
  const int32_t digit = (int32_t)threadIdx.x % TC_SORT_DIGITS,
                half = (int32_t)threadIdx.x / TC_SORT_DIGITS;
  const uint32_t *counts = a.counts + (size_t)tile.first * TC_SORT_DIGITS + digit;
  uint32_t before = 0, all = 0;
#pragma unroll 8
  for (int32_t i = half; i < tile.tiles; i += TC_LONG_THREADS / TC_SORT_DIGITS) {
    const uint32_t count = __ldcg(counts + (size_t)i * TC_SORT_DIGITS);
    all += count;
    if (i < tile.index) before += count;
  }
  if (half > 0) s.half[0][digit] = before, s.half[1][digit] = all;
  __syncthreads();
  if (half == 0) before += s.half[0][digit], all += s.half[1][digit];
  uint32_t total;
  const uint32_t lower = block.prefix(half == 0 ? all : 0u, &total);
  if (half == 0) {
    uint32_t place = lower + before;
#pragma unroll
    for (int w = 0; w < TC_LONG_WARPS; w++) {
      const uint32_t rows = s.places[w][digit];
      s.places[w][digit] = place;
      place += rows;
    }
  }
  __syncthreads();
}

/* Moves the rows of a tile to their places by the digit. */
template <int QUADS>
__device__ __forceinline__ void tc_sort_scatter(tc_sort_space &s, const tc_long &a,
                                                const tc_long_tile &tile, int pass,
                                                const uint32_t *before) {
  tc_long_block block(s.block);
  const uint32_t t = threadIdx.x;
  for (uint32_t i = t; i < TC_LONG_WARPS * TC_SORT_DIGITS; i += TC_LONG_THREADS) {
    (&s.places[0][0])[i] = 0;
  }
  tc_long_await(before, (uint32_t)a.bound);
  const tc_cut_group c = tc_long_group(a, tile);
  uint64_t items[4 * QUADS];
  uint32_t ranks[4 * QUADS]; /* among the warp's rows of the same digit */
  tc_sort_load<QUADS>(a, c, tile, pass, items);
  uint32_t *mine = s.places[block.warp];
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    const bool inside = tc_sort_place<QUADS>(tile, i) < c.group.n;
    const uint32_t digit = inside ? tc_sort_digit(items[i], pass) : TC_SORT_DIGITS;
    const uint32_t same = __match_any_sync(TC_FULL, digit);
    const uint32_t lower = inside ? mine[digit] : 0;
    ranks[i] = lower + __popc(same & ((1u << block.lane) - 1));
    __syncwarp();
    if (inside && block.lane == __ffs((int)same) - 1) mine[digit] = lower + __popc(same);
    __syncwarp();
  }
  __syncthreads();
  tc_sort_find(block, s, a, tile);
  const bool last = pass == TC_SORT_PASSES - 1;
  const double factor = tc_scale_factor(last ? tc_long_exponent(block, a, tile) : 0);
  uint64_t *to = a.items[pass & 1] + tile.base;
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    if (tc_sort_place<QUADS>(tile, i) >= c.group.n) continue;
    const uint32_t place = mine[tc_sort_digit(items[i], pass)] + ranks[i];
    const uint32_t key = (uint32_t)(items[i] >> 32);
    to[place] = items[i];
    if (last && key < TC_KEY_UNUSABLE) {
      a.q[tile.base + place] = tc_quantise(tc_key_score(key), factor);
    }
  }
}

/* k of a group, by its first tile's block. The spread is made from k again by who needs it. */
__device__ __forceinline__ void tc_sort_decide(tc_long_block::space &space, const tc_long &a,
                                               const tc_long_tile &tile, const uint32_t *before) {
  tc_long_block block(space);
  if (tile.index > 0) return;
  tc_long_await(before, (uint32_t)a.bound);
  const tailcut_rule &rule = a.cut.rule;
  const tc_stats stats = tc_long_stats(block, a, tile);
  int32_t k;
  bool whole;
  if (!tc_decide_plainly(rule, tile.number, stats, (tile.flags & TAILCUT_FLAG_BAD_REFERENCE) != 0,
                         &k, &whole)) {
    k = tc_detect_curve<4>(block, rule, a.q + tile.base, stats.usable, stats.candidates);
  }
  k = tc_clamp_count(&rule, k, stats.candidates);
  if (threadIdx.x == 0) {
    a.cuts[tile.slot * TC_LONG_LEVELS] = {0, 0, k, stats.candidates, stats.usable, whole};
  }
}

/* What every rank's row is told. */
template <int QUADS>
__device__ __forceinline__ void tc_sort_mark(tc_select_space &s, const tc_long &a,
                                             const tc_long_tile &tile, const uint32_t *before) {
  tc_long_await(before, (uint32_t)a.bound);
  const tc_cut_group c = tc_long_group(a, tile);
  const tc_long_cut cut = tc_select_open(s, a.cuts + tile.slot * TC_LONG_LEVELS);
  const tc_spread spread = tc_spread_of(a.cut.rule.spread, cut.k, cut.usable);
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    const int32_t r = tc_sort_place<QUADS>(tile, i);
    if (r >= c.group.n) continue;
    const uint64_t item = __ldcg(a.items[(TC_SORT_PASSES - 1) & 1] + tile.base + r);
    const uint32_t key = (uint32_t)(item >> 32);
    const int32_t row = (int32_t)(uint32_t)item;
    a.marks[tile.base + row] = !tc_spread_keeps(spread, r); /* emit knows rows without a rank */
    tc_cut_report_order(a.cut, c, row, r, key);
  }
}

#endif /* TAILCUT_CUT_LONG_KEYS_CUH_ */
