/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long_select: the key of a long group's k-th row, without sorting.
 *
 * Strategy: radix select over the keys between the best and the worst usable one, 11 bits at a
 * time, so three kernels at most. Each finds the digit that the one before has counted (all blocks
 * alike: 2,048 counts are read faster than another kernel starts), then counts its own among the
 * rows that are still undecided, in shared memory, with one reduction per digit and block. Rows of
 * the very key of the cut are ties: the first ones by number stay (cut/long_emit.cu). Precision:
 * exact.
 */
#include "cut/long_select.cuh"

namespace {

template <int QUADS>
__global__ void __launch_bounds__(TC_LONG_THREADS)
    digit(const __grid_constant__ tc_long a, int level) {
  __shared__ tc_select_space s;
  __shared__ tc_long_tile tile;
  __shared__ uint32_t counts[TC_LONG_DIGITS];
  tc_long_block block(s.block);
  const uint32_t t = threadIdx.x;
  tc_long_open(a, blockIdx.x, tile);
  ((uint4 *)counts)[t] = make_uint4(0, 0, 0, 0);
  __syncthreads();
  tc_long_rows<QUADS> rows;
  if (tile.number >= 0) {
    tc_long_load(a, tc_long_group(a, tile), tc_long_first<QUADS>(tile.index), &rows);
  }
  tc_wait_previous();
  tc_let_next_start();
  if (tile.number < 0) return;
  tc_long_cut *cuts = a.cuts + tile.slot * TC_LONG_LEVELS;
  uint32_t *digits = a.digits + (size_t)tile.slot * TC_LONG_LEVELS * TC_LONG_DIGITS;
  const tc_long_cut cut = level == 0
                              ? tc_select_first(block, a, tile, &a.states[tile.slot].k)
                              : tc_select_digit(block, s, tc_select_open(s, cuts + level - 1),
                                                digits + (level - 1) * TC_LONG_DIGITS);
  if (tile.index == 0 && t == 0) cuts[level] = cut;
  if (cut.width == 0) return;
  const int32_t bits = tc_digit_bits(cut.width);
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    const uint32_t key = tc_long_key(rows, i), d = (key - cut.key) >> (cut.width - bits);
    if (key < TC_KEY_UNUSABLE && key >= cut.key && d < 1u << bits) atomicAdd(&counts[d], 1u);
  }
  __syncthreads();
  uint32_t *to = digits + level * TC_LONG_DIGITS;
#pragma unroll
  for (int e = 0; e < TC_LONG_DIGITS / TC_LONG_THREADS; e++) {
    const uint32_t d = t + e * TC_LONG_THREADS;
    if (counts[d] > 0) atomicAdd(&to[d], counts[d]);
  }
}

}  // namespace

cudaError_t tc_long_select(const tc_long &a, int quads, tc_chain *chain) {
  cudaError_t error = cudaSuccess;
  for (int level = 0; level < TC_LONG_LEVELS && error == cudaSuccess; level++) {
    error =
        tc_launch(TC_LONG_OF(digit, quads), (unsigned)a.bound, TC_LONG_THREADS, 0, chain, a, level);
  }
  return error;
}

void tc_long_select_load(cudaError_t *error) { TC_LONG_LOAD(digit, error); }
