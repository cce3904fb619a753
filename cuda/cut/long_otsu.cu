/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long_otsu: counts of curve values of long groups, as much as OTSU needs (Otsu 1979; curve.h).
 *
 * Strategy: fill counts rows and their offsets by bins of 1,024 curve values: in shared memory, ONE
 * packed 32-bit atomic a row, then one reduction per bin and block that has any. refine bounds B in
 * every bin, in each block anew (that costs less than another kernel), and counts single values in
 * the bins that can win; where these are too far apart (a flat curve: B near its maximum over a
 * wide range) it puts rows in order of their bins instead, so that cut/long_emit.cu's blocks can
 * share the bins. count is for clamped rules: k itself. Precision: exact; cut/long_otsu.cuh says
 * why. Limits: 2^20 rows a group.
 *
 * A row's packed word is count << 21 | low part of its offset (0 .. 1,024): a copy of the bins per
 * 1,024 rows cannot overflow, 1,024 << 21 | 2^20 being below 2^32.
 * Measured: bench/NOTES.md, "cut".
 */
#include "cut/long_otsu.cuh"

namespace {

constexpr uint32_t LOW = (1u << 21) - 1;

template <int QUADS>
__global__ void __launch_bounds__(TC_LONG_THREADS) fill(const __grid_constant__ tc_long a) {
  constexpr int COPIES = QUADS * TC_LONG_THREADS * 4 / 1024;
  extern __shared__ uint4 dynamic[];
  __shared__ tc_long_tile tile;
  __shared__ uint32_t magnitude, candidates;
  uint32_t *bins = (uint32_t *)dynamic;
  const uint32_t t = threadIdx.x;
  for (uint32_t i = t; i < COPIES * TC_LONG_BINS / 4; i += TC_LONG_THREADS) {
    dynamic[i] = make_uint4(0, 0, 0, 0);
  }
  if (t == 0) magnitude = candidates = 0;
  if (!tc_long_begin(a, tile)) return;
  tc_long_state &state = a.states[tile.slot];
  tc_long_rows<QUADS> rows;
  uint32_t offsets[4 * QUADS];
  tc_long_load(a, tc_long_group(a, tile), tc_long_first<QUADS>(tile.index), &rows);
  tc_offsets(a, tile, rows, magnitude, offsets);
  uint32_t *own = bins + (t >> 5) * QUADS * 128 / 1024 * TC_LONG_BINS;
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    const uint32_t bin = tc_offset_bin(offsets[i]);
    if (offsets[i] != TC_NO_OFFSET) atomicAdd(own + bin, (1u << 21) + (offsets[i] - (bin << 10)));
  }
  if (a.cut.roles != nullptr) {
    const uint32_t count = __reduce_add_sync(TC_FULL, 4 * QUADS - (uint32_t)__popc(rows.none));
    if ((t & 31) == 0) atomicAdd(&candidates, count);
  }
  __syncthreads();
#pragma unroll
  for (int e = 0; e < TC_LONG_BINS / TC_LONG_THREADS; e++) {
    const uint32_t bin = t + e * TC_LONG_THREADS;
    uint32_t rows = 0, low = 0;
#pragma unroll
    for (int c = 0; c < COPIES; c++) {
      const uint32_t word = bins[c * TC_LONG_BINS + bin];
      rows += word >> 21;
      low += word & LOW;
    }
    if (rows > 0) {
      atomicAdd((unsigned long long *)&state.bins[bin],
                (unsigned long long)(((uint64_t)rows << TC_SUM_BITS) +
                                     (uint64_t)rows * (bin << 10) + low));
    }
  }
  if (t == 0 && a.cut.roles != nullptr && candidates > 0) {
    atomicAdd(&state.candidates, candidates);
  }
}

struct refine_space {
  tc_long_block::space block;
  uint32_t top, first, end, magnitude;
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
__device__ __forceinline__ void order_by_bins(refine_space &s, const tc_long &a,
                                              const tc_long_tile &tile, tc_long_state &state,
                                              const uint32_t (&offsets)[4 * QUADS],
                                              const uint64_t (&before)[4]) {
  uint32_t *rows = s.flat[0], *value = s.flat[1], *equal = s.flat[2], *places = s.flat[3];
  uint32_t place[4 * QUADS]; /* among the block's rows of the bin; TC_NO_OFFSET: is counted */
  uint32_t *entries = a.entries + tile.base;
  const uint32_t t = threadIdx.x;
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) { /* any of them stays */
    if (offsets[i] != TC_NO_OFFSET) {
      *(volatile uint32_t *)&value[tc_offset_bin(offsets[i])] = offsets[i];
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    place[i] = TC_NO_OFFSET;
    if (offsets[i] == TC_NO_OFFSET) continue;
    const uint32_t bin = tc_offset_bin(offsets[i]);
    if (value[bin] == offsets[i]) {
      atomicAdd(&equal[bin], 1u);
    } else {
      place[i] = atomicAdd(&rows[bin], 1u);
    }
  }
  __syncthreads();
#pragma unroll
  for (int e = 0; e < 4; e++) {
    const uint32_t bin = t * 4 + e;
    if (equal[bin] == 0) continue; /* the block has no row of it */
    const uint32_t at = tc_rows_of(before[e]) + atomicAdd(&state.taken[bin], rows[bin] + 1);
    entries[at] = (value[bin] - (bin << 10)) | equal[bin] << 11;
    places[bin] = at + 1;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    if (place[i] == TC_NO_OFFSET) continue;
    const uint32_t bin = tc_offset_bin(offsets[i]);
    entries[places[bin] + place[i]] = (offsets[i] - (bin << 10)) | 1u << 11;
  }
}

template <int QUADS>
__global__ void __launch_bounds__(TC_LONG_THREADS, 1) refine(const __grid_constant__ tc_long a) {
  __shared__ refine_space s;
  __shared__ tc_long_tile tile;
  tc_long_block block(s.block);
  const uint32_t t = threadIdx.x, lane = t & 31;
  tc_long_open(a, blockIdx.x, tile);
  for (uint32_t i = t; i < TC_VALUES / 4; i += TC_LONG_THREADS) {
    ((uint4 *)s.values)[i] = make_uint4(0, 0, 0, 0);
  }
  if (t == 0) s.top = 0, s.first = TC_NO_OFFSET, s.end = 0, s.magnitude = 0;
  __syncthreads();
  uint32_t offsets[4 * QUADS];
  const bool used = tile.number >= 0, bad = (tile.flags & TAILCUT_FLAG_BAD_REFERENCE) != 0;
  tc_long_state &state = a.states[used ? tile.slot : 0];
  if (used) { /* all that an earlier kernel than the last has left */
    tc_long_rows<QUADS> rows;
    tc_long_load(a, tc_long_group(a, tile), tc_long_first<QUADS>(tile.index), &rows);
    tc_offsets(a, tile, rows, s.magnitude, offsets);
  }
  tc_wait_previous();
  tc_let_next_start();
  if (!used) return;

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
  if (__any_sync(TC_FULL, sum != 0)) {
    const uint32_t top = __reduce_max_sync(TC_FULL, __float_as_uint(best));
    if (lane == 0) atomicMax(&s.top, top);
  }
  __syncthreads();
  best = __uint_as_float(s.top);
  uint32_t first = TC_NO_OFFSET, end = 0, alive = 0;
#pragma unroll
  for (int e = 0; e < 4; e++) {
    if (bound[e] >= 0.0f && otsu.survives(bound[e], best)) {
      first = min(first, t * 4 + e);
      end = t * 4 + e + 1;
      alive |= 1u << e;
    }
  }
  if (__any_sync(TC_FULL, alive)) {
    first = __reduce_min_sync(TC_FULL, first);
    end = __reduce_max_sync(TC_FULL, end);
    if (lane == 0) atomicMin(&s.first, first), atomicMax(&s.end, end);
  }
  __syncthreads();
  first = s.first;
  const bool whole = tc_keeps_whole(TAILCUT_OTSU, (int32_t)otsu.n, bad);
  const uint32_t width = whole ? 0 : s.end - first;

  if (tile.index == 0) { /* for the kernels behind */
    if (t == 0) {
      state.all = all;
      state.first = first;
      state.width = width;
      if (width == 0) state.at = 0;
    }
#pragma unroll
    for (int e = 0; e < 4; e++) {
      if (width > 0 && t * 4 + e == first) state.at = before[e];
      if (width > TC_LONG_SPAN) state.before[t * 4 + e] = before[e];
    }
    if (width > TC_LONG_SPAN) {
      uint32_t word = alive << (lane % 8 * 4);
#pragma unroll
      for (int mask = 1; mask < 8; mask <<= 1) word |= __shfl_xor_sync(TC_FULL, word, mask);
      if (lane % 8 == 0) state.alive[t / 8] = word;
    }
  }
  if (width == 0) return;
  if (width > TC_LONG_SPAN) {
    order_by_bins<QUADS>(s, a, tile, state, offsets, before);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    const uint32_t v = offsets[i] - (first << 10);
    if (offsets[i] != TC_NO_OFFSET && v < width << 10) atomicAdd(&s.values[v], 1u);
  }
  __syncthreads();
  for (uint32_t i = t; i < width << 10; i += TC_LONG_THREADS) {
    const uint32_t count = s.values[i];
    if (count > 0) atomicAdd(&state.values[i], count);
  }
}

/* k for rules with clamps. */
__global__ void __launch_bounds__(TC_LONG_THREADS, 1) count(const __grid_constant__ tc_long a) {
  __shared__ tc_otsu_space s;
  __shared__ tc_long_tile tile;
  if (threadIdx.x == 0) s.top = 0;
  if (!tc_long_begin(a, tile)) return;
  tc_long_state &state = a.states[tile.slot];
  tc_otsu_open(s, state);
  __syncthreads();
  tc_best best;
  if (s.width > TC_LONG_SPAN) {
    best = tc_otsu_flat(s, a, tile, state);
    if (!tc_otsu_publish(s, a, tile, state, best)) return;
    best = tc_otsu_join(s, a, tile);
  } else {
    if (tile.index > 0) return;
    best = tc_otsu_values(s, state);
  }
  if (threadIdx.x == 0) {
    const tc_stats stats = tc_otsu_stats(s, a, tile, state);
    state.k = best.value > 0 ? (int32_t)best.k : stats.candidates;
  }
}

size_t fill_bytes(int quads) { return (size_t)quads * 2 * TC_LONG_BINS * sizeof(uint32_t); }

}  // namespace

cudaError_t tc_long_otsu(const tc_long &a, int quads, bool counts, tc_chain *chain) {
  const unsigned grid = (unsigned)a.bound;
  cudaError_t error =
      tc_launch(TC_LONG_OF(fill, quads), grid, TC_LONG_THREADS, fill_bytes(quads), chain, a);
  if (error == cudaSuccess) {
    error = tc_launch(TC_LONG_OF(refine, quads), grid, TC_LONG_THREADS, 0, chain, a);
  }
  if (error == cudaSuccess && counts) {
    error = tc_launch(count, grid, TC_LONG_THREADS, 0, chain, a);
  }
  return error;
}

void tc_long_otsu_load(cudaError_t *error) {
  tc_load(fill<1>, error);
  tc_load(fill<2>, error);
  tc_load(fill<4>, error, fill_bytes(4));
  TC_LONG_LOAD(refine, error);
  tc_load(count, error);
}
