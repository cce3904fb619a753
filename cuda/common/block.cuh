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

/* shuffle(word) of every word of v, which is made of 4-byte words. */
template <class T, class F>
__device__ __forceinline__ T tc_by_words(T v, F shuffle) {
  static_assert(sizeof(T) % 4 == 0, "words");
  uint32_t words[sizeof(T) / 4];
  memcpy(words, &v, sizeof v);
#pragma unroll
  for (int i = 0; i < (int)(sizeof(T) / 4); i++) words[i] = shuffle(words[i]);
  memcpy(&v, words, sizeof v);
  return v;
}

/* v of a lane. */
template <class T>
__device__ __forceinline__ T tc_shuffle(T v, int lane) {
  return tc_by_words(v, [=](uint32_t word) { return __shfl_sync(TC_FULL, word, lane); });
}

template <class T, class Op>
__device__ __forceinline__ T tc_warp_reduce(T v, Op op) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) {
    v = op(v, tc_by_words(v, [=](uint32_t w) { return __shfl_xor_sync(TC_FULL, w, mask); }));
  }
  return v;
}

/* Inclusive prefix sum over a warp. */
template <class T>
__device__ __forceinline__ T tc_warp_upto(T v) {
  const uint32_t lane = threadIdx.x & 31;
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    const T other = tc_by_words(v, [=](uint32_t w) { return __shfl_up_sync(TC_FULL, w, step); });
    if (lane >= (uint32_t)step) v = v + other;
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
  static_assert(WARPS <= 32, "a lane a warp");
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

  /* All threads' values combined, in every thread. all combines a warp's, in every lane. */
  template <class T, class All>
  __device__ T combine(T v, T none, All all) {
    const slot *slots = post(all(v));
    if (lane < WARPS) none = fetch<T>(slots[lane]);
    return all(none);
  }
  /* op is associative and commutative. */
  template <class T, class Op>
  __device__ T reduce(T v, T identity, Op op) {
    return combine(v, identity, [=](T own) { return tc_warp_reduce(own, op); });
  }
  template <class T>
  __device__ T sum(T v) {
    return reduce(v, T(), tc_plus());
  }

  /* Sum of the values of the warps before this one, and of all. v is the same in a whole warp. */
  template <class T>
  __device__ T before(T v, T *total) {
    const slot *slots = post(v);
    T upto = T();
    if (lane < WARPS) upto = fetch<T>(slots[lane]);
    upto = tc_warp_upto(upto);
    *total = tc_shuffle(upto, 31);
    const T earlier = tc_shuffle(upto, (warp + 31) & 31);
    return warp > 0 ? earlier : T();
  }

  /* Sum of the values of the threads before this one, and of all. */
  template <class T>
  __device__ T prefix(T v, T *total) {
    const T upto = tc_warp_upto(v);
    return before(tc_shuffle(upto, 31), total) + (upto - v);
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

/* Writes rows 0 .. n-1 that stay as first + row, ascending. Returns their number. */
template <class Block, class Stays>
__device__ int32_t tc_emit(Block &block, int32_t n, Stays stays, int32_t first, int32_t *kept) {
  int32_t lo, hi, own = 0, total;
  block.run(n, &lo, &hi);
  for (int32_t base = lo; base < hi; base += 32) {
    const int32_t row = base + block.lane;
    own += __popc(__ballot_sync(TC_FULL, row < hi && stays(row)));
  }
  int32_t next = block.before(own, &total);
  for (int32_t base = lo; base < hi; base += 32) {
    const int32_t row = base + block.lane;
    const bool mine = row < hi && stays(row);
    const uint32_t all = __ballot_sync(TC_FULL, mine);
    if (mine) kept[next + __popc(all & ((1u << block.lane) - 1))] = first + row;
    next += __popc(all);
  }
  return total;
}

#endif /* TAILCUT_BLOCK_CUH_ */
