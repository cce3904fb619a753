/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long_sort: long groups by sorting: any detector, a search range, spread, curve, ranks. Stages
 * of cut/long.cu.
 *
 * Strategy: stable radix sort of (key, row), 8 bits at a time, by all blocks and all groups at
 * once: per digit one stage counts every tile's digits, the next adds up the counts of the tiles
 * before (a thread a digit, all blocks alike) and moves each row to its place. The last one leaves
 * the curve as integers beside the rows. Then one block per group decides k (detect.cuh), and each
 * rank's row is marked and reported. CUB's device sort would do, but it clears its counters by
 * memset nodes, takes one group at a time, and its launches are as many.
 * Precision: exact, the same bits as src/cpu/cut.c. Limits: TC_LONG_TILES tiles of a group; a
 * group's detector is one block's work: 1M rows are read by 512 threads, two or three times.
 * Measured: bench/NOTES.md, "cut".
 */
#ifndef TAILCUT_CUT_LONG_SORT_CUH_
#define TAILCUT_CUT_LONG_SORT_CUH_

#include "cut/long_begin.cuh"
#include "cut/long_select.cuh"

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
  uint32_t magnitude;
};

/* Of a tile's rows: how many have each digit; in the first pass statistics too. */
template <int QUADS>
__device__ __forceinline__ void tc_sort_count(tc_sort_space &s, const tc_long &a,
                                              const tc_long_tile &tile, int pass,
                                              const uint32_t *before) {
  const uint32_t t = threadIdx.x, number = (uint32_t)(tile.first + tile.index);
  uint32_t *counts = s.places[0];
  if (t < TC_SORT_DIGITS) counts[t] = 0;
  tc_long_await(before, (uint32_t)a.bound);
  if (pass == 0) tc_long_make_stats<QUADS>(s.block, a, tile, number);
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
  if (t < TC_SORT_DIGITS) a.counts[(size_t)number * TC_SORT_DIGITS + t] = counts[t];
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
  if (t == 0) s.magnitude = 0;
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
  const double factor = tc_scale_factor(last ? tc_long_exponent(a, tile, s.magnitude) : 0);
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
    a.marks[tile.base + row] =
        key == TC_KEY_NONE ? tc_stays_unranked(c.roles, row) : tc_spread_keeps(spread, r);
    tc_cut_report_order(a.cut, c, row, r, key);
  }
}

#endif /* TAILCUT_CUT_LONG_SORT_CUH_ */
