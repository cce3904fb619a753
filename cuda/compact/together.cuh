/* SPDX-License-Identifier: Apache-2.0 */
/* together: the rest, tiles and slabs of one launch, a block each: a launch of their own
 * (compact/compact.cu), or the first blocks of that of tickets. */
#ifndef TAILCUT_COMPACT_TOGETHER_CUH_
#define TAILCUT_COMPACT_TOGETHER_CUH_

#include "compact/rest.cuh"
#include "compact/slab.cuh"
#include "compact/tiles.cuh"

constexpr int TC_TOGETHER_THREADS = 256;
static_assert(TC_TOGETHER_THREADS == TC_SLAB_THREADS && TC_TOGETHER_THREADS == TC_TILE_THREADS &&
                  TC_TOGETHER_THREADS == tc_rest::THREADS,
              "blocks do either");

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

/* Called by TC_TOGETHER_THREADS threads, behind whom no other of the block is left. */
template <int MOST>
__device__ __forceinline__ void tc_move_together(const tc_together<MOST> &args, int32_t block,
                                                 tc_together_space &space) {
  if (block < args.rest_blocks) {
    tc_wait_previous();
    tc_rest::move(args, block, args.rest_blocks, args.rest, space.rest);
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

/* As wide as fills the device. */
static inline int tc_slab_columns_log(const tc_cuda *device, const tc_segments &s,
                                      const tc_row_array *slabs, int32_t count) {
  for (int log = 4; log > 1; log--) {
    int64_t blocks = 0;
    for (int32_t i = 0; i < count; i++) blocks += tc_slices(slabs[i], log) * s.segments;
    if (blocks * 4 >= device->sms * 3) return log;
  }
  return 1;
}

/* The arguments of the arrays of a call that go together. */
template <int MOST>
void tc_deal_together(const tc_compact_call *call, const tailcut_rows *const *rows,
                      const tc_forms &first, tc_together<MOST> *args) {
  const tc_segments &s = call->lists.s;
  const int32_t count = first[TC_TOGETHER];
  tc_row_array *const array = args->arrays.array;
  int64_t *const sum = args->arrays.first, work[MOST];
  args->lists = call->lists;
  args->tiles = tc_tiles_of(s, 0, s.segments);
  args->arrays.count = count;
  for (int32_t i = 0; i < count; i++) array[i] = tc_describe_in(call, *rows[i]);
  tc_rest::deal(args, rows, first[TC_TILES], 2 * (int64_t)call->device->sms, work);
  for (int32_t i = first[TC_TILES]; i < first[TC_SLABS]; i++) {
    work[i] = tc_deal_tiles(s, args->tiles, &array[i]);
  }
  const int32_t slabs = first[TC_SLABS];
  const int log = tc_slab_columns_log(call->device, s, array + slabs, count - slabs);
  for (int32_t i = slabs; i < count; i++) {
    array[i].columns_log = (uint8_t)log;
    array[i].slices = tc_slices(array[i], log);
    work[i] = array[i].slices * s.segments;
  }
  sum[0] = 0;
  for (int32_t i = 0; i < count; i++) sum[i + 1] = sum[i] + work[i];
  args->rest = sum[first[TC_TILES]];
  args->tiles_end = sum[slabs];
  args->end = sum[count];
  args->rest_blocks = first[TC_TILES] > 0 ? (int32_t)tc_grid(args->rest) : 0;
  args->blocks = (int32_t)(args->rest_blocks + args->end - args->rest);
}

#endif /* TAILCUT_COMPACT_TOGETHER_CUH_ */
