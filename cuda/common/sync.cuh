/* SPDX-License-Identifier: Apache-2.0 */
/* sync: how a block tells another that what its threads did before a barrier is there. One
 * thread adds behind the barrier; one thread of the other block looks, before a barrier of its
 * own. */
#ifndef TAILCUT_SYNC_CUH_
#define TAILCUT_SYNC_CUH_

#include <stdint.h>

#include "common/delay.cuh"

__device__ inline void tc_add_release(uint32_t *to, uint32_t v) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(to), "r"(v) : "memory");
}

__device__ inline uint32_t tc_load_acquire(const uint32_t *from) {
  uint32_t v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(from) : "memory");
  return v;
}

/* Whether this is the last of `count` blocks to come here (or of blocks whose weights are that
 * together). What the others wrote before is then there, and *arrived is zero again. Called by
 * whole blocks. */
__device__ inline bool tc_arrives_last(uint32_t *arrived, uint32_t count, uint32_t weight = 1) {
  __shared__ bool last;
  tc_delay(0);
  __threadfence(); /* our results before our arrival */
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(arrived, weight) == count - weight;
    if (last) *arrived = 0;
  }
  __syncthreads();
  if (last) __threadfence(); /* everybody's arrival before their results */
  return last;
}

#endif /* TAILCUT_SYNC_CUH_ */
