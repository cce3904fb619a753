/* SPDX-License-Identifier: Apache-2.0 */
/* tiles: how tiles of TC_BLOCK candidates are dealt to blocks. A grid is sized from host bounds;
 * how many tiles there really are, and whose, is found on the device. */
#ifndef TAILCUT_TILES_CUH_
#define TAILCUT_TILES_CUH_

#include "segments.cuh"

/* The tiles of segments [first, first + count). per: tiles of each segment where they are dealt by
 * arithmetic; 0: resolve's prefix sums are searched. */
struct tc_tiles {
  int32_t first, count, per;
  int64_t bound; /* no more than this many tiles, plus one for each segment without any */
};

static inline tc_tiles tc_tiles_of(const tc_segments &s, int32_t first, int32_t count) {
  const int64_t most = s.max_tokens > s.cls_row ? s.max_tokens - s.cls_row : 0;
  const int64_t per = (most + TC_BLOCK - 1) / TC_BLOCK;
  const int64_t even = (int64_t)count * (per > 0 ? per : 1);
  const int64_t ragged = s.total / TC_BLOCK + count;
  tc_tiles t;
  t.first = first;
  t.count = count;
  /* Arithmetic needs no memory access, but gives every segment as many tiles as the longest. */
  const bool search = s.tiles != nullptr && (s.cu_seqlens != nullptr || s.lengths != nullptr);
  t.per = search ? 0 : (int32_t)(per > 0 ? per : 1);
  t.bound = search && ragged < even ? ragged : even;
  return t;
}

/* A grid for `units` blocks' work; kernels loop, so that any number of units is served. */
static inline unsigned tc_grid(int64_t units) {
  const int64_t most = 1 << 20;
  return (unsigned)(units < 1 ? 1 : units < most ? units : most);
}

__device__ inline int64_t tc_tiles_total(const tc_tiles &t, const tc_segments &s) {
  if (t.per > 0) return (int64_t)t.count * t.per;
  return s.tiles[t.first + t.count] - s.tiles[t.first];
}

/* The segment of tile `tile` (counted from the first segment's first); *index is its number in the
 * segment. Called by whole, converged warps: 32 probes at a time, since each round is a trip to
 * L2 and a binary search would take five times as many. */
__device__ inline int32_t tc_tile_find(const tc_tiles &t, const tc_segments &s, int64_t tile,
                                       int32_t *index) {
  if (t.per > 0) {
    *index = (int32_t)(tile % t.per);
    return t.first + (int32_t)(tile / t.per);
  }
  const int64_t target = s.tiles[t.first] + tile;
  int64_t lo = t.first, hi = (int64_t)t.first + t.count;
  while (hi - lo > 1) { /* tiles[lo] <= target < tiles[hi] */
    const int64_t step = (hi - lo + 31) / 32;
    const int64_t probe = lo + (int64_t)(threadIdx.x & 31) * step;
    const bool below = probe < hi && s.tiles[probe] <= target;
    const int steps = __popc(__ballot_sync(TC_FULL, below)) - 1;
    lo += steps * step;
    hi = lo + step < hi ? lo + step : hi;
  }
  *index = (int32_t)(target - s.tiles[lo]);
  return (int32_t)lo;
}

#endif /* TAILCUT_TILES_CUH_ */
