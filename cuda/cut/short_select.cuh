/* SPDX-License-Identifier: Apache-2.0 */
/* cut_short_select: the k-th key by one block that holds the keys: radix select over the keys' own
 * range, until few are left, which every warp compares. Exact. */
#ifndef TAILCUT_CUT_SHORT_SELECT_CUH_
#define TAILCUT_CUT_SHORT_SELECT_CUH_

#include "cut/short_space.cuh"

/* The cutoff that keeps k of the candidates, whose keys are this block's. */
template <class S>
__device__ inline tc_cutoff tc_short_select(tc_short_space<S> &space,
                                            const uint32_t (&key)[S::ITEMS], const tc_stats &stats,
                                            int32_t k) {
  tc_block<S::WARPS> block(space.block);
  const int thread = (int)threadIdx.x, lane = thread & 31;
  if (k <= 0) return {0, 0};
  if (k >= stats.usable) return {TC_KEY_UNUSABLE, k - stats.usable};
  uint32_t low = stats.first, range = stats.last - stats.first, left = (uint32_t)k;
  for (;;) { /* the k-th is the left-th of the keys low .. low + range, all of them numbers' */
    const int shift = range > 0 ? max(0, 32 - __clz((int)range) - S::LOG) : 0;
    __syncthreads(); /* the bins are no longer read */
#pragma unroll
    for (int e = 0; e < S::EACH; e++) space.bins[thread + e * S::THREADS] = 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < S::ITEMS; i++) {
      const uint32_t at = key[i] - low;
      if (at <= range) atomicAdd(&space.bins[at >> shift], 1u);
    }
    __syncthreads();
    uint32_t count[S::EACH], all = 0;
#pragma unroll
    for (int e = 0; e < S::EACH; e++) {
      count[e] = space.bins[thread * S::EACH + e];
      all += count[e];
    }
    uint32_t total, before = block.prefix(all, &total);
#pragma unroll
    for (int e = 0; e < S::EACH; e++) {
      if (before < left && left <= before + count[e]) {
        space.digit = (uint32_t)(thread * S::EACH + e);
        space.before = before;
        space.inside = count[e];
      }
      before += count[e];
    }
    __syncthreads();
    low += space.digit << shift;
    left -= space.before;
    range = min(range - (space.digit << shift), (1u << shift) - 1);
    if (shift == 0) return {low, (int32_t)left};
    if (space.inside <= 32) break;
  }
  /* The few keys left, compared with each other by every warp. */
  if (thread == 0) space.listed = 0;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    if (key[i] - low <= range) space.list[atomicAdd(&space.listed, 1u)] = key[i];
  }
  __syncthreads();
  const uint32_t listed = space.inside;
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

#endif /* TAILCUT_CUT_SHORT_SELECT_CUH_ */
