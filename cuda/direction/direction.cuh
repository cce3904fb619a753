/* SPDX-License-Identifier: Apache-2.0 */
/* direction: what its two forms share (direction.cu says which call takes which). */
#ifndef TAILCUT_DIRECTION_CUH_
#define TAILCUT_DIRECTION_CUH_

#include "common/delay.cuh"
#include "common/dot.cuh"
#include "common/launch.cuh"
#include "common/resolve.cuh"
#include "common/sync.cuh"
#include "common/tiles.cuh"

struct tc_direction_args {
  tc_segments s;
  tc_tiles t;
  tailcut_tokens tokens;
  const uint8_t *roles; /* NULL: every row counts */
  float *block_sums;    /* [tiles of the group, dim]; spread: [tiles, TC_BLOCK], weights */
  tc_cuda_lasting *lasting;
  int32_t finishers; /* tiles: tickets behind them that add block sums up; 0: last arrivers do */
  float *out;        /* [count, dim] */
  int32_t *queries;  /* [count] rows that count */
  int32_t *flags;    /* [segments] or NULL: 0 is stored */
  tc_resolve_args resolve; /* done by the last block, which does nothing else; flags NULL: not */
};

/* Blocks that make directions. */
__device__ inline uint32_t tc_direction_blocks(const tc_direction_args &args) {
  return gridDim.x - (args.resolve.flags != nullptr ? 1 : 0);
}

/* spread.cu. */
bool tc_direction_spreads(const tc_cuda *device, const tc_direction_args &args);
cudaError_t tc_direction_spread(const tc_cuda *device, const tc_direction_args &args,
                                const tc_chain *chain);
void tc_direction_spread_load(cudaError_t *error);

/* This block's ticket; the last to take one leaves the count zero. taken: in shared memory. Called
 * by the whole block behind the kernel's wait. */
__device__ inline uint32_t tc_take_ticket(const tc_direction_args &args, uint32_t *taken) {
  if (threadIdx.x == 0) {
    uint32_t *ticket = &args.lasting->ticket;
    *taken = atomicAdd(ticket, 1u);
    if (*taken == tc_direction_blocks(args) - 1) *ticket = 0;
  }
  __syncthreads();
  return *taken;
}

/* Waits until lasting->blocks[g] is `count`, modulo `modulus` (a power of two; 0: none). The last
 * of `waiters` blocks leaves it zero. Called by the whole block. */
__device__ inline void tc_wait_for_blocks(const tc_direction_args &args, int32_t g, uint32_t count,
                                          uint32_t modulus, uint32_t waiters) {
  if (threadIdx.x == 0) {
    uint32_t *arrived = args.lasting->blocks + g, *seen = args.lasting->moved + g;
    while ((tc_load_acquire(arrived) & (modulus - 1)) != count) {
    }
    if (atomicAdd(seen, 1u) == waiters - 1) {
      *arrived = 0;
      *seen = 0;
    }
  }
  __syncthreads();
}

/* Which of the first 64 rows from `roles` on count, a bit each; `rows` there are. Called by whole,
 * converged warps. */
__device__ inline uint64_t tc_query_mask(const uint8_t *roles, int32_t rows) {
  const int32_t lane = (int32_t)(threadIdx.x & 31);
  const bool low = lane < rows && (roles == nullptr || tc_is_query(roles[lane]));
  const bool high = lane + 32 < rows && (roles == nullptr || tc_is_query(roles[lane + 32]));
  const uint32_t first = __ballot_sync(TC_FULL, low);
  return (uint64_t)__ballot_sync(TC_FULL, high) << 32 | first;
}

/* Lists a mask's rows, ascending; called by a whole warp. */
__device__ inline void tc_list_rows(uint64_t mask, uint8_t *list) {
  const uint32_t lane = threadIdx.x & 31;
#pragma unroll
  for (uint32_t i = lane; i < TC_BLOCK; i += 32) {
    if (mask >> i & 1) list[__popcll(mask & (((uint64_t)1 << i) - 1))] = (uint8_t)i;
  }
}

#endif /* TAILCUT_DIRECTION_CUH_ */
