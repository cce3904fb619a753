/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long: from scores to kept rows for segments that do not fit one block, one cluster each.
 *
 * Formulas: METHOD.md, "Order" and "Detectors"; curve.h. Strategy: stable radix sort of (key, row)
 * through scratch memory (sort.cuh), the curve as integers in scratch, one detector (detect.cuh), a
 * word per row says whether it stays, kept rows in order by prefix sums. Clusters take segments in
 * turn; what is long is decided on the device, so a captured graph serves any lengths. Where there
 * are no clusters a block is a gang of its own. Precision: exact, the same bits as src/cpu/cut.c.
 *
 * Ladder: 1. four passes of 8 bits, counts and prefixes by warp. Prediction 25 us at 64K rows with a
 * cluster of 16; not measured.
 */
#include "cut_long.cuh"
#include "sort.cuh"

namespace {

template <bool CLUSTER>
struct long_space {
  typename tc_gang<CLUSTER, TC_LONG_WARPS>::space gang;
  tc_sort_space<TC_LONG_WARPS> sort;
};

/* Segment b by its sorted scores; scratch holds 16 bytes per row. */
template <bool CLUSTER>
__device__ void cut_sorted(tc_gang<CLUSTER, TC_LONG_WARPS> &gang, long_space<CLUSTER> &space,
                           const tc_cut_args &args, int32_t b, int32_t start, int32_t n,
                           char *scratch) {
  const tailcut_rule &rule = args.rule;
  const float *scores = args.scores + start;
  const uint8_t *roles = args.roles != nullptr ? args.roles + start : nullptr;
  const int32_t flags = args.out.flags[b];
  uint64_t *spare = (uint64_t *)scratch, *items = spare + n;
  tc_stats stats = tc_stats_none();
  const uint32_t tau_key = tc_tau_key(rule);
  for (int32_t i = gang.thread(); i < n; i += gang.threads()) {
    tc_stats_add(&stats, tc_load_key(scores, roles, i), tau_key);
  }
  stats = gang.reduce(stats, tc_stats_none(), tc_stats_join());
  tc_sort_rows(gang, space.sort, scores, roles, n, spare, items);

  int32_t *q = (int32_t *)spare; /* the sort has left it */
  int32_t *keep = q + n;         /* words: blocks would share those of bytes */
  int32_t k;
  bool whole;
  if (!tc_decide_plainly(rule, stats, (flags & TAILCUT_FLAG_BAD_REFERENCE) != 0, &k, &whole)) {
    const double factor = tc_stats_factor(rule, stats);
    for (int32_t r = gang.thread(); r < stats.usable; r += gang.threads()) {
      q[r] = tc_quantise(tc_key_score((uint32_t)(items[r] >> 32)), factor);
    }
    gang.sync();
    k = tc_detect_curve(gang, rule, q, stats.usable, stats.candidates);
  }
  k = tc_clamp_count(&rule, k, stats.candidates);
  const tc_spread spread = tc_spread_of(rule.spread, k, stats.usable);
  for (int32_t r = gang.thread(); r < n; r += gang.threads()) {
    const uint32_t key = (uint32_t)(items[r] >> 32);
    const int32_t row = (int32_t)(uint32_t)items[r];
    keep[row] = key == TC_KEY_NONE ? tc_stays_unranked(roles, row) : tc_spread_keeps(spread, r);
    tc_cut_report_order(args.out, start, row, r, key);
  }
  gang.sync();
  const int32_t count = tc_emit(
      gang, n, 0, [&](int32_t row) { return keep[row] ? TC_KEEP : TC_DROP; },
      args.out.kept + start);
  if (gang.thread() == 0) tc_cut_report(args.out, b, count, tc_flags_out(flags, stats, whole));
}

template <bool CLUSTER>
__global__ void __launch_bounds__(TC_LONG_THREADS, 1)
    cut_long(const __grid_constant__ tc_cut_args args, int32_t least, char *scratch, size_t slot) {
#if __CUDA_ARCH__ < 900
  if (CLUSTER) return; /* never launched there */
#endif
  __shared__ long_space<CLUSTER> space;
  tc_gang<CLUSTER, TC_LONG_WARPS> gang(space.gang);
  scratch += (size_t)((int32_t)blockIdx.x / gang.ctas) * slot;
  tc_each_long(gang, args.segments, least, [&](int32_t b, int32_t start, int32_t n) {
    cut_sorted(gang, space, args, b, start, n, scratch);
  });
}

}  // namespace

cudaError_t tc_cut_long(const tc_cut_args &args, const tc_long_plan &plan, char *scratch,
                        const tc_chain *chain) {
  const tc_long_launch launch(plan.ctas, plan.clusters, 0, chain);
  if (plan.ctas == 1) {
    return cudaLaunchKernelEx(&launch.config, cut_long<false>, args, plan.least, scratch,
                              plan.slot);
  }
  return cudaLaunchKernelEx(&launch.config, cut_long<true>, args, plan.least, scratch, plan.slot);
}

cudaError_t tc_cut_long_load(tc_cuda *device) {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, cut_long<false>);
  if (error != cudaSuccess || device->cluster_max == 1) return error;
  error = cudaFuncGetAttributes(&attributes, cut_long<true>);
  return error != cudaSuccess ? error : tc_fit_cluster(device, cut_long<true>, 0);
}
