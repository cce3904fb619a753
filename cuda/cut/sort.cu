/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_sort: from scores to kept rows by sorting, one block per group, everything in shared memory.
 *
 * Formulas: METHOD.md, "Order" and "Detectors"; curve.h. Strategy: cut/block.cuh. Limits: groups of
 * up to TC_CUT_SHORT rows; longer ones are left to cut/long.cu. The size of the block is chosen by
 * the host's bound: nothing depends on it but time.
 *
 * Ladder (H100, 576 / 2K / 4K / 8K rows, OTSU): 1. block radix sort, 8 passes of 4 bits: 11.4,
 * 19.4, 22.6, 36.6 us; rules that need no order went to cut/value.cu.
 */
#include "cut/block.cuh"

namespace {

template <int THREADS, int ITEMS>
__global__ void __launch_bounds__(THREADS, 1) cut_sort(const __grid_constant__ tc_cut_args args) {
  __shared__ tc_block_space<THREADS, ITEMS> space;
  tc_wait_previous();
  const tc_cut_group c = tc_cut_open(args, (int32_t)blockIdx.x);
  if (c.group.n > THREADS * ITEMS) return;
  tc_cut_block(space, args, c, true, c.kept);
  if (args.groups.groups > 0) return;
  __syncthreads(); /* the space is used again */
  tc_block<THREADS / 32> block(space.block);
  tc_cut_done(block, args);
}

typedef void (*cut_kernel)(tc_cut_args);
struct shape {
  cut_kernel kernel;
  int32_t threads, rows;
};
const shape SHAPES[] = {{cut_sort<64, 4>, 64, 256},
                        {cut_sort<256, 4>, 256, 1024},
                        {cut_sort<512, 8>, 512, 4096},
                        {cut_sort<1024, 8>, 1024, TC_CUT_SHORT}};

}  // namespace

cudaError_t tc_cut_sort(const tc_cuda *, const tc_cut_args &args, const tc_chain *chain) {
  const int32_t most = args.segments.max_tokens - args.segments.prefix_rows;
  const shape *s = SHAPES;
  while (s->rows < most && s->rows < TC_CUT_SHORT) s++;
  return tc_launch(s->kernel, (unsigned)tc_group_count(args.segments, args.groups),
                   (unsigned)s->threads, 0, chain, args);
}

cudaError_t tc_cut_sort_load() {
  for (const shape &s : SHAPES) {
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, s.kernel);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}
