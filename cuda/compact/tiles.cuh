/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact, tiles: rows move out of place (LOCAL or PACKED), by as many blocks as there is work for.
 *
 * Strategy: a block has a tile of 16 result rows and 2 KB of their columns (narrower rows: more of
 * them), all of it in registers at once, and no loop. A tile's sources are looked up by one thread
 * each. Blocks behind the true counts leave at once; where destinations are known to be small
 * (dst_rows) there are none for rows that cannot be.
 * Precision: bytes are copied. Limits: rows of 16-byte units at aligned places, 512 bytes at least,
 * no slots, no zeroed tails.
 */
#ifndef TAILCUT_COMPACT_TILES_CUH_
#define TAILCUT_COMPACT_TILES_CUH_

#include "compact/compact.cuh"

constexpr int TC_TILE_THREADS = 256;
constexpr int TC_TILE_HELD = 8;      /* rows of which a thread holds a unit */
constexpr int TC_TILE_MOST_LOG = 7;  /* columns of a tile: 2 KB */
constexpr int TC_TILE_LEAST_LOG = 5; /* 512 bytes */
constexpr int TC_TILE_ROWS = TC_TILE_HELD * TC_TILE_THREADS >> TC_TILE_LEAST_LOG;
static_assert(TC_TILE_ROWS == TC_BLOCK,
              "common/tiles.cuh deals blocks of candidates, tiles are parts of them");

struct tc_tile_space {
  int32_t source[TC_TILE_ROWS], first;
  tc_result result;
};

/* The segment and first result row of tile `tile` of an array; -1: none. */
__device__ inline int32_t tc_find_tile(const tc_segments &s, const tc_tiles &tiles,
                                       const tc_row_array &a, uint32_t tile, int32_t rows,
                                       int32_t *first) {
  if (tiles.deal == TC_EVENLY) {
    const uint32_t per = (uint32_t)a.per, b = tile / per;
    *first = (int32_t)(tile - b * per) * rows;
    return (int32_t)b;
  }
  const uint32_t split = (uint32_t)(TC_BLOCK / rows), block = tile / split;
  if (block >= tc_tiles_total(tiles, s)) return -1;
  int32_t number = 0;
  const int32_t b = tc_tile_find(tiles, s, block, &number);
  *first = number * TC_BLOCK + (int32_t)(tile - block * split) * rows;
  return b;
}

/* Tile `at` of an array. */
__device__ __forceinline__ void tc_move_tile(const tc_lists &lists, const tc_tiles &tiles,
                                             const tc_row_array &a, uint32_t at,
                                             tc_tile_space &space) {
  const uint32_t chunks = (uint32_t)a.slices, tile = at / chunks;
  const int32_t lines = TC_TILE_THREADS >> a.columns_log, rows = TC_TILE_HELD * lines;
  const uint32_t column = threadIdx.x & ((1u << a.columns_log) - 1);
  const uint32_t unit = ((at - tile * chunks) << a.columns_log) + column;
  const int32_t line = (int32_t)(threadIdx.x >> a.columns_log);
  const int32_t prefix_rows = lists.s.prefix_rows;
  tc_wait_previous();
  if (threadIdx.x < 32) { /* one warp asks, so that the others' loads are rows only */
    int32_t begin = 0;
    const int32_t b = tc_find_tile(lists.s, tiles, a, tile, rows, &begin);
    tc_result found = {};
    if (b >= 0) {
      const tc_segment segment = tc_segment_at(lists.s, b);
      if (!tc_take_result(lists, a.packed, a.dst_rows, b, segment, &found)) found.k = 0;
    }
    int32_t i[TC_TILE_ROWS / 32];
    tc_follow_many(found.kept, begin, min(begin + rows, found.k), found.n, i);
#pragma unroll
    for (int m = 0; m < TC_TILE_ROWS / 32; m++) space.source[m * 32 + threadIdx.x] = i[m];
    if (threadIdx.x == 0) {
      space.result = found;
      space.first = begin;
    }
  }
  __syncthreads();
  const tc_result &r = space.result;
  const int32_t first = space.first;
  if (first >= r.k) return;
  if (unit >= (uint32_t)a.units) return;
  const char *from =
      a.src + (tc_segment_offset(lists, a, r.b, r.start) + prefix_rows * a.src_row_stride +
               tc_unit_offset(a, a.src_part_stride, unit));
  char *to = a.dst + (tc_result_offset(lists, a, r) + (first + line) * a.dst_row_stride +
                      tc_unit_offset(a, a.dst_part_stride, unit));
  int32_t i[TC_TILE_HELD];
  uint4 v[TC_TILE_HELD];
#pragma unroll
  for (int m = 0; m < TC_TILE_HELD; m++) i[m] = space.source[line + m * lines];
  if (first + rows <= r.k) {
    /* Whole and sound tiles have loads in a branch of their own: they all go before the first is
     * waited for. A damaged entry's load is harmless and not stored. */
#pragma unroll
    for (int m = 0; m < TC_TILE_HELD; m++)
      v[m] = *(const uint4 *)(from + max(i[m], 0) * a.src_row_stride);
  } else {
#pragma unroll
    for (int m = 0; m < TC_TILE_HELD; m++) {
      v[m] = make_uint4(0, 0, 0, 0);
      if (i[m] >= 0) v[m] = *(const uint4 *)(from + i[m] * a.src_row_stride);
    }
  }
#pragma unroll
  for (int m = 0; m < TC_TILE_HELD; m++) {
    if (i[m] >= 0) *(uint4 *)(to + m * lines * a.dst_row_stride) = v[m];
  }
}

/* -------------------------------------------------------------------------------------- host -- */

/* How many tiles an array has; fills in how they lie. */
static inline int64_t tc_deal_tiles(const tc_segments &s, const tc_tiles &tiles, tc_row_array *a) {
  a->columns_log = TC_TILE_MOST_LOG; /* as wide as leaves no columns idle */
  while (a->columns_log > TC_TILE_LEAST_LOG && a->units & ((1 << a->columns_log) - 1)) {
    a->columns_log--;
  }
  const int64_t tile = TC_TILE_HELD * TC_TILE_THREADS >> a->columns_log;
  const int64_t most = tc_most_candidates(s);
  const int64_t room = most < a->dst_rows || a->packed ? most : a->dst_rows;
  a->per = (int32_t)(room > 0 ? (room + tile - 1) / tile : 1);
  a->slices = tc_slices(*a, a->columns_log);
  return a->slices *
         (tiles.deal == TC_EVENLY ? (int64_t)a->per * s.segments : tiles.bound * (TC_BLOCK / tile));
}

#endif /* TAILCUT_COMPACT_TILES_CUH_ */
