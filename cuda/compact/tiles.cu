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
 *
 * Ladder (H100, the prototype's figures): 27.6 us for 64K rows of 2 KB, 26% kept; one image 1.8
 * alone. Simulated: 1.012 times the least load sectors, 118 PTX instructions of a warp.
 */
#include "compact/compact.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int HELD = 8;      /* rows of which a thread holds a unit */
constexpr int MOST_LOG = 7;  /* columns of a tile: 2 KB */
constexpr int LEAST_LOG = 5; /* 512 bytes */
constexpr int MOST_ROWS = HELD * THREADS >> LEAST_LOG;
static_assert(MOST_ROWS == TC_BLOCK,
              "tiles.cuh deals blocks of candidates, tiles are parts of them");

template <int MOST>
struct tile_args {
  tc_lists lists;
  tc_tiles tiles;
  int32_t per[MOST]; /* tiles of a segment where they are dealt evenly */
  tc_arrays<MOST> arrays;
};

/* The segment and first result row of tile `tile` of an array; -1: none. */
template <int MOST>
__device__ inline int32_t find_tile(const tile_args<MOST> &args, int index, uint32_t tile,
                                    int32_t rows, int32_t *first) {
  if (args.tiles.deal == TC_EVENLY) {
    const uint32_t per = (uint32_t)args.per[index], b = tile / per;
    *first = (int32_t)(tile - b * per) * rows;
    return (int32_t)b;
  }
  const uint32_t split = (uint32_t)(TC_BLOCK / rows), block = tile / split;
  if (block >= tc_tiles_total(args.tiles, args.lists.s)) return -1;
  int32_t number = 0;
  const int32_t b = tc_tile_find(args.tiles, args.lists.s, block, &number);
  *first = number * TC_BLOCK + (int32_t)(tile - block * split) * rows;
  return b;
}

template <int MOST>
__global__ void __launch_bounds__(THREADS, 4)
    compact_tiles(const __grid_constant__ tile_args<MOST> args) {
  __shared__ int32_t source[MOST_ROWS], first;
  __shared__ tc_result result;
  const int index = tc_array_of(args.arrays, (int32_t)blockIdx.x);
  const tc_unit_rows &a = args.arrays.array[index];
  const uint32_t at = blockIdx.x - (uint32_t)args.arrays.first[index];
  const uint32_t chunks = (uint32_t)((a.units - 1) >> a.columns_log) + 1, tile = at / chunks;
  const int32_t lines = THREADS >> a.columns_log, rows = HELD * lines;
  const uint32_t column = threadIdx.x & ((1u << a.columns_log) - 1);
  const uint32_t unit = ((at - tile * chunks) << a.columns_log) + column;
  const int32_t line = (int32_t)(threadIdx.x >> a.columns_log);
  const int32_t prefix_rows = args.lists.s.prefix_rows;
  tc_wait_previous();
  if (threadIdx.x < 32) { /* one warp asks, so that the others' loads are rows only */
    int32_t begin = 0;
    const int32_t b = find_tile(args, index, tile, rows, &begin);
    tc_result found = {};
    if (b >= 0) {
      const tc_segment segment = tc_segment_at(args.lists.s, b);
      if (!tc_take_result(args.lists, a.packed, a.dst_rows, b, segment, &found)) found.k = 0;
    }
    tc_entry e[MOST_ROWS / 32];
    const int32_t j = begin + (int32_t)threadIdx.x;
#pragma unroll
    for (int m = 0; m < MOST_ROWS / 32; m++) {
      e[m] = tc_load_entry(found.kept, j + m * 32, min(begin + rows, found.k));
    }
#pragma unroll
    for (int m = 0; m < MOST_ROWS / 32; m++) {
      source[m * 32 + threadIdx.x] = tc_judge_entry(e[m], j + m * 32, found.n);
    }
    if (threadIdx.x == 0) {
      result = found;
      first = begin;
    }
  }
  __syncthreads();
  const tc_result &r = result;
  if (first >= r.k) return;
  if (unit >= (uint32_t)a.units) return;
  const char *from = a.src + (tc_segment_offset(args.lists, a, r) + prefix_rows * a.src_row +
                              tc_unit_offset(a, a.src_part, unit));
  char *to = a.dst + (tc_result_offset(args.lists, a, r) + (first + line) * a.dst_row +
                      tc_unit_offset(a, a.dst_part, unit));
  int32_t i[HELD];
  uint4 v[HELD];
#pragma unroll
  for (int m = 0; m < HELD; m++) i[m] = source[line + m * lines];
  if (first + rows <= r.k) {
    /* Whole and sound tiles have loads in a branch of their own: they all go before the first is
     * waited for. A damaged entry's load is harmless and not stored. */
#pragma unroll
    for (int m = 0; m < HELD; m++) v[m] = *(const uint4 *)(from + max(i[m], 0) * a.src_row);
  } else {
#pragma unroll
    for (int m = 0; m < HELD; m++) {
      v[m] = make_uint4(0, 0, 0, 0);
      if (i[m] >= 0) v[m] = *(const uint4 *)(from + i[m] * a.src_row);
    }
  }
#pragma unroll
  for (int m = 0; m < HELD; m++) {
    if (i[m] >= 0) *(uint4 *)(to + m * lines * a.dst_row) = v[m];
  }
}

/* -------------------------------------------------------------------------------------- host -- */

template <int MOST>
cudaError_t launch(tc_compact_call *call, const tailcut_rows *const *rows, int32_t count) {
  const tc_segments &s = call->lists.s;
  tile_args<MOST> args;
  args.lists = call->lists;
  args.tiles = tc_tiles_of(s, 0, s.segments);
  args.arrays.count = count;
  args.arrays.first[0] = 0;
  for (int32_t i = 0; i < count; i++) {
    tc_unit_rows *a = &args.arrays.array[i];
    *a = tc_describe_units(*rows[i]);
    a->columns_log = MOST_LOG; /* as wide as leaves no columns idle */
    while (a->columns_log > LEAST_LOG && a->units & ((1 << a->columns_log) - 1)) a->columns_log--;
    const int64_t tile = HELD * THREADS >> a->columns_log;
    const int64_t room =
        tc_most_candidates(s) < a->dst_rows || a->packed ? tc_most_candidates(s) : a->dst_rows;
    const int64_t per = room > 0 ? (room + tile - 1) / tile : 1;
    const int64_t chunks = ((a->units - 1) >> a->columns_log) + 1;
    args.per[i] = (int32_t)per;
    const int64_t tiles =
        args.tiles.deal == TC_EVENLY ? per * s.segments : args.tiles.bound * (TC_BLOCK / tile);
    args.arrays.first[i + 1] = args.arrays.first[i] + (int32_t)(tiles * chunks);
  }
  return tc_launched(call, tc_launch(compact_tiles<MOST>, (unsigned)args.arrays.first[count],
                                     THREADS, 0, &call->chain, args));
}

}  // namespace

cudaError_t tc_compact_tiles(tc_compact_call *call, const tailcut_rows *const *rows,
                             int32_t count) {
  return count <= TC_FEW_ARRAYS ? launch<TC_FEW_ARRAYS>(call, rows, count)
                                : launch<TC_ROWS_PER_LAUNCH>(call, rows, count);
}

cudaError_t tc_load_compact_tiles() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, compact_tiles<TC_FEW_ARRAYS>);
  if (error != cudaSuccess) return error;
  return cudaFuncGetAttributes(&attributes, compact_tiles<TC_ROWS_PER_LAUNCH>);
}
