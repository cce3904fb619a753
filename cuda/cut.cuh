/* SPDX-License-Identifier: Apache-2.0 */
/* cut: what the kernels of the cut share (cut.cu, cut_short.cu, cut_long.cu). */
#ifndef TAILCUT_CUT_CUH_
#define TAILCUT_CUT_CUH_

#include "detect.cuh"

struct tc_cut_args {
  tc_segments segments;
  const float *scores;
  const uint8_t *roles;
  tailcut_rule rule;
  tc_cuda_cut_out out;
  const int32_t *input_flags; /* where segments are not resolved: the caller's, or NULL */
};

/* How long segments are launched: `clusters` of `ctas` blocks, each with `slot` bytes of scratch. */
struct tc_long_plan {
  int32_t ctas, clusters;
  int32_t least;        /* segments of more rows than this are theirs */
  size_t slot, scratch; /* scratch: bytes for all limits this or smaller */
};
tc_long_plan tc_cut_plan(const tc_cuda *device, int64_t segments, int64_t max_tokens,
                         int64_t total);

cudaError_t tc_cut_short(const tc_cut_args &args, const tc_chain *chain);
cudaError_t tc_cut_short_load(void);
/* By sorting: any rule, curve and ranks. */
cudaError_t tc_cut_long(const tc_cut_args &args, const tc_long_plan &plan, char *scratch,
                        const tc_chain *chain);
cudaError_t tc_cut_long_load(tc_cuda *device);
/* Without sorting: rules that do not ask for neighbours in rank, no spread, no curve, no ranks. */
cudaError_t tc_cut_bins(const tc_cuda *device, const tc_cut_args &args, const tc_long_plan &plan,
                        const tc_chain *chain);
cudaError_t tc_cut_bins_load(tc_cuda *device);

__device__ __forceinline__ uint32_t tc_load_key(const float *scores, const uint8_t *roles,
                                                int32_t i) {
  return roles == nullptr || tc_is_candidate(roles[i]) ? tc_row_key(scores[i]) : TC_KEY_NONE;
}

/* Whether row i, which has roles and is no candidate, stays. */
__device__ __forceinline__ bool tc_stays_unranked(const uint8_t *roles, int32_t i) {
  return !tc_is_absent(roles[i]);
}

/* One thread: the numbers of a segment. */
__device__ __forceinline__ void tc_cut_report(const tc_cuda_cut_out &out, int32_t b, int32_t count,
                                              int32_t flags) {
  out.counts[b] = count;
  if (out.flags != nullptr) out.flags[b] = flags;
  if (out.host_counts != nullptr) out.host_counts[b] = count;
}

/* Curve and rank of the row that came r-th in the sort, where they are asked for. */
__device__ __forceinline__ void tc_cut_report_order(const tc_cuda_cut_out &out, int32_t start,
                                                    int32_t row, int32_t r, uint32_t key) {
  const bool ranked = key != TC_KEY_NONE;
  if (out.curve != nullptr && ranked) out.curve[start + r] = tc_key_score(key);
  if (out.ranks != nullptr) out.ranks[start + row] = ranked ? r : -1;
}

#endif /* TAILCUT_CUT_CUH_ */
