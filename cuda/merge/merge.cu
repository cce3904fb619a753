/* SPDX-License-Identifier: Apache-2.0 */
/*
 * merge: the rows that a cut drops are merged into those it keeps.
 *
 * Formula: METHOD.md, "Novelty and merging", 7 to 10. Two launches, behind novelty's, which has
 * left the similarities, and the cut's:
 *   plan  a window is a block's: who joins whom                                      merge/plan.cu
 *   rows  a column slice of a window is a block's; 8 arrays a launch                  merge/rows.cu
 * Kept lists that come from outside may be damaged; before the plan they are made sound by
 *   tidy  a segment is a block's                                                     below
 * Other arrays, tails that are zeroed and packed kept lists are compact's, behind.
 * Precision: exact. Limits: windows of 64, 128 and 256.
 */
#include <cub/block/block_scan.cuh>

#include "merge/merge.cuh"

namespace {

constexpr int THREADS = 1024, ITEMS = 4;
typedef cub::BlockScan<int32_t, THREADS, cub::BLOCK_SCAN_WARP_SCANS> max_scan;

struct tidy_args {
  tc_segments s;
  const int32_t *kept, *counts, *new_cu;
  int32_t packed;
  int32_t *tidy, *place; /* by row number: entry j's candidate or -1; a candidate's j or -1 */
};

/* An entry is followed where it names a candidate of its segment, is not below its own place, and
 * is above all that are followed before it (src/cpu/merge.c). The greatest of those that are
 * followed before an entry is the greatest of all before it that meet the first two: a block goes
 * through a segment's list, 4,096 entries at a time, with a running maximum. */
__global__ void __launch_bounds__(THREADS) merge_tidy(const __grid_constant__ tidy_args args) {
  __shared__ typename max_scan::TempStorage temp;
  tc_wait_previous();
  for (int32_t b = (int32_t)blockIdx.x; b < args.s.segments; b += (int32_t)gridDim.x) {
    const tc_segment segment = tc_segment_at(args.s, b);
    const int32_t n = segment.n, offset = args.packed ? args.new_cu[b] : segment.start;
    int32_t k = args.counts[b], highest = -1;
    if (k < 0 || k > n || offset < 0 || (int64_t)offset + k > args.s.total) k = 0;
    int32_t *const tidy = args.tidy + segment.start, *const place = args.place + segment.start;
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += THREADS) place[i] = -1;
    for (int32_t base = 0; base < k; base += THREADS * ITEMS) {
      const int32_t first = base + (int32_t)threadIdx.x * ITEMS;
      int32_t named[ITEMS], top = -1, before, chunk;
#pragma unroll
      for (int m = 0; m < ITEMS; m++) {
        const int32_t j = first + m, i = j < k ? args.kept[offset + j] : -1;
        named[m] = i >= j && i < n ? i : -1;
        top = max(top, named[m]);
      }
      const auto larger = [](int32_t x, int32_t y) { return max(x, y); };
      max_scan(temp).ExclusiveScan(top, before, -1, larger, chunk);
      __syncthreads(); /* also: all places are -1 */
      before = max(before, highest);
      highest = max(highest, chunk);
#pragma unroll
      for (int m = 0; m < ITEMS; m++) {
        const int32_t j = first + m;
        if (j >= k) break;
        const bool followed = named[m] > before;
        tidy[j] = followed ? named[m] : -1;
        if (followed) place[named[m]] = j, before = named[m];
      }
    }
  }
}

/* Of the scratch; with base NULL only its size. */
size_t lay_out(const tailcut_limits &limits, char *base, tc_merge_plan *plan) {
  const size_t windows = tc_windows_most(&limits), rows = (size_t)limits.total_tokens;
  const size_t each = sizeof(tc_merge_header) + (size_t)limits.window * TC_MERGE_ROW_BYTES;
  size_t used = 0;
  const auto take = [&](size_t bytes) { return tc_cuda_take(base, &used, bytes); };
  plan->windows = take(windows * each);
  plan->read = (uint32_t *)take(windows * sizeof *plan->read);
  plan->window = (int32_t *)take(rows * sizeof *plan->window);
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
  const int32_t packed = kept_placement == TAILCUT_PACKED;
  tc_merge_plan plan;
  lay_out(*limits, scratch, &plan);
  const tidy_args args = {*segments, kept, counts, new_cu, packed, tidy, plan.place};
  return tc_launch(merge_tidy, tc_grid(segments->segments), THREADS, 0, chain, args);
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
  tc_load(merge_tidy, &error);
  tc_load_merge_plan(&error);
  tc_load_merge_rows(&error);
  return error;
}
