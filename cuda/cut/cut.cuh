/* SPDX-License-Identifier: Apache-2.0 */
/* cut: what the kernels of the cut share (cut/cut.cu: which there are): how they meet a group, and
 * how they report of it. */
#ifndef TAILCUT_CUT_CUH_
#define TAILCUT_CUT_CUH_

#include "common/launch.cuh"
#include "cut/detect.cuh"

/* Groups of up to TC_CUT_SHORT rows; sorts: the order itself is needed. */
cudaError_t tc_cut_short(const tc_cut_args &args, bool sorts, const tc_chain *chain);
void tc_cut_short_load(cudaError_t *error);
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

#endif /* TAILCUT_CUT_CUH_ */
