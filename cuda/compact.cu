/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact: moves the kept rows of any number of row arrays in one launch.
 *
 * Formula: result row j = source row kept[j] (+ cls_row). Strategy: a row is a line of units of
 * 1 to 16 bytes, the widest that divides every address of its array; a block moves one slice of the
 * units of some rows: for up to 1,024 rows it first works out where they come from and go to, then
 * each thread holds one unit of four rows at a time. All widths share this code but for the access
 * itself, and what a block works on lies in shared memory: 64 registers, four blocks per SM.
 *   out of place  a block has a tile of 64 result rows (or a part of it) and a slice of 512 bytes
 *   in place      a block has a slice (at least 128 bytes) of a whole segment and sweeps its rows
 * What a block does depends on host bounds only; blocks past the true counts leave at once.
 *
 * In place is safe, with no flag and no spare memory: entry j of a kept list is only followed when
 * kept[j] >= j, so a row that result row j comes from never has a number below j (with cls_row it
 * is one higher still). A sweep takes result rows in ascending groups. Inside a group every source is
 * in registers before the barrier, and every store is behind it. Across groups: the sources of a
 * later group have numbers at least as high as its result rows, hence above all result rows of earlier
 * groups, so what has been overwritten is never asked for again, and the next group may be loaded
 * while others still store this one. Blocks own different bytes of the rows: no block reads what
 * another writes. Nothing here asks kept to be increasing beyond its neighbour, so a damaged list
 * does the same damage as on the CPU. Slot tables only rename rows, one to one.
 * Loads are plain ones: the compiler must not take rows for constant.
 * Precision: bytes are copied. Limits: a lone array of narrow rows in place is swept by one block:
 * about 1 us per 1,024 rows [estimate].
 *
 * Ladder: 1. a copy of the code for each width: 110 registers, two blocks per SM. 2. a switch around
 * the accesses: 64, four. Prediction: out of place 85% of the copy bandwidth from 16 MB on, in place
 * the same from two slices per SM on; not measured.
 */
#include "rows.cuh"
#include "tiles.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int HELD = 4;          /* rows of which a thread holds a unit */
constexpr int ROWS_MOST = 1024;  /* of a group: HELD * THREADS rows of one unit each */
constexpr int COLUMNS_MOST = 32; /* units side by side in a group */
constexpr int FEW_ARRAYS = 8;    /* what a small parameter block holds */

/* The descriptor is read again from here on: kept in registers it would not fit. */
#define FORGET() asm volatile("" ::: "memory")

constexpr int64_t ZERO = -1, POSITION = -2; /* in place of a source: what is written instead */

template <int MOST>
struct compact_args {
  tc_segments s;
  tc_tiles t;
  const int32_t *kept, *counts, *new_cu;
  int32_t kept_packed, arrays, split;
  int64_t first[MOST + 1]; /* prefix sums of the arrays' blocks of work */
  tc_row_array array[MOST];
};

/* What a block works on: a slice of result rows [from, to) of segment b; those below k move. */
struct row_range {
  int32_t b, n, cls_row;
  bool flat; /* rows are numbered through the batch: ragged */
  int32_t start, dst_start, k, from, to;
  const int32_t *kept;
  int64_t slice;
};

/* Where result row j comes from (or what is written there) and where it goes; *dst -1: nowhere. */
__device__ inline void locate(const tc_row_array &a, const row_range &range, int32_t j,
                              int64_t *src, int64_t *dst) {
  const int64_t to =
      tc_row_offset(a, a.dst_slots, a.dst_row_stride, a.dst_segment_stride, range.flat || a.packed,
                    (int64_t)range.dst_start + j, range.b, j);
  *src = ZERO;
  *dst = to;
  if (j >= range.k || to < 0) return;
  *src = POSITION;
  if (a.renumber) return;
  const int32_t *kept = tc_global(range.kept);
  const int32_t i = kept[j];
  *dst = -1;
  if (i < j || i >= range.n || (j > 0 && i <= kept[j - 1])) return; /* a damaged list */
  const int32_t r = i + range.cls_row;
  const int64_t at = tc_row_offset(a, a.src_slots, a.src_row_stride, a.src_segment_stride,
                                   range.flat, (int64_t)range.start + r, range.b, r);
  if (at < 0 || (at == to && a.src == a.dst)) return;
  *src = at;
  *dst = to;
}

/* Where this thread's units of a group of rows are: which unit of the slice, which line of rows. */
struct unit_grid {
  int32_t part;    /* the part the slice begins in */
  uint32_t within; /* the unit of that part it begins with */
  uint32_t units;  /* units of the slice */
  uint32_t columns, column, line, lines;
};

/* The slice's units of result rows base .. base + rows - 1, whose places are in src_at, dst_at. */
__device__ inline void move_group(const tc_row_array &a, const unit_grid &grid, int32_t base,
                                  int rows, const int64_t *src_at, const int64_t *dst_at) {
#pragma unroll 1
  for (uint32_t first = 0; first < grid.units; first += grid.columns) {
    FORGET();
    uint32_t within = grid.within + first + grid.column;
    int64_t part = grid.part;
    if (within >= (uint32_t)a.part_units) {
      part += within / (uint32_t)a.part_units;
      within %= (uint32_t)a.part_units;
    }
    const int live = first + grid.column < grid.units ? rows : 0;
    const int64_t byte = (int64_t)within * a.width;
    const char *src = a.src + (part * a.src_part_stride + byte);
    char *dst = a.dst + (part * a.dst_part_stride + byte);
    uint4 held[HELD];
    const char *from[HELD];
    char *to[HELD];
#pragma unroll
    for (int i = 0; i < HELD; i++) {
      const int r = (int)(grid.line + i * grid.lines);
      const int64_t to_row = r < live ? dst_at[r] : -1, from_row = to_row < 0 ? ZERO : src_at[r];
      to[i] = to_row < 0 ? nullptr : dst + to_row;
      from[i] = from_row < 0 ? nullptr : src + from_row;
      /* A position has 4 or 8 bytes, of which this unit's are wanted. */
      const uint64_t made =
          from_row == POSITION && byte < 4 ? (uint64_t)(uint32_t)(base + r) >> (8 * byte) : 0;
      held[i] = make_uint4((uint32_t)made, 0, 0, 0);
    }
    tc_load_units(held, from, a.width);
    if (a.in_place) __syncthreads();
    tc_store_units(held, to, a.width);
  }
}

/* Called by the whole block. */
__device__ inline void move_rows(const tc_row_array &a, const row_range &range, int64_t *src_at,
                                 int64_t *dst_at) {
  const int64_t unit = range.slice * a.slice_units;
  unit_grid grid;
  grid.part = (int32_t)(unit / a.part_units);
  grid.within = (uint32_t)(unit % a.part_units);
  grid.units = (uint32_t)min((int64_t)a.slice_units, a.units - unit);
  grid.columns = 1u << a.columns_log;
  grid.column = threadIdx.x & (grid.columns - 1);
  grid.line = threadIdx.x >> a.columns_log;
  grid.lines = THREADS >> a.columns_log;
  const int group = (int)grid.lines * HELD;
#pragma unroll 1
  for (int64_t base = range.from; base < range.to; base += group) {
    const int rows = (int)min((int64_t)group, range.to - base);
#pragma unroll 1
    for (int r = (int)threadIdx.x; r < rows; r += THREADS) {
      FORGET();
      locate(a, range, (int32_t)base + r, &src_at[r], &dst_at[r]);
    }
    __syncthreads();
    move_group(a, grid, (int32_t)base, rows, src_at, dst_at);
    if (!a.in_place) __syncthreads(); /* before src_at changes; in place there was one already */
  }
}

/* Fills in segment b; false: its offsets would lead outside the destination. */
template <int MOST>
__device__ inline bool take_segment(const compact_args<MOST> &args, const tc_row_array &a,
                                    int32_t b, row_range *range) {
  const tc_segment segment = tc_segment_at(args.s, b);
  const int32_t count = args.counts[b];
  range->b = b;
  range->n = segment.n;
  range->start = segment.start;
  range->k = count < 0 || count > segment.n ? 0 : count;
  range->dst_start = segment.start;
  range->kept = args.kept + segment.start;
  if (!a.packed && !args.kept_packed) return true;
  const int32_t offset = args.new_cu[b];
  if (offset < 0 || (int64_t)offset + range->k > args.s.total) return false;
  if (a.packed) range->dst_start = offset;
  if (args.kept_packed) range->kept = args.kept + offset;
  return true;
}

/* The rows that block of work `task` of an array is about; false: there are none. */
template <int MOST>
__device__ inline bool take_task(const compact_args<MOST> &args, const tc_row_array &a,
                                 int64_t task, row_range *range) {
  const bool zeroes = a.zero_tail && !a.packed; /* rows k .. n-1 */
  range->cls_row = args.s.cls_row;
  range->flat = args.s.cu_seqlens != nullptr;
  if (a.in_place) {
    if (!take_segment(args, a, (int32_t)task, range)) return false;
    range->from = 0;
    range->to = zeroes ? range->n : range->k;
  } else if (task < args.t.bound * args.split) {
    const int64_t tile = task / args.split;
    if (tile >= tc_tiles_total(args.t, args.s)) return false;
    int32_t index;
    const int32_t b = tc_tile_find(args.t, args.s, tile, &index);
    if (!take_segment(args, a, b, range)) return false;
    const int32_t rows = TC_BLOCK / args.split;
    range->from = index * TC_BLOCK + (int32_t)(task % args.split) * rows;
    range->to = min(range->from + rows, zeroes ? range->n : range->k);
  } else { /* the tail of a PACKED result: rows from the last result to the last candidate */
    const int32_t result = args.new_cu[args.s.segments];
    const int64_t last =
        args.s.n != nullptr ? args.s.n[args.s.segments]
                            : (int64_t)args.s.segments * max(args.s.max_tokens - args.s.cls_row, 0);
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
__global__ void __launch_bounds__(THREADS, 4)
    compact(const __grid_constant__ compact_args<MOST> args) {
  __shared__ int64_t src_at[ROWS_MOST], dst_at[ROWS_MOST];
  __shared__ tc_row_array array;
  __shared__ row_range range;
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
    row_range found;
    found.slice = at % slices;
    if (!take_task(args, args.array[lo], at / slices, &found)) continue; /* the whole block */
    __syncthreads(); /* the array and range of the work before are no longer used */
    if (threadIdx.x < sizeof(tc_row_array) / 8) {
      ((uint64_t *)&array)[threadIdx.x] = ((const uint64_t *)&args.array[lo])[threadIdx.x];
    }
    if (threadIdx.x == 0) range = found;
    __syncthreads();
    move_rows(array, range, src_at, dst_at);
  }
}

/* ----------------------------------------------------------------------------------------- host -- */

template <int MOST>
cudaError_t launch(const tc_cuda *device, const tc_segments *segments, const int32_t *kept,
                   int32_t kept_placement, const int32_t *counts, const int32_t *new_cu,
                   const tailcut_rows *rows, int32_t num_rows, cudaStream_t stream) {
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
    tc_slice(&args.array[i], 512, COLUMNS_MOST);
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
      tc_slice(a, narrow, COLUMNS_MOST);
      tasks = segments->segments;
    } else if (a->packed && a->zero_tail) {
      if (segments->n == nullptr && (!uniform || segments->lengths != nullptr)) {
        return cudaErrorInvalidValue; /* the number of candidates is resolve's to say */
      }
      tasks += tail_tiles;
    }
    args.first[i + 1] = args.first[i] + tasks * a->slices;
  }
  compact<MOST><<<tc_grid(args.first[num_rows]), THREADS, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace

extern "C" cudaError_t tc_cuda_compact(const tc_cuda *device, const tc_segments *segments,
                                       const int32_t *kept, int32_t kept_placement,
                                       const int32_t *counts, const int32_t *new_cu,
                                       const tailcut_rows *rows, int32_t num_rows,
                                       cudaStream_t stream) {
  if (segments->segments <= 0) return cudaSuccess;
  for (int32_t i = 0; i < num_rows; i += TC_ROWS_PER_LAUNCH) {
    const int32_t left = num_rows - i, most = TC_ROWS_PER_LAUNCH;
    const cudaError_t error =
        left <= FEW_ARRAYS
            ? launch<FEW_ARRAYS>(device, segments, kept, kept_placement, counts, new_cu, rows + i,
                                 left, stream)
            : launch<TC_ROWS_PER_LAUNCH>(device, segments, kept, kept_placement, counts, new_cu,
                                         rows + i, left < most ? left : most, stream);
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
