/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact: moves the kept rows of any number of row arrays in one launch.
 *
 * Formula: result row j = source row kept[j] + prefix_rows. Strategy: a row is a line of units of
 * 1 to 16 bytes, the widest that divides every address of its array; a block moves one slice of the
 * units of some rows: for up to 1,024 rows it first works out where they come from and go to, then
 * each thread holds one unit of four rows at a time. All widths share this code but for the access
 * itself, and what a block works on lies in shared memory: 64 registers, four blocks per SM.
 *   out of place  a block has a tile of 64 result rows (or a part of it) and a slice of 512 bytes
 *   in place      a block has a slice (at least 128 bytes) of a whole segment and sweeps its rows
 * What a block does depends on host bounds only; blocks past the true counts leave at once.
 *
 * In place is safe, with no flag and no spare memory: entry j of a kept list is only followed when
 * kept[j] >= j, so a row that result row j comes from never has a number below j (behind prefix
 * rows it is higher still). A sweep takes result rows in ascending groups. Inside a group every
 * source is in registers before the barrier, and every store is behind it. Across groups: the
 * sources of a later group have numbers at least as high as its result rows, hence above all result
 * rows of earlier groups, so what has been overwritten is never asked for again, and the next group
 * may be loaded while others still store this one. Blocks own different bytes of the rows: no block
 * reads what another writes. Nothing here asks kept to be increasing beyond its neighbour, so a
 * damaged list does the same damage as on the CPU. Slot tables only rename rows, one to one.
 * Loads are plain ones: the compiler must not take rows for constant.
 * Precision: bytes are copied. Limits: a lone array of narrow rows in place is swept by one block:
 * about 1 us per 1,024 rows [estimate].
 *
 * Ladder: 1. a copy of the code for each width: 110 registers, two blocks per SM. 2. a switch around
 * the accesses: 64, four. Prediction: out of place 85% of the copy bandwidth from 16 MB on, in place
 * the same from two slices per SM on; not measured.
 */
#include "common/launch.cuh"
#include "sweep.cuh"
#include "common/tiles.cuh"

namespace {

constexpr int FEW_ARRAYS = 8; /* what a small parameter block holds */

template <int MOST>
struct compact_args {
  tc_segments s;
  tc_tiles t;
  const int32_t *kept, *counts, *new_cu;
  int32_t kept_packed, arrays, split;
  int64_t first[MOST + 1]; /* prefix sums of the arrays' blocks of work */
  tc_row_array array[MOST];
};

/* Fills in segment b; false: its offset would lead outside the kept list. */
template <int MOST>
__device__ inline bool take_segment(const compact_args<MOST> &args, const tc_row_array &a,
                                    int32_t b, tc_row_range *range) {
  const tc_segment segment = tc_segment_at(args.s, b);
  const int32_t count = args.counts[b];
  const int32_t offset = a.packed || args.kept_packed ? args.new_cu[b] : 0;
  const bool damaged = count < 0 || count > segment.n || offset < 0;
  range->b = b;
  range->n = segment.n;
  range->start = segment.start;
  range->k = damaged ? 0 : tc_result_rows(a, offset, count);
  range->dst_start = a.packed ? offset : segment.start;
  range->kept = args.kept + (args.kept_packed ? offset : segment.start);
  return !args.kept_packed || (offset >= 0 && (int64_t)offset + range->k <= args.s.total);
}

/* The rows that block of work `task` of an array is about; false: there are none. */
template <int MOST>
__device__ inline bool take_task(const compact_args<MOST> &args, const tc_row_array &a,
                                 int64_t task, tc_row_range *range) {
  const bool zeroes = a.zero_tail && !a.packed; /* the rows behind the result */
  range->prefix_rows = args.s.prefix_rows;
  range->flat = args.s.cu_seqlens != nullptr;
  if (a.in_place) {
    if (!take_segment(args, a, (int32_t)task, range)) return false;
    range->from = 0;
    range->to = zeroes ? tc_room(a, range->n) : range->k;
  } else if (task < args.t.bound * args.split) {
    const int64_t tile = task / args.split;
    if (tile >= tc_tiles_total(args.t, args.s)) return false;
    int32_t index;
    const int32_t b = tc_tile_find(args.t, args.s, tile, &index);
    if (b < 0 || !take_segment(args, a, b, range)) return false;
    const int32_t rows = TC_BLOCK / args.split;
    range->from = index * TC_BLOCK + (int32_t)(task % args.split) * rows;
    range->to = min(range->from + rows, zeroes ? tc_room(a, range->n) : range->k);
  } else { /* the tail of a PACKED result: rows from the last result to the last candidate */
    const int32_t result = args.new_cu[args.s.segments];
    const int64_t last = min(tc_candidates_after(args.s, -1), a.dst_rows);
    const int64_t row = (task - args.t.bound * args.split) * TC_BLOCK;
    if (result < 0) return false;
    range->b = range->n = 0;
    range->start = range->dst_start = range->k = 0;
    range->kept = nullptr;
    range->from = max((int32_t)row, result);
    range->to = (int32_t)min(row + TC_BLOCK, last);
  }
  return range->from < range->to;
}

template <int MOST>
__global__ void __launch_bounds__(TC_SWEEP_THREADS, 4)
    compact(const __grid_constant__ compact_args<MOST> args) {
  __shared__ int64_t src_at[TC_SWEEP_ROWS], dst_at[TC_SWEEP_ROWS];
  __shared__ tc_row_array array;
  __shared__ tc_row_range range;
  tc_wait_previous();
  const int64_t work = args.first[args.arrays];
  for (int64_t number = blockIdx.x; number < work; number += gridDim.x) {
    int lo = 0, hi = args.arrays; /* first[lo] <= number < first[hi] */
    while (hi - lo > 1) {
      const int mid = (lo + hi) / 2;
      if (args.first[mid] <= number) {
        lo = mid;
      } else {
        hi = mid;
      }
    }
    const int64_t slices = args.array[lo].slices, at = number - args.first[lo];
    tc_row_range found;
    found.slice = at % slices;
    if (!take_task(args, args.array[lo], at / slices, &found)) continue; /* the whole block */
    __syncthreads(); /* the array and range of the work before are no longer used */
    if (threadIdx.x < sizeof(tc_row_array) / 8) {
      ((uint64_t *)&array)[threadIdx.x] = ((const uint64_t *)&args.array[lo])[threadIdx.x];
    }
    if (threadIdx.x == 0) range = found;
    __syncthreads();
    tc_move_rows(array, range, src_at, dst_at);
  }
}

/* ----------------------------------------------------------------------------------------- host -- */

template <int MOST>
cudaError_t launch(const tc_cuda *device, const tc_segments *segments, const int32_t *kept,
                   int32_t kept_placement, const int32_t *counts, const int32_t *new_cu,
                   const tailcut_rows *rows, int32_t num_rows, const tc_chain *chain) {
  const bool uniform = segments->cu_seqlens == nullptr;
  const int64_t tail_tiles = (segments->total + TC_BLOCK - 1) / TC_BLOCK;
  compact_args<MOST> args;
  args.s = *segments;
  args.t = tc_tiles_of(*segments, 0, segments->segments);
  args.kept = kept;
  args.counts = counts;
  args.new_cu = new_cu;
  args.kept_packed = kept_placement == TAILCUT_PACKED;
  args.arrays = num_rows;
  int64_t sweeps = 0, tiles = 0;
  for (int32_t i = 0; i < num_rows; i++) {
    args.array[i] = tc_describe(rows[i], uniform);
    tc_slice(&args.array[i], 512, TC_SWEEP_COLUMNS);
    if (args.array[i].in_place) {
      sweeps += args.array[i].slices * segments->segments;
    } else {
      tiles += args.array[i].slices * args.t.bound;
    }
  }
  /* Narrower slices and fewer rows per block where that is needed to fill the device. */
  const int narrow = sweeps < 2 * device->sms ? 128 : 512;
  args.split = 1;
  while (args.split < 8 && tiles * args.split < 2 * device->sms) args.split *= 2;
  args.first[0] = 0;
  for (int32_t i = 0; i < num_rows; i++) {
    tc_row_array *a = &args.array[i];
    int64_t tasks = args.t.bound * args.split;
    if (a->in_place) {
      tc_slice(a, narrow, TC_SWEEP_COLUMNS);
      tasks = segments->segments;
    } else if (a->packed && a->zero_tail) {
      tasks += tail_tiles;
    }
    args.first[i + 1] = args.first[i] + tasks * a->slices;
  }
  return tc_launch(compact<MOST>, tc_grid(args.first[num_rows]), TC_SWEEP_THREADS, 0, chain, args);
}

}  // namespace

extern "C" cudaError_t tc_cuda_compact(const tc_cuda *device, const tc_segments *segments,
                                       const int32_t *kept, int32_t kept_placement,
                                       const int32_t *counts, const int32_t *new_cu,
                                       const tailcut_rows *rows, int32_t num_rows,
                                       const tc_chain *chain) {
  if (segments->segments <= 0) return cudaSuccess;
  for (int32_t i = 0; i < num_rows; i += TC_ROWS_PER_LAUNCH) {
    const int32_t left = num_rows - i, most = TC_ROWS_PER_LAUNCH;
    const cudaError_t error =
        left <= FEW_ARRAYS
            ? launch<FEW_ARRAYS>(device, segments, kept, kept_placement, counts, new_cu, rows + i,
                                 left, chain)
            : launch<TC_ROWS_PER_LAUNCH>(device, segments, kept, kept_placement, counts, new_cu,
                                         rows + i, left < most ? left : most, chain);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

extern "C" cudaError_t tc_cuda_load_compact(tc_cuda *) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, compact<FEW_ARRAYS>);
  if (error != cudaSuccess) return error;
  return cudaFuncGetAttributes(&attributes, compact<TC_ROWS_PER_LAUNCH>);
}
