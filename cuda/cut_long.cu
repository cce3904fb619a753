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
#include "cluster.cuh"
#include "cut.cuh"
#include "sort.cuh"

namespace {

constexpr int THREADS = 512, WARPS = THREADS / 32;

template <bool CLUSTER>
struct long_space {
  typename tc_gang<CLUSTER, WARPS>::space gang;
  tc_sort_space<WARPS> sort;
};

/* Segment b by its sorted scores; scratch holds 16 bytes per row. */
template <bool CLUSTER>
__device__ void cut_sorted(tc_gang<CLUSTER, WARPS> &gang, long_space<CLUSTER> &space,
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
    keep[row] = key == TC_KEY_NONE || tc_spread_keeps(spread, r);
    tc_cut_report_order(args.out, start, row, r, key);
  }
  gang.sync();
  const int32_t count = tc_emit(
      gang, n, 0, [&](int32_t row) { return keep[row] ? TC_KEEP : TC_DROP; },
      args.out.kept + start);
  if (gang.thread() == 0) tc_cut_report(args.out, b, count, tc_flags_out(flags, stats, whole));
}

template <bool CLUSTER>
__global__ void __launch_bounds__(THREADS, 1)
    cut_long(const __grid_constant__ tc_cut_args args, char *scratch, size_t slot) {
#if __CUDA_ARCH__ < 900
  if (CLUSTER) return; /* never launched there */
#endif
  __shared__ long_space<CLUSTER> space;
  tc_gang<CLUSTER, WARPS> gang(space.gang);
  const int32_t clusters = (int32_t)gridDim.x / gang.ctas, own = (int32_t)blockIdx.x / gang.ctas;
  scratch += (size_t)own * slot;
  gang.sync(); /* all blocks run: their shared memory may be written */
  /* A warp looks at 32 of this cluster's segments at once; all warps see the same. */
  for (int64_t base = own; base < args.segments.segments; base += (int64_t)clusters * 32) {
    const int64_t mine = base + (int64_t)clusters * gang.lane;
    int32_t rows = 0;
    if (args.segments.n != nullptr && mine < args.segments.segments) rows = args.segments.n[mine];
    uint32_t left = __ballot_sync(TC_FULL, rows > TC_CUT_SHORT);
    for (; left != 0; left &= left - 1) {
      const int32_t b = (int32_t)(base + (int64_t)clusters * (__ffs((int)left) - 1));
      const int32_t start = args.segments.start[b], n = args.segments.n[b];
      gang.sync(); /* scratch: nobody reads the last segment's any more */
      cut_sorted(gang, space, args, b, start, n, scratch);
    }
  }
  gang.sync(); /* no block leaves while its shared memory may still be read */
}

}  // namespace

tc_long_plan tc_cut_plan(const tc_cuda *device, int64_t segments, int64_t max_tokens,
                         int64_t total) {
  tc_long_plan plan = {1, 0, 0, 0};
  int64_t most = total / (TC_CUT_SHORT + 1); /* long segments there can be */
  if (most > segments) most = segments;
  if (most > device->sms) most = device->sms;
  if (max_tokens <= TC_CUT_SHORT || most == 0) return plan;
  /* At most 256 MiB, or room for 16 clusters where they need more. */
  plan.slot = (size_t)max_tokens * 16;
  plan.scratch = (size_t)most * plan.slot;
  size_t cap = (size_t)256 << 20;
  if (cap < 16 * plan.slot) cap = 16 * plan.slot;
  if (plan.scratch > cap) plan.scratch = cap;
  const int64_t room = (int64_t)(plan.scratch / plan.slot);
  if (most > room) most = room;
  /* The widest cluster that leaves a block 1,024 rows and all long segments running at once. */
  while (plan.ctas * 2 <= device->cluster_max && plan.ctas * 2 * most <= device->sms &&
         plan.ctas * 2 * 1024 <= max_tokens) {
    plan.ctas *= 2;
  }
  plan.clusters = (int32_t)most;
  return plan;
}

cudaError_t tc_cut_long(const tc_cuda *, const tc_cut_args &args, const tc_long_plan &plan,
                        char *scratch, cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute cluster = {};
  config.gridDim = dim3((unsigned)(plan.clusters * plan.ctas));
  config.blockDim = dim3(THREADS);
  config.stream = stream;
  if (plan.ctas == 1) return cudaLaunchKernelEx(&config, cut_long<false>, args, scratch, plan.slot);
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {(unsigned)plan.ctas, 1, 1};
  config.attrs = &cluster;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, cut_long<true>, args, scratch, plan.slot);
}

/* Lowers cluster_max to what the device can run: parts of a GPU (MIG) may lack room for 16. */
cudaError_t tc_cut_long_load(tc_cuda *device) {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, cut_long<false>);
  if (error != cudaSuccess || device->cluster_max == 1) return error;
  error = cudaFuncGetAttributes(&attributes, cut_long<true>);
  if (error != cudaSuccess) return error;
  error = cudaFuncSetAttribute(cut_long<true>, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  while (error == cudaSuccess && device->cluster_max > 1 &&
         !tc_cluster_fits((const void *)cut_long<true>, device->cluster_max, THREADS, 0)) {
    device->cluster_max /= 2;
  }
  return error;
}
