/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long_bins: counts of curve values of long groups, as much as OTSU needs (Otsu 1979; curve.h):
 * stages of cut/long.cu.
 *
 * Strategy: fill counts rows and their offsets by bins of 1,024 curve values: in shared memory, ONE
 * packed 32-bit atomic a row, then one reduction per bin and block that has any. refine bounds B in
 * every bin, in each block anew (that costs less than another stage), and counts single values in
 * the bins that can win (are alive); where these are too many it puts rows in order of their bins
 * instead, so that the tiles can share the bins (cut/long_otsu.cuh). Precision: exact;
 * cut/otsu.cuh says why. Limits: 2^20 rows a group.
 *
 * A row's packed word is count << 21 | low part of its offset (0 .. 1,024): a copy of the bins per
 * 1,024 rows cannot overflow, 1,024 << 21 | 2^20 being below 2^32.
 * Measured: bench/NOTES.md, "cut".
 */
#ifndef TAILCUT_CUT_LONG_BINS_CUH_
#define TAILCUT_CUT_LONG_BINS_CUH_

#include "cut/long_otsu.cuh"

template <int QUADS>
struct tc_fill_space {
  static constexpr int COPIES = QUADS * TC_LONG_THREADS * 4 / 1024;
  alignas(16) uint32_t bins[COPIES * TC_LONG_BINS];
  tc_long_block::space block;
  uint32_t candidates;
};

template <int QUADS>
__device__ __forceinline__ void tc_long_fill(tc_fill_space<QUADS> &s, const tc_long &a,
                                             const tc_long_tile &tile, const uint32_t *before) {
  constexpr uint32_t LOW = (1u << 21) - 1;
  const uint32_t t = threadIdx.x;
  for (uint32_t i = t; i < s.COPIES * TC_LONG_BINS / 4; i += TC_LONG_THREADS) {
    ((uint4 *)s.bins)[i] = make_uint4(0, 0, 0, 0);
  }
  if (t == 0) s.candidates = 0;
  tc_long_block block(s.block);
  tc_long_state &state = a.states[tile.slot];
  tc_long_rows<QUADS> rows;
  uint32_t offsets[4 * QUADS];
  tc_long_load(a, tc_long_group(a, tile), tc_long_first<QUADS>(tile.index), &rows);
  tc_long_await(before, (uint32_t)a.bound);
  tc_offsets(block, a, tile, rows, offsets);
  uint32_t *own = s.bins + (t >> 5) * QUADS * 128 / 1024 * TC_LONG_BINS;
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    const uint32_t bin = tc_offset_bin(offsets[i]);
    if (offsets[i] != TC_NO_OFFSET) atomicAdd(own + bin, (1u << 21) + (offsets[i] - (bin << 10)));
  }
  if (a.cut.roles != nullptr) {
    const uint32_t count = __reduce_add_sync(TC_FULL, 4 * QUADS - (uint32_t)__popc(rows.none));
    if ((t & 31) == 0) atomicAdd(&s.candidates, count);
  }
  __syncthreads();
#pragma unroll
  for (int e = 0; e < TC_LONG_BINS / TC_LONG_THREADS; e++) {
    const uint32_t bin = t + e * TC_LONG_THREADS;
    uint32_t rows = 0, low = 0;
#pragma unroll
    for (int c = 0; c < s.COPIES; c++) {
      const uint32_t word = s.bins[c * TC_LONG_BINS + bin];
      rows += word >> 21;
      low += word & LOW;
    }
    if (rows > 0) {
      atomicAdd((unsigned long long *)&state.bins[bin],
                (unsigned long long)(((uint64_t)rows << TC_SUM_BITS) +
                                     (uint64_t)rows * (bin << 10) + low));
    }
  }
  if (t == 0 && a.cut.roles != nullptr && s.candidates > 0) {
    atomicAdd(&state.candidates, s.candidates);
  }
}

#define TC_DEAD 255u

struct tc_refine_space {
  tc_long_block::space block;
  uint32_t numbers[TC_LONG_BINS / 4]; /* a byte per bin: its number among those alive */
  /* counts of single values; or, flat: rows by bin but those of one value, that value, its rows,
   * places */
  union {
    alignas(16) uint32_t values[TC_VALUES];
    uint32_t flat[4][TC_LONG_BINS];
  };
};

/* Rows in order of their bins (of any order inside), as low part of the offset | number << 11: the
 * first value of a bin that a block meets is counted, so that many equal rows are one entry.
 * before: packed prefixes of this thread's bins, 4 * thread .. + 3. */
template <int QUADS>
__device__ __forceinline__ void tc_order_by_bins(tc_refine_space &s, const tc_long &a,
                                                 const tc_long_tile &tile, tc_long_state &state,
                                                 const uint32_t (&offsets)[4 * QUADS],
                                                 const uint64_t (&before)[4]) {
  uint32_t *rows = s.flat[0], *value = s.flat[1], *equal = s.flat[2], *places = s.flat[3];
  uint32_t *entries = a.entries + tile.base;
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) { /* any of them stays */
    if (offsets[i] != TC_NO_OFFSET) {
      *(volatile uint32_t *)&value[tc_offset_bin(offsets[i])] = offsets[i];
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    if (offsets[i] == TC_NO_OFFSET) continue;
    const uint32_t bin = tc_offset_bin(offsets[i]);
    atomicAdd(value[bin] == offsets[i] ? &equal[bin] : &rows[bin], 1u);
  }
  __syncthreads();
#pragma unroll
  for (int e = 0; e < 4; e++) {
    const uint32_t bin = threadIdx.x * 4 + e;
    if (equal[bin] == 0) continue; /* the block has no row of it */
    const uint32_t at = tc_rows_of(before[e]) + atomicAdd(&state.taken[bin], rows[bin] + 1);
    entries[at] = (value[bin] - (bin << 10)) | equal[bin] << 11;
    places[bin] = at + 1;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    const uint32_t bin = tc_offset_bin(offsets[i]);
    if (offsets[i] == TC_NO_OFFSET || value[bin] == offsets[i]) continue;
    entries[atomicAdd(&places[bin], 1u)] = (offsets[i] - (bin << 10)) | 1u << 11;
  }
}

template <int QUADS>
__device__ __forceinline__ void tc_long_refine(tc_refine_space &s, const tc_long &a,
                                               const tc_long_tile &tile, const uint32_t *filled) {
  tc_long_block block(s.block);
  const uint32_t t = threadIdx.x;
  for (uint32_t i = t; i < TC_VALUES / 4; i += TC_LONG_THREADS) {
    ((uint4 *)s.values)[i] = make_uint4(0, 0, 0, 0);
  }
  uint32_t offsets[4 * QUADS];
  const bool bad = (tile.flags & TAILCUT_FLAG_BAD_REFERENCE) != 0;
  tc_long_state &state = a.states[tile.slot];
  tc_long_rows<QUADS> rows;
  tc_long_load(a, tc_long_group(a, tile), tc_long_first<QUADS>(tile.index), &rows);
  tc_long_await(filled, (uint32_t)a.bound);
  tc_offsets(block, a, tile, rows, offsets);

  /* This thread's 4 bins: counts, prefixes, bounds. */
  const ulonglong2 *from = (const ulonglong2 *)&state.bins[t * 4];
  const ulonglong2 b0 = __ldcg(from), b1 = __ldcg(from + 1);
  const uint64_t bins[4] = {b0.x, b0.y, b1.x, b1.y};
  const uint64_t sum = bins[0] + bins[1] + bins[2] + bins[3];
  uint64_t all, before[4], at = block.prefix(sum, &all);
  const tc_long_sums otsu(all);
  float bound[4], best = 0.0f;
#pragma unroll
  for (int e = 0; e < 4; e++) {
    before[e] = at;
    bound[e] = -1.0f;
    if (bins[e] != 0) {
      float end;
      bound[e] = otsu.bound_of(at, at + bins[e], (t * 4 + e) << 10, 10, &end);
      best = fmaxf(best, end);
    }
    at += bins[e];
  }
  best = tc_block_most(block, best);
  uint32_t mine = 0, alive; /* a bit per bin; all of the group */
  if (!tc_keeps_whole(TAILCUT_OTSU, (int32_t)otsu.n, bad)) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      mine |= (uint32_t)(bound[e] >= 0.0f && otsu.survives(bound[e], best)) << e;
    }
  }
  uint32_t number = block.prefix((uint32_t)__popc(mine), &alive), numbers = 0;
  if (tile.index == 0 && t == 0) state.all = all, state.alive = alive;
  if (tile.index == 0 && t < TC_LONG_SPAN && t >= alive) state.listed[t] = 0, state.before[t] = 0;
#pragma unroll
  for (int e = 0; e < 4; e++) {
    const bool lives = mine >> e & 1;
    numbers |= (lives ? min(number, TC_DEAD - 1) : TC_DEAD) << 8 * e;
    if (lives && tile.index == 0) { /* for the stages behind */
      state.listed[number] = t * 4 + e;
      state.before[number] = before[e];
    }
    number += lives;
  }
  s.numbers[t] = numbers;
  __syncthreads();
  if (alive > TC_LONG_SPAN) {
    tc_order_by_bins<QUADS>(s, a, tile, state, offsets, before);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    const uint32_t bin = tc_offset_bin(offsets[i]), low = offsets[i] - (bin << 10);
    /* Behind low 1,024, the curve's last value, there is no cut. */
    const uint32_t number = ((const uint8_t *)s.numbers)[bin];
    if (low < 1024 && number != TC_DEAD) atomicAdd(&s.values[number << 10 | low], 1u);
  }
  __syncthreads();
  for (uint32_t i = t; i < alive << 10; i += TC_LONG_THREADS) {
    const uint32_t count = s.values[i];
    if (count > 0) atomicAdd(&state.values[i], count);
  }
}

#endif /* TAILCUT_CUT_LONG_BINS_CUH_ */
