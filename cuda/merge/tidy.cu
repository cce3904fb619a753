/* SPDX-License-Identifier: Apache-2.0 */
/*
 * merge, tidy: kept lists from outside, made sound.
 *
 * Rule: an entry is followed where it names a candidate of its segment, is not below its own place,
 * and is above all that are followed before it (src/cpu/merge.c). Strategy: the greatest of those
 * that are followed before an entry is the greatest of all before it that meet the first two; so a
 * block goes through a segment's list with a running maximum. Precision: exact. Limits: a segment
 * is one block's, 4,096 entries at a time.
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

}  // namespace

cudaError_t tc_merge_tidy_lists(const tc_segments &segments, const int32_t *kept, bool packed,
                                const int32_t *counts, const int32_t *new_cu, int32_t *tidy,
                                int32_t *place, const tc_chain *chain) {
  const tidy_args args = {segments, kept, counts, new_cu, packed, tidy, place};
  return tc_launch(merge_tidy, tc_grid(segments.segments), THREADS, 0, chain, args);
}

void tc_load_merge_tidy(cudaError_t *error) { tc_load(merge_tidy, error); }
