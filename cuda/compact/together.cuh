/* SPDX-License-Identifier: Apache-2.0 */
/*
 * together: the rest, tiles and slabs of one launch, a block each: a launch of their own
 * (compact/compact.cu), or the first blocks of that of tickets. And tiles:
 *
 * Rows move out of place (LOCAL or PACKED), by as many blocks as there is work for. A block has a
 * tile of 16 result rows and 2 KB of their columns (narrower rows: more of them), all of it in
 * registers at once, and no loop. A tile's sources are looked up by one thread each. Blocks behind
 * the true counts leave at once; where destinations are known to be small (dst_rows) there are none
 * for rows that cannot be.
 * Precision: bytes are copied. Limits: rows of 16-byte units at aligned places, 512 bytes at least,
 * no slots, no zeroed tails.
 */
#ifndef TAILCUT_COMPACT_TOGETHER_CUH_
#define TAILCUT_COMPACT_TOGETHER_CUH_

#include "compact/rest.cuh"
#include "compact/slab.cuh"

constexpr int TC_TILE_HELD = 8;      /* rows of which a thread holds a unit */
constexpr int TC_TILE_MOST_LOG = 7;  /* columns of a tile: 2 KB */
constexpr int TC_TILE_LEAST_LOG = 5; /* 512 bytes */
constexpr int TC_TILE_ROWS = TC_TILE_HELD * TC_COMPACT_THREADS >> TC_TILE_LEAST_LOG;
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
  const int32_t lines = TC_COMPACT_THREADS >> a.columns_log, rows = TC_TILE_HELD * lines;
  const uint32_t column = threadIdx.x & ((1u << a.columns_log) - 1);
  const uint32_t unit = ((at - tile * chunks) << a.columns_log) + column;
  const int32_t line = (int32_t)(threadIdx.x >> a.columns_log);
  const int32_t prefix_rows = lists.s.prefix_rows;
  tc_wait_previous();
  if (threadIdx.x < 32) { /* one warp asks, so that the others' loads are rows only */
    int32_t begin = 0;
    const int32_t b = tc_find_tile(lists.s, tiles, a, tile, rows, &begin);
    tc_result found = {};
    if (b >= 0) found = tc_result_of(lists, a.packed, a.dst_rows, b, tc_segment_at(lists.s, b));
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
  const bool flat = a.packed || lists.s.cu_seqlens != nullptr;
  const int64_t result = flat ? r.dst_start * a.dst_row_stride : r.b * a.dst_segment_stride;
  const char *from =
      a.src + (tc_segment_offset(lists, a, r.b, r.start) + prefix_rows * a.src_row_stride +
               tc_unit_offset(a, a.src_part_stride, unit));
  char *to = a.dst + (result + (first + line) * a.dst_row_stride +
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

template <int MOST>
struct tc_together {
  tc_lists lists;
  tc_tiles tiles;
  int32_t split;                /* rest: parts of a tile */
  int32_t rest_blocks, blocks;  /* the first blocks share the rest's work; all blocks */
  int64_t rest, tiles_end, end; /* work of the rest, with that of tiles, with that of slabs */
  tc_arrays<MOST> arrays;       /* of the rest, of tiles, of slabs, perhaps others, in this order */
};

union tc_together_space {
  int32_t source[TC_SLAB_LISTED];
  tc_tile_space tile;
  tc_rest::space rest;
};

/* Called by TC_COMPACT_THREADS threads, behind whom no other of the block is left. */
template <int MOST>
__device__ __forceinline__ void tc_move_together(const tc_together<MOST> &args,
                                                 tc_together_space &space) {
  const int32_t block = (int32_t)blockIdx.x;
  if (block < args.rest_blocks) {
    tc_wait_previous();
    tc_rest::move(args, space.rest);
    return;
  }
  int64_t number = args.rest + (block - args.rest_blocks);
  if (number >= args.tiles_end) { /* from the last to the first */
    number = args.tiles_end + (args.blocks - 1 - block);
  }
  const int index = tc_array_of(args.arrays, number);
  const tc_row_array &a = args.arrays.array[index];
  const uint32_t at = (uint32_t)(number - args.arrays.first[index]);
  if (a.in_place) {
    tc_move_slab(args.lists, a, at, space.source);
  } else {
    tc_move_tile(args.lists, args.tiles, a, at, space.tile);
  }
}

/* -------------------------------------------------------------------------------------- host -- */

/* As wide as leaves no columns idle. */
static inline int tc_tile_columns_log(const tc_row_array &a) {
  int log = TC_TILE_MOST_LOG;
  while (log > TC_TILE_LEAST_LOG && a.units & ((1 << log) - 1)) log--;
  return log;
}

/* How many tiles an array has; fills in how they lie. */
static inline int64_t tc_deal_tiles(const tc_segments &s, const tc_tiles &tiles, tc_row_array *a) {
  const int log = tc_tile_columns_log(*a), tile = TC_TILE_HELD * TC_COMPACT_THREADS >> log;
  const int64_t most = tc_most_candidates(s);
  const int64_t room = most < a->dst_rows || a->packed ? most : a->dst_rows;
  a->per = (int32_t)(room > 0 ? (room + tile - 1) / tile : 1);
  return tc_slice_rows(
      a, log,
      tiles.deal == TC_EVENLY ? (int64_t)a->per * s.segments : tiles.bound * (TC_BLOCK / tile));
}

/* The arguments of the arrays of a call that go together. */
template <int MOST>
void tc_deal_together(const tc_compact_call *call, const tailcut_rows *const *rows,
                      const tc_forms &first, tc_together<MOST> *args) {
  const tc_segments &s = call->lists.s;
  const int32_t tiles = first[TC_TILES], slabs = first[TC_SLABS], count = first[TC_TICKETS];
  const int64_t sms = call->device->sms;
  tc_row_array *const array = args->arrays.array;
  int64_t *const work = args->arrays.first + 1; /* of each array; then its sum */
  args->lists = call->lists;
  args->tiles = tc_tiles_of(s, 0, s.segments);
  args->arrays.count = count;
  args->arrays.first[0] = 0;
  for (int32_t i = 0; i < count; i++) array[i] = tc_describe_in(s, *rows[i]);
  tc_rest::deal(args, rows, tiles, 2 * sms, work);
  for (int32_t i = tiles; i < slabs; i++) work[i] = tc_deal_tiles(s, args->tiles, &array[i]);
  int64_t blocks = 0;
  for (int log = 4; log > 0 && blocks * 4 < sms * 3; log--) { /* as wide as fills the device */
    blocks = 0;
    for (int32_t i = slabs; i < count; i++) {
      blocks += work[i] = tc_slice_rows(&array[i], log, s.segments);
    }
  }
  for (int32_t i = 0; i < count; i++) work[i] += work[i - 1];
  args->rest = args->arrays.first[tiles];
  args->tiles_end = args->arrays.first[slabs];
  args->end = args->arrays.first[count];
  args->rest_blocks = tiles > 0 ? (int32_t)tc_grid(args->rest) : 0;
  args->blocks = (int32_t)(args->rest_blocks + args->end - args->rest);
}

#endif /* TAILCUT_COMPACT_TOGETHER_CUH_ */
