/* SPDX-License-Identifier: Apache-2.0 */
/* rows: a row array of any layout as a kernel sees it: its rows in units of the widest access that
 * every address in it allows, and where a row is. */
#ifndef TAILCUT_ROWS_CUH_
#define TAILCUT_ROWS_CUH_

#include "common/dot.cuh"

/* Where the elements of a result come from. */
enum { TC_FROM_ROWS, TC_FROM_POSITIONS, TC_FROM_KEPT, TC_FROM_NOTHING /* but zeroed tails */ };

struct tc_row_array {
  const char *src;
  char *dst;
  const void *src_slots, *dst_slots, *renumber_base;
  int64_t src_part_stride, dst_part_stride, src_row_stride, dst_row_stride;
  int64_t src_segment_stride, dst_segment_stride, page_rows, page_stride;
  int64_t dst_rows;                /* rows the destination has room for */
  int64_t units, slices;           /* units of a row; slices of a row */
  int32_t part_units, slice_units; /* units of a part; of a slice */
  uint8_t width, columns_log, slot_bytes, base_bytes, in_place, packed, from, zero_tail;
  int8_t page_log; /* page_rows as a power of two; -1: none */
  int32_t per;     /* tiles of a segment, where they are dealt evenly */
};

/* Says that p is in global memory, which the compiler cannot see in an address that comes out of
 * shared memory: without it every access would first find out. */
template <typename T>
__device__ inline T *tc_global(T *p) {
  __builtin_assume(__isGlobal(p));
  return p;
}

__device__ inline int64_t tc_integer_of(const void *table, int bytes, int64_t i) {
  return bytes == 8 ? tc_global((const int64_t *)table)[i] : tc_global((const int32_t *)table)[i];
}

/* Bytes from an array's base to a row: number `number` of the batch, row r of segment b; -1: there
 * is no such row. */
__device__ inline int64_t tc_row_offset(const tc_row_array &a, const void *slots,
                                        int64_t row_stride, int64_t segment_stride, bool flat,
                                        int64_t number, int32_t b, int64_t r) {
  if (slots == nullptr) return flat ? number * row_stride : b * segment_stride + r * row_stride;
  const int64_t slot = tc_integer_of(slots, a.slot_bytes, number);
  if (slot < 0) return -1;
  if (a.page_rows == 0) return slot * row_stride;
  const int64_t page = a.page_log >= 0 ? slot >> a.page_log : slot / a.page_rows;
  return page * a.page_stride + (slot - page * a.page_rows) * row_stride;
}

/* How many of n rows from row `first` of the destination on it has room for; below 1: for none. */
__device__ inline int32_t tc_room(const tc_row_array &a, int32_t n, int64_t first = 0) {
  return (int32_t)min((int64_t)n, a.dst_rows - first);
}

/* A unit of any width travels in the low bytes of held; nothing happens where `from` or `to` is
 * NULL. All loads of a call are under way before the first is waited for. */
template <int HELD>
__device__ inline void tc_load_units(uint4 (&held)[HELD], const char *const (&from)[HELD],
                                     int width) {
#define TC_LOAD(bytes, type, assign)                    \
  case bytes:                                           \
    _Pragma("unroll") for (int i = 0; i < HELD; i++) {  \
      if (from[i] == nullptr) continue;                 \
      const type v = *(const type *)tc_global(from[i]); \
      assign;                                           \
    }                                                   \
    break
  switch (width) {
    TC_LOAD(16, uint4, held[i] = v);
    TC_LOAD(8, uint2, (held[i].x = v.x, held[i].y = v.y));
    TC_LOAD(4, uint32_t, held[i].x = v);
    TC_LOAD(2, uint16_t, held[i].x = v);
    TC_LOAD(1, uint8_t, held[i].x = v);
  }
#undef TC_LOAD
}

template <int HELD>
__device__ inline void tc_store_units(const uint4 (&held)[HELD], char *const (&to)[HELD],
                                      int width) {
#define TC_STORE(bytes, type, value)                           \
  case bytes:                                                  \
    _Pragma("unroll") for (int i = 0; i < HELD; i++) {         \
      if (to[i] != nullptr) *(type *)tc_global(to[i]) = value; \
    }                                                          \
    break
  switch (width) {
    TC_STORE(16, uint4, held[i]);
    TC_STORE(8, uint2, make_uint2(held[i].x, held[i].y));
    TC_STORE(4, uint32_t, held[i].x);
    TC_STORE(2, uint16_t, (uint16_t)held[i].x);
    TC_STORE(1, uint8_t, (uint8_t)held[i].x);
  }
#undef TC_STORE
}

static inline int tc_rows_from(const tailcut_rows &r) {
  return r.flags & TC_ROWS_KEPT            ? TC_FROM_KEPT
         : r.flags & TAILCUT_ROWS_RENUMBER ? TC_FROM_POSITIONS
         : r.flags & TC_ROWS_TAIL          ? TC_FROM_NOTHING
                                           : TC_FROM_ROWS;
}

/* The widest unit that divides everything an address of this array is made of. */
static inline int tc_unit_width(const tailcut_rows &r, bool uniform) {
  const bool packed = r.placement == TAILCUT_PACKED;
  uint64_t bits = (uint64_t)r.part_bytes | (uint64_t)(uintptr_t)r.dst | (uint64_t)r.dst_row_stride;
  if (r.parts > 1) bits |= (uint64_t)r.dst_part_stride;
  if (uniform && !packed && r.dst_slots == nullptr) bits |= (uint64_t)r.dst_segment_stride;
  if (r.dst_slots != nullptr && r.page_rows > 0) bits |= (uint64_t)r.page_stride;
  if (tc_rows_from(r) == TC_FROM_ROWS) {
    bits |= (uint64_t)(uintptr_t)r.src | (uint64_t)r.src_row_stride;
    if (r.parts > 1) bits |= (uint64_t)r.src_part_stride;
    if (uniform && r.src_slots == nullptr) bits |= (uint64_t)r.src_segment_stride;
    if (r.src_slots != nullptr && r.page_rows > 0) bits |= (uint64_t)r.page_stride;
  }
  return tc_widest(bits);
}

/* `r` is whole, with explicit strides. */
static inline tc_row_array tc_describe(const tailcut_rows &r, bool uniform) {
  tc_row_array a = {};
  a.src = (const char *)r.src;
  a.dst = (char *)r.dst;
  a.src_slots = r.src_slots;
  a.dst_slots = r.dst_slots;
  a.renumber_base = r.renumber_base;
  a.src_part_stride = r.src_part_stride;
  a.dst_part_stride = r.dst_part_stride;
  a.src_row_stride = r.src_row_stride;
  a.dst_row_stride = r.dst_row_stride;
  a.src_segment_stride = r.src_segment_stride;
  a.dst_segment_stride = r.dst_segment_stride;
  a.dst_rows = r.dst_rows;
  a.page_rows = r.page_rows;
  a.page_stride = r.page_stride;
  a.page_log = -1;
  for (int log = 0; log < 63; log++) {
    if (r.page_rows == (int64_t)1 << log) a.page_log = (int8_t)log;
  }
  a.slot_bytes = (uint8_t)r.slot_bytes;
  a.base_bytes = (uint8_t)(r.part_bytes == 8 ? 8 : 4);
  a.packed = r.placement == TAILCUT_PACKED;
  a.from = (uint8_t)tc_rows_from(r);
  a.zero_tail = (r.flags & TAILCUT_ROWS_ZERO_TAIL) != 0;
  a.in_place = !a.packed && a.from == TC_FROM_ROWS && r.src == r.dst;
  a.width = (uint8_t)tc_unit_width(r, uniform);
  a.part_units = (int32_t)(r.part_bytes / a.width);
  a.units = (int64_t)a.part_units * r.parts;
  return a;
}

/* Cuts rows into slices of `bytes` bytes, `columns_most` units of which are side by side. */
static inline void tc_slice(tc_row_array *a, int bytes, int columns_most) {
  const int64_t units = bytes / a->width;
  a->slice_units = (int32_t)(a->units < units ? a->units : units);
  a->slices = (a->units + units - 1) / units;
  a->columns_log = 0;
  while (1 << a->columns_log < a->slice_units && 1 << a->columns_log < columns_most) {
    a->columns_log++;
  }
}

#endif /* TAILCUT_ROWS_CUH_ */
