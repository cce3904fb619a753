/* SPDX-License-Identifier: Apache-2.0 */
/* delay: for tests on a real GPU. With TAILCUT_CUDA_DELAYS (a CMake option) warps sleep here and
 * there before they exchange something, others each time, so that an order that merely happens to
 * hold does not. No code otherwise. */
#ifndef TAILCUT_DELAY_CUH_
#define TAILCUT_DELAY_CUH_

#include <stdint.h>

/* `point`: any number that tells this place from others in its kernel. */
__device__ inline void tc_delay(uint32_t point) {
#if defined(TAILCUT_CUDA_DELAYS)
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  /* The pattern changes about every millisecond; a warp's lanes agree. */
  uint32_t h = (uint32_t)(now >> 20) * 0x9E3779B9u + blockIdx.x * 0x85EBCA6Bu +
               (threadIdx.x / 32) * 0xC2B2AE35u + point * 0x27D4EB2Fu;
  h ^= h >> 15;
  h *= 0x2C1B3C6Du;
  h ^= h >> 13;
  if (h % 3 == 0) __nanosleep((h >> 8) % 8192);
#else
  (void)point;
#endif
}

#endif /* TAILCUT_DELAY_CUH_ */
