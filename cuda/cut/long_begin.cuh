/* SPDX-License-Identifier: Apache-2.0 */
/* cut_long_begin: the first stages of the cut of long groups, which all rules share (cut/long.cu):
 * begin lists groups and tiles and makes memory zero; statistics of a tile. */
#ifndef TAILCUT_CUT_LONG_BEGIN_CUH_
#define TAILCUT_CUT_LONG_BEGIN_CUH_

#include "cut/long.cuh"

#define TC_BEGINNERS 33 /* blocks of begin: one lists, the others make zero */

/* Words of all the given memory, dealt to the blocks of begin behind the first. */
__device__ inline void tc_make_zero(int32_t number, void *memory, size_t stride, size_t bytes,
                                    int32_t pieces) {
  const int64_t each = (int64_t)(bytes / 16), step = (TC_BEGINNERS - 1) * TC_LONG_THREADS;
  for (int64_t i = (number - 1) * TC_LONG_THREADS + (int64_t)threadIdx.x; i < each * pieces;
       i += step) {
    ((uint4 *)((char *)memory + i / each * stride))[i % each] = make_uint4(0, 0, 0, 0);
  }
}

/* The tiles of the long groups, in order; those up to the bound say that they are none. */
__device__ inline void tc_list_groups(tc_long_block &block, const tc_long &a) {
  const tc_segments &s = a.cut.segments;
  const int32_t groups = tc_group_count(s, a.cut.groups);
  const bool by_warp = s.cu_seqlens != nullptr && s.start == nullptr; /* a whole warp judges one */
  const int32_t step = by_warp ? TC_LONG_WARPS : TC_LONG_THREADS;
  int32_t longs = 0;
  uint64_t used = 0; /* tiles << 32 | rows */
  for (int32_t base = 0; base < groups; base += step) {
    const int32_t number = base + (by_warp ? block.warp : (int32_t)threadIdx.x);
    tc_long_tile mine = {};
    bool is_long = false;
    if (number < groups) {
      const tc_cut_group c = tc_cut_open(a.cut, number);
      mine.group = c.group;
      mine.number = number;
      mine.flags = c.flags;
      is_long = c.group.n > a.most_left && (!by_warp || block.lane == 0);
    }
    if (!__syncthreads_or(is_long)) continue;
    const uint32_t which = __ballot_sync(TC_FULL, is_long);
    int32_t here;
    const int32_t earlier = block.before(__popc(which), &here);
    const int32_t ordinal = longs + earlier + __popc(which & ((1u << block.lane) - 1));
    longs += here;
    mine.slot = ordinal;
    is_long = is_long && ordinal < a.slots;
    mine.tiles = is_long ? max((mine.group.n + a.rows - 1) / a.rows, 1) : 0;
    const int32_t rows = is_long ? mine.group.n : 0;
    uint64_t all;
    const uint64_t before = used + block.prefix((uint64_t)mine.tiles << 32 | (uint32_t)rows, &all);
    mine.first = (int32_t)(before >> 32);
    mine.base = (int32_t)(uint32_t)before;
    used += all;
    for (uint32_t left = __ballot_sync(TC_FULL, is_long); left != 0; left &= left - 1) {
      tc_long_tile tile = tc_shuffle(mine, __ffs((int)left) - 1);
      for (tile.index = block.lane; tile.index < tile.tiles; tile.index += 32) {
        a.tiles[tile.first + tile.index] = tile;
      }
    }
  }
  tc_long_tile none = {};
  none.number = -1;
  for (int32_t i = (int32_t)(used >> 32) + (int32_t)threadIdx.x; i < a.bound;
       i += TC_LONG_THREADS) {
    a.tiles[i] = none;
  }
}

/* Block `number` of TC_BEGINNERS. Nobody else touches the scratch memory: it may be zeroed before
 * the wait. */
__device__ inline void tc_long_begin_block(tc_long_block::space &space, const tc_long &a,
                                           int32_t number, bool values, bool digits) {
  if (number > 0) {
    tc_make_zero(number, a.found, 0, (sizeof(uint32_t) * a.bound + 15) / 16 * 16, 1);
    if (values) {
      tc_make_zero(number, a.states, sizeof(tc_long_state), offsetof(tc_long_state, at), a.slots);
    }
    if (digits) {
      const size_t bytes = sizeof(uint32_t) * TC_LONG_LEVELS * TC_LONG_DIGITS;
      tc_make_zero(number, a.digits, bytes, bytes, a.slots);
    }
  }
  tc_wait_previous();
  tc_let_next_start();
  if (number > 0) return;
  tc_long_block block(space);
  tc_list_groups(block, a);
}

template <int QUADS>
__device__ inline void tc_long_make_stats(tc_long_block::space &space, const tc_long &a,
                                          const tc_long_tile &tile, uint32_t place) {
  tc_long_block block(space);
  const tc_cut_group c = tc_long_group(a, tile);
  const uint32_t tau_key = tc_tau_key(a.cut.rule);
  tc_long_rows<QUADS> rows;
  tc_stats own = tc_stats_none();
  tc_long_load(a, c, tc_long_first<QUADS>(tile.index), &rows);
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) tc_stats_add(&own, tc_long_key(rows, i), tau_key);
  own = block.reduce(own, tc_stats_none(), tc_stats_join());
  if (threadIdx.x == 0) a.stats[place] = own;
}

#endif /* TAILCUT_CUT_LONG_BEGIN_CUH_ */
