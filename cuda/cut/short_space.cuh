/* SPDX-License-Identifier: Apache-2.0 */
/* cut_short: what the parts of a short group's cut share (cut/short.cuh): the shape of a block, its
 * shared memory, how it selects a key and how it reports. */
#ifndef TAILCUT_CUT_SHORT_SPACE_CUH_
#define TAILCUT_CUT_SHORT_SPACE_CUH_

#include <type_traits>

#include "cut/otsu.cuh"

template <int THREADS_, int ITEMS_, int LOG_>
struct tc_short_shape {
  static constexpr int THREADS = THREADS_, ITEMS = ITEMS_, LOG = LOG_, WARPS = THREADS / 32;
  static constexpr int ROWS = THREADS * ITEMS, BINS = 1 << LOG, EACH = BINS / THREADS;
  static constexpr int LIST = ROWS < 2048 ? (ROWS > BINS ? ROWS : BINS) : 2048;
  static constexpr int COUNT_BITS = 32 - __builtin_clz((unsigned)ROWS), LOW_BITS = 32 - COUNT_BITS;
  /* Of offsets from the smallest: at least one is 0. */
  typedef typename std::conditional<ROWS <= 2048, uint32_t, uint64_t>::type sum;
  static_assert(EACH >= 1 && ITEMS <= 8 && WARPS <= 32, "every thread has a bin");
};

template <class S>
struct tc_short_space {
  uint32_t bins[S::BINS];
  alignas(16) uint32_t list[S::LIST + 32]; /* the last 32: read as a whole, never a row's */
  uint32_t upto[S::BINS + 1];              /* rows before a bin, and the sum of their offsets */
  typename S::sum upto_sum[S::BINS + 1];
  uint32_t listed;
  tc_digit digit;
  typename tc_block<S::WARPS>::space block, votes;
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

/* Sum of the values of the warps before this one, and of all. v is the same in a whole warp; sum
 * adds a warp's values up, in every lane: by reductions, fewer instructions than block.before. */
template <class Block, class T, class Sum>
__device__ __forceinline__ T tc_short_before(Block &block, const T &v, T *total, Sum sum) {
  bool gathered = false;
  return block.combine(v, T(), [&](const T &own) -> T {
    if (!gathered) {
      gathered = true;
      return own;
    }
    *total = sum(own);
    return sum(block.lane < block.warp ? own : T());
  });
}

/* The cutoff that keeps k of the candidates, whose keys are this block's: radix select over the
 * keys' own range, until few are left, which every warp compares. */
template <class S>
__device__ inline tc_cutoff tc_short_select(tc_short_space<S> &space,
                                            const uint32_t (&key)[S::ITEMS], const tc_stats &stats,
                                            int32_t k) {
  tc_block<S::WARPS> block(space.votes);
  const int thread = (int)threadIdx.x, lane = thread & 31;
  if (k <= 0) return {0, 0};
  if (k >= stats.usable) return {TC_KEY_UNUSABLE, k - stats.usable};
  uint32_t low = stats.first, range = stats.last - stats.first, left = (uint32_t)k, listed;
  for (;;) { /* the k-th is the left-th of the keys low .. low + range, all of them numbers' */
    const int shift = range > 0 ? max(0, 32 - __clz((int)range) - S::LOG) : 0;
    __syncthreads(); /* neither bins nor votes are read any more */
#pragma unroll
    for (int e = 0; e < S::EACH; e++) space.bins[thread + e * S::THREADS] = 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      const uint32_t at = key[i] - low;
      if (at <= range) atomicAdd(&space.bins[at >> shift], 1u);
    }
    __syncthreads();
    uint32_t count[S::EACH];
#pragma unroll
    for (int e = 0; e < S::EACH; e++) count[e] = space.bins[thread * S::EACH + e];
    const tc_digit digit = tc_find_digit(block, space.digit, count, left);
    low += digit.place << shift;
    left -= digit.before;
    range = min(range - (digit.place << shift), (1u << shift) - 1);
    if (shift == 0) return {low, (int32_t)left};
    listed = digit.inside;
    if (listed <= 32) break;
  }
  /* The few keys left, compared with each other by every warp. */
  if (thread == 0) space.listed = 0;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    if (key[i] - low <= range) space.list[atomicAdd(&space.listed, 1u)] = key[i];
  }
  __syncthreads();
  const uint32_t own = (uint32_t)lane < listed ? space.list[lane] : TC_KEY_NONE;
  uint32_t less = 0, same = 0;
  for (uint32_t q = 0; q < listed; q++) {
    const uint32_t other = __shfl_sync(TC_FULL, own, (int)q);
    less += other < own;
    same += other == own;
  }
  const uint32_t is_it = __ballot_sync(TC_FULL, less < left && left <= less + same);
  const int who = __ffs((int)is_it) - 1;
  return {__shfl_sync(TC_FULL, own, who), (int32_t)(left - __shfl_sync(TC_FULL, less, who))};
}

#endif /* TAILCUT_CUT_SHORT_SPACE_CUH_ */
