/* SPDX-License-Identifier: Apache-2.0 */
/* windows: how the windows of NOVELTY and merging are dealt to blocks. A grid is sized from host
 * bounds; which window a number stands for, if any, is found on the device. Numbers ascend along
 * the rows of a segment. */
#ifndef TAILCUT_WINDOWS_CUH_
#define TAILCUT_WINDOWS_CUH_

#include "common/block.cuh"
#include "common/tiles.cuh"

/* A group of n candidates has ceil(n / size) windows. Numbers are dealt in one of four ways:
 *   evenly     uniform, no groups: as many to each segment as the longest may have
 *   by groups  those of group g begin with number offset(g) / size + g. They end before the next
 *              group's begin, since ceil(n / size) <= floor(n / size) + 1
 *   by tiles   ragged, resolved: segment b's begin with tiles before it * TC_BLOCK / size + b
 *   by sums    ragged, TC_MOST_SUMMED segments at most: a warp adds up what is before each */
enum { TC_WINDOWS_EVENLY, TC_WINDOWS_BY_GROUPS, TC_WINDOWS_BY_TILES, TC_WINDOWS_BY_SUMS };
#define TC_MOST_SUMMED 32
struct tc_windows {
  int32_t size, deal, per; /* per: windows of a segment, evenly */
  int64_t bound;           /* no number is this or higher */
};

struct tc_window {
  int32_t b, start, first, n; /* candidates [first, first + n) of segment b; n 0: there is none */
  int32_t most;               /* candidates of the segment */
};

static inline tc_windows tc_windows_of(const tc_segments &s, const tc_groups &g, int32_t size) {
  const int64_t most = s.max_tokens > s.prefix_rows ? s.max_tokens - s.prefix_rows : 0;
  tc_windows w = {size, TC_WINDOWS_EVENLY, (int32_t)((most + size - 1) / size), 0};
  if (g.groups > 0) {
    w.deal = TC_WINDOWS_BY_GROUPS;
    w.bound = s.total / size + g.groups;
  } else if (s.cu_seqlens == nullptr) {
    w.bound = (int64_t)s.segments * w.per;
  } else if (s.tiles != nullptr) {
    w.deal = TC_WINDOWS_BY_TILES;
    w.bound = (s.total / TC_BLOCK + s.segments) / (size / TC_BLOCK) + s.segments;
  } else {
    w.deal = TC_WINDOWS_BY_SUMS;
    w.bound = s.total / size + s.segments;
  }
  return w;
}

/* How many numbers a batch within `limits` has at most, whatever its windows. */
static inline int64_t tc_windows_most(const tailcut_limits &limits) {
  const int64_t segments = 2 * (int64_t)limits.segments;
  return limits.total_tokens / TC_BLOCK + (segments > limits.groups ? segments : limits.groups);
}

/* Window `index` of n candidates from candidate `first` of a segment on. */
__device__ inline tc_window tc_window_of(int32_t size, int32_t b, const tc_segment &segment,
                                         int32_t first, int32_t n, int64_t index) {
  const int64_t count = ((int64_t)n + size - 1) / size;
  tc_window w = {b, segment.start, 0, 0, segment.n};
  if (index < 0 || index >= count) return w;
  const int32_t from = (int32_t)(index * n / count);
  w.first = first + from;
  w.n = (int32_t)((index + 1) * n / count) - from;
  return w;
}

/* The last of groups 0 .. count - 1 whose first number, which ascends strictly, is `number` or
 * less; 0 where none is. Called by whole, converged warps: a trip to L2 for each power of 32. */
template <class FIRST>
__device__ inline int32_t tc_windows_owner(int32_t count, int64_t number, FIRST first) {
  int32_t lo = 0, hi = count;
  while (hi - lo > 1) {
    const int32_t step = (int32_t)(((int64_t)hi - lo + 31) / 32);
    const int64_t probe = lo + (int64_t)(threadIdx.x & 31) * step;
    const bool below = probe < hi && first((int32_t)probe) <= number;
    const int32_t steps = __popc(__ballot_sync(TC_FULL, below));
    lo += max(steps - 1, 0) * step;
    hi = (int32_t)min((int64_t)hi, (int64_t)lo + step);
  }
  return lo;
}

/* Ragged, not resolved: each lane has a segment, and where its windows begin. */
__device__ inline tc_window tc_window_by_sums(const tc_windows &windows, const tc_segments &s,
                                              int64_t number) {
  const int32_t lane = (int32_t)(threadIdx.x & 31);
  int32_t highest = s.cu_seqlens[min(lane, s.segments)];
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    highest = max(highest, __shfl_up_sync(TC_FULL, highest, step));
  }
  tc_segment own = {0, 0, false};
  if (lane < s.segments) own = tc_segment_judge(s, lane, max(highest, 0));
  const int32_t count = (own.n + windows.size - 1) / windows.size, end = tc_warp_upto(count);
  const uint32_t mine = __ballot_sync(TC_FULL, number >= end - count && number < end);
  const int32_t b = mine != 0 ? __ffs((int)mine) - 1 : 0;
  const int32_t before = __shfl_sync(TC_FULL, end - count, b);
  tc_segment segment = {__shfl_sync(TC_FULL, own.start, b), __shfl_sync(TC_FULL, own.n, b), true};
  return tc_window_of(windows.size, b, segment, 0, segment.n, mine != 0 ? number - before : -1);
}

/* The window that `number` stands for. Called by whole, converged warps. */
__device__ inline tc_window tc_window_at(const tc_windows &windows, const tc_segments &s,
                                         const tc_groups &g, int64_t number) {
  const int32_t size = windows.size;
  if (windows.deal == TC_WINDOWS_BY_SUMS) return tc_window_by_sums(windows, s, number);
  if (windows.deal == TC_WINDOWS_BY_GROUPS) {
    const int32_t i = tc_windows_owner(
        g.groups, number, [&](int32_t at) { return (int64_t)g.offsets[at] / size + at; });
    const struct tc_group group = tc_group_at(s, g, nullptr, i);
    const tc_segment segment = {group.start, group.b >= 0 ? s.n[group.b] : 0, group.b >= 0};
    const int64_t index = number - ((int64_t)g.offsets[i] / size + i);
    return tc_window_of(size, group.b, segment, group.first, group.n, index);
  }
  int32_t b;
  int64_t index;
  if (windows.deal == TC_WINDOWS_EVENLY) {
    b = (int32_t)(number / windows.per);
    index = number - (int64_t)b * windows.per;
  } else {
    const int32_t tiles = size / TC_BLOCK;
    b = tc_windows_owner(s.segments, number,
                         [&](int32_t at) { return (int64_t)(s.tiles[at] / tiles) + at; });
    index = number - ((int64_t)(s.tiles[b] / tiles) + b);
  }
  const tc_segment segment = tc_segment_at(s, b);
  return tc_window_of(size, b, segment, 0, segment.n, index);
}

#endif /* TAILCUT_WINDOWS_CUH_ */
