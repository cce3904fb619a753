/* SPDX-License-Identifier: Apache-2.0 */
/* look_back: how many tokens earlier segments of a launch keep, while they still work it out. */
#ifndef TAILCUT_LOOK_BACK_CUH_
#define TAILCUT_LOOK_BACK_CUH_

#include "gang.cuh"

/* The kept tokens of all earlier segments of the batch, for a warp of every block of segment `turn`
 * of this launch, which keeps k; `before` were kept before the launch. Each segment's count stands in
 * lasting->prefix as 1 << 62 | count, or with all earlier ones of this launch as 2 << 62 | sum; one
 * block of a segment publishes it. Segments take their turn by ticket, so the one waited for is
 * running. */
__device__ inline int32_t tc_look_back(tc_cuda_lasting *lasting, int32_t before, int32_t turn,
                                       int32_t k, bool publishes, int lane) {
  const uint64_t one = 1ull << 62, all = 2ull << 62;
  volatile uint64_t *prefix = lasting->prefix;
  if (publishes && lane == 0 && turn > 0) atomicExch((unsigned long long *)&prefix[turn], one | k);
  int64_t sum = 0;
  for (int32_t at = turn - 1; at >= 0; at -= 32) {
    const int32_t mine = at - lane;
    uint64_t word = all;
    if (mine >= 0) {
      while ((word = prefix[mine]) == 0) {
      }
    }
    const uint32_t whole = __ballot_sync(TC_FULL, word >= all);
    const int first = whole ? __ffs(whole) - 1 : 31;
    sum += tc_warp_reduce(lane <= first ? (int64_t)(word & (one - 1)) : 0, tc_plus());
    if (whole) break;
  }
  if (publishes && lane == 0) {
    atomicExch((unsigned long long *)&prefix[turn], all | (uint64_t)(sum + k));
  }
  return before + (int32_t)sum;
}

/* Leaves the lasting state as it was found, by the last of the launch's blocks to come here. */
__device__ inline void tc_leave(tc_cuda_lasting *lasting, int32_t segments, uint32_t blocks) {
  __threadfence();
  if (atomicAdd(&lasting->arrived, 1u) != blocks - 1) return;
  for (int32_t i = 0; i < segments; i++) lasting->prefix[i] = 0;
  lasting->ticket = 0;
  lasting->arrived = 0;
}

#endif /* TAILCUT_LOOK_BACK_CUH_ */
