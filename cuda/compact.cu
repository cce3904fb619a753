/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact: moves the kept rows of any number of row arrays in one launch.
 *
 * Formula: result row j = source row kept[j] (+ cls_row). Strategy: a row is a line of units of
 * 1 to 16 bytes, the widest that divides every address of its array; a block moves one slice of the
 * units of some rows: for up to 1,024 rows it first works out where they come from and go to, then
 * each thread holds one unit of four rows at a time.
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
 * about 1 us per 1,024 rows.
 *
 * Ladder: 1. as described. Prediction: out of place 85% of the copy bandwidth from 16 MB on, in place
 * the same from two slices per SM on; not measured.
 */
#include "dot.cuh"
#include "tiles.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int HELD = 4;          /* rows of which a thread holds a unit */
constexpr int ROWS_MOST = 1024;  /* of a group: HELD * THREADS rows of one unit each */
constexpr int COLUMNS_MOST = 32; /* units side by side in a group */
constexpr int FEW_ARRAYS = 8;    /* what a small parameter block holds */

constexpr int64_t ZERO = -1, POSITION = -2; /* in place of a source: what is written instead */

struct row_array {
  const char *src;
  char *dst;
  const void *src_slots, *dst_slots;
  int64_t src_part_stride, dst_part_stride, src_row_stride, dst_row_stride;
  int64_t src_segment_stride, dst_segment_stride, page_rows, page_stride;
  int64_t units, slices;           /* units of a row; slices of a row */
  int32_t part_units, slice_units; /* units of a part; of a slice */
  uint8_t width, columns_log, slot_bytes, in_place, packed, renumber, zero_tail;
};

template <int MOST>
struct compact_args {
  tc_segments s;
  tc_tiles t;
  const int32_t *kept, *counts, *new_cu;
  int32_t kept_packed, arrays, split;
  int64_t first[MOST + 1]; /* prefix sums of the arrays' blocks of work */
  row_array array[MOST];
};

/* The rows a block works on: result rows [from, to) of segment b, of which those below k move. */
struct row_range {
  int32_t b, n, cls_row;
  bool flat; /* rows are numbered through the batch: ragged */
  int64_t start, dst_start, k, from, to;
  const int32_t *kept;
};

__device__ inline int64_t slot_of(const void *slots, int bytes, int64_t i) {
  return bytes == 8 ? ((const int64_t *)slots)[i] : ((const int32_t *)slots)[i];
}

/* Bytes from an array's base to a row: number `number` of the batch, row r of segment b; -1: there
 * is no such row. */
__device__ inline int64_t row_offset(const row_array &a, const void *slots, int64_t row_stride,
                                     int64_t segment_stride, bool flat, int64_t number, int32_t b,
                                     int64_t r) {
  if (slots != nullptr) {
    const int64_t slot = slot_of(slots, a.slot_bytes, number);
    if (slot < 0) return -1;
    if (a.page_rows == 0) return slot * row_stride;
    return slot / a.page_rows * a.page_stride + slot % a.page_rows * row_stride;
  }
  return flat ? number * row_stride : b * segment_stride + r * row_stride;
}

/* Where result row j comes from (or what is written there) and where it goes; *dst -1: nowhere. */
__device__ inline void locate(const row_array &a, const row_range &range, int64_t j, int64_t *src,
                              int64_t *dst) {
  const int64_t to = row_offset(a, a.dst_slots, a.dst_row_stride, a.dst_segment_stride,
                                range.flat || a.packed, range.dst_start + j, range.b, j);
  *src = ZERO;
  *dst = to;
  if (j >= range.k || to < 0) return;
  *src = POSITION;
  if (a.renumber) return;
  const int64_t i = range.kept[j];
  *dst = -1;
  if (i < j || i >= range.n || (j > 0 && i <= range.kept[j - 1])) return; /* a damaged list */
  const int64_t r = i + range.cls_row;
  const int64_t at = row_offset(a, a.src_slots, a.src_row_stride, a.src_segment_stride, range.flat,
                                range.start + r, range.b, r);
  if (at < 0 || (at == to && a.src == a.dst)) return;
  *src = at;
  *dst = to;
}

/* What is written where there is no source: zeros, or bytes from `byte` on of position j. */
template <typename UNIT>
__device__ inline UNIT made(int64_t kind, int64_t j, uint32_t byte) {
  return kind == POSITION ? (UNIT)((uint64_t)j >> (8 * byte)) : (UNIT)0;
}
template <>
__device__ inline uint4 made<uint4>(int64_t, int64_t, uint32_t) {
  return make_uint4(0, 0, 0, 0); /* positions have at most 8 bytes */
}

/* Units [unit, unit_end) of the rows of `range`. Called by the whole block. */
template <typename UNIT>
__device__ inline void move_rows(const row_array &a, const row_range &range, int64_t unit,
                                 int64_t unit_end, int64_t *src_at, int64_t *dst_at) {
  const int columns = 1 << a.columns_log, lines = THREADS >> a.columns_log;
  const int column = (int)threadIdx.x & (columns - 1), line = (int)threadIdx.x >> a.columns_log;
  const int group = lines * HELD;
  const bool in_place = a.in_place;
  for (int64_t base = range.from; base < range.to; base += group) {
    const int rows = (int)(range.to - base < group ? range.to - base : group);
#pragma unroll 1
    for (int r = (int)threadIdx.x; r < rows; r += THREADS) {
      locate(a, range, base + r, &src_at[r], &dst_at[r]);
    }
    __syncthreads();
#pragma unroll 1
    for (int64_t first = unit; first < unit_end; first += columns) {
      const int64_t u = first + column;
      const bool mine = u < unit_end;
      int64_t part = 0, within = u;
      if (u >= a.part_units) { /* in 32 bits, and only where a row has several parts */
        part = a.units <= UINT32_MAX ? (uint32_t)u / (uint32_t)a.part_units : u / a.part_units;
        within = u - part * a.part_units;
      }
      const char *src = a.src + (part * a.src_part_stride + within * (int64_t)sizeof(UNIT));
      char *dst = a.dst + (part * a.dst_part_stride + within * (int64_t)sizeof(UNIT));
      UNIT held[HELD];
      int64_t to[HELD];
#pragma unroll
      for (int i = 0; i < HELD; i++) {
        const int r = line + i * lines;
        to[i] = mine && r < rows ? dst_at[r] : -1;
        if (to[i] < 0) continue;
        const int64_t from = src_at[r];
        if (from >= 0) {
          held[i] = *(const UNIT *)(src + from);
        } else {
          held[i] = made<UNIT>(from, base + r, (uint32_t)(within * sizeof(UNIT)));
        }
      }
      if (in_place) __syncthreads();
#pragma unroll
      for (int i = 0; i < HELD; i++) {
        if (to[i] >= 0) *(UNIT *)(dst + to[i]) = held[i];
      }
    }
    if (!in_place) __syncthreads(); /* before src_at changes; in place there was one already */
  }
}

__device__ inline void move_units(const row_array &a, const row_range &range, int64_t slice,
                                  int64_t *src_at, int64_t *dst_at) {
  const int64_t unit = slice * a.slice_units;
  const int64_t end = min(unit + a.slice_units, a.units);
  switch (a.width) {
    case 16:
      return move_rows<uint4>(a, range, unit, end, src_at, dst_at);
    case 8:
      return move_rows<uint64_t>(a, range, unit, end, src_at, dst_at);
    case 4:
      return move_rows<uint32_t>(a, range, unit, end, src_at, dst_at);
    case 2:
      return move_rows<uint16_t>(a, range, unit, end, src_at, dst_at);
    default:
      return move_rows<uint8_t>(a, range, unit, end, src_at, dst_at);
  }
}

/* Fills in segment b; false: its offsets would lead outside the destination. */
template <int MOST>
__device__ inline bool take_segment(const compact_args<MOST> &args, const row_array &a, int32_t b,
                                    row_range *range) {
  const tc_segment segment = tc_segment_at(args.s, b);
  const int32_t count = args.counts[b];
  range->b = b;
  range->n = segment.n;
  range->start = segment.start;
  range->k = count < 0 || count > segment.n ? 0 : count;
  range->dst_start = segment.start;
  range->kept = args.kept + segment.start;
  if (!a.packed && !args.kept_packed) return true;
  const int64_t offset = args.new_cu[b];
  if (offset < 0 || offset + range->k > args.s.total) return false;
  if (a.packed) range->dst_start = offset;
  if (args.kept_packed) range->kept = args.kept + offset;
  return true;
}

template <int MOST>
__global__ void __launch_bounds__(THREADS)
    compact(const __grid_constant__ compact_args<MOST> args) {
  __shared__ int64_t src_at[ROWS_MOST], dst_at[ROWS_MOST];
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
    const row_array &a = args.array[lo];
    const int64_t slice = (number - args.first[lo]) % a.slices;
    const int64_t task = (number - args.first[lo]) / a.slices;
    row_range range;
    range.cls_row = args.s.cls_row;
    range.flat = args.s.cu_seqlens != nullptr;
    const bool zeroes = a.zero_tail && !a.packed; /* rows k .. n-1 */
    if (a.in_place) {
      if (!take_segment(args, a, (int32_t)task, &range)) continue;
      range.from = 0;
      range.to = zeroes ? range.n : range.k;
    } else if (task < args.t.bound * args.split) {
      const int64_t tile = task / args.split;
      if (tile >= tc_tiles_total(args.t, args.s)) continue;
      int32_t index;
      const int32_t b = tc_tile_find(args.t, args.s, tile, &index);
      if (!take_segment(args, a, b, &range)) continue;
      const int32_t rows = TC_BLOCK / args.split;
      range.from = (int64_t)index * TC_BLOCK + task % args.split * rows;
      range.to = min(range.from + rows, zeroes ? (int64_t)range.n : range.k);
    } else { /* the tail of a PACKED result: rows from the last result to the last candidate */
      const int64_t result = args.new_cu[args.s.segments];
      const int64_t last = args.s.n != nullptr ? args.s.n[args.s.segments]
                                               : (int64_t)args.s.segments *
                                                     max(args.s.max_tokens - args.s.cls_row, 0);
      if (result < 0) continue;
      const int64_t row = (task - args.t.bound * args.split) * TC_BLOCK;
      range.b = 0;
      range.n = 0;
      range.start = range.dst_start = range.k = 0;
      range.kept = nullptr;
      range.from = max(row, result);
      range.to = min(row + TC_BLOCK, last);
    }
    move_units(a, range, slice, src_at, dst_at);
  }
}

/* ----------------------------------------------------------------------------------------- host -- */

/* The widest unit that divides everything an address of this array is made of. */
int unit_width(const tailcut_rows &r, bool uniform) {
  const bool packed = r.placement == TAILCUT_PACKED;
  uint64_t bits = (uint64_t)r.part_bytes | (uint64_t)(uintptr_t)r.dst | (uint64_t)r.dst_row_stride;
  if (r.parts > 1) bits |= (uint64_t)r.dst_part_stride;
  if (uniform && !packed && r.dst_slots == nullptr) bits |= (uint64_t)r.dst_segment_stride;
  if (r.dst_slots != nullptr && r.page_rows > 0) bits |= (uint64_t)r.page_stride;
  if (!(r.flags & TAILCUT_ROWS_RENUMBER)) {
    bits |= (uint64_t)(uintptr_t)r.src | (uint64_t)r.src_row_stride;
    if (r.parts > 1) bits |= (uint64_t)r.src_part_stride;
    if (uniform && r.src_slots == nullptr) bits |= (uint64_t)r.src_segment_stride;
    if (r.src_slots != nullptr && r.page_rows > 0) bits |= (uint64_t)r.page_stride;
  }
  return tc_widest(bits);
}

row_array describe(const tailcut_rows &r, bool uniform) {
  row_array a = {};
  a.src = (const char *)r.src;
  a.dst = (char *)r.dst;
  a.src_slots = r.src_slots;
  a.dst_slots = r.dst_slots;
  a.src_part_stride = r.src_part_stride;
  a.dst_part_stride = r.dst_part_stride;
  a.src_row_stride = r.src_row_stride;
  a.dst_row_stride = r.dst_row_stride;
  a.src_segment_stride = r.src_segment_stride;
  a.dst_segment_stride = r.dst_segment_stride;
  a.page_rows = r.page_rows;
  a.page_stride = r.page_stride;
  a.slot_bytes = (uint8_t)r.slot_bytes;
  a.packed = r.placement == TAILCUT_PACKED;
  a.renumber = (r.flags & TAILCUT_ROWS_RENUMBER) != 0;
  a.zero_tail = (r.flags & TAILCUT_ROWS_ZERO_TAIL) != 0;
  a.in_place = !a.packed && !a.renumber && r.src == r.dst;
  a.width = (uint8_t)unit_width(r, uniform);
  a.part_units = (int32_t)(r.part_bytes / a.width);
  a.units = (int64_t)a.part_units * r.parts;
  return a;
}

void slice(row_array *a, int bytes) {
  const int64_t units = bytes / a->width;
  a->slice_units = (int32_t)(a->units < units ? a->units : units);
  a->slices = (a->units + units - 1) / units;
  a->columns_log = 0;
  while (1 << a->columns_log < a->slice_units && 1 << a->columns_log < COLUMNS_MOST) {
    a->columns_log++;
  }
}

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
    args.array[i] = describe(rows[i], uniform);
    slice(&args.array[i], 512);
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
    row_array *a = &args.array[i];
    int64_t tasks = args.t.bound * args.split;
    if (a->in_place) {
      slice(a, narrow);
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
