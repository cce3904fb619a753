/* SPDX-License-Identifier: Apache-2.0 */
/* resolve: by one block, where each segment starts, how many candidates it has, whether its bounds
 * hold; and which segment each group is in. In a launch of its own (segments.cu) or beside the
 * blocks of direction, which find segments themselves: what comes behind has it either way.
 *
 * Rules: src/cpu/segments.c. Strategy: the block walks over the segments, ITEMS a thread at a time,
 * with a running maximum of the offsets (an offset below any earlier one is invalid) and running
 * sums of tiles and candidates. Groups: all threads look whether the offsets ascend, each segment's
 * ends are searched among them, then a warp per segment names its groups. Limits: latency-bound,
 * about one trip to L2 per 4 THREADS segments or offsets. */
#ifndef TAILCUT_RESOLVE_CUH_
#define TAILCUT_RESOLVE_CUH_

#include <cub/block/block_scan.cuh>

#include "common/segments.cuh"

struct tc_resolve_args {
  tc_segments s; /* not resolved */
  tc_groups g;   /* segment: not yet */
  const int32_t *input_flags;
  int32_t *start, *n, *tiles, *flags; /* flags NULL: nothing is to be resolved */
  int32_t *group_segment;             /* NULL: the offsets are only checked */
};

/* What a call asks to be resolved, into the space and `flags`. */
static inline tc_resolve_args tc_resolve_args_of(const tc_segments &s, const tc_groups &g,
                                                 const int32_t *input_flags,
                                                 const tc_cuda_space &space, int32_t *flags) {
  return {s, g, input_flags, space.start, space.n, space.tiles, flags, space.group_segment};
}

/* Warp scans: the default one spills at 1,024 threads. */
template <int THREADS>
union tc_resolve_space {
  typedef cub::BlockScan<int32_t, THREADS, cub::BLOCK_SCAN_WARP_SCANS> max_scan;
  typedef cub::BlockScan<uint64_t, THREADS, cub::BLOCK_SCAN_WARP_SCANS> sum_scan;
  typename max_scan::TempStorage max;
  typename sum_scan::TempStorage sum;
};

struct tc_larger {
  __device__ int32_t operator()(int32_t a, int32_t b) const { return a > b ? a : b; }
};

/* Whether both ends of segment b are offsets of groups. */
__device__ inline bool tc_ends_are_offsets(const tc_segments &s, const tc_groups &g, int32_t b) {
  const int64_t begin = tc_rows_end(s, b - 1), end = tc_rows_end(s, b); /* that of -1: the first */
  return g.offsets[tc_first_group(g, begin)] == begin && g.offsets[tc_first_group(g, end)] == end;
}

/* Names the segment of every group that has rows; start, n and flags are there. */
template <int THREADS>
__device__ inline void tc_place_groups(const tc_resolve_args &args) {
  const int32_t lane = (int32_t)(threadIdx.x & 31), warp = (int32_t)(threadIdx.x / 32);
  for (int32_t b = warp; b < args.s.segments; b += THREADS / 32) {
    if (args.flags[b] & TAILCUT_FLAG_INVALID) continue;
    const int64_t begin = tc_rows_end(args.s, b - 1), end = tc_rows_end(args.s, b);
    for (int32_t i = tc_first_group(args.g, begin) + lane; i < args.g.groups; i += 32) {
      if (args.g.offsets[i] >= end) break;
      if (args.g.offsets[i] < args.g.offsets[i + 1]) args.group_segment[i] = b;
    }
  }
}

/* Called by a whole block, behind its kernel's wait; temp: in shared memory. */
template <int THREADS>
__device__ inline void tc_resolve(const tc_resolve_args &args, tc_resolve_space<THREADS> &temp) {
  typedef tc_resolve_space<THREADS> space;
  constexpr int ITEMS = 4;
  const tc_segments &s = args.s;
  const bool groups = args.g.groups > 0;
  int ascending = 1;
  if (groups) {
    const int32_t *offsets = args.g.offsets;
    if (threadIdx.x == 0) ascending = offsets[0] >= 0 && offsets[args.g.groups] <= s.total;
    for (int32_t i = (int32_t)threadIdx.x; i < args.g.groups; i += THREADS) {
      if (offsets[i] > offsets[i + 1]) ascending = 0;
      if (args.group_segment != nullptr) args.group_segment[i] = -1;
    }
    ascending = __syncthreads_and(ascending);
  }
  /* Tiles in the upper half, candidates in the lower: neither overflows. */
  const auto count = [](int32_t n) {
    return (uint64_t)(uint32_t)((n + TC_BLOCK - 1) / TC_BLOCK) << 32 | (uint32_t)n;
  };
  int32_t highest = 0;
  uint64_t sum = 0;
  for (int64_t base = 0; base < s.segments; base += THREADS * ITEMS) {
    const int64_t mine = base + (int64_t)threadIdx.x * ITEMS;
    int32_t top = 0, before = 0, chunk_top = 0;
    if (s.cu_seqlens != nullptr) {
      for (int64_t b = mine; b < mine + ITEMS && b < s.segments; b++) {
        top = max(top, s.cu_seqlens[b]);
      }
      typename space::max_scan(temp.max).ExclusiveScan(top, before, 0, tc_larger(), chunk_top);
      __syncthreads();
    }
    before = max(before, highest);
    highest = max(highest, chunk_top);
    tc_segment found[ITEMS];
    uint64_t own = 0, earlier = 0, chunk = 0;
    for (int i = 0; i < ITEMS; i++) {
      const int64_t b = mine + i;
      found[i] = {0, 0, true};
      if (b >= s.segments) continue;
      if (s.cu_seqlens != nullptr) before = max(before, s.cu_seqlens[b]);
      found[i] = tc_segment_judge(s, (int32_t)b, before);
      if (groups && found[i].valid && !(ascending && tc_ends_are_offsets(s, args.g, (int32_t)b))) {
        found[i] = {0, 0, false};
      }
      int32_t bits = found[i].valid ? 0 : TAILCUT_FLAG_INVALID;
      if (args.input_flags != nullptr) {
        bits |= args.input_flags[b] & (TAILCUT_FLAG_BAD_REFERENCE | TAILCUT_FLAG_INVALID);
        if (bits & TAILCUT_FLAG_INVALID) found[i].n = 0;
      }
      args.flags[b] = bits;
      own += count(found[i].n);
    }
    typename space::sum_scan(temp.sum).ExclusiveSum(own, earlier, chunk);
    __syncthreads();
    earlier += sum;
    sum += chunk;
    for (int i = 0; i < ITEMS; i++) {
      const int64_t b = mine + i;
      if (b >= s.segments) break;
      args.start[b] = found[i].start;
      args.n[b] = found[i].n;
      args.tiles[b] = (int32_t)(earlier >> 32);
      earlier += count(found[i].n);
    }
  }
  if (threadIdx.x == 0) {
    args.n[s.segments] = (int32_t)(uint32_t)sum;
    args.tiles[s.segments] = (int32_t)(sum >> 32);
  }
  if (groups && args.group_segment != nullptr) {
    __syncthreads(); /* all flags are there */
    tc_place_groups<THREADS>(args);
  }
}

/* Where one block of many does it, the others have other things to keep in registers. */
template <int THREADS>
__device__ __noinline__ inline void tc_resolve_apart(const tc_resolve_args &args,
                                                     tc_resolve_space<THREADS> &temp) {
  tc_resolve<THREADS>(args, temp);
}

#endif /* TAILCUT_RESOLVE_CUH_ */
