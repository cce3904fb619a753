/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair: cut and compact in one launch, the second of the two that prune_visual takes where there are
 * no clusters (score.cu is the first).
 *
 * Formulas: cut_block.cuh. Strategy: no block can wait for another here, so every block cuts its image
 * itself, from scores that are in L2, and then moves some slices of its rows by the list it has in
 * shared memory: nothing is exchanged. The first block of an image reports. Rows in place: a slice
 * is swept by one block (sweep.cuh). Precision: exact, the same bits as src/cpu/cut.c.
 * Limits: TC_PAIR_TOKENS candidates, TC_PAIR_ARRAYS row arrays.
 *
 * Ladder: 1. block radix sort in every block. Prediction 4 us for the cut and 2 us for the rows of
 * 576x1024 fp16, as graph node; not measured.
 */
#include "cut_block.cuh"
#include "launch.cuh"
#include "sweep.cuh"

namespace {

struct pair_args {
  tc_cut_args cut;
  const int32_t *flags;
  int32_t kept_packed, arrays, blocks; /* blocks of an image */
  int32_t *new_cu;
  tc_row_array array[TC_PAIR_ARRAYS];
};

template <int ITEMS>
__global__ void __launch_bounds__(TC_SWEEP_THREADS) pair(const __grid_constant__ pair_args args) {
  typedef tc_block_space<TC_SWEEP_THREADS, ITEMS> space_type;
  __shared__ union {
    space_type cut;
    int64_t at[2][TC_SWEEP_ROWS];
  } space;
  __shared__ int32_t kept[space_type::ROWS];
  __shared__ tc_row_array array;
  __shared__ tc_row_range range;
  const tc_segments &s = args.cut.segments;
  const int32_t b = (int32_t)blockIdx.x / args.blocks, block = (int32_t)blockIdx.x % args.blocks;
  const tc_segment segment = tc_segment_at(s, b);
  const int32_t flags = !segment.valid ? TAILCUT_FLAG_INVALID : segment.n > 0 ? args.flags[b] : 0;
  const int32_t k = tc_cut_block(space.cut, args.cut, b, segment, flags, block == 0, kept);
  __syncthreads(); /* the list is whole, the cut's space free */
  if (block == 0) {
    int32_t *out = args.cut.out.kept;
    if (out != nullptr) {
      if (!args.kept_packed) out += segment.start;
      for (int32_t j = (int32_t)threadIdx.x; j < k; j += TC_SWEEP_THREADS) out[j] = kept[j];
    }
    if (threadIdx.x == 0 && args.new_cu != nullptr) {
      args.new_cu[0] = 0;
      args.new_cu[1] = k;
    }
  }
  int64_t before = 0; /* slices of the arrays so far: blocks go on where the last array ended */
  for (int32_t i = 0; i < args.arrays; i++) {
    const tc_row_array &a = args.array[i];
    for (int64_t slice = (block + args.blocks - before % args.blocks) % args.blocks;
         slice < a.slices; slice += args.blocks) {
      __syncthreads(); /* what was moved before is done with the array and the range */
      if (threadIdx.x == 0) {
        array = a;
        range.b = b;
        range.n = segment.n;
        range.cls_row = s.cls_row;
        range.flat = s.cu_seqlens != nullptr;
        range.start = segment.start;
        range.dst_start = a.packed ? 0 : segment.start;
        range.k = k;
        range.from = 0;
        range.to = a.zero_tail ? segment.n : k;
        range.kept = kept;
        range.slice = slice;
      }
      __syncthreads();
      tc_move_rows(array, range, space.at[0], space.at[1]);
    }
    before += a.slices;
  }
}

typedef void (*pair_kernel)(pair_args);
const pair_kernel KERNELS[2] = {pair<4>, pair<TC_PAIR_TOKENS / TC_SWEEP_THREADS>};

}  // namespace

extern "C" cudaError_t tc_cuda_pair(const tc_cuda *device, const tc_segments *segments,
                                    const float *scores, const int32_t *flags,
                                    const tailcut_rule *rule, const tc_cuda_cut_out *out,
                                    int kept_packed, int32_t *new_cu, const tailcut_rows *rows,
                                    int32_t num_rows, cudaStream_t stream) {
  if (segments->segments <= 0) return cudaSuccess;
  pair_args args;
  args.cut = {*segments, scores, nullptr, *rule, *out, nullptr};
  args.flags = flags;
  args.kept_packed = kept_packed;
  args.arrays = num_rows;
  args.new_cu = new_cu;
  int64_t slices = 0;
  for (int32_t i = 0; i < num_rows; i++) {
    args.array[i] = tc_describe(rows[i], segments->cu_seqlens == nullptr);
    tc_slice(&args.array[i], 128, TC_SWEEP_COLUMNS);
    slices += args.array[i].slices;
  }
  /* A block per slice while that is what fills the device: each repeats the cut. */
  const int64_t most = (2 * (int64_t)device->sms + segments->segments - 1) / segments->segments;
  args.blocks = (int32_t)(slices < 1 ? 1 : slices < most ? slices : most);
  const int32_t n = segments->max_tokens - segments->cls_row;
  const unsigned grid = (unsigned)segments->segments * (unsigned)args.blocks;
  return tc_launch(KERNELS[n > 4 * TC_SWEEP_THREADS], grid, TC_SWEEP_THREADS, 0, stream, args);
}

extern "C" cudaError_t tc_cuda_load_pair(tc_cuda *) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, KERNELS[0]);
  return error != cudaSuccess ? error : cudaFuncGetAttributes(&attributes, KERNELS[1]);
}
