/* SPDX-License-Identifier: Apache-2.0 */
/* cut_short: what the parts of a short group's cut share (cut/short.cuh): the shape of a block, its
 * shared memory, and how it knows statistics of its keys. */
#ifndef TAILCUT_CUT_SHORT_SPACE_CUH_
#define TAILCUT_CUT_SHORT_SPACE_CUH_

#include "cut/otsu.cuh"

template <int ROWS>
struct tc_short_sum { /* of offsets from the smallest: at least one is 0 */
  typedef uint64_t type;
};
template <>
struct tc_short_sum<2048> {
  typedef uint32_t type;
};

template <int THREADS_, int ITEMS_, int LOG_>
struct tc_short_shape {
  static constexpr int THREADS = THREADS_, ITEMS = ITEMS_, LOG = LOG_, WARPS = THREADS / 32;
  static constexpr int ROWS = THREADS * ITEMS, BINS = 1 << LOG, EACH = BINS / THREADS;
  static constexpr int LIST = ROWS < 2048 ? (ROWS > BINS ? ROWS : BINS) : 2048;
  static constexpr int COUNT_BITS = 32 - __builtin_clz((unsigned)ROWS), LOW_BITS = 32 - COUNT_BITS;
  typedef typename tc_short_sum<(ROWS <= 2048 ? 2048 : ROWS)>::type sum;
  static_assert(EACH >= 1 && ITEMS <= 8 && WARPS <= 32, "every thread has a bin");
};

template <class S>
struct tc_short_space {
  uint32_t bins[S::BINS];
  uint32_t list[S::LIST + 32]; /* the last 32: read as a whole, never a row's */
  uint32_t upto[S::BINS + 1];  /* rows before a bin, and the sum of their offsets */
  typename S::sum upto_sum[S::BINS + 1];
  uint4 extremes[S::WARPS];
  uint32_t counts[32], bounds[32], warps[32], fixed[32];
  typename S::sum sums[32];
  uint2 alive[32];
  uint32_t listed, digit, before, inside;
  typename tc_block<S::WARPS>::space block;
};

/* What must be so before a cut begins: one barrier lies between. */
template <class S>
__device__ __forceinline__ void tc_short_prepare(tc_short_space<S> &space) {
#pragma unroll
  for (int e = 0; e < S::EACH; e++) space.bins[threadIdx.x + e * S::THREADS] = 0;
  if (threadIdx.x == 0) space.listed = space.upto[0] = 0, space.upto_sum[0] = 0;
}

/* A thread's first row; the others follow in steps of 32. */
template <class S>
__device__ __forceinline__ int32_t tc_short_row() {
  const uint32_t lane = threadIdx.x & 31;
  return (int32_t)((threadIdx.x - lane) * S::ITEMS + lane);
}

/* Writes a warp's kept rows to `kept` (NULL: where the group's list belongs); MARKS: those too
 * where asked for, and the list is not where it is not. stay: of each of a thread's rows a bit per
 * lane; next: rows that stay before the warp's own. */
template <bool MARKS, class S>
__device__ __forceinline__ void tc_short_emit(const tc_cut_args &args, const tc_cut_group &c,
                                              const uint32_t (&stay)[S::ITEMS], int32_t next,
                                              int32_t *kept) {
  const uint32_t lane = threadIdx.x & 31, below = (1u << lane) - 1;
  const int32_t row = tc_short_row<S>();
  if (kept == nullptr) kept = c.kept;
  if (MARKS && args.out.marks != nullptr) {
    tc_mark *to = args.out.marks + tc_mark_of(c.group.start, c.group.b) + (uint32_t)row / 32;
    int32_t before = next;
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      if (lane == 0 && row + i * 32 < c.group.n) to[i] = {stay[i], before};
      before += __popc(stay[i]);
    }
  }
  if (MARKS && args.out.no_list != 0) return;
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    if (stay[i] >> lane & 1) kept[next + __popc(stay[i] & below)] = c.group.first + row + i * 32;
    next += __popc(stay[i]);
  }
}

/* What args.out asks for beside the order, the list and the marks. */
template <class S>
__device__ __forceinline__ void tc_short_report(const tc_cut_args &args, const tc_cut_group &c,
                                                const uint32_t (&stay)[S::ITEMS], int32_t count,
                                                const tc_stats &stats, bool whole) {
  if (args.out.mask != nullptr) {
    const int32_t row = tc_short_row<S>();
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      if (row + i * 32 < c.group.n) {
        tc_cut_mask(args, c)[row + i * 32] = stay[i] >> (threadIdx.x & 31) & 1;
      }
    }
    tc_cut_clear_mask(args, c, (int32_t)threadIdx.x, S::THREADS);
  }
  if (threadIdx.x == 0) {
    tc_cut_report(args, c, count, tc_flags_out(c.flags, stats.candidates, stats.usable, whole));
  }
}

/* Rows with a key below this one stay, and the first `ties` of those that have it. */
struct tc_cutoff {
  uint32_t key;
  int32_t ties;
};

/* Sums over a warp, in every lane. */
__device__ __forceinline__ uint32_t tc_short_total(uint32_t v) {
  return __reduce_add_sync(TC_FULL, v);
}
__device__ __forceinline__ uint64_t tc_short_total(uint64_t v) { /* of values below 2^40 */
  return __reduce_add_sync(TC_FULL, (uint32_t)(v & 0x1FFFFFu)) +
         ((uint64_t)__reduce_add_sync(TC_FULL, (uint32_t)(v >> 21)) << 21);
}

/* What the block's threads know together of their rows' keys: one barrier. What the rule does
 * not ask for is not worked out: `above` is THRESHOLD's, magnitude AUTO's. */
template <class S>
__device__ __forceinline__ tc_stats tc_short_stats(tc_short_space<S> &space,
                                                   const uint32_t (&key)[S::ITEMS],
                                                   const tailcut_rule &rule) {
  const int lane = (int)(threadIdx.x & 31);
  const bool counts = rule.detector == TAILCUT_THRESHOLD;
  const bool scales = rule.scale == TAILCUT_SCALE_AUTO && !counts;
  uint32_t counted = 0, other = 0; /* counted: usable ones << 16 | candidates */
  uint4 v = {TC_KEY_NONE, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    const bool usable = key[i] < TC_KEY_UNUSABLE;
    counted += usable ? 0x10001u : key[i] == TC_KEY_UNUSABLE;
    v.x = min(v.x, key[i]);
    v.y = max(v.y, usable ? key[i] : 0u);
  }
  if (counts) {
    const uint32_t tau_key = tc_tau_key(rule);
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) other += key[i] <= tau_key;
    other = __reduce_add_sync(TC_FULL, other);
  } else if (scales) {
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      const uint32_t bits = tc_float_bits(tc_key_score(key[i])) & 0x7FFFFFFFu; /* NaN's are more */
      if (bits < 0x7F800000u) other = max(other, bits);
    }
    other = __reduce_max_sync(TC_FULL, other);
  }
  v = {__reduce_min_sync(TC_FULL, v.x), __reduce_max_sync(TC_FULL, v.y),
       __reduce_add_sync(TC_FULL, counted), other};
  if (lane == 0) space.extremes[threadIdx.x >> 5] = v;
  __syncthreads();
  v = {TC_KEY_NONE, 0, 0, 0};
  if (lane < S::WARPS) v = space.extremes[lane];
  tc_stats s = tc_stats_none();
  s.first = __reduce_min_sync(TC_FULL, v.x);
  s.last = __reduce_max_sync(TC_FULL, v.y);
  counted = __reduce_add_sync(TC_FULL, v.z);
  s.candidates = (int32_t)(counted & 0xFFFFu);
  s.usable = (int32_t)(counted >> 16);
  if (counts) s.above = (int32_t)__reduce_add_sync(TC_FULL, v.w);
  if (scales) s.magnitude = __reduce_max_sync(TC_FULL, v.w);
  return s;
}

#endif /* TAILCUT_CUT_SHORT_SPACE_CUH_ */
