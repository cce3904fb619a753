/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long_otsu: where OTSU's maximum lies (cut/otsu.cuh), from counts of curve values, which
 * cut/long_bins.cuh makes of the bins that are alive.
 *
 * Up to TC_LONG_SPAN bins: their values have been counted by all blocks, and whoever needs the
 * answer looks at them. More (a flat curve: B near its maximum over a wide range): each tile of the
 * group counts the values of as many bins at a time, from rows in order of their bins, and the last
 * to have done so leaves the best of all.
 *
 * A packed prefix is a count of rows << 42 | the sum of their offsets (at most 2^20 rows: 21 bits,
 * 2^41).
 */
#ifndef TAILCUT_CUT_LONG_OTSU_CUH_
#define TAILCUT_CUT_LONG_OTSU_CUH_

#include "cut/long.cuh"

#define TC_SUM_BITS 42
__device__ __forceinline__ uint32_t tc_rows_of(uint64_t packed) {
  return (uint32_t)(packed >> TC_SUM_BITS);
}
__device__ __forceinline__ uint64_t tc_sum_of(uint64_t packed) {
  return packed & (((uint64_t)1 << TC_SUM_BITS) - 1);
}

struct tc_long_sums : tc_otsu<uint64_t> {
  __device__ explicit tc_long_sums(uint64_t all)
      : tc_otsu<uint64_t>{tc_rows_of(all), tc_sum_of(all)} {}
  __device__ __forceinline__ float bound_of(uint64_t from, uint64_t to, uint32_t low, int shift,
                                            float *end) const {
    return bound(tc_rows_of(from), tc_sum_of(from), tc_rows_of(to), tc_sum_of(to), low, shift, end);
  }
};

/* Offsets of a thread's rows. Called by the whole block. */
template <int QUADS>
__device__ __forceinline__ void tc_offsets(tc_long_block &block, const tc_long &a,
                                           const tc_long_tile &tile,
                                           const tc_long_rows<QUADS> &rows,
                                           uint32_t (&offsets)[4 * QUADS]) {
  const tc_scale scale = tc_scale_of(tc_long_exponent(block, a, tile));
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    const bool number = (rows.none >> i & 1) == 0 && rows.s[i] == rows.s[i];
    offsets[i] = number ? tc_offset(rows.s[i], scale) : TC_NO_OFFSET;
  }
}

__device__ __forceinline__ uint32_t tc_offset_bin(uint32_t offset) {
  return min(offset >> 10, (uint32_t)TC_LONG_BINS - 1);
}

#define TC_VALUES (TC_LONG_SPAN * 1024)
#define TC_LONG_PART (TC_LONG_THREADS * 4) /* values looked at at once */

struct tc_otsu_space {
  tc_long_block::space block;
  uint64_t sums[TC_VALUES / TC_LONG_PART][TC_LONG_WARPS];
  /* The group's state. */
  uint64_t all;
  uint32_t alive;
  /* Of the bins that are looked at: their numbers, packed prefixes. */
  uint32_t bins[TC_LONG_SPAN];
  uint64_t before[TC_LONG_SPAN];
  /* Flat curves only: ends of their entries, one behind the other, and from there to their places;
   * values' counts. */
  uint32_t ends[TC_LONG_SPAN], places[TC_LONG_SPAN];
  alignas(16) uint32_t values[TC_VALUES];
};

/* Reads what is known of no more than TC_LONG_SPAN bins, from .. end - 1 of those alive; a barrier
 * must follow. One warp: the words are few lines of L2 for the whole grid. */
__device__ __forceinline__ void tc_otsu_bins(tc_otsu_space &s, const tc_long_state &state,
                                             uint32_t from, uint32_t end) {
  const uint32_t t = threadIdx.x;
  if (t >= TC_LONG_SPAN || from + t >= end) return;
  s.bins[t] = __ldcg(&state.listed[from + t]);
  s.before[t] = __ldcg(&state.before[from + t]);
}
/* The first of them, which refine fills up, and the group's state; a barrier is in here. */
__device__ __forceinline__ void tc_otsu_open(tc_otsu_space &s, const tc_long_state &state) {
  if (threadIdx.x == 0) s.all = __ldcg(&state.all), s.alive = __ldcg(&state.alive);
  tc_otsu_bins(s, state, 0, TC_LONG_SPAN);
  __syncthreads();
}

/* The best of `best` and the values of the first `bins` bins of s. A thread looks at 4 neighbouring
 * values, of which four(v) has the counts from v on; only runs of 4 that may win are looked at one
 * by one. */
template <class Four>
__device__ __forceinline__ tc_best tc_otsu_values(tc_otsu_space &s, tc_long_block &block,
                                                  uint32_t bins, tc_best best, Four four) {
  constexpr int WARPS = 1024 / 4 / 32; /* of a bin */
  const tc_long_sums otsu(s.all);
  float most = 0.0f;
#pragma unroll 1
  for (uint32_t part = 0; part * TC_LONG_PART < bins << 10; part++) {
    const uint32_t v = part * TC_LONG_PART + threadIdx.x * 4, bin = v >> 10;
    const uint4 w = bin < bins ? four(v) : make_uint4(0, 0, 0, 0);
    const uint32_t counts[4] = {w.x, w.y, w.z, w.w};
    const uint32_t first = s.bins[bin] << 10 | (v & 1023);
    const uint32_t count = w.x + w.y + w.z + w.w, low = w.y + 2 * w.z + 3 * w.w;
    const uint64_t sum = ((uint64_t)count << TC_SUM_BITS) + (uint64_t)count * first + low;
    const uint64_t upto = tc_warp_upto(sum);
    if (block.lane == 31) s.sums[part][block.warp] = upto;
    __syncthreads();
    uint64_t at = s.before[bin] + upto - sum;
    for (int other = block.warp / WARPS * WARPS; other < block.warp; other++) {
      at += s.sums[part][other];
    }
    float bound = -1.0f, end = 0.0f;
    if (count > 0) bound = otsu.bound_of(at, at + sum, first, 2, &end);
    most = fmaxf(most, tc_block_most(block, end));
    if (bound < 0.0f || !otsu.survives(bound, most)) continue;
    uint32_t k = tc_rows_of(at);
    uint64_t sums = tc_sum_of(at);
#pragma unroll
    for (int e = 0; e < 4; e++) {
      k += counts[e];
      sums += (uint64_t)counts[e] * (first + e);
      if (counts[e] > 0 && k < otsu.n) best.offer(otsu.exact(k, sums), first + e, k);
    }
  }
  return best;
}

/* The best of no more than TC_LONG_SPAN bins, of a group that s has been opened for. Neither this
 * nor the next is inlined: their registers are not the stages'. */
__device__ __noinline__ inline tc_best tc_otsu_counted(tc_otsu_space &s,
                                                       const tc_long_state &state) {
  tc_long_block block(s.block);
  const auto four = [&](uint32_t v) { return __ldcg((const uint4 *)&state.values[v]); };
  return tc_block_best(block, tc_otsu_values(s, block, s.alive, tc_best_none(), four));
}

/* This block's best on a flat curve: refine has put rows into `entries`, bin by bin (low part of
 * the offset | count << 11). */
__device__ __noinline__ inline tc_best tc_otsu_flat(tc_otsu_space &s, const tc_long &a,
                                                    const tc_long_tile &tile,
                                                    const tc_long_state &state) {
  tc_long_block block(s.block);
  const uint32_t t = threadIdx.x;
  const uint32_t *entries = a.entries + tile.base;
  tc_best best = tc_best_none();
  for (uint32_t from = tile.index * TC_LONG_SPAN; from < s.alive;
       from += tile.tiles * TC_LONG_SPAN) {
    const uint32_t bins = min((uint32_t)TC_LONG_SPAN, s.alive - from);
    tc_otsu_bins(s, state, from, s.alive);
    for (uint32_t i = t; i < TC_VALUES; i += TC_LONG_THREADS) s.values[i] = 0;
    if (t < 32) {
      __syncwarp();
      const uint32_t taken = t < bins ? __ldcg(&state.taken[s.bins[t]]) : 0;
      const uint32_t upto = tc_warp_upto(taken);
      if (t < bins) s.places[t] = tc_rows_of(s.before[t]) - (upto - taken);
      if (t < TC_LONG_SPAN) s.ends[t] = upto;
    }
    __syncthreads();
    for (uint32_t i = t; i < s.ends[TC_LONG_SPAN - 1]; i += TC_LONG_THREADS) {
      uint32_t bin = 0;
#pragma unroll
      for (int b = 0; b < TC_LONG_SPAN - 1; b++) bin += i >= s.ends[b];
      const uint32_t entry = __ldcg(entries + s.places[bin] + i), low = entry & 2047;
      /* 1,024 is the curve's last value, behind which there is no cut. */
      if (low < 1024) atomicAdd(&s.values[bin << 10 | low], entry >> 11);
    }
    __syncthreads();
    best = tc_otsu_values(s, block, bins, best,
                          [&](uint32_t v) { return *(const uint4 *)&s.values[v]; });
    __syncthreads(); /* everybody is done with this turn's shared memory */
  }
  return tc_block_best(block, best);
}

/* Leaves the group's best: on a flat curve; else where it is `needed` by the next stage. */
__device__ inline void tc_long_best(tc_otsu_space &s, const tc_long &a, const tc_long_tile &tile,
                                    bool needed, const uint32_t *refined) {
  tc_long_await(refined, (uint32_t)a.bound);
  tc_long_state &state = a.states[tile.slot];
  tc_otsu_open(s, state);
  tc_best best;
  if (s.alive > TC_LONG_SPAN) {
    tc_best *all = a.best + tile.first;
    best = tc_otsu_flat(s, a, tile, state);
    if (threadIdx.x == 0) all[tile.index] = best;
    if (!tc_arrives_last(&state.arrived, (uint32_t)tile.tiles)) return;
    tc_long_block block(s.block);
    best = tc_best_none();
    if ((int32_t)threadIdx.x < tile.tiles) best = tc_load_best(all + threadIdx.x);
    best = tc_block_best(block, best);
  } else {
    if (!needed || tile.index > 0) return;
    best = tc_otsu_counted(s, state);
  }
  if (threadIdx.x == 0) state.best = best;
}

#endif /* TAILCUT_CUT_LONG_OTSU_CUH_ */
