/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_short: from scores to kept rows, one block per segment, everything in shared memory.
 *
 * Formulas and strategy: cut_block.cuh. Limits: segments of up to TC_CUT_SHORT rows; longer ones are
 * left to cut_long.cu and cut_bins.cu.
 *
 * The size of the block is chosen by the host's bound: nothing depends on it but time.
 *
 * Ladder: 1. block radix sort, 8 passes of 4 bits. Prediction 4 us at 576 rows, 10 us at 4,096; not
 * measured.
 */
#include "cut_block.cuh"
#include "common/launch.cuh"

namespace {

template <int THREADS, int ITEMS>
__global__ void __launch_bounds__(THREADS, 1) cut_short(const __grid_constant__ tc_cut_args args) {
  __shared__ tc_block_space<THREADS, ITEMS> space;
  const int32_t b = (int32_t)blockIdx.x;
  tc_segment segment = tc_segment_at(args.segments, b);
  if (segment.n > THREADS * ITEMS) return;
  int32_t flags;
  if (args.segments.start != nullptr) {
    flags = args.out.flags[b]; /* resolve's, and the score's */
  } else {
    flags = args.input_flags != nullptr ? args.input_flags[b] : 0;
    flags &= TAILCUT_FLAG_BAD_REFERENCE | TAILCUT_FLAG_INVALID;
    if (!segment.valid) flags |= TAILCUT_FLAG_INVALID;
    if (flags & TAILCUT_FLAG_INVALID) segment.n = 0;
  }
  tc_cut_block(space, args, b, segment, flags, true, args.out.kept + segment.start);
}

template <int THREADS, int ITEMS>
cudaError_t launch(const tc_cut_args &args, const tc_chain *chain) {
  return tc_launch(cut_short<THREADS, ITEMS>, (unsigned)args.segments.segments, THREADS, 0, chain,
                   args);
}

}  // namespace

cudaError_t tc_cut_short(const tc_cut_args &args, const tc_chain *chain) {
  const int32_t most = args.segments.max_tokens - args.segments.prefix_rows;
  if (most <= 256) return launch<64, 4>(args, chain);
  if (most <= 1024) return launch<256, 4>(args, chain);
  return launch<512, TC_CUT_SHORT / 512>(args, chain);
}

cudaError_t tc_cut_short_load() {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, cut_short<64, 4>);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, cut_short<256, 4>);
  if (error == cudaSuccess) {
    error = cudaFuncGetAttributes(&attributes, cut_short<512, TC_CUT_SHORT / 512>);
  }
  return error;
}
