/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_short: from scores to kept rows, one block per segment, everything in shared memory.
 *
 * Formulas: METHOD.md, "Order" and "Detectors"; curve.h. Strategy: rows are sorted by key (block
 * radix sort, stable: ties by row), rows that are no candidates behind all others; the curve as
 * integers in shared memory; one detector (detect.cuh); a byte per row says whether it stays; kept
 * rows in order by prefix sums. Precision: exact, the same bits as src/cpu/cut.c. Limits: segments of
 * up to TC_CUT_SHORT rows; longer ones are left to cut_long.cu.
 *
 * The size of the block is chosen by the host's bound: nothing depends on it but time.
 *
 * Ladder: 1. block radix sort, 8 passes of 4 bits. Prediction 4 us at 576 rows, 10 us at 4,096; not
 * measured.
 */
#include <cub/block/block_radix_sort.cuh>

#include "cut.cuh"

namespace {

template <int THREADS, int ITEMS>
struct short_space {
  typedef cub::BlockRadixSort<uint32_t, THREADS, ITEMS, int32_t> sort;
  static constexpr int ROWS = THREADS * ITEMS;
  union {
    typename sort::TempStorage sort_space;
    int32_t q[ROWS];
  };
  uint8_t keep[ROWS];
  typename tc_gang<false, THREADS / 32>::space gang;
};

template <int THREADS, int ITEMS>
__global__ void __launch_bounds__(THREADS, 1) cut_short(const __grid_constant__ tc_cut_args args) {
  typedef short_space<THREADS, ITEMS> space_type;
  __shared__ space_type space;
  tc_gang<false, THREADS / 32> gang(space.gang);
  const tailcut_rule &rule = args.rule;
  const int32_t b = (int32_t)blockIdx.x, first = (int32_t)threadIdx.x * ITEMS;
  const tc_segment segment = tc_segment_at(args.segments, b);
  const int32_t n = segment.n;
  if (n > space_type::ROWS) return;
  int32_t flags = args.out.flags[b] | (segment.valid ? 0 : TAILCUT_FLAG_INVALID);
  const float *scores = args.scores + segment.start;
  const uint8_t *roles = args.roles != nullptr ? args.roles + segment.start : nullptr;

  uint32_t keys[ITEMS];
  int32_t rows[ITEMS];
  tc_stats stats = tc_stats_none();
  const uint32_t tau_key = tc_tau_key(rule);
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    rows[i] = first + i;
    keys[i] = rows[i] < n ? tc_load_key(scores, roles, rows[i]) : TC_KEY_NONE;
    tc_stats_add(&stats, keys[i], tau_key);
  }
  stats = gang.reduce(stats, tc_stats_none(), tc_stats_join());
  typename space_type::sort(space.sort_space).Sort(keys, rows);
  __syncthreads();

  int32_t k;
  bool whole;
  if (!tc_decide_plainly(rule, stats, (flags & TAILCUT_FLAG_BAD_REFERENCE) != 0, &k, &whole)) {
    const double factor = tc_stats_factor(rule, stats);
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
      if (first + i < stats.usable) space.q[first + i] = tc_quantise(tc_key_score(keys[i]), factor);
    }
    __syncthreads();
    k = tc_detect_curve(gang, rule, space.q, stats.usable, stats.candidates);
  }
  k = tc_clamp_count(&rule, k, stats.candidates);
  const tc_spread spread = tc_spread_of(rule.spread, k, stats.usable);
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    if (rows[i] >= n) continue;
    space.keep[rows[i]] = keys[i] == TC_KEY_NONE || tc_spread_keeps(spread, first + i);
    tc_cut_report_order(args.out, segment.start, rows[i], first + i, keys[i]);
  }
  __syncthreads();
  const int32_t count = tc_emit(
      gang, n, 0, [&](int32_t row) { return space.keep[row] ? TC_KEEP : TC_DROP; },
      args.out.kept + segment.start);
  if (threadIdx.x == 0) {
    tc_cut_report(args.out, b, count, tc_flags_out(flags, stats, whole));
  }
}

template <int THREADS, int ITEMS>
cudaError_t launch(const tc_cut_args &args, cudaStream_t stream) {
  cut_short<THREADS, ITEMS><<<(unsigned)args.segments.segments, THREADS, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t tc_cut_short(const tc_cut_args &args, cudaStream_t stream) {
  const int32_t most = args.segments.max_tokens - args.segments.cls_row;
  if (most <= 256) return launch<64, 4>(args, stream);
  if (most <= 1024) return launch<256, 4>(args, stream);
  return launch<512, TC_CUT_SHORT / 512>(args, stream);
}

cudaError_t tc_cut_short_load() {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, cut_short<64, 4>);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, cut_short<256, 4>);
  if (error == cudaSuccess) {
    error = cudaFuncGetAttributes(&attributes, cut_short<512, TC_CUT_SHORT / 512>);
  }
  return error;
}
