/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_join: the kept lists of a segment's groups, one behind the other, and what is reported of the
 * segment.
 *
 * Strategy: the groups of a segment share its rows out among them. Whoever has written what stays
 * of some of them (a block per short group, per tile of a long one) arrives at the segment's count
 * with the number of those rows; who makes it the number of the segment's has come last, whichever
 * launch of the cut it is in, and joins: it is of one of the segment's groups, finds the first of
 * them among the offsets before it, sums their counts up and copies, each thread a row at a time.
 * A segment without rows has nobody to come: one block reports all of these. Precision: exact.
 * Limits: a segment's groups are joined by one block; TC_CHUNK_SEGMENTS segments have counts, more
 * are joined by a launch of its own (cut/cut.cu).
 */
#ifndef TAILCUT_CUT_JOIN_CUH_
#define TAILCUT_CUT_JOIN_CUH_

#include "common/sync.cuh"
#include "cut/cut.cuh"

/* Whether the blocks that cut join what they have cut. */
static inline __host__ __device__ bool tc_cut_joins(const tc_cut_args &args) {
  return args.groups.groups > 0 && args.segments.segments <= TC_CHUNK_SEGMENTS;
}

template <int THREADS>
struct tc_join_space {
  typename tc_block<THREADS / 32>::space block;
  int32_t place[THREADS]; /* of a group's list in the chunk's */
  int32_t shift[THREADS]; /* from there to where its first row's place would be */
};

/* One thread: the numbers of a segment. Its flags are atomics' results: not by way of L1. */
__device__ inline void tc_join_report(const tc_cut_args &args, int32_t b, int32_t count) {
  const int32_t flags = __ldcg(args.group_flags + b);
  args.out.counts[b] = count;
  if (args.out.host_counts != nullptr) args.out.host_counts[b] = count;
  if (args.out.flags != nullptr) {
    args.out.flags[b] =
        flags & TC_FLAG_CANDIDATES ? flags & ~TC_FLAG_CANDIDATES : flags & TAILCUT_FLAG_INVALID;
  }
}

/* Segment b, whose first group is g0; called by the block. A group without rows is none here: its
 * count may not be there yet. */
template <class Block>
__device__ inline void tc_join_segment(Block &block, tc_join_space<Block::THREADS> &space,
                                       const tc_cut_args &args, int32_t b, int32_t g0) {
  const int32_t t = (int32_t)threadIdx.x, groups = args.groups.groups;
  const int32_t *offsets = args.groups.offsets;
  const int32_t start = args.segments.start[b], n = args.segments.n[b];
  const int64_t first_row = (int64_t)start + args.segments.prefix_rows;
  const int64_t end = tc_rows_end(args.segments, b);
  int32_t sum = 0;
  bool more = n > 0;
  for (int32_t base = g0; more; base += Block::THREADS) {
    const int32_t g = base + t;
    const bool inside = g < groups && offsets[g] < end;
    int32_t first = 0, count = 0, total;
    if (inside) {
      first = (int32_t)max(offsets[g] - first_row, (int64_t)0);
      if (min(offsets[g + 1] - first_row, (int64_t)n) > first) {
        count = __ldcg(args.group_counts + g);
      }
    }
    const int32_t place = block.prefix(count, &total);
    space.place[t] = place;
    space.shift[t] = first - place;
    more = __syncthreads_and(inside);
    const int32_t *from = args.group_kept + start;
    int32_t *to = args.out.kept + start + sum;
    for (int32_t j = t; j < total; j += Block::THREADS) {
      int32_t i = 0; /* the group: the last whose list begins at j or before */
#pragma unroll
      for (int32_t step = Block::THREADS / 2; step > 0; step /= 2) {
        if (space.place[i + step] <= j) i += step;
      }
      to[j] = __ldcg(from + space.shift[i] + j);
    }
    sum += total;
    __syncthreads(); /* before the next chunk's places */
  }
  if (t == 0) tc_join_report(args, b, sum);
}

/* Called by the block that has written what stays of `rows` rows, not 0, of the group `number`.
 * `space` is the block's to use. Not inlined: its registers are not the cut's. */
template <int THREADS>
__device__ __noinline__ void tc_join_rows(tc_join_space<THREADS> &space, const tc_cut_args &args,
                                          int32_t number, int32_t rows) {
  const int32_t b = args.groups.segment[number], t = (int32_t)threadIdx.x;
  if (!tc_arrives_last(args.lasting->blocks + b, (uint32_t)args.segments.n[b], (uint32_t)rows)) {
    return;
  }
  const int32_t begin = args.segments.start[b]; /* its first row, with those of the prefix */
  int32_t g0 = number, before;
  do {
    const int32_t g = g0 - 1 - t;
    before = __syncthreads_count(g >= 0 && args.groups.offsets[g] >= begin);
    g0 -= before;
  } while (before == THREADS);
  tc_block<THREADS / 32> block(space.block);
  tc_join_segment(block, space, args, b, g0);
  tc_cut_done(block, args);
}

/* Called by one block of a cut, behind its wait: reports all segments without rows. */
template <int THREADS>
__device__ __noinline__ void tc_join_empty(tc_join_space<THREADS> &space, const tc_cut_args &args) {
  int32_t own = 0;
  __syncthreads(); /* the space is used again */
  for (int32_t b = (int32_t)threadIdx.x; b < args.segments.segments; b += THREADS) {
    if (args.segments.n[b] > 0) continue;
    tc_join_report(args, b, 0);
    own++;
  }
  tc_block<THREADS / 32> block(space.block);
  const int32_t empty = block.sum(own);
  if (empty > 0) tc_cut_done(block, args, empty);
}

#endif /* TAILCUT_CUT_JOIN_CUH_ */
