/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long_emit: writes the kept rows of long groups and reports of them: the last stage of
 * cut/long.cu.
 *
 * Strategy: every block finds the cut (OTSU: from the counts of single values; else from the last
 * digit, from statistics, or a mark per row), counts the kept rows of its tile and publishes the
 * number; each thread of a block looks at the number of one tile before, and the block writes.
 * Tiles are taken by ticket, so that a block only ever waits for those that have started. OTSU
 * takes twice as many tickets: on flat curves the first half finds the maximum, each block in its
 * share of the bins, and the second half waits for it and writes; on others the second half leaves
 * at once.
 * Precision: exact. Limits: TC_LONG_TILES tiles of a group.
 */
#ifndef TAILCUT_CUT_LONG_EMIT_CUH_
#define TAILCUT_CUT_LONG_EMIT_CUH_

#include "cut/long_otsu.cuh"
#include "cut/long_select.cuh"

template <int MODE>
struct tc_emit_space {
  tc_long_block::space block, chooses;
  tc_select_space select;
};
template <>
struct tc_emit_space<TC_LONG_OTSU> {
  tc_long_block::space block;
  tc_otsu_space otsu;
  uint32_t magnitude;
};

/* OTSU's cut: its key is an offset, rows with a smaller one stay. false: this block has nothing to
 * write. late: it is of the second half. */
__device__ inline bool tc_choose_otsu(tc_otsu_space &s, const tc_long &a, const tc_long_tile &tile,
                                      bool late, tc_long_cut *cut) {
  tc_long_state &state = a.states[tile.slot];
  tc_otsu_open(s, state);
  __syncthreads();
  const bool flat = s.width > TC_LONG_SPAN;
  if (flat != late) {
    if (flat) tc_otsu_publish(s, a, tile, state, tc_otsu_flat(s, a, tile, state));
    return false;
  }
  if (flat) {
    if (threadIdx.x == 0) {
      while (*(volatile uint32_t *)&state.arrived != (uint32_t)tile.tiles) {
      }
      __threadfence();
    }
    __syncthreads();
  }
  const tc_best best = flat ? tc_otsu_join(s, a, tile) : tc_otsu_values(s, state);
  const tc_stats stats = tc_otsu_stats(s, a, tile, state);
  const bool bad = (tile.flags & TAILCUT_FLAG_BAD_REFERENCE) != 0;
  /* Kept whole: rows without an offset too. */
  *cut = {best.place + 1,
          0,
          0,
          stats.candidates,
          stats.usable,
          tc_keeps_whole(TAILCUT_OTSU, stats.usable, bad)};
  if (best.value == 0) cut->key = TC_NO_OFFSET, cut->k = INT32_MAX;
  return true;
}

template <int MODE>
__device__ __forceinline__ bool tc_choose(tc_emit_space<MODE> &s, const tc_long &a,
                                          const tc_long_tile &tile, bool form, tc_long_cut *cut) {
  const tc_long_cut *cuts = a.cuts + tile.slot * TC_LONG_LEVELS;
  if constexpr (MODE == TC_LONG_OTSU) {
    return tc_choose_otsu(s.otsu, a, tile, form, cut);
  } else if constexpr (MODE == TC_LONG_SELECT) {
    tc_long_block block(s.chooses);
    const uint32_t *digits =
        a.digits + ((size_t)tile.slot * TC_LONG_LEVELS + TC_LONG_LEVELS - 1) * TC_LONG_DIGITS;
    *cut = form ? tc_select_first(block, a, tile, nullptr)
                : tc_select_digit(block, s.select,
                                  tc_select_open(s.select, cuts + TC_LONG_LEVELS - 1), digits);
  } else {
    *cut = tc_select_open(s.select, cuts);
  }
  return true;
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

/* wait: for what the stage before leaves; OTSU's has a barrier. form: of OTSU the second half; of
 * SELECT that statistics alone say the cut. */
template <int QUADS, int MODE, class Wait>
__device__ __forceinline__ void tc_long_emit(tc_emit_space<MODE> &s, const tc_long &a,
                                             const tc_long_tile &tile, bool form, Wait wait) {
  constexpr int ROWS = 4 * QUADS;
  if constexpr (MODE == TC_LONG_OTSU) {
    if (threadIdx.x == 0) s.otsu.top = s.magnitude = 0;
  }
  tc_long_rows<QUADS> rows;
  uint32_t at[ROWS]; /* offset or key */
  tc_long_load(a, tc_long_group(a, tile), tc_long_first<QUADS>(tile.index), &rows);
  wait();
  if constexpr (MODE == TC_LONG_OTSU) tc_offsets(a, tile, rows, s.magnitude, at);
  tc_long_cut cut;
  if (!tc_choose<MODE>(s, a, tile, form, &cut)) return;
  tc_long_block block(s.block);
  const uint32_t t = threadIdx.x, below = (1u << block.lane) - 1;
  const tc_cut_group c = tc_long_group(a, tile);
  const int32_t n = c.group.n, first = tc_long_first<QUADS>(tile.index);

  uint32_t keep = rows.stays, tie = 0; /* a bit per row of this thread */
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    if (rows.none >> i & 1) continue;
    if constexpr (MODE == TC_LONG_MARKS) {
      keep |= (uint32_t)(__ldcg(a.marks + tile.base + tc_long_row(first, i)) != 0) << i;
    } else {
      if constexpr (MODE != TC_LONG_OTSU) at[i] = tc_long_key(rows, i);
      keep |= (uint32_t)(at[i] < cut.key) << i;
      tie |= (uint32_t)(at[i] == cut.key && cut.k > 0) << i;
    }
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
  if (tile.index != tile.tiles - 1) return;
  if (t == 0) {
    const int32_t count = tiles.keep + all.keep + min(tiles.tie + all.tie, cut.k);
    tc_cut_report(a.cut, c, count,
                  tc_flags_out(c.flags, cut.candidates, cut.usable, cut.whole != 0));
  }
  if (a.cut.groups.groups == 0) tc_cut_done(block, a.cut);
}

#endif /* TAILCUT_CUT_LONG_EMIT_CUH_ */
