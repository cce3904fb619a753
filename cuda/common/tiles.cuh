/* SPDX-License-Identifier: Apache-2.0 */
/* tiles: how tiles of TC_BLOCK candidates are dealt to blocks. A grid is sized from host bounds;
 * how many tiles there really are, and whose, is found on the device. */
#ifndef TAILCUT_TILES_CUH_
#define TAILCUT_TILES_CUH_

#include "common/segments.cuh"

/* The tiles of segments [first, first + count), dealt in one of three ways:
 *   evenly      by arithmetic, as many to each segment as the longest may have
 *   by prefix   resolve's prefix sums are searched
 *   by start    ragged, all segments, not resolved: segment b's tiles begin with number
 *               start(b) / TC_BLOCK + b. They end before segment b + 1's begin, since
 *               ceil(n / 64) <= floor(n / 64) + 1 and start(b + 1) >= start(b) + n; so a number
 *               belongs to one segment at most, and its offset alone says where its tiles are. */
enum { TC_EVENLY, TC_BY_PREFIX, TC_BY_START };
struct tc_tiles {
  int32_t first, count, deal, per; /* per: tiles of a segment, evenly */
  int64_t bound; /* no more than this many tiles, plus one for each segment without any */
};

static inline tc_tiles tc_tiles_of(const tc_segments &s, int32_t first, int32_t count) {
  const int64_t most = s.max_tokens > s.prefix_rows ? s.max_tokens - s.prefix_rows : 0;
  const int64_t per = most > 0 ? (most + TC_BLOCK - 1) / TC_BLOCK : 1;
  const int64_t even = count * per, ragged = s.total / TC_BLOCK + count;
  const bool all = first == 0 && count == s.segments;
  tc_tiles t;
  t.first = first;
  t.count = count;
  t.per = (int32_t)per;
  t.deal = TC_EVENLY;
  if (s.tiles != nullptr && (s.cu_seqlens != nullptr || s.lengths != nullptr)) {
    t.deal = TC_BY_PREFIX;
  } else if (s.cu_seqlens != nullptr && all && ragged < even) {
    t.deal = TC_BY_START;
  }
  t.bound = t.deal != TC_EVENLY && ragged < even ? ragged : even;
  return t;
}

/* A grid for `units` blocks' work; kernels loop, so that any number of units is served. */
static inline unsigned tc_grid(int64_t units) {
  const int64_t most = 1 << 20;
  return (unsigned)(units < 1 ? 1 : units < most ? units : most);
}

__device__ inline int64_t tc_tiles_total(const tc_tiles &t, const tc_segments &s) {
  return t.deal == TC_BY_PREFIX ? s.tiles[t.first + t.count] - s.tiles[t.first] : t.bound;
}

/* The number of the first tile of segment b, which starts at row `start`. */
__device__ inline int64_t tc_tile_first(const tc_tiles &t, const tc_segments &s, int32_t b,
                                        int32_t start) {
  return t.deal == TC_EVENLY      ? (int64_t)(b - t.first) * t.per
         : t.deal == TC_BY_PREFIX ? (int64_t)s.tiles[b] - s.tiles[t.first]
                                  : (int64_t)start / TC_BLOCK + b;
}

/* By start: each offset says whether the tile is its segment's; whether that segment is valid takes
 * all offsets before it, so only those that say so are judged. */
__device__ inline int32_t tc_tile_by_start(const tc_segments &s, int64_t tile, int32_t *index) {
  const int32_t lane = (int32_t)(threadIdx.x & 31);
#pragma unroll 2
  for (int32_t base = 0; base < s.segments; base += 32) {
    bool mine = false;
    if (base + lane < s.segments) {
      const tc_segment one = tc_segment_judge(s, base + lane, 0);
      const int64_t at = tile - (one.start / TC_BLOCK + base + lane);
      mine = one.n > 0 && at >= 0 && at <= (one.n - 1) / TC_BLOCK;
    }
    for (uint32_t mask = __ballot_sync(TC_FULL, mine); mask != 0; mask &= mask - 1) {
      const int32_t b = base + __ffs(mask) - 1;
      const tc_segment whole = tc_segment_at(s, b);
      *index = (int32_t)(tile - (whole.start / TC_BLOCK + b));
      if (whole.n > 0) return b;
    }
  }
  return -1;
}

/* The last of lo .. hi - 1 whose prefix sum is `target` or less, where prefix[lo] <= target <
 * prefix[hi] (one of lo .. hi - 1 in any case, if the sums do not ascend). prefix: a pointer or what
 * can be indexed like one. Called by whole, converged warps: 32 probes at a time, since each round
 * is a trip to L2 and a binary search would take five times as many. */
template <class P>
__device__ inline int64_t tc_prefix_find(P prefix, int64_t lo, int64_t hi, int64_t target) {
  while (hi - lo > 1) { /* prefix[lo] <= target < prefix[hi] */
    const int64_t step = (hi - lo + 31) / 32;
    const int64_t probe = lo + (int64_t)(threadIdx.x & 31) * step;
    const bool below = probe < hi && prefix[probe] <= target;
    const int steps = __popc(__ballot_sync(TC_FULL, below) & ~1u);
    lo += steps * step;
    hi = lo + step < hi ? lo + step : hi;
  }
  return lo;
}

/* The segment of tile `tile`, -1: it is nobody's; *index is its number in the segment. Called by
 * whole, converged warps. */
__device__ inline int32_t tc_tile_find(const tc_tiles &t, const tc_segments &s, int64_t tile,
                                       int32_t *index) {
  if (t.deal == TC_BY_START) return tc_tile_by_start(s, tile, index);
  if (t.deal == TC_EVENLY) {
    *index = (int32_t)(tile % t.per);
    return t.first + (int32_t)(tile / t.per);
  }
  const int64_t target = s.tiles[t.first] + tile;
  const int64_t lo = tc_prefix_find(s.tiles, t.first, (int64_t)t.first + t.count, target);
  *index = (int32_t)(target - s.tiles[lo]);
  return (int32_t)lo;
}

#endif /* TAILCUT_TILES_CUH_ */
