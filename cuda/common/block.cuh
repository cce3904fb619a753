/* SPDX-License-Identifier: Apache-2.0 */
/* block: sums, reductions and lists over the threads of a block.
 *
 * Strategy: every warp owns one run of consecutive elements, warps in order: prefix sums then
 * need one exchange, and loads are coalesced. An exchange is one barrier: each warp leaves its
 * value, all meet, each warp combines all values itself. Two sets of slots alternate: who writes
 * a set again has passed the barrier that followed everybody's last look at it. */
#ifndef TAILCUT_BLOCK_CUH_
#define TAILCUT_BLOCK_CUH_

#include "common/delay.cuh"
#include "common/segments.cuh"

/* v of the lane whose number differs by `mask`; T is made of 4-byte words. */
template <class T>
__device__ __forceinline__ T tc_shuffle_xor(T v, int mask) {
  static_assert(sizeof(T) % 4 == 0, "words");
  uint32_t words[sizeof(T) / 4];
  memcpy(words, &v, sizeof v);
#pragma unroll
  for (int i = 0; i < (int)(sizeof(T) / 4); i++) {
    words[i] = __shfl_xor_sync(TC_FULL, words[i], mask);
  }
  memcpy(&v, words, sizeof v);
  return v;
}

template <class T, class Op>
__device__ __forceinline__ T tc_warp_reduce(T v, Op op) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) v = op(v, tc_shuffle_xor(v, mask));
  return v;
}

/* Inclusive prefix sum over a warp. */
template <class T>
__device__ __forceinline__ T tc_warp_upto(T v) {
  const uint32_t lane = threadIdx.x & 31;
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    const T other = __shfl_up_sync(TC_FULL, v, step);
    if (lane >= (uint32_t)step) v += other;
  }
  return v;
}

__device__ __forceinline__ uint32_t tc_warp_upto(uint32_t v) { /* half the instructions */
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    asm volatile(
        "{.reg .u32 other; .reg .pred below;\n"
        "shfl.sync.up.b32 other|below, %0, %1, 0, 0xFFFFFFFF;\n"
        "@below add.u32 %0, %0, other;}"
        : "+r"(v)
        : "r"(step));
  }
  return v;
}
__device__ __forceinline__ int32_t tc_warp_upto(int32_t v) {
  return (int32_t)tc_warp_upto((uint32_t)v);
}

struct tc_plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

template <int WARPS_>
class tc_block {
 public:
  static constexpr int WARPS = WARPS_, THREADS = 32 * WARPS_;
  struct slot {
    uint64_t words[3];
  };
  struct space {
    slot slots[2][WARPS];
  };

  int warp, lane;

  __device__ explicit tc_block(space &shared)
      : warp((int)threadIdx.x >> 5), lane((int)threadIdx.x & 31), space_(shared) {}

  /* Elements [*lo, *hi) of n are this warp's; a warp owns `span` of them (a multiple of 32). */
  __device__ int32_t span(int32_t n) const {
    return (int32_t)(((int64_t)n + THREADS - 1) / THREADS * 32);
  }
  __device__ void run(int32_t n, int32_t *lo, int32_t *hi) const {
    const int32_t each = span(n);
    *lo = (int32_t)min((int64_t)n, (int64_t)warp * each);
    *hi = min(n, *lo + each);
  }

  /* All threads' values combined, in every thread. op is associative and commutative. */
  template <class T, class Op>
  __device__ T reduce(T v, T identity, Op op) {
    const slot *all = post(tc_warp_reduce(v, op));
    v = identity;
#pragma unroll 2
    for (int i = lane; i < WARPS; i += 32) v = op(v, fetch<T>(all[i]));
    return tc_warp_reduce(v, op);
  }
  template <class T>
  __device__ T sum(T v) {
    return reduce(v, T(), tc_plus());
  }

  /* Sum of the values of the warps before this one, and of all. v is the same in a whole warp. */
  template <class T>
  __device__ T before(T v, T *total) {
    const slot *all = post(v);
    T earlier = T(), everything = T();
#pragma unroll 2
    for (int i = lane; i < WARPS; i += 32) {
      const T other = fetch<T>(all[i]);
      if (i < warp) earlier = earlier + other;
      everything = everything + other;
    }
    *total = tc_warp_reduce(everything, tc_plus());
    return tc_warp_reduce(earlier, tc_plus());
  }

 private:
  space &space_;
  int set_ = 0;

  template <class T>
  __device__ static T fetch(const slot &from) {
    T v;
    memcpy(&v, &from, sizeof v);
    return v;
  }

  template <class T>
  __device__ const slot *post(T v) {
    static_assert(sizeof(T) <= sizeof(slot), "fits a slot");
    tc_delay(set_);
    if (lane == 0) memcpy(&space_.slots[set_][warp], &v, sizeof v);
    __syncthreads();
    const slot *all = space_.slots[set_];
    set_ ^= 1;
    return all;
  }
};

/* What an element is to the list of kept rows. */
enum tc_fate { TC_DROP, TC_KEEP, TC_TIE };

struct tc_fates {
  int32_t keep, tie;
  __device__ tc_fates operator+(tc_fates o) const { return {keep + o.keep, tie + o.tie}; }
};

/* Writes the kept ones of rows 0 .. n-1 as first + row, ascending; of those that fate() calls a tie
 * the first `ties` are kept. Returns their number. */
template <class Block, class Fate>
__device__ int32_t tc_emit(Block &block, int32_t n, int32_t ties, Fate fate, int32_t first,
                           int32_t *kept) {
  int32_t lo, hi;
  tc_fates own = {0, 0}, total;
  block.run(n, &lo, &hi);
  for (int32_t base = lo; base < hi; base += 32) {
    const int f = base + block.lane < hi ? fate(base + block.lane) : TC_DROP;
    own.keep += __popc(__ballot_sync(TC_FULL, f == TC_KEEP));
    own.tie += __popc(__ballot_sync(TC_FULL, f == TC_TIE));
  }
  const tc_fates before = block.before(own, &total);
  const uint32_t below = (1u << block.lane) - 1;
  int32_t next = before.keep + min(before.tie, ties), seen = before.tie;
  for (int32_t base = lo; base < hi; base += 32) {
    const int32_t row = base + block.lane;
    const int f = row < hi ? fate(row) : TC_DROP;
    const uint32_t tied = __ballot_sync(TC_FULL, f == TC_TIE);
    const bool stays = f == TC_KEEP || (f == TC_TIE && seen + __popc(tied & below) < ties);
    const uint32_t staying = __ballot_sync(TC_FULL, stays);
    if (stays) kept[next + __popc(staying & below)] = first + row;
    next += __popc(staying);
    seen += __popc(tied);
  }
  return total.keep + min(total.tie, ties);
}

#endif /* TAILCUT_BLOCK_CUH_ */
