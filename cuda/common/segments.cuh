/* SPDX-License-Identifier: Apache-2.0 */
/* segments: where a segment starts and how many candidates it has, as a kernel sees it. The rules
 * are src/cpu/segments.c's: an offset below any earlier one would share rows with others. */
#ifndef TAILCUT_SEGMENTS_CUH_
#define TAILCUT_SEGMENTS_CUH_

#include "cuda.h"

#define TC_FULL 0xFFFFFFFFu /* a whole warp */

struct tc_segment {
  int32_t start, n;
  bool valid;
};

/* Judges segment b given the highest of the offsets cu_seqlens[0 .. b] (ragged; else ignored). */
__device__ inline tc_segment tc_segment_judge(const tc_segments &s, int32_t b, int32_t highest) {
  int64_t start = (int64_t)b * s.max_tokens, length = s.max_tokens;
  bool valid = true;
  if (s.cu_seqlens != nullptr) {
    const int64_t end = s.cu_seqlens[b + 1];
    start = s.cu_seqlens[b];
    length = end - start;
    valid = start >= 0 && start >= highest && end <= s.total;
  } else if (s.lengths != nullptr) {
    length = s.lengths[b];
  }
  if (length != s.max_tokens) valid = valid && length >= 0 && length < s.max_tokens;
  tc_segment r;
  r.valid = valid;
  r.start = valid ? (int32_t)start : 0;
  r.n = valid && length > s.prefix_rows ? (int32_t)(length - s.prefix_rows) : 0;
  return r;
}

/* Segment b; called by whole, converged warps (each works on its own). */
__device__ inline tc_segment tc_segment_at(const tc_segments &s, int32_t b) {
  if (s.start != nullptr) {
    tc_segment r;
    r.start = s.start[b];
    r.n = s.n[b];
    r.valid = (s.flags[b] & TAILCUT_FLAG_INVALID) == 0;
    return r;
  }
  int32_t highest = 0;
  if (s.cu_seqlens != nullptr) {
    for (int32_t i = (int32_t)(threadIdx.x & 31); i <= b; i += 32) {
      highest = max(highest, s.cu_seqlens[i]);
    }
    highest = __reduce_max_sync(TC_FULL, highest);
  }
  return tc_segment_judge(s, b, highest);
}

/* The place of a segment's first mark: row numbers ascend, so no two segments share one. */
__device__ inline uint32_t tc_mark_of(int32_t start, int32_t b) {
  return (uint32_t)start / 32 + (uint32_t)b;
}

/* What is cut by itself: candidates (with roles: rows) [first, first + n) of segment b. */
struct tc_group {
  int32_t b; /* -1: no rows, or an invalid segment */
  int32_t start, first, n;
};

static inline __host__ __device__ int32_t tc_group_count(const tc_segments &s, const tc_groups &g) {
  return g.groups > 0 ? g.groups : s.segments;
}

/* The first of the ascending offsets[0 .. groups] that is `row` or higher; groups where none is. */
__device__ inline int32_t tc_first_group(const tc_groups &g, int64_t row) {
  int32_t lo = 0, hi = g.groups;
  while (lo < hi) {
    const int32_t mid = lo + (hi - lo) / 2;
    if (g.offsets[mid] < row) {
      lo = mid + 1;
    } else {
      hi = mid;
    }
  }
  return lo;
}

/* Row numbers behind segment b's last, whatever its length. */
__device__ inline int64_t tc_rows_end(const tc_segments &s, int32_t b) {
  return s.cu_seqlens != nullptr ? s.cu_seqlens[b + 1] : (int64_t)(b + 1) * s.max_tokens;
}

/* Group `number`; called by whole, converged warps. in_flags: an INVALID bit there is honoured. */
__device__ inline tc_group tc_group_at(const tc_segments &s, const tc_groups &g,
                                       const int32_t *in_flags, int32_t number) {
  tc_group r = {-1, 0, 0, 0};
  const int32_t b = g.groups > 0 ? g.segment[number] : number;
  if (b < 0) return r;
  const tc_segment segment = tc_segment_at(s, b);
  if (!segment.valid || (in_flags != nullptr && in_flags[b] & TAILCUT_FLAG_INVALID)) return r;
  r.b = b;
  r.start = segment.start;
  r.n = segment.n;
  if (g.groups > 0) {
    const int64_t first_row = (int64_t)segment.start + s.prefix_rows;
    const int64_t from = max(g.offsets[number] - first_row, (int64_t)0);
    const int64_t to = min(g.offsets[number + 1] - first_row, (int64_t)segment.n);
    r.first = (int32_t)from;
    r.n = to > from ? (int32_t)(to - from) : 0;
  }
  return r;
}

/* Candidates of all segments. Called by whole, converged warps; without resolve's results every
 * length is looked at. Not inlined: compact has no registers to spare for it. */
__device__ __noinline__ inline int64_t tc_all_candidates(const tc_segments &s) {
  const int32_t lane = (int32_t)(threadIdx.x & 31);
  if (s.n != nullptr) return s.n[s.segments];
  if (s.cu_seqlens == nullptr && s.lengths == nullptr) {
    return (int64_t)s.segments * max(s.max_tokens - s.prefix_rows, 0);
  }
  int32_t highest = 0; /* of all offsets before these */
  uint32_t sum = 0;    /* row numbers are below 2^31 */
  for (int32_t base = 0; base < s.segments; base += 32) {
    const int32_t i = base + lane;
    int32_t top = highest;
    if (s.cu_seqlens != nullptr) {
      if (i < s.segments) top = max(top, s.cu_seqlens[i]);
#pragma unroll
      for (int step = 1; step < 32; step <<= 1) {
        const int32_t other = __shfl_up_sync(TC_FULL, top, step);
        if (lane >= step) top = max(top, other);
      }
      highest = __shfl_sync(TC_FULL, top, 31);
    }
    if (i < s.segments) sum += (uint32_t)tc_segment_judge(s, i, top).n;
  }
  return __reduce_add_sync(TC_FULL, sum);
}

/* Bytes from tokens.data to candidate i of segment b. */
__device__ inline int64_t tc_token_offset(const tc_segments &s, const tailcut_tokens &tokens,
                                          int32_t b, int32_t start, int64_t i) {
  const int64_t row = i + s.prefix_rows;
  const int64_t element = s.cu_seqlens != nullptr
                              ? (start + row) * tokens.row_stride
                              : b * tokens.segment_stride + row * tokens.row_stride;
  return element * (tokens.dtype == TAILCUT_F32 ? 4 : 2);
}

/* To the segment's first row, prefix or candidate. */
__device__ inline int64_t tc_first_row_offset(const tc_segments &s, const tailcut_tokens &tokens,
                                              int32_t b, int32_t start) {
  return tc_token_offset(s, tokens, b, start, -(int64_t)s.prefix_rows);
}

#endif /* TAILCUT_SEGMENTS_CUH_ */
