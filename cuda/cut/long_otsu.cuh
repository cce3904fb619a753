/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long_otsu: where OTSU's maximum lies (cut/otsu.cuh), from counts of curve values. Shared by
 * cut/long_bins.cuh (which makes the counts) and cut/long_emit.cuh (whose blocks each decide for
 * themselves).
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

/* Offsets of a thread's rows. AUTO's exponent is found from the tiles' statistics: `magnitude` has
 * been set to 0 before a barrier. Called by the whole block. */
template <int QUADS>
__device__ __forceinline__ void tc_offsets(const tc_long &a, const tc_long_tile &tile,
                                           const tc_long_rows<QUADS> &rows, uint32_t &magnitude,
                                           uint32_t (&offsets)[4 * QUADS]) {
  const tc_scale scale = tc_scale_of(tc_long_exponent(a, tile, magnitude));
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    const bool number = (rows.none >> i & 1) == 0 && rows.s[i] == rows.s[i];
    offsets[i] = number ? tc_offset(rows.s[i], scale) : TC_NO_OFFSET;
  }
}

__device__ __forceinline__ uint32_t tc_offset_bin(uint32_t offset) {
  return min(offset >> 10, (uint32_t)TC_LONG_BINS - 1);
}

/* Counts of single values of TC_LONG_SPAN bins; padded, so that threads with 16 neighbours each
 * meet no bank conflicts. */
#define TC_VALUES (TC_LONG_SPAN * 1024)
__device__ __forceinline__ uint32_t tc_value_place(uint32_t v) { return v + (v >> 5); }

struct tc_otsu_space {
  tc_long_block::space block;
  uint64_t sums[TC_LONG_WARPS];
  uint32_t top; /* set to 0 before anything else */
  /* The group's state, read by one thread. */
  uint64_t at, all;
  uint32_t first, width;
  /* Flat curves only. */
  uint32_t alive, ends[TC_LONG_SPAN], places[TC_LONG_SPAN];
  uint64_t before[TC_LONG_SPAN];
  uint16_t bins[TC_LONG_BINS];
  uint32_t values[TC_VALUES + TC_VALUES / 32];
};

/* Reads the group's state into shared memory; a barrier must follow. One thread: the words are one
 * line of L2 for the whole grid. */
__device__ __forceinline__ void tc_otsu_open(tc_otsu_space &s, const tc_long_state &state) {
  if (threadIdx.x != 0) return;
  const ulonglong2 sums = __ldcg((const ulonglong2 *)&state.at);
  s.at = sums.x;
  s.all = sums.y;
  s.first = __ldcg(&state.first);
  s.width = __ldcg(&state.width);
}

/* The best value of at most TC_LONG_SPAN bins. A thread looks at 8 neighbouring values; only runs
 * of 8 that may win are looked at one by one. */
__device__ inline tc_best tc_otsu_values(tc_otsu_space &s, const tc_long_state &state) {
  tc_long_block block(s.block);
  const tc_long_sums otsu(s.all);
  const uint32_t first = s.first << 10, end = s.width << 10;
  tc_best best = tc_best_none();
  uint64_t done = 0;
  for (uint32_t part = 0; part * TC_LONG_THREADS * 8 < end; part++) {
    const uint32_t v = (part * TC_LONG_THREADS + threadIdx.x) * 8;
    const uint4 *from = (const uint4 *)&state.values[v];
    const uint4 w0 = __ldcg(from), w1 = __ldcg(from + 1);
    const uint32_t counts[8] = {w0.x, w0.y, w0.z, w0.w, w1.x, w1.y, w1.z, w1.w};
    uint32_t count = 0, low = 0;
#pragma unroll
    for (int e = 0; e < 8; e++) {
      count += counts[e];
      low += counts[e] * e;
    }
    const uint64_t sum = ((uint64_t)count << TC_SUM_BITS) + (uint64_t)count * (first + v) + low;
    uint64_t all;
    const uint64_t at = s.at + done + block.prefix(sum, &all);
    done += all;
    float bound = -1.0f;
    if (__any_sync(TC_FULL, count != 0)) {
      float behind = 0.0f;
      if (count > 0) bound = otsu.bound_of(at, at + sum, first + v, 3, &behind);
      const uint32_t top = __reduce_max_sync(TC_FULL, __float_as_uint(behind));
      if ((threadIdx.x & 31) == 0) atomicMax(&s.top, top);
    }
    __syncthreads();
    /* A part may see what the next one finds: as good. */
    if (bound >= 0.0f && otsu.survives(bound, __uint_as_float(*(volatile uint32_t *)&s.top))) {
      uint32_t k = tc_rows_of(at);
      uint64_t sums = tc_sum_of(at);
#pragma unroll
      for (int e = 0; e < 8; e++) {
        k += counts[e];
        sums += (uint64_t)counts[e] * (first + v + e);
        if (counts[e] > 0 && k < otsu.n) best.offer(otsu.exact(k, sums), first + v + e, k);
      }
    }
  }
  return tc_block_best(block, best);
}

/* Flat curves: more bins can win than are counted at once. refine has put their rows into
 * `entries`, bin by bin (low part | count << 11): each tile of the group takes 8 bins at a time.
 * This block's best. */
__device__ __noinline__ inline tc_best tc_otsu_flat(tc_otsu_space &s, const tc_long &a,
                                                    const tc_long_tile &tile,
                                                    const tc_long_state &state) {
  constexpr uint32_t EACH = TC_VALUES / TC_LONG_THREADS; /* values of a thread: part of one bin */
  constexpr uint32_t WARPS = 1024 / EACH / 32;           /* of a bin */
  const tc_long_sums otsu(s.all);
  const uint32_t t = threadIdx.x, lane = t & 31, warp = t >> 5;
  tc_best best = tc_best_none();
  if (warp == 0) { /* the list of bins */
    uint32_t m0 = __ldcg(&state.alive[lane * 2]), m1 = __ldcg(&state.alive[lane * 2 + 1]);
    const uint32_t count = __popc(m0) + __popc(m1);
    uint32_t at = tc_warp_upto(count);
    if (lane == 31) s.alive = at;
    at -= count;
    for (; m0 != 0; m0 &= m0 - 1) s.bins[at++] = (uint16_t)(lane * 64 + __ffs((int)m0) - 1);
    for (; m1 != 0; m1 &= m1 - 1) s.bins[at++] = (uint16_t)(lane * 64 + 32 + __ffs((int)m1) - 1);
  }
  __syncthreads();
  const uint32_t *entries = a.entries + tile.base;
  for (uint32_t from = tile.index * TC_LONG_SPAN; from < s.alive;
       from += tile.tiles * TC_LONG_SPAN) {
    const uint32_t bins = min((uint32_t)TC_LONG_SPAN, s.alive - from);
    if (warp == 0) {
      uint64_t before = 0;
      uint32_t taken = 0;
      if (lane < bins) {
        before = __ldcg(&state.before[s.bins[from + lane]]);
        taken = __ldcg(&state.taken[s.bins[from + lane]]);
      }
      const uint32_t upto = tc_warp_upto(taken);
      if (lane < TC_LONG_SPAN) {
        s.ends[lane] = upto;
        s.places[lane] = tc_rows_of(before) - (upto - taken);
        s.before[lane] = before;
      }
    }
    for (uint32_t i = t; i < TC_VALUES + TC_VALUES / 32; i += TC_LONG_THREADS) s.values[i] = 0;
    __syncthreads();
    for (uint32_t i = t; i < s.ends[TC_LONG_SPAN - 1]; i += TC_LONG_THREADS) {
      uint32_t bin = 0;
#pragma unroll
      for (int b = 0; b < TC_LONG_SPAN - 1; b++) bin += i >= s.ends[b];
      const uint32_t entry = __ldcg(entries + s.places[bin] + i), low = entry & 2047;
      /* 1,024 is the curve's last value, behind which there is no cut. */
      if (low < 1024) atomicAdd(&s.values[tc_value_place(bin << 10 | low)], entry >> 11);
    }
    __syncthreads();
    uint64_t sum = 0;
    const uint32_t bin = t * EACH / 1024, v = t * EACH % 1024;
#pragma unroll 4
    for (uint32_t e = 0; e < EACH; e++) {
      const uint32_t count = s.values[tc_value_place(t * EACH + e)];
      sum += ((uint64_t)count << TC_SUM_BITS) + (uint64_t)count * (v + e);
    }
    const uint64_t upto = tc_warp_upto(sum);
    if (lane == 31) s.sums[warp] = upto;
    __syncthreads();
    if (bin < bins) {
      const uint32_t first = (uint32_t)s.bins[from + bin] << 10;
      uint64_t at = upto - sum;
#pragma unroll
      for (uint32_t w = 0; w < WARPS - 1; w++) {
        if (w < warp % WARPS) at += s.sums[warp - warp % WARPS + w];
      }
      uint32_t k = tc_rows_of(s.before[bin] + at);
      uint64_t sums = tc_sum_of(s.before[bin]) + tc_sum_of(at) + (uint64_t)tc_rows_of(at) * first;
#pragma unroll 1
      for (uint32_t e = 0; e < EACH; e++) {
        const uint32_t count = s.values[tc_value_place(t * EACH + e)];
        k += count;
        sums += (uint64_t)count * (first + v + e);
        if (count > 0 && k < otsu.n) best.offer(otsu.exact(k, sums), first + v + e, k);
      }
    }
    __syncthreads(); /* everybody is done with this turn's shared memory */
  }
  tc_long_block block(s.block);
  return tc_block_best(block, best);
}

/* Publishes a tile's best; whether it was the group's last. Called by the block. */
__device__ inline bool tc_otsu_publish(tc_otsu_space &s, const tc_long &a, const tc_long_tile &tile,
                                       tc_long_state &state, tc_best best) {
  if (threadIdx.x == 0) {
    a.best[tile.first + tile.index] = best;
    __threadfence();
    s.alive = atomicAdd(&state.arrived, 1u);
    __threadfence();
  }
  __syncthreads();
  return s.alive + 1 == (uint32_t)tile.tiles;
}

/* The best of the group's tiles, all of which have published theirs. */
__device__ inline tc_best tc_otsu_join(tc_otsu_space &s, const tc_long &a,
                                       const tc_long_tile &tile) {
  tc_best best = tc_best_none();
  if ((int32_t)threadIdx.x < tile.tiles) {
    const uint4 w = __ldcg((const uint4 *)(a.best + tile.first + threadIdx.x));
    best = {(uint64_t)w.y << 32 | w.x, w.z, w.w};
  }
  tc_long_block block(s.block);
  return tc_block_best(block, best);
}

/* N, and whether the group is kept whole for want of a reference or a curve; s.all is known. */
__device__ __forceinline__ tc_stats tc_otsu_stats(const tc_otsu_space &s, const tc_long &a,
                                                  const tc_long_tile &tile,
                                                  const tc_long_state &state) {
  tc_stats stats = tc_stats_none();
  stats.candidates = a.cut.roles != nullptr ? (int32_t)__ldcg(&state.candidates) : tile.group.n;
  stats.usable = (int32_t)tc_rows_of(s.all);
  return stats;
}

#endif /* TAILCUT_CUT_LONG_OTSU_CUH_ */
