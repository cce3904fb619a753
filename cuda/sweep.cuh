/* SPDX-License-Identifier: Apache-2.0 */
/* sweep: how a block moves a slice of some rows of an array, in place or not. compact.cu says why in
 * place is safe. */
#ifndef TAILCUT_SWEEP_CUH_
#define TAILCUT_SWEEP_CUH_

#include "common/delay.cuh"
#include "common/rows.cuh"

constexpr int TC_SWEEP_THREADS = 256;
constexpr int TC_SWEEP_HELD = 4; /* rows of which a thread holds a unit */
constexpr int TC_SWEEP_ROWS =
    1024; /* of a group: TC_SWEEP_HELD * TC_SWEEP_THREADS rows of one unit each */
constexpr int TC_SWEEP_COLUMNS = 32; /* units side by side in a group */

/* The descriptor is read again from here on: kept in registers it would not fit. */
#define TC_FORGET() asm volatile("" ::: "memory")

constexpr int64_t TC_SRC_ZERO = -1,
                  TC_SRC_POSITION = -2; /* in place of a source: what is written instead */

/* What a block works on: a slice of result rows [from, to) of segment b; those below k move. */
struct tc_row_range {
  int32_t b, n, prefix_rows;
  bool flat; /* rows are numbered through the batch: ragged */
  int32_t start, dst_start, k, from, to;
  const int32_t *kept; /* global or shared memory */
  int64_t slice;
};

/* Where result row j comes from (or what is written there) and where it goes; *dst -1: nowhere. */
__device__ inline void tc_locate(const tc_row_array &a, const tc_row_range &range, int32_t j,
                                 int64_t *src, int64_t *dst) {
  const int64_t to =
      tc_row_offset(a, a.dst_slots, a.dst_row_stride, a.dst_segment_stride, range.flat || a.packed,
                    (int64_t)range.dst_start + j, range.b, j);
  *src = TC_SRC_ZERO;
  *dst = to;
  if (j >= range.k || to < 0) return;
  *src = TC_SRC_POSITION;
  if (a.renumber) return;
  const int32_t *kept = range.kept;
  const int32_t i = kept[j];
  *dst = -1;
  if (i < j || i >= range.n || (j > 0 && i <= kept[j - 1])) return; /* a damaged list */
  const int32_t r = i + range.prefix_rows;
  const int64_t at = tc_row_offset(a, a.src_slots, a.src_row_stride, a.src_segment_stride,
                                   range.flat, (int64_t)range.start + r, range.b, r);
  if (at < 0 || (at == to && a.src == a.dst)) return;
  *src = at;
  *dst = to;
}

/* Where this thread's units of a group of rows are: which unit of the slice, which line of rows. */
struct tc_unit_grid {
  int32_t part;    /* the part the slice begins in */
  uint32_t within; /* the unit of that part it begins with */
  uint32_t units;  /* units of the slice */
  uint32_t columns, column, line, lines;
};

/* The slice's units of result rows base .. base + rows - 1, whose places are in src_at, dst_at. */
__device__ inline void tc_move_group(const tc_row_array &a, const tc_unit_grid &grid, int32_t base,
                                     int rows, const int64_t *src_at, const int64_t *dst_at) {
#pragma unroll 1
  for (uint32_t first = 0; first < grid.units; first += grid.columns) {
    TC_FORGET();
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
    uint4 held[TC_SWEEP_HELD];
    const char *from[TC_SWEEP_HELD];
    char *to[TC_SWEEP_HELD];
#pragma unroll
    for (int i = 0; i < TC_SWEEP_HELD; i++) {
      const int r = (int)(grid.line + i * grid.lines);
      const int64_t to_row = r < live ? dst_at[r] : -1,
                    from_row = to_row < 0 ? TC_SRC_ZERO : src_at[r];
      to[i] = to_row < 0 ? nullptr : dst + to_row;
      from[i] = from_row < 0 ? nullptr : src + from_row;
      /* A position has 4 or 8 bytes, of which this unit's are wanted. */
      const uint64_t made = from_row == TC_SRC_POSITION && byte < 4
                                ? (uint64_t)(uint32_t)(base + r) >> (8 * byte)
                                : 0;
      held[i] = make_uint4((uint32_t)made, 0, 0, 0);
    }
    tc_delay(0);
    tc_load_units(held, from, a.width);
    tc_delay(1);
    if (a.in_place) __syncthreads();
    tc_store_units(held, to, a.width);
  }
}

/* Called by the whole block. */
__device__ inline void tc_move_rows(const tc_row_array &a, const tc_row_range &range,
                                    int64_t *src_at, int64_t *dst_at) {
  const int64_t unit = range.slice * a.slice_units;
  tc_unit_grid grid;
  grid.part = (int32_t)(unit / a.part_units);
  grid.within = (uint32_t)(unit % a.part_units);
  grid.units = (uint32_t)min((int64_t)a.slice_units, a.units - unit);
  grid.columns = 1u << a.columns_log;
  grid.column = threadIdx.x & (grid.columns - 1);
  grid.line = threadIdx.x >> a.columns_log;
  grid.lines = TC_SWEEP_THREADS >> a.columns_log;
  const int group = (int)grid.lines * TC_SWEEP_HELD;
#pragma unroll 1
  for (int64_t base = range.from; base < range.to; base += group) {
    const int rows = (int)min((int64_t)group, range.to - base);
#pragma unroll 1
    for (int r = (int)threadIdx.x; r < rows; r += TC_SWEEP_THREADS) {
      TC_FORGET();
      tc_locate(a, range, (int32_t)base + r, &src_at[r], &dst_at[r]);
    }
    __syncthreads();
    tc_move_group(a, grid, (int32_t)base, rows, src_at, dst_at);
    if (!a.in_place) __syncthreads(); /* before src_at changes; in place there was one already */
  }
}

#endif /* TAILCUT_SWEEP_CUH_ */
