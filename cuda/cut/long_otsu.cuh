/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long_otsu: where OTSU's maximum lies, from counts of curve values. Shared by cut/long_otsu.cu
 * (which makes the counts) and cut/long_emit.cu (whose blocks each decide for themselves).
 *
 * Words: an offset is o = 2^20 - p, 0 .. 2^21, ascending where scores descend; a packed prefix is a
 * count of rows << 42 | the sum of their offsets (at most 2^20 rows: 21 bits, 2^41). With offsets
 * instead of p only the sign of d changes: d = k * total - N * (sum of the first k offsets).
 *
 * Over all ranks the best rank ends a run of equal p: inside a run d is linear in k, so B = d^2 /
 * (k (N-k)) is convex, and B'' >= 2 B / (k (N-k)) >= 2^-37 B: an inner rank is below the better end
 * by far more than B's rounding. So the answer is an offset, and neither ranks nor ties are needed.
 *
 * Bound of a run of ranks [a, b) whose offsets lie in [low, low + width]: d as a function of the
 * rank is concave, and between the ends it is below both tangents, of slopes that belong to the
 * run's best and worst offset. They meet at k* = a + x; L^2 / (k (N - k)) is convex for affine L,
 * so B in the run is at most the greatest of its values at a, at b and of the tangents' at k*. In
 * fp32 with room for its rounding (below): only runs whose bound reaches the best end of any run
 * are looked at exactly.
 */
#ifndef TAILCUT_CUT_LONG_OTSU_CUH_
#define TAILCUT_CUT_LONG_OTSU_CUH_

#include "cut/long.cuh"

#define TC_NO_OFFSET 0xFFFFFFFFu /* no candidate, or no number */
#define TC_SUM_BITS 42
#define TC_SUMS (((uint64_t)1 << TC_SUM_BITS) - 1)

/* 2^(30-e) as two factors: each a float, and the products are exact wherever q is not 0. */
struct tc_long_scale {
  float f, g;
};
__device__ __forceinline__ tc_long_scale tc_long_scale_of(int32_t exponent) {
  const int32_t x = 30 - exponent, half = x >> 1;
  return {tc_bits_float((uint32_t)(127 + half) << 23),
          tc_bits_float((uint32_t)(127 + x - half) << 23)};
}

/* tc_quantise and tc_curve_value without doubles. */
__device__ __forceinline__ uint32_t tc_offset(float s, tc_long_scale scale) {
  const float q = fminf(fmaxf(s * scale.f * scale.g, -0x1p30f), 0x1p30f);
  return s == s ? (uint32_t)((1 << 20) - (__float2int_rn(q) >> 10)) : TC_NO_OFFSET;
}

/* Offsets of a thread's rows. AUTO's exponent is found from the tiles' statistics: `magnitude` has
 * been set to 0 before a barrier. Called by the whole block. */
template <int QUADS>
__device__ __forceinline__ void tc_offsets(const tc_long &a, const tc_long_tile &tile,
                                           const tc_long_rows<QUADS> &rows, uint32_t &magnitude,
                                           uint32_t (&offsets)[4 * QUADS]) {
  const tc_long_scale scale = tc_long_scale_of(tc_long_exponent(a, tile, magnitude));
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    offsets[i] = rows.none >> i & 1 ? TC_NO_OFFSET : tc_offset(rows.s[i], scale);
  }
}

__device__ __forceinline__ uint32_t tc_offset_bin(uint32_t offset) {
  return min(offset >> 10, (uint32_t)TC_LONG_BINS - 1);
}

/* N' and the sum of all offsets. */
struct tc_otsu {
  uint32_t n;
  uint64_t total;

  __device__ explicit tc_otsu(uint64_t all)
      : n((uint32_t)(all >> TC_SUM_BITS)), total(all & TC_SUMS) {}

  /* B of the first k, as bits: it is never negative. */
  __device__ __forceinline__ uint64_t exact(uint32_t k, uint64_t sum) const {
    const double d = (double)(int64_t)((uint64_t)k * total - (uint64_t)n * sum);
    return (uint64_t)__double_as_longlong(tc_otsu_ratio(d, (double)k, (double)(n - k)));
  }

  /* The same of d and k (n - k) in fp32, to 2^-21.3. */
  __device__ static __forceinline__ float rough(float d, float den) {
    return den > 0.0f ? __fdividef(d * d, den) : 0.0f;
  }

  /* Upper bound of B at the ends of runs of equal offsets, for rows with packed prefixes `from`
   * before and `to` behind them and offsets low .. low + width; *end: B behind the last of them. */
  __device__ __forceinline__ float bound(uint64_t from, uint64_t to, uint64_t low, float width,
                                         float *end) const {
    const uint32_t a = (uint32_t)(from >> TC_SUM_BITS), b = (uint32_t)(to >> TC_SUM_BITS);
    const uint64_t sum_a = from & TC_SUMS, sum_b = to & TC_SUMS, count = b - a;
    const float da = (float)(int64_t)((uint64_t)a * total - (uint64_t)n * sum_a);
    const float db = (float)(int64_t)((uint64_t)b * total - (uint64_t)n * sum_b);
    *end = rough(db, (float)b * (float)(n - b));
    if (count < 2) return *end;
    const uint64_t above = sum_b - sum_a - count * low;
    /* The tangents meet x ranks behind a and y before b. width is a power of two. */
    const float y = (float)above / width;
    const float x = (float)(count * (uint64_t)width - above) / width;
    const float rise = x * (float)(int64_t)(total - (uint64_t)n * low);
    const float top =
        da + rise + (fabsf(da) + fabsf(rise)) * 0x1p-21f; /* its rounding: 6 of 2^-24 */
    const float ends = fmaxf(*end, rough(da, (float)a * (float)(n - a)));
    return fmaxf(ends, rough(top, ((float)a + x) * ((float)(n - b) + y)));
  }

  /* Whether something bounded by `bound` may reach `best`: rounding of both is below this room. */
  __device__ static __forceinline__ bool survives(float bound, float best) {
    return bound * (1.0f + 0x1.8p-20f) >= best * (1.0f - 0x1p-20f);
  }
};

/* Sum of the warps' values before this warp's, and of all. */
__device__ __forceinline__ uint64_t tc_warps_before(const uint64_t *sums, uint64_t *all) {
  const uint32_t warp = threadIdx.x >> 5;
  const uint64_t upto =
      tc_warp_upto((threadIdx.x & 31) < TC_LONG_WARPS ? sums[threadIdx.x & 31] : 0);
  *all = __shfl_sync(TC_FULL, upto, TC_LONG_WARPS - 1);
  const uint64_t before = __shfl_sync(TC_FULL, upto, (warp + 31) & 31);
  return warp > 0 ? before : 0;
}

/* Counts of single values of TC_LONG_SPAN bins; padded, so that threads with 16 neighbours each
 * meet no bank conflicts. */
#define TC_VALUES (TC_LONG_SPAN * 1024)
__device__ __forceinline__ uint32_t tc_value_place(uint32_t v) { return v + (v >> 5); }

struct tc_otsu_space {
  uint64_t sums[TC_LONG_WARPS];
  uint32_t best[3][TC_LONG_WARPS];
  uint32_t k;
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

__device__ __forceinline__ void tc_better(tc_long_best *best, tc_long_best other) {
  if (other.value > best->value || (other.value == best->value && other.offset < best->offset)) {
    *best = other;
  }
}

/* The best of all threads', in every thread. */
__device__ __forceinline__ tc_long_best tc_block_best(tc_otsu_space &s, tc_long_best own) {
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  uint32_t high = (uint32_t)(own.value >> 32), low = (uint32_t)own.value, h, l, offset;
  const auto reduce = [&](uint32_t from) {
    h = __reduce_max_sync(TC_FULL, high);
    l = __reduce_max_sync(TC_FULL, high == h ? low : 0u);
    offset = __reduce_min_sync(TC_FULL, high == h && low == l ? from : TC_NO_OFFSET);
  };
  reduce(own.offset);
  if (lane == 0) s.best[0][warp] = h, s.best[1][warp] = l, s.best[2][warp] = offset;
  __syncthreads();
  high = lane < TC_LONG_WARPS ? s.best[0][lane] : 0;
  low = lane < TC_LONG_WARPS ? s.best[1][lane] : 0;
  reduce(lane < TC_LONG_WARPS ? s.best[2][lane] : TC_NO_OFFSET);
  if (own.offset == offset && offset != TC_NO_OFFSET) s.k = own.k; /* one thread at most has it */
  __syncthreads();
  return {(uint64_t)h << 32 | l, offset, offset != TC_NO_OFFSET ? s.k : 0};
}

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
__device__ inline tc_long_best tc_otsu_values(tc_otsu_space &s, const tc_long_state &state) {
  const tc_otsu otsu(s.all);
  const uint32_t first = s.first << 10, end = s.width << 10;
  tc_long_best best = {0, TC_NO_OFFSET, 0};
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
    const bool some = __any_sync(TC_FULL, count != 0);
    const uint64_t upto = some ? tc_warp_upto(sum) : 0;
    if (part > 0) __syncthreads(); /* everybody has read the sums */
    if ((threadIdx.x & 31) == 31) s.sums[threadIdx.x >> 5] = upto;
    __syncthreads();
    uint64_t all, at = s.at + done + upto - sum;
    at += tc_warps_before(s.sums, &all);
    done += all;
    float bound = -1.0f;
    if (some) {
      float behind = 0.0f;
      if (count > 0) bound = otsu.bound(at, at + sum, first + v, 8.0f, &behind);
      const uint32_t top = __reduce_max_sync(TC_FULL, __float_as_uint(behind));
      if ((threadIdx.x & 31) == 0) atomicMax(&s.top, top);
    }
    __syncthreads();
    /* A part may see what the next one finds: as good. */
    if (bound >= 0.0f && otsu.survives(bound, __uint_as_float(*(volatile uint32_t *)&s.top))) {
      uint32_t k = (uint32_t)(at >> TC_SUM_BITS);
      uint64_t sums = at & TC_SUMS;
#pragma unroll
      for (int e = 0; e < 8; e++) {
        k += counts[e];
        sums += (uint64_t)counts[e] * (first + v + e);
        if (counts[e] > 0 && k < otsu.n) tc_better(&best, {otsu.exact(k, sums), first + v + e, k});
      }
    }
  }
  return tc_block_best(s, best);
}

/* Flat curves: more bins can win than are counted at once. refine has put their rows into
 * `entries`, bin by bin (low part | count << 11): each tile of the group takes 8 bins at a time.
 * This block's best. */
__device__ __noinline__ inline tc_long_best tc_otsu_flat(tc_otsu_space &s, const tc_long &a,
                                                         const tc_long_tile &tile,
                                                         const tc_long_state &state) {
  constexpr uint32_t EACH = TC_VALUES / TC_LONG_THREADS; /* values of a thread: part of one bin */
  constexpr uint32_t WARPS = 1024 / EACH / 32;           /* of a bin */
  const tc_otsu otsu(s.all);
  const uint32_t t = threadIdx.x, lane = t & 31, warp = t >> 5;
  tc_long_best best = {0, TC_NO_OFFSET, 0};
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
        s.places[lane] = (uint32_t)(before >> TC_SUM_BITS) - (upto - taken);
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
      uint32_t k = (uint32_t)((s.before[bin] + at) >> TC_SUM_BITS);
      uint64_t sums = (s.before[bin] & TC_SUMS) + (at & TC_SUMS) + (at >> TC_SUM_BITS) * first;
#pragma unroll 1
      for (uint32_t e = 0; e < EACH; e++) {
        const uint32_t count = s.values[tc_value_place(t * EACH + e)];
        k += count;
        sums += (uint64_t)count * (first + v + e);
        if (count > 0 && k < otsu.n) tc_better(&best, {otsu.exact(k, sums), first + v + e, k});
      }
    }
    __syncthreads(); /* everybody is done with this turn's shared memory */
  }
  return tc_block_best(s, best);
}

/* Publishes a tile's best; whether it was the group's last. Called by the block. */
__device__ inline bool tc_otsu_publish(tc_otsu_space &s, const tc_long &a, const tc_long_tile &tile,
                                       tc_long_state &state, tc_long_best best) {
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
__device__ inline tc_long_best tc_otsu_join(tc_otsu_space &s, const tc_long &a,
                                            const tc_long_tile &tile) {
  tc_long_best best = {0, TC_NO_OFFSET, 0};
  if ((int32_t)threadIdx.x < tile.tiles) {
    const uint4 w = __ldcg((const uint4 *)(a.best + tile.first + threadIdx.x));
    best = {(uint64_t)w.y << 32 | w.x, w.z, w.w};
  }
  return tc_block_best(s, best);
}

/* N, and whether the group is kept whole for want of a reference or a curve; s.all is known. */
__device__ __forceinline__ tc_stats tc_otsu_stats(const tc_otsu_space &s, const tc_long &a,
                                                  const tc_long_tile &tile,
                                                  const tc_long_state &state) {
  tc_stats stats = tc_stats_none();
  stats.candidates = a.cut.roles != nullptr ? (int32_t)__ldcg(&state.candidates) : tile.group.n;
  stats.usable = (int32_t)(s.all >> TC_SUM_BITS);
  return stats;
}

#endif /* TAILCUT_CUT_LONG_OTSU_CUH_ */
