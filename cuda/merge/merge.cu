/* SPDX-License-Identifier: Apache-2.0 */
/*
 * merge: the rows that a cut drops are merged into those it keeps.
 *
 * Formula: METHOD.md, "Novelty and merging", 7 to 10. Two launches, behind novelty's, which has
 * left the similarities, and the cut's:
 *   plan  a window is a block's: who joins whom                                      merge/plan.cu
 *   rows  a column slice of a window is a block's; 8 arrays a launch                  merge/rows.cu
 * Kept lists that come from outside may be damaged; before the plan they are made sound by
 *   tidy  a segment is a block's                                                     merge/tidy.cu
 * Other arrays, tails that are zeroed and packed kept lists are compact's, behind.
 * Precision: exact. Limits: windows of 64, 128 and 256.
 */
#include "merge/merge.cuh"

namespace {

/* Of the scratch; with base NULL only its size. */
size_t lay_out(const tailcut_limits &limits, char *base, tc_merge_plan *plan) {
  const size_t windows = tc_windows_most(&limits), rows = (size_t)limits.total_tokens;
  size_t used = 0;
  const auto take = [&](size_t bytes) { return tc_cuda_take(base, &used, bytes); };
  plan->windows = (tc_merge_window *)take(windows * sizeof *plan->windows);
  plan->read = (uint32_t *)take(windows * sizeof *plan->read);
  plan->window = (int32_t *)take(rows * sizeof *plan->window);
  plan->weights = (float *)take(rows * sizeof *plan->weights);
  plan->rows = (uint8_t *)take(rows);
  plan->last = (uint8_t *)take(rows);
  plan->own = (uint8_t *)take(rows);
  plan->places = (int32_t *)take(rows * sizeof *plan->places);
  plan->place = (int32_t *)take(rows * sizeof *plan->place);
  return used;
}

}  // namespace

extern "C" size_t tc_cuda_merge_scratch(const tc_cuda *, const tailcut_limits *limits) {
  tc_merge_plan plan;
  return lay_out(*limits, nullptr, &plan);
}

extern "C" cudaError_t tc_cuda_merge_tidy(const tc_cuda *, const tc_segments *segments,
                                          const int32_t *kept, int32_t kept_placement,
                                          const int32_t *counts, const int32_t *new_cu,
                                          const tailcut_limits *limits, int32_t *tidy,
                                          char *scratch, const tc_chain *chain) {
  tc_merge_plan plan;
  lay_out(*limits, scratch, &plan);
  return tc_merge_tidy_lists(*segments, kept, kept_placement == TAILCUT_PACKED, counts, new_cu,
                             tidy, plan.place, chain);
}

extern "C" cudaError_t tc_cuda_merge(const tc_cuda *device, const tc_merge_call *call,
                                     const tailcut_rows *rows, int32_t num_rows,
                                     const tc_chain *chain) {
  tc_merge_args args = {};
  tc_chain link = *chain;
  args.s = call->segments;
  args.g = call->groups;
  args.window = call->options.window;
  args.numbers = tc_windows_of(&args);
  if (args.numbers <= 0) return cudaSuccess;
  args.kept = call->kept;
  args.counts = call->counts;
  args.new_cu = call->new_cu;
  args.options = call->options;
  args.sizes_packed = call->sizes_placement == TAILCUT_PACKED;
  args.tidied = call->tidied;
  args.early = args.numbers <= device->sms;
  args.similarities = call->similarities;
  lay_out(call->limits, call->scratch, &args.plan);
  const cudaError_t error = tc_merge_plan_windows(args, &link);
  link.follows = device->chains;
  return error != cudaSuccess ? error
                              : tc_merge_rows(device, args, rows, num_rows, call->lasting, &link);
}

extern "C" cudaError_t tc_cuda_load_merge(tc_cuda *) {
  cudaError_t error = cudaSuccess;
  tc_load_merge_tidy(&error);
  tc_load_merge_plan(&error);
  tc_load_merge_rows(&error);
  return error;
}
