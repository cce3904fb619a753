/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair: cut and compact in one launch, the second of the two that prune_visual takes where there are
 * no clusters (score.cu is the first).
 *
 * Formulas: cut_block.cuh. Strategy: blocks that are not sure to run together can exchange nothing, so every
 * block cuts its image itself, from scores that are in L2, and then moves some slices of its rows by
 * the list it has in shared memory. The first block of an image reports. Where results are packed,
 * blocks take tickets and look back (look_back.cuh). Rows in place: a slice is swept by one block
 * (sweep.cuh). Precision: exact, the same bits as src/cpu/cut.c.
 * Limits: TC_PAIR_TOKENS candidates, TC_PAIR_ARRAYS row arrays.
 *
 * Ladder: 1. block radix sort in every block. Prediction 4 us for the cut and 2 us for the rows of
 * 576x1024 fp16, as graph node; not measured.
 */
#include "cut_block.cuh"
#include "launch.cuh"
#include "look_back.cuh"
#include "sweep.cuh"

namespace {

struct pair_args {
  tc_cut_args cut;
  const int32_t *flags;
  int32_t *kept_packed, *new_cu;
  tc_cuda_lasting *lasting;                          /* NULL: nothing depends on earlier images */
  int32_t first, count, blocks, arrays, packed_tail; /* blocks of an image */
  tc_row_array array[TC_PAIR_ARRAYS];
};

/* What one block says of an image. */
__device__ inline void report(const pair_args &args, const tc_segment &segment, int32_t b,
                              int32_t k, int32_t offset, const int32_t *kept) {
  int32_t *local = args.cut.out.kept;
  for (int32_t j = (int32_t)threadIdx.x; j < k; j += TC_SWEEP_THREADS) {
    if (local != nullptr) local[segment.start + j] = kept[j];
    if (args.kept_packed != nullptr) args.kept_packed[offset + j] = kept[j];
  }
  if (threadIdx.x != 0 || args.new_cu == nullptr) return;
  if (b == 0) args.new_cu[0] = 0;
  args.new_cu[b + 1] = offset + k;
}

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
  __shared__ int32_t ticket, offset_here;
  __shared__ int64_t tail_here; /* where row 0 of the image would be if all of it were tail */
  const tc_segments &s = args.cut.segments;
  int32_t number = (int32_t)blockIdx.x;
  if (args.lasting != nullptr) { /* in the order in which blocks really start */
    if (threadIdx.x == 0) ticket = (int32_t)atomicAdd(&args.lasting->ticket, 1u);
    __syncthreads();
    number = ticket;
  }
  const int32_t turn = number / args.blocks, block = number % args.blocks, b = args.first + turn;
  const tc_segment segment = tc_segment_at(s, b);
  const int32_t flags = !segment.valid ? TAILCUT_FLAG_INVALID : segment.n > 0 ? args.flags[b] : 0;
  const int32_t k = tc_cut_block(space.cut, args.cut, b, segment, flags, block == 0, kept);
  if (threadIdx.x < 32) {
    int32_t offset = 0;
    if (args.lasting != nullptr) {
      const int32_t before = args.first > 0 ? args.new_cu[args.first] : 0; /* an earlier launch's */
      tc_delay(3);
      offset = tc_look_back(args.lasting, before, turn, k, block == 0, (int)threadIdx.x);
    }
    const int64_t tail = args.packed_tail ? offset + tc_candidates_after(s, b) : 0;
    if (threadIdx.x == 0) {
      offset_here = offset;
      tail_here = tail;
      if (args.lasting != nullptr) tc_leave(args.lasting, args.count, gridDim.x);
    }
  }
  __syncthreads(); /* the list is whole, the cut's space free */
  if (block == 0) report(args, segment, b, k, offset_here, kept);
  int64_t before = 0; /* slices of the arrays so far: blocks go on where the last array ended */
  for (int32_t i = 0; i < args.arrays; i++) {
    const tc_row_array &a = args.array[i];
    for (int64_t slice = (block + args.blocks - before % args.blocks) % args.blocks;
         slice < a.slices; slice += args.blocks) {
      /* A packed tail is a second range: this image's share of it, which fused.cu says. */
      const int ranges = a.packed && a.zero_tail ? 2 : 1;
#pragma unroll 1
      for (int tail = 0; tail < ranges; tail++) {
        __syncthreads(); /* what was moved before is done with the array and the range */
        if (threadIdx.x == 0) {
          array = a;
          range.b = b;
          range.n = segment.n;
          range.prefix_rows = s.prefix_rows;
          range.flat = s.cu_seqlens != nullptr;
          range.start = segment.start;
          range.dst_start = tail ? (int32_t)tail_here : a.packed ? offset_here : segment.start;
          range.k = tail ? 0 : tc_result_rows(a, offset_here, k);
          range.from = tail ? k : 0;
          range.to = tail                       ? tc_room(a, segment.n, tail_here)
                     : a.zero_tail && !a.packed ? tc_room(a, segment.n)
                                                : range.k;
          range.kept = kept;
          range.slice = slice;
        }
        __syncthreads();
        tc_move_rows(array, range, space.at[0], space.at[1]);
      }
    }
    before += a.slices;
  }
}

typedef void (*pair_kernel)(pair_args);
const pair_kernel KERNELS[2] = {pair<4>, pair<TC_PAIR_TOKENS / TC_SWEEP_THREADS>};

}  // namespace

extern "C" cudaError_t tc_cuda_pair(const tc_cuda *device, const tc_pair_plan *plan,
                                    cudaStream_t stream) {
  if (plan->count <= 0) return cudaSuccess;
  const tc_segments &segments = plan->segments;
  pair_args args;
  args.cut = {segments, plan->scores, nullptr, plan->rule, plan->out.cut, nullptr};
  args.flags = plan->flags;
  args.kept_packed = plan->out.kept_packed;
  args.new_cu = plan->out.new_cu;
  args.lasting = plan->out.lasting;
  args.first = plan->first;
  args.count = plan->count;
  args.arrays = plan->num_rows;
  args.packed_tail = 0;
  int64_t slices = 0;
  for (int32_t i = 0; i < plan->num_rows; i++) {
    args.array[i] = tc_describe(plan->rows[i], segments.cu_seqlens == nullptr);
    tc_slice(&args.array[i], 128, TC_SWEEP_COLUMNS);
    args.packed_tail |= args.array[i].packed && args.array[i].zero_tail;
    slices += args.array[i].slices;
  }
  /* A block per slice while that is what fills the device: each repeats the cut. */
  const int64_t most = (2 * (int64_t)device->sms + plan->count - 1) / plan->count;
  args.blocks = (int32_t)(slices < 1 ? 1 : slices < most ? slices : most);
  const int32_t n = segments.max_tokens - segments.prefix_rows;
  const unsigned grid = (unsigned)plan->count * (unsigned)args.blocks;
  return tc_launch(KERNELS[n > 4 * TC_SWEEP_THREADS], grid, TC_SWEEP_THREADS, 0, stream, args);
}

extern "C" cudaError_t tc_cuda_load_pair(tc_cuda *) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, KERNELS[0]);
  return error != cudaSuccess ? error : cudaFuncGetAttributes(&attributes, KERNELS[1]);
}
