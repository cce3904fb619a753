/* SPDX-License-Identifier: Apache-2.0 */
/* windows: how the windows of NOVELTY and merging are dealt to blocks. A grid is sized from host
 * bounds; which window a number stands for, if any, is found on the device. Args: a kernel's, with
 * segments `s`, groups `g`, the size `window` of a window, and what tc_windows_of says: tiles `t`,
 * and `n`, the candidates of every segment, where that needs no look; else -1. */
#ifndef TAILCUT_WINDOWS_CUH_
#define TAILCUT_WINDOWS_CUH_

#include "common/tiles.cuh"

/* Windows are numbered as tiles are (tiles.cuh), with the window for a tile where that is cheap;
 * those of groups by start: group i's begin with number offsets[i] / window + i. Numbers of one
 * group's windows follow each other; some are nobody's. */
struct tc_group_numbers {
  const int32_t *offsets;
  int32_t window;
  __device__ int64_t operator[](int64_t i) const { return offsets[i] / window + i; }
};

/* Windows of n candidates. */
template <class Args>
__device__ inline uint32_t tc_window_count(const Args &args, int32_t n) {
  return ((uint32_t)n + (uint32_t)args.window - 1) / (uint32_t)args.window;
}

struct tc_window {
  int32_t b; /* -1: none */
  int32_t start;
  int32_t first, n; /* candidates */
  int32_t group, index;
  uint32_t count; /* windows of the group */
};

/* Window w.index of a group's n candidates from `first` on. */
template <class Args>
__device__ inline void tc_window_cut(const Args &args, int32_t first, int32_t n, tc_window *w) {
  w->count = tc_window_count(args, n);
  if ((uint32_t)w->index >= w->count) w->b = -1;
  if (w->b < 0) return;
  /* floor(i n / count) = i q + floor(i r / count): counts are below 2^15. */
  const uint32_t i = (uint32_t)w->index, q = (uint32_t)n / w->count;
  const uint32_t r = (uint32_t)n - q * w->count, from = i * r / w->count;
  w->first = first + (int32_t)(i * q + from);
  w->n = (int32_t)(q + ((i + 1) * r / w->count - from));
}

/* Window `number` where finding it takes a look at lengths, offsets or resolve's results; by a
 * whole warp. In a function of its own every load of it would be a generic one. */
template <class Args>
__device__ inline void tc_window_search(const Args &args, int64_t number, tc_window *found) {
  tc_window w = {-1, 0, 0, 0, -1, 0, 0};
  if (args.g.groups > 0) {
    const tc_group_numbers numbers = {args.g.offsets, args.window};
    if (number >= numbers[0]) {
      w.group = (int32_t)tc_prefix_find(numbers, 0, args.g.groups, number);
      w.index = (int32_t)(number - numbers[w.group]);
    }
  } else if (number < tc_tiles_total(args.t, args.s)) {
    w.group = tc_tile_find(args.t, args.s, number, &w.index);
  }
  if (w.group >= 0) {
    const auto group = tc_group_at(args.s, args.g, nullptr, w.group);
    w.b = group.b;
    w.start = group.start;
    tc_window_cut(args, group.first, group.n, &w);
  }
  if ((threadIdx.x & 31) == 0) *found = w;
}

/* Window `number`; by whole blocks. found: in shared memory. */
template <class Args>
__device__ inline tc_window tc_window_of_block(const Args &args, int64_t number, tc_window *found) {
  if (args.n < 0) {
    if (threadIdx.x < 32) tc_window_search(args, number, found);
    __syncthreads();
    return *found;
  }
  tc_window w = {0, 0, 0, 0, 0, 0, 0};
  w.b = w.group = (int32_t)((uint32_t)number / (uint32_t)args.t.per);
  w.index = (int32_t)((uint32_t)number % (uint32_t)args.t.per);
  w.start = w.b * args.s.max_tokens;
  tc_window_cut(args, 0, args.n, &w);
  return w;
}

/* The number of the first window of group `number`. */
template <class Args>
__device__ inline int64_t tc_first_window(const Args &args, int32_t number, int32_t start) {
  if (args.g.groups == 0) return tc_tile_first(args.t, args.s, number, start);
  const tc_group_numbers numbers = {args.g.offsets, args.window};
  return numbers[number];
}

/* -------------------------------------------------------------------------------------- host -- */

/* Fills in t and n, for s, g and window. Returns how many numbers there may be. */
template <class Args>
static inline int64_t tc_windows_of(Args *args) {
  const tc_segments &s = args->s;
  args->t = tc_tiles_of(s, 0, s.segments);
  args->n = -1;
  if (args->g.groups > 0) return s.total / args->window + args->g.groups;
  if (args->t.deal != TC_EVENLY) return args->t.bound;
  const int64_t most = (int64_t)s.max_tokens - s.prefix_rows;
  const bool known = s.cu_seqlens == nullptr && s.lengths == nullptr && s.start == nullptr;
  args->t.per = most > 0 ? (int32_t)((most + args->window - 1) / args->window) : 1;
  args->t.bound = (int64_t)s.segments * args->t.per;
  if (known) args->n = (int32_t)(most > 0 ? most : 0);
  return args->t.bound;
}

/* No call has more: one for each 64 rows, and one that is not full for each group. */
static inline size_t tc_windows_most(const tailcut_limits *limits) {
  const int32_t groups = limits->groups > limits->segments ? limits->groups : limits->segments;
  return (size_t)limits->total_tokens / 64 + (size_t)groups + 1;
}

#endif /* TAILCUT_WINDOWS_CUH_ */
