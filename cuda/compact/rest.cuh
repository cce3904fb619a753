/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact, the rest: arrays of any layout: slots and pages, rows that no 16 bytes divide, narrow
 * ones, zeroed tails, and results that are made and not moved (positions, the kept list itself).
 *
 * Strategy: a row is a line of units of 1 to 16 bytes, the widest that divides every address of its
 * array; a block moves one slice of the units of some rows: for up to 1,024 rows it first works out
 * where they come from and go to (or which number is written), then each thread holds one unit of
 * four rows at a time. All widths share this code but for the access itself, and what a block works
 * on lies in shared memory: 64 registers.
 *   out of place  a block has a tile of 64 result rows (or a part of it) and a slice of 512 bytes
 *   in place      a block has a slice (at least 128 bytes) of a whole segment and sweeps its rows
 * What a block does depends on host bounds only; blocks past the true counts leave at once. Loads
 * are plain ones: the compiler must not take rows for constant.
 * Precision: bytes are copied. Limits: a lone array of narrow rows in place is swept by one block:
 * about 1 us per 1,024 rows [estimate].
 */
#ifndef TAILCUT_COMPACT_REST_CUH_
#define TAILCUT_COMPACT_REST_CUH_

#include "compact/compact.cuh"

namespace tc_rest {

constexpr int THREADS = TC_COMPACT_THREADS;
constexpr int HELD = 4;              /* rows of which a thread holds a unit */
constexpr int ROWS = HELD * THREADS; /* of a group, of one unit each */
constexpr int COLUMNS = 32;

/* The descriptor is read again from here on: kept in registers it would not fit. */
#define FORGET() asm volatile("" ::: "memory")

/* What a block works on: a slice of result rows [from, to) of a segment; those below k move. */
struct row_range {
  tc_result result;
  int32_t prefix_rows, from, to;
  bool flat;              /* rows are numbered through the batch: ragged */
  int32_t part;           /* the part the slice begins in */
  uint32_t within, units; /* the unit of that part it begins with; units of the slice */
};

/* What stands in a group's list of sources: bytes from the array's base, or ZERO; in arrays that
 * are made, what is written. */
constexpr int64_t ZERO = -1;

__device__ __noinline__ inline int64_t quotient(int64_t a, int64_t b) {
  if ((uint64_t)a <= UINT32_MAX && (uint64_t)b <= UINT32_MAX) return (uint32_t)a / (uint32_t)b;
  return a / b;
}

/* Whether what stands in the list is bytes of a row, or ZERO. */
__device__ inline bool is_moved(const tc_row_array &a) {
  return a.from == TC_FROM_ROWS || a.from == TC_FROM_NOTHING;
}

/* The number that an array which is made has as element j. */
__device__ inline int64_t made(const tc_row_array &a, const tc_result &r, int32_t j) {
  if (a.from == TC_FROM_KEPT) return r.kept[j];
  const int64_t base =
      a.renumber_base != nullptr ? tc_integer_of(a.renumber_base, a.base_bytes, r.b) : 0;
  return (int64_t)((uint64_t)base + (uint64_t)j);
}

/* Where result row j comes from (or what is written there) and where it goes; *dst -1: nowhere. */
__device__ inline void locate(const tc_row_array &a, const row_range &range, int32_t j,
                              int64_t *src, int64_t *dst) {
  const tc_result &r = range.result;
  const int64_t to = tc_row_offset(a, a.dst_slots, a.dst_row_stride, a.dst_segment_stride,
                                   range.flat || a.packed, (int64_t)r.dst_start + j, r.b, j);
  const bool moved = is_moved(a);
  *src = moved ? ZERO : 0;
  *dst = to;
  if (j >= r.k || to < 0) return;
  if (!moved) {
    *src = made(a, r, j);
    return;
  }
  *dst = -1;
  if (a.from == TC_FROM_NOTHING) return;
  const int32_t i = tc_follow(r.kept, j, r.n);
  if (i < 0) return;
  const int32_t row = i + range.prefix_rows;
  const int64_t at = tc_row_offset(a, a.src_slots, a.src_row_stride, a.src_segment_stride,
                                   range.flat, (int64_t)r.start + row, r.b, row);
  if (at < 0 || (at == to && a.src == a.dst)) return;
  *src = at;
  *dst = to;
}

/* The slice's units of the `rows` rows whose places are in src_at, dst_at. */
__device__ inline void move_group(const tc_row_array &a, const row_range &range, int rows,
                                  const int64_t *src_at, const int64_t *dst_at) {
  const bool moved = is_moved(a);
#pragma unroll 1
  for (uint32_t first = 0; first < range.units; first += 1u << a.columns_log) {
    FORGET();
    const uint32_t unit = first + (threadIdx.x & ((1u << a.columns_log) - 1));
    const uint32_t line = threadIdx.x >> a.columns_log, lines = THREADS >> a.columns_log;
    uint32_t within = range.within + unit;
    int64_t part = range.part;
    if (within >= (uint32_t)a.part_units) {
      part += within / (uint32_t)a.part_units;
      within %= (uint32_t)a.part_units;
    }
    const int live = unit < range.units ? rows : 0;
    const int64_t byte = (int64_t)within * a.width;
    const char *src = a.src + (part * a.src_part_stride + byte);
    char *dst = a.dst + (part * a.dst_part_stride + byte);
    uint4 held[HELD];
    const char *from[HELD];
    char *to[HELD];
#pragma unroll
    for (int i = 0; i < HELD; i++) {
      const int r = (int)(line + i * lines);
      const int64_t to_row = r < live ? dst_at[r] : -1, source = to_row < 0 ? ZERO : src_at[r];
      to[i] = to_row < 0 ? nullptr : dst + to_row;
      from[i] = moved && source != ZERO ? src + source : nullptr;
      /* Of a number's 4 or 8 bytes this unit's are wanted; zeros where a row is zeroed. */
      const uint64_t number = moved ? 0 : (uint64_t)source >> (8 * byte);
      held[i] = make_uint4((uint32_t)number, (uint32_t)(number >> 32), 0, 0);
    }
    tc_delay(0);
    tc_load_units(held, from, a.width);
    tc_delay(1);
    if (a.in_place) __syncthreads();
    tc_store_units(held, to, a.width);
  }
}

/* Called by the whole block. */
__device__ inline void move_rows(const tc_row_array &a, const row_range &range, int64_t *src_at,
                                 int64_t *dst_at) {
  const int group = (THREADS >> a.columns_log) * HELD;
#pragma unroll 1
  for (int64_t base = range.from; base < range.to; base += group) {
    const int rows = (int)min((int64_t)group, range.to - base);
#pragma unroll 1
    for (int r = (int)threadIdx.x; r < rows; r += THREADS) {
      FORGET();
      locate(a, range, (int32_t)base + r, &src_at[r], &dst_at[r]);
    }
    __syncthreads();
    move_group(a, range, rows, src_at, dst_at);
    if (!a.in_place) __syncthreads(); /* before src_at changes; in place there was one already */
  }
}

/* The rows that block of work `task` of an array is about; false: there are none. */
template <class ARGS>
__device__ inline bool take_task(const ARGS &args, const tc_row_array &a, int64_t task,
                                 row_range *range) {
  const tc_segments &s = args.lists.s;
  const bool zeroes = a.zero_tail && !a.packed; /* the rows behind the result */
  tc_result *r = &range->result;
  range->prefix_rows = s.prefix_rows;
  range->flat = s.cu_seqlens != nullptr;
  if (a.in_place) {
    const int32_t b = (int32_t)task;
    *r = tc_result_of(args.lists, a.packed, a.dst_rows, b, tc_segment_at(s, b));
    range->from = 0;
    range->to = zeroes ? tc_room(a, r->n) : r->k;
  } else if (task < args.tiles.bound * args.split) {
    const int64_t tile = quotient(task, args.split);
    if (tile >= tc_tiles_total(args.tiles, s)) return false;
    int32_t index;
    const int32_t b = tc_tile_find(args.tiles, s, tile, &index);
    if (b < 0) return false;
    *r = tc_result_of(args.lists, a.packed, a.dst_rows, b, tc_segment_at(s, b));
    const int32_t rows = TC_BLOCK / args.split;
    range->from = index * TC_BLOCK + (int32_t)(task - tile * args.split) * rows;
    range->to = min(range->from + rows, zeroes ? tc_room(a, r->n) : r->k);
  } else { /* the tail of a PACKED result: rows from the last result to the last candidate */
    const int32_t result = args.lists.new_cu[s.segments];
    const int64_t last = min(tc_all_candidates(s), a.dst_rows);
    const int64_t row = (task - args.tiles.bound * args.split) * TC_BLOCK;
    if (result < 0) return false;
    *r = {};
    range->from = max((int32_t)row, result);
    range->to = (int32_t)min(row + TC_BLOCK, last);
  }
  return range->from < range->to;
}

struct space {
  int64_t src_at[ROWS], dst_at[ROWS];
  tc_row_array array;
  row_range range;
};

/* The first blocks share the work of the first arrays. */
template <class ARGS>
__device__ __forceinline__ void move(const ARGS &args, space &s) {
#pragma unroll 1
  for (int64_t number = blockIdx.x; number < args.rest; number += args.rest_blocks) {
    __syncthreads(); /* the array and range of the work before are no longer used */
    const int index = tc_array_of(args.arrays, number);
    const tc_row_array &a = args.arrays.array[index];
    if (threadIdx.x < 32) { /* one warp asks */
      const int64_t at = number - args.arrays.first[index], task = quotient(at, a.slices);
      const int64_t unit = (at - task * a.slices) * a.slice_units;
      const int64_t part = quotient(unit, a.part_units);
      row_range found = {};
      found.part = (int32_t)part;
      found.within = (uint32_t)(unit - part * a.part_units);
      found.units = (uint32_t)min((int64_t)a.slice_units, a.units - unit);
      if (!take_task(args, a, task, &found)) found.to = found.from;
      if (threadIdx.x == 0) s.range = found;
    }
    if (threadIdx.x < sizeof(tc_row_array) / 8) {
      ((uint64_t *)&s.array)[threadIdx.x] = ((const uint64_t *)&a)[threadIdx.x];
    }
    __syncthreads();
    move_rows(s.array, s.range, s.src_at, s.dst_at);
  }
}

#undef FORGET

/* -------------------------------------------------------------------------------------- host -- */

/* Slices and `split` for the first `count` arrays; the work of each. */
template <class ARGS>
void deal(ARGS *args, const tailcut_rows *const *rows, int32_t count, int64_t enough,
          int64_t *work) {
  const tc_segments &s = args->lists.s;
  int64_t tiles = 0;
  for (int32_t i = 0; i < count; i++) {
    tc_row_array *a = &args->arrays.array[i];
    tc_slice(a, 512, COLUMNS);
    if (!a->in_place) tiles += a->slices * args->tiles.bound;
  }
  /* Narrower slices and fewer rows per block where that is needed to fill the device. Parts below
   * a sector of 32 bytes gain nothing from the part beside them. */
  int64_t sweeps = 0;
  for (int bytes = 512; bytes >= 32 && sweeps < enough; bytes /= 2) {
    sweeps = 0;
    for (int32_t i = 0; i < count; i++) {
      tc_row_array *a = &args->arrays.array[i];
      if (!a->in_place) continue;
      tc_slice(a, rows[i]->part_bytes < 32 ? (int)rows[i]->part_bytes : bytes, COLUMNS);
      sweeps += a->slices * s.segments;
    }
  }
  args->split = 1;
  while (args->split < 8 && tiles * args->split < enough) args->split *= 2;
  for (int32_t i = 0; i < count; i++) {
    const tc_row_array &a = args->arrays.array[i];
    int64_t tasks = args->tiles.bound * args->split;
    if (a.in_place) {
      tasks = s.segments;
    } else if (a.packed && a.zero_tail) {
      tasks += (s.total + TC_BLOCK - 1) / TC_BLOCK;
    }
    work[i] = tasks * a.slices;
  }
}

}  // namespace tc_rest

#endif /* TAILCUT_COMPACT_REST_CUH_ */
