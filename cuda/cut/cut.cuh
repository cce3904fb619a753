/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut: what the kernels of the cut share (cut/cut.cu: which there are): how they meet a group, how
 * they report of it, and how the kept lists of a segment's groups become one.
 *
 * The groups of a segment share its rows out among them. Whoever has written what stays of some of
 * them (a block per short group, per tile of a long one) arrives at the segment's count with the
 * number of those rows; who makes it the number of the segment's has come last, whichever launch of
 * the cut it is in, and joins: it is of one of the segment's groups, finds the first of them among
 * the offsets before it, sums their counts up and copies, each thread a row at a time. A segment
 * without rows has nobody to come: one block reports all of these. Precision: exact. Limits: a
 * segment's groups are joined by one block; TC_CHUNK_SEGMENTS segments have counts, more are joined
 * by a launch of its own.
 */
#ifndef TAILCUT_CUT_CUH_
#define TAILCUT_CUT_CUH_

#include "common/launch.cuh"
#include "common/sync.cuh"
#include "cut/detect.cuh"

/* Whether the order itself is needed. */
bool tc_cut_sorts(const tc_cut_args &args);

/* A group as a kernel works on it. Its rows are numbered 0 .. n-1 here; what is reported of row
 * i is group.first + i. */
struct tc_cut_group {
  tc_group group;
  int32_t number, flags; /* flags: BAD_REFERENCE and INVALID, as far as they are known */
  const float *scores;
  const uint8_t *roles; /* NULL: every row is a candidate */
  int32_t *kept;
};

__device__ __forceinline__ tc_cut_group tc_cut_group_of(const tc_cut_args &args,
                                                        const tc_group &group, int32_t number,
                                                        int32_t flags) {
  const int64_t at = (int64_t)group.start + group.first;
  return {group,
          number,
          flags,
          args.scores + at,
          args.roles != nullptr ? args.roles + at : nullptr,
          (args.groups.groups > 0 ? args.group_kept : args.out.kept) + at};
}

/* Group `number`; called by whole, converged warps, behind the kernel's wait. */
__device__ inline tc_cut_group tc_cut_open(const tc_cut_args &args, int32_t number) {
  const tc_group group =
      tc_group_at(args.segments, args.groups, args.scored ? nullptr : args.in_flags, number);
  int32_t flags = group.b < 0 ? TAILCUT_FLAG_INVALID : 0;
  if (group.b >= 0 && args.in_flags != nullptr && (group.n > 0 || !args.scored)) {
    flags = args.in_flags[group.b] & TAILCUT_FLAG_BAD_REFERENCE;
  }
  return tc_cut_group_of(args, group, number, flags);
}

/* The key of row i. Scores may have been written by the kernel before: no read-only loads. */
__device__ __forceinline__ uint32_t tc_load_key(const tc_cut_group &c, bool low, int32_t i) {
  return c.roles == nullptr || tc_is_candidate(c.roles[i]) ? tc_row_key(__ldcg(c.scores + i), low)
                                                           : TC_KEY_NONE;
}

/* Whether row i, which has roles and is no candidate, stays. */
__device__ __forceinline__ bool tc_stays_unranked(const uint8_t *roles, int32_t i) {
  return !tc_is_absent(roles[i]);
}

/* One thread: the numbers of a group. */
__device__ __forceinline__ void tc_cut_report(const tc_cut_args &args, const tc_cut_group &c,
                                              int32_t count, int32_t flags) {
  if (args.groups.groups > 0) {
    args.group_counts[c.number] = count;
    if (c.group.b >= 0 && flags != 0) atomicOr(&args.group_flags[c.group.b], flags);
    return;
  }
  args.out.counts[c.number] = count;
  if (args.out.flags != nullptr) args.out.flags[c.number] = flags & ~TC_FLAG_CANDIDATES;
  if (args.out.host_counts != nullptr) args.out.host_counts[c.number] = count;
}

/* Curve and rank of row i that came r-th in the order, where they are asked for. */
__device__ __forceinline__ void tc_cut_report_order(const tc_cut_args &args, const tc_cut_group &c,
                                                    int32_t i, int32_t r, uint32_t key) {
  const bool ranked = key != TC_KEY_NONE;
  const int64_t at = (int64_t)c.group.start + c.group.first;
  if (args.out.curve != nullptr && ranked) {
    const float s = tc_key_score(key);
    args.out.curve[at + r] = args.rule.order == TAILCUT_LOW && s == s ? 0.0f - s : s; /* never -0 */
  }
  if (args.out.ranks != nullptr) args.out.ranks[at + i] = ranked ? r : -1;
}

/* Bytes of the mask that belong to no row of the group that is cut: threads [first, ...) in
 * steps. */
__device__ __forceinline__ void tc_cut_clear_mask(const tc_cut_args &args, const tc_cut_group &c,
                                                  int32_t thread, int32_t threads) {
  if (args.out.mask == nullptr || c.group.b < 0) return;
  const int64_t from = (int64_t)c.group.start + c.group.first + args.segments.prefix_rows;
  const bool groups = args.groups.groups > 0;
  int64_t r = args.segments.cu_seqlens != nullptr ? c.group.start
                                                  : (int64_t)c.group.b * args.segments.max_tokens;
  if (groups) r = args.groups.offsets[c.number];
  const int64_t end =
      groups ? args.groups.offsets[c.number + 1] : tc_rows_end(args.segments, c.group.b);
  for (r += thread; r < end; r += threads) {
    if (r < from || r >= from + c.group.n) args.out.mask[r] = 0;
  }
}

/* The mask's byte for the group's first row, where a mask is asked for. */
__device__ __forceinline__ uint8_t *tc_cut_mask(const tc_cut_args &args, const tc_cut_group &c) {
  return args.out.mask + c.group.start + c.group.first + args.segments.prefix_rows;
}

/* Called by the whole block that has reported a segment (or `done` of them, before a barrier), once
 * for each. The last of all makes new_cu from the counts. */
template <class Block>
__device__ inline void tc_cut_done(Block &block, const tc_cut_args &args, int32_t done = 1) {
  int32_t *new_cu = args.out.new_cu;
  const int32_t segments = args.segments.segments;
  if (new_cu == nullptr) return;
  bool last = segments == 1;
  if (!last) {
    __threadfence(); /* the counts before the arrival */
    uint32_t before = 0;
    if (threadIdx.x == 0) before = atomicAdd(&args.lasting->arrived, (uint32_t)done);
    last = block.sum(before) == (uint32_t)(segments - done);
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) args.lasting->arrived = 0;
  } else {
    __syncthreads();
  }
  int32_t sum = 0;
  for (int32_t base = 0; base < segments; base += Block::THREADS) {
    const int32_t b = base + (int32_t)threadIdx.x;
    const int32_t count = b < segments ? __ldcg(args.out.counts + b) : 0;
    int32_t total;
    const int32_t before = block.prefix(count, &total);
    if (b < segments) new_cu[b] = sum + before;
    sum += total;
  }
  if (threadIdx.x == 0) new_cu[segments] = sum;
}

/* Where the k-th (k >= 1) of things lies that are counted by place, the things before that place,
 * and those there. */
struct tc_digit {
  uint32_t place, before, inside;
};

/* Of counts that the threads have of EACH places, in order; called by the block, all of which gets
 * `found`, in shared memory. A barrier is in here. */
template <int EACH, class Block>
__device__ __forceinline__ tc_digit tc_find_digit(Block &block, tc_digit &found,
                                                  const uint32_t (&count)[EACH], uint32_t k) {
  uint32_t all = 0, total;
#pragma unroll
  for (int e = 0; e < EACH; e++) all += count[e];
  uint32_t before = block.prefix(all, &total);
#pragma unroll
  for (int e = 0; e < EACH; e++) {
    if (before < k && k <= before + count[e]) { /* one thread, one e */
      found = {threadIdx.x * EACH + e, before, count[e]};
    }
    before += count[e];
  }
  __syncthreads();
  return found;
}

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

#endif /* TAILCUT_CUT_CUH_ */
