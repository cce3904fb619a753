/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sweep: how a block moves rows of an array, in place or not. compact.cu says why it is safe.
 *
 * A row is a line of units of 1 to 16 bytes, the widest that divides every address of its array. A
 * block works on some rows and a slice of their units: for up to 1,024 rows it first works out where
 * they come from and go to, then each thread holds one unit of four rows at a time; in place, all
 * of a group are read before any is written. Loads are plain ones: the compiler must not take rows
 * for constant.
 */
#ifndef TAILCUT_SWEEP_CUH_
#define TAILCUT_SWEEP_CUH_

#include "dot.cuh"
#include "segments.cuh"

constexpr int TC_SWEEP_THREADS = 256;
constexpr int TC_SWEEP_HELD = 4;     /* rows of which a thread holds a unit */
constexpr int TC_SWEEP_ROWS = 1024;  /* of a group: at most one unit of each in a line of threads */
constexpr int TC_SWEEP_COLUMNS = 32; /* units side by side in a group */

/* In place of a source: what is written instead. */
constexpr int64_t TC_SRC_ZERO = -1, TC_SRC_POSITION = -2;

struct tc_row_array {
  const char *src;
  char *dst;
  const void *src_slots, *dst_slots;
  int64_t src_part_stride, dst_part_stride, src_row_stride, dst_row_stride;
  int64_t src_segment_stride, dst_segment_stride, page_rows, page_stride;
  int64_t units, slices;           /* units of a row; slices of a row */
  int32_t part_units, slice_units; /* units of a part; of a slice */
  uint8_t width, columns_log, slot_bytes, in_place, packed, renumber, zero_tail;
};

/* The rows a block works on: result rows [from, to) of segment b, of which those below k move. */
struct tc_row_range {
  int32_t b, n, cls_row;
  bool flat; /* rows are numbered through the batch: ragged */
  int64_t start, dst_start, k, from, to;
  const int32_t *kept;
};

__device__ inline int64_t tc_slot_of(const void *slots, int bytes, int64_t i) {
  return bytes == 8 ? ((const int64_t *)slots)[i] : ((const int32_t *)slots)[i];
}

/* Bytes from an array's base to a row: number `number` of the batch, row r of segment b; -1: there
 * is no such row. */
__device__ inline int64_t tc_row_offset(const tc_row_array &a, const void *slots,
                                        int64_t row_stride, int64_t segment_stride, bool flat,
                                        int64_t number, int32_t b, int64_t r) {
  if (slots != nullptr) {
    const int64_t slot = tc_slot_of(slots, a.slot_bytes, number);
    if (slot < 0) return -1;
    if (a.page_rows == 0) return slot * row_stride;
    return slot / a.page_rows * a.page_stride + slot % a.page_rows * row_stride;
  }
  return flat ? number * row_stride : b * segment_stride + r * row_stride;
}

/* Where result row j comes from (or what is written there) and where it goes; *dst -1: nowhere. */
__device__ inline void tc_locate(const tc_row_array &a, const tc_row_range &range, int64_t j,
                                 int64_t *src, int64_t *dst) {
  const int64_t to = tc_row_offset(a, a.dst_slots, a.dst_row_stride, a.dst_segment_stride,
                                   range.flat || a.packed, range.dst_start + j, range.b, j);
  *src = TC_SRC_ZERO;
  *dst = to;
  if (j >= range.k || to < 0) return;
  *src = TC_SRC_POSITION;
  if (a.renumber) return;
  const int64_t i = range.kept[j];
  *dst = -1;
  if (i < j || i >= range.n || (j > 0 && i <= range.kept[j - 1])) return; /* a damaged list */
  const int64_t r = i + range.cls_row;
  const int64_t at = tc_row_offset(a, a.src_slots, a.src_row_stride, a.src_segment_stride,
                                   range.flat, range.start + r, range.b, r);
  if (at < 0 || (at == to && a.src == a.dst)) return;
  *src = at;
  *dst = to;
}

/* What is written where there is no source: zeros, or bytes from `byte` on of position j. */
template <typename UNIT>
__device__ inline UNIT tc_made(int64_t kind, int64_t j, uint32_t byte) {
  return kind == TC_SRC_POSITION ? (UNIT)((uint64_t)j >> (8 * byte)) : (UNIT)0;
}
template <>
__device__ inline uint4 tc_made<uint4>(int64_t, int64_t, uint32_t) {
  return make_uint4(0, 0, 0, 0); /* positions have at most 8 bytes */
}

/* Units [unit, unit_end) of the rows of `range`. Called by the whole block. */
template <typename UNIT>
__device__ inline void tc_move_rows(const tc_row_array &a, const tc_row_range &range, int64_t unit,
                                    int64_t unit_end, int64_t *src_at, int64_t *dst_at) {
  const int columns = 1 << a.columns_log, lines = TC_SWEEP_THREADS >> a.columns_log;
  const int column = (int)threadIdx.x & (columns - 1), line = (int)threadIdx.x >> a.columns_log;
  const int group = lines * TC_SWEEP_HELD;
  const bool in_place = a.in_place;
  for (int64_t base = range.from; base < range.to; base += group) {
    const int rows = (int)(range.to - base < group ? range.to - base : group);
#pragma unroll 1
    for (int r = (int)threadIdx.x; r < rows; r += TC_SWEEP_THREADS) {
      tc_locate(a, range, base + r, &src_at[r], &dst_at[r]);
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
      UNIT held[TC_SWEEP_HELD];
      int64_t to[TC_SWEEP_HELD];
#pragma unroll
      for (int i = 0; i < TC_SWEEP_HELD; i++) {
        const int r = line + i * lines;
        to[i] = mine && r < rows ? dst_at[r] : -1;
        if (to[i] < 0) continue;
        const int64_t from = src_at[r];
        if (from >= 0) {
          held[i] = *(const UNIT *)(src + from);
        } else {
          held[i] = tc_made<UNIT>(from, base + r, (uint32_t)(within * sizeof(UNIT)));
        }
      }
      if (in_place) __syncthreads();
#pragma unroll
      for (int i = 0; i < TC_SWEEP_HELD; i++) {
        if (to[i] >= 0) *(UNIT *)(dst + to[i]) = held[i];
      }
    }
    if (!in_place) __syncthreads(); /* before src_at changes; in place there was one already */
  }
}

__device__ inline void tc_move_units(const tc_row_array &a, const tc_row_range &range,
                                     int64_t slice, int64_t *src_at, int64_t *dst_at) {
  const int64_t unit = slice * a.slice_units;
  const int64_t end = min(unit + a.slice_units, a.units);
  switch (a.width) {
    case 16:
      return tc_move_rows<uint4>(a, range, unit, end, src_at, dst_at);
    case 8:
      return tc_move_rows<uint64_t>(a, range, unit, end, src_at, dst_at);
    case 4:
      return tc_move_rows<uint32_t>(a, range, unit, end, src_at, dst_at);
    case 2:
      return tc_move_rows<uint16_t>(a, range, unit, end, src_at, dst_at);
    default:
      return tc_move_rows<uint8_t>(a, range, unit, end, src_at, dst_at);
  }
}

/* The widest unit that divides everything an address of this array is made of. */
static inline int tc_unit_width(const tailcut_rows &r, bool uniform) {
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

static inline tc_row_array tc_describe_rows(const tailcut_rows &r, bool uniform) {
  tc_row_array a = {};
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
  a.width = (uint8_t)tc_unit_width(r, uniform);
  a.part_units = (int32_t)(r.part_bytes / a.width);
  a.units = (int64_t)a.part_units * r.parts;
  return a;
}

static inline void tc_slice_rows(tc_row_array *a, int bytes) {
  const int64_t units = bytes / a->width;
  a->slice_units = (int32_t)(a->units < units ? a->units : units);
  a->slices = (a->units + units - 1) / units;
  a->columns_log = 0;
  while (1 << a->columns_log < a->slice_units && 1 << a->columns_log < TC_SWEEP_COLUMNS) {
    a->columns_log++;
  }
}

#endif /* TAILCUT_SWEEP_CUH_ */
