/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_bins: from scores to kept rows for long segments without sorting them, one cluster each.
 *
 * Formulas: METHOD.md, "Order" and "Detectors"; curve.h. Strategy: the scores are read once, their keys
 * stay in the shared memory of the cluster's blocks (rows beyond it are read again); k from bins of
 * the curve (bins.cuh, detect_bins.cuh); the key of the cut from the value where the curve was cut, or
 * by radix select where the cut is inside a run of equal values (select.cuh); kept rows in order by prefix sums, ties at that key by row number. Where there are no clusters a block
 * is a gang of its own. Precision: exact, the same bits as src/cpu/cut.c. Limits: not for GAP,
 * CURVATURE, spread, curve and ranks, which need the order itself (cut_long.cu).
 *
 * Ladder: 1. all decisions from prefix sums held by every block. Prediction 12 us at 64K rows with a
 * cluster of 16 (about 12 cluster barriers); not measured.
 */
#include "detect_bins.cuh"
#include "select.cuh"

namespace {

template <bool CLUSTER>
struct bins_space {
  typename tc_gang<CLUSTER, TC_LONG_WARPS>::space gang;
  tc_bins bins;
};

/* How the dynamic shared memory is used: bins_space, `slots` bins of single values, the keys. */
struct bins_memory {
  int32_t slots, cached;
  size_t bytes;
};

/* The detectors that read bins; the others need no curve and share one kernel. */
constexpr int PLAIN = 0;
constexpr int curve_of(int detector) {
  return detector == TAILCUT_OTSU || detector == TAILCUT_CHORD || detector == TAILCUT_IQR ||
                 detector == TAILCUT_MEAN || detector == TAILCUT_MASS
             ? detector
             : PLAIN;
}

template <bool CLUSTER, int DETECTOR>
__device__ void cut_unsorted(tc_gang<CLUSTER, TC_LONG_WARPS> &gang, bins_space<CLUSTER> &space,
                             const tc_cut_args &args, bins_memory memory, int32_t b, int32_t start,
                             int32_t n) {
  const tailcut_rule &rule = args.rule;
  uint32_t *values = (uint32_t *)(&space + 1);
  const int32_t owned = TC_LONG_WARPS * gang.span(n);
  tc_rows_view rows;
  rows.scores = args.scores + start;
  rows.roles = args.roles != nullptr ? args.roles + start : nullptr;
  rows.cache = values + memory.slots * TC_BIN_VALUES;
  rows.first = (int32_t)min((int64_t)n, (int64_t)gang.cta * owned);
  rows.count = min(owned, n - rows.first);
  rows.cached = min(rows.count, memory.cached);

  const int32_t flags = args.out.flags[b];
  const uint32_t tau_key = tc_tau_key(rule);
  tc_stats stats = tc_stats_none();
#pragma unroll 4
  for (int32_t i = (int32_t)threadIdx.x; i < rows.count; i += TC_LONG_THREADS) {
    const uint32_t key = rows.load(i);
    if (i < rows.cached) rows.cache[i] = key;
    tc_stats_add(&stats, key, tau_key);
  }
  stats = gang.reduce(stats, tc_stats_none(), tc_stats_join());

  int32_t k;
  bool whole;
  const bool bad = (flags & TAILCUT_FLAG_BAD_REFERENCE) != 0;
  tc_cutoff cutoff = {0, n}; /* all of a key, where the cut falls between two keys */
  if (tc_decide_plainly(rule, stats, bad, &k, &whole)) {
    if (!whole && rule.detector == TAILCUT_THRESHOLD) cutoff.key = tau_key;
  } else if constexpr (DETECTOR != PLAIN) {
    tc_bins_job<tc_gang<CLUSTER, TC_LONG_WARPS>> job = {gang,
                                                        space.bins,
                                                        rows,
                                                        values,
                                                        memory.slots,
                                                        tc_stats_factor(rule, stats),
                                                        stats.usable,
                                                        stats.candidates,
                                                        tc_range_of(rule, stats.usable),
                                                        0,
                                                        0,
                                                        TC_NO_VALUE};
    job.p_first = job.p(stats.first);
    job.p_last = job.p(stats.last);
    k = tc_detect_bins<DETECTOR>(job, rule);
    if (k > 0 && job.least != TC_NO_VALUE) {
      cutoff.key = tc_last_key(stats.first, stats.last,
                               [&](uint32_t key) { return job.p(key) >= job.least; });
    }
  }
  const int32_t detected = k;
  k = tc_clamp_count(&rule, k, stats.candidates);
  if (cutoff.key == 0 || k != detected) cutoff = tc_select(gang, rows, stats, k, values);
  const int32_t count = tc_emit(
      gang, n, cutoff.ties,
      [&](int32_t row) {
        const uint32_t key = rows.key(row - rows.first);
        if (key == TC_KEY_NONE) return tc_stays_unranked(rows.roles, row) ? TC_KEEP : TC_DROP;
        if (key < cutoff.key) return TC_KEEP;
        return key == cutoff.key ? TC_TIE : TC_DROP;
      },
      args.out.kept + start);
  if (gang.thread() == 0) tc_cut_report(args.out, b, count, tc_flags_out(flags, stats, whole));
}

template <bool CLUSTER, int DETECTOR>
__global__ void __launch_bounds__(TC_LONG_THREADS, 1)
    cut_bins(const __grid_constant__ tc_cut_args args, int32_t least, bins_memory memory) {
#if __CUDA_ARCH__ < 900
  if (CLUSTER) return; /* never launched there */
#endif
  extern __shared__ __align__(16) char shared[];
  bins_space<CLUSTER> &space = *(bins_space<CLUSTER> *)shared;
  tc_gang<CLUSTER, TC_LONG_WARPS> gang(space.gang);
  tc_each_long(gang, args.segments, least, [&](int32_t b, int32_t start, int32_t n) {
    cut_unsorted<CLUSTER, DETECTOR>(gang, space, args, memory, b, start, n);
  });
}

typedef void (*kernel)(tc_cut_args, int32_t, bins_memory);

template <bool CLUSTER>
kernel kernel_for(int detector) {
  switch (curve_of(detector)) {
    case TAILCUT_OTSU:
      return cut_bins<CLUSTER, TAILCUT_OTSU>;
    case TAILCUT_CHORD:
      return cut_bins<CLUSTER, TAILCUT_CHORD>;
    case TAILCUT_IQR:
      return cut_bins<CLUSTER, TAILCUT_IQR>;
    case TAILCUT_MEAN:
      return cut_bins<CLUSTER, TAILCUT_MEAN>;
    case TAILCUT_MASS:
      return cut_bins<CLUSTER, TAILCUT_MASS>;
    default:
      return cut_bins<CLUSTER, PLAIN>;
  }
}

/* Shared memory for segments of up to `rows` rows: as much as it takes to hold their keys, or all. */
bins_memory memory_for(const tc_cuda *device, int32_t ctas, int64_t rows) {
  bins_memory memory;
  memory.slots = device->smem_block >= 160 * 1024 ? 16 : 8; /* at least 8: select's counts */
  memory.bytes = (ctas > 1 ? sizeof(bins_space<true>) : sizeof(bins_space<false>)) +
                 (size_t)memory.slots * TC_BIN_VALUES * 4;
  const int64_t threads = (int64_t)ctas * TC_LONG_THREADS;
  const int64_t wanted = (rows + threads - 1) / threads * TC_LONG_THREADS;
  const int64_t room = ((int64_t)device->smem_block - (int64_t)memory.bytes) / 4;
  memory.cached = (int32_t)(wanted < room ? wanted : room);
  memory.bytes += (size_t)memory.cached * 4;
  return memory;
}

cudaError_t prepare(const tc_cuda *device, kernel prepared) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, prepared);
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(prepared, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              device->smem_block);
}

}  // namespace

cudaError_t tc_cut_bins(const tc_cuda *device, const tc_cut_args &args, const tc_long_plan &plan,
                        const tc_chain *chain) {
  const bins_memory memory =
      memory_for(device, plan.ctas, args.segments.max_tokens - args.segments.prefix_rows);
  const tc_long_launch launch(plan.ctas, plan.clusters, memory.bytes, chain);
  const int detector = args.rule.detector;
  return cudaLaunchKernelEx(
      &launch.config, plan.ctas > 1 ? kernel_for<true>(detector) : kernel_for<false>(detector),
      args, plan.least, memory);
}

cudaError_t tc_cut_bins_load(tc_cuda *device) {
  for (int detector = TAILCUT_OTSU; detector <= TAILCUT_RATIO; detector++) {
    cudaError_t error = prepare(device, kernel_for<false>(detector));
    if (error == cudaSuccess && device->cluster_max > 1) {
      error = prepare(device, kernel_for<true>(detector));
      if (error == cudaSuccess) {
        error = tc_fit_cluster(device, kernel_for<true>(detector), (size_t)device->smem_block);
      }
    }
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}
