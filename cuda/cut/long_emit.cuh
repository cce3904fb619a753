/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long_emit: writes the kept rows of long groups and reports of them: the last stage of
 * cut/long.cu.
 *
 * Strategy: every block finds the cut (OTSU: from the counts of single values or, on flat curves,
 * from what the stage before has found; else from the last digit, from statistics, or a mark per
 * row), counts the kept rows of its tile and publishes the number; each thread of a block looks at
 * the number of one tile before, and the block writes. Tiles are taken by ticket, so that a block
 * only ever waits for those that have started.
 * Precision: exact. Limits: TC_LONG_TILES tiles of a group.
 */
#ifndef TAILCUT_CUT_LONG_EMIT_CUH_
#define TAILCUT_CUT_LONG_EMIT_CUH_

#include "cut/long_keys.cuh"
#include "cut/long_otsu.cuh"

template <int MODE>
struct tc_emit_space {
  tc_long_block::space block;
  tc_select_space select;
};
template <>
struct tc_emit_space<TC_LONG_OTSU> {
  tc_long_block::space block;
  tc_otsu_space otsu;
};

/* OTSU's cut: its key is an offset, rows with a smaller one stay. decided: of the stage that
 * decides on flat curves. */
__device__ inline tc_long_cut tc_choose_otsu(tc_otsu_space &s, const tc_long &a,
                                             const tc_long_tile &tile, const uint32_t *decided) {
  const tc_long_state &state = a.states[tile.slot];
  tc_otsu_open(s, state);
  tc_best best;
  if (s.alive > TC_LONG_SPAN) {
    tc_long_await(decided, (uint32_t)a.bound);
    best = tc_load_best(&state.best);
  } else {
    best = tc_otsu_counted(s, state);
  }
  const int32_t usable = (int32_t)tc_rows_of(s.all);
  const bool bad = (tile.flags & TAILCUT_FLAG_BAD_REFERENCE) != 0;
  tc_long_cut cut = {best.place + 1, 0,      0,
                     tile.group.n,   usable, tc_keeps_whole(TAILCUT_OTSU, usable, bad)};
  if (a.cut.roles != nullptr) cut.candidates = (int32_t)__ldcg(&state.candidates);
  if (best.value == 0) cut.key = TC_NO_OFFSET, cut.k = INT32_MAX; /* rows without an offset too */
  return cut;
}

struct tc_fates { /* rows */
  int32_t keep, tie;
  __device__ tc_fates operator+(tc_fates o) const { return {keep + o.keep, tie + o.tie}; }
};

/* Kept rows and ties of the group's tiles before this one; called by the block. */
__device__ inline tc_fates tc_look_back(tc_long_block &block, const tc_long &a,
                                        const tc_long_tile &tile, tc_fates own) {
  volatile uint32_t *found = a.found + tile.first;
  if (threadIdx.x == 0) found[tile.index] = 1u << 31 | (uint32_t)own.tie << 14 | (uint32_t)own.keep;
  tc_fates before = {0, 0};
  if ((int32_t)threadIdx.x < tile.index) {
    uint32_t word;
    do {
      word = found[threadIdx.x];
    } while (word >> 31 == 0);
    before = {(int32_t)(word & 0x3FFF), (int32_t)(word >> 14 & 0x3FFF)};
  }
  return block.sum(before);
}

/* A byte for each of a thread's rows, four at once where they have a word. */
template <int QUADS>
__device__ inline void tc_write_mask(uint8_t *mask, int32_t first, int32_t n, uint32_t keep) {
#pragma unroll
  for (int v = 0; v < QUADS; v++) {
    const int32_t row = first + v * 128;
    const uint32_t bits = keep >> (4 * v) & 15;
    if (row + 4 <= n && ((uintptr_t)(mask + row) & 3) == 0) {
      *(uint32_t *)(mask + row) = bits * 0x00204081u & 0x01010101u;
    } else {
      for (int e = 0; e < 4 && row + e < n; e++) mask[row + e] = bits >> e & 1;
    }
  }
}

/* before: as do_stage's (cut/long.cu). directly: that statistics alone say SELECT's cut. join:
 * memory that may be s's. */
template <int QUADS, int MODE>
__device__ __forceinline__ void tc_long_emit(tc_emit_space<MODE> &s,
                                             tc_join_space<TC_LONG_THREADS> &join, const tc_long &a,
                                             const tc_long_tile &tile, bool directly,
                                             const uint32_t *before) {
  constexpr int ROWS = 4 * QUADS;
  tc_long_block block(s.block);
  tc_long_rows<QUADS> rows;
  uint32_t at[ROWS]; /* offset, key, or mark */
  tc_long_cut cut;
  tc_long_load(a, tc_long_group(a, tile), tc_long_first<QUADS>(tile.index), &rows);
  tc_long_await(MODE == TC_LONG_OTSU ? before - 1 : before, (uint32_t)a.bound);
  if constexpr (MODE == TC_LONG_OTSU) {
    tc_offsets(block, a, tile, rows, at);
    cut = tc_choose_otsu(s.otsu, a, tile, before);
  } else if constexpr (MODE == TC_LONG_SELECT) {
    const tc_long_cut *cuts = a.cuts + tile.slot * TC_LONG_LEVELS;
    const uint32_t *digits =
        a.digits + ((size_t)tile.slot * TC_LONG_LEVELS + TC_LONG_LEVELS - 1) * TC_LONG_DIGITS;
    cut = directly ? tc_select_first(block, a, tile, nullptr)
                   : tc_select_digit(block, s.select,
                                     tc_select_open(s.select, cuts + TC_LONG_LEVELS - 1), digits);
  } else {
    cut = tc_select_open(s.select, a.cuts + tile.slot * TC_LONG_LEVELS);
    cut.key = 1, cut.k = 0; /* marks are 0 where a row stays */
  }
  const uint32_t t = threadIdx.x, below = (1u << block.lane) - 1;
  const tc_cut_group c = tc_long_group(a, tile);
  const int32_t n = c.group.n, first = tc_long_first<QUADS>(tile.index);

  uint32_t keep = rows.stays, tie = 0; /* a bit per row of this thread */
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    if (rows.none >> i & 1) continue;
    if constexpr (MODE == TC_LONG_SELECT) at[i] = tc_long_key(rows, i);
    if constexpr (MODE == TC_LONG_MARKS)
      at[i] = __ldcg(a.marks + tile.base + tc_long_row(first, i));
    keep |= (uint32_t)(at[i] < cut.key) << i;
    tie |= (uint32_t)(at[i] == cut.key && cut.k > 0) << i;
  }

  /* Counts of the rows before: a warp's rows are in order by quad, lane and number in the quad. */
  const uint32_t counts =
      __reduce_add_sync(TC_FULL, (uint32_t)__popc(tie) << 16 | (uint32_t)__popc(keep));
  const tc_fates own = {(int32_t)(counts & 0xFFFF), (int32_t)(counts >> 16)};
  tc_fates all;
  const tc_fates warps = block.before(own, &all);
  const tc_fates tiles = tc_look_back(block, a, tile, all);

  int32_t ties = tiles.tie + warps.tie; /* before the next quad */
  int32_t next = tiles.keep + warps.keep + min(ties, cut.k);
#pragma unroll
  for (int v = 0; v < QUADS; v++) {
    uint32_t kept_bits[4];
#pragma unroll
    for (int e = 0; e < 4; e++) kept_bits[e] = __ballot_sync(TC_FULL, keep >> (4 * v + e) & 1);
    if (own.tie > 0) { /* ties become kept or not */
      int32_t at = ties;
      const uint32_t mine = tie >> (4 * v) & 15;
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const uint32_t tied = __ballot_sync(TC_FULL, mine >> e & 1);
        at += __popc(tied & below);
        ties += __popc(tied);
      }
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const bool stays = (mine >> e & 1) != 0 && at < cut.k;
        at += mine >> e & 1;
        keep |= (uint32_t)stays << (4 * v + e);
        kept_bits[e] |= __ballot_sync(TC_FULL, stays);
      }
    }
    int32_t place = next;
#pragma unroll
    for (int e = 0; e < 4; e++) {
      place += __popc(kept_bits[e] & below);
      next += __popc(kept_bits[e]);
    }
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int32_t row = first + v * 128 + e;
      const bool stays = (keep >> (4 * v + e) & 1) != 0;
      if (stays) c.kept[place++] = c.group.first + row;
    }
  }
  if (a.cut.out.mask != nullptr) tc_write_mask<QUADS>(tc_cut_mask(a.cut, c), first, n, keep);

  if (tile.index == 0) tc_cut_clear_mask(a.cut, c, (int32_t)t, TC_LONG_THREADS);
  const bool last = tile.index == tile.tiles - 1;
  if (last && t == 0) {
    const int32_t count = tiles.keep + all.keep + min(tiles.tie + all.tie, cut.k);
    tc_cut_report(a.cut, c, count,
                  tc_flags_out(c.flags, cut.candidates, cut.usable, cut.whole != 0));
  }
  if (a.cut.groups.groups == 0) {
    if (last) tc_cut_done(block, a.cut);
  } else if (tc_cut_joins(a.cut) && n > 0) {
    tc_join_rows(join, a.cut, c.number, min(a.rows, n - tile.index * a.rows));
  }
}

#endif /* TAILCUT_CUT_LONG_EMIT_CUH_ */
