/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fused: prune_visual of an image in one launch, one cluster per image. sm_90 and newer.
 *
 * Formula: METHOD.md, stage 1; curve.h. Strategy: every warp copies its rows to shared memory,
 * scores them there, and sends key and q of each to all blocks of the cluster (first exchange). So
 * every block knows all keys, and since a warp sends only what it has read, all rows are then on
 * chip: from here on destinations may be overwritten. Warps count the rank of their tokens and send
 * it, with the block's best split, to all blocks (second exchange). Each warp then works out k, which
 * of its tokens stay and where, and stores those from shared memory. Precision: exact, the order of
 * every sum is METHOD.md's. Limits: fused_plan.c.
 *
 * Ladder: 1. rows in shared memory (any row size; cp.async), two exchanges, no barrier of the
 * cluster between them, one block barrier (the best split). Prediction 4 us per graph node at
 * 576x1024 fp16, of which 1.3 are the node's; not measured.
 */
#include "cluster.cuh"
#include "decide.cuh"
#include "delay.cuh"
#include "dot.cuh"
#include "fused_rows.cuh"
#include "look_back.cuh"

namespace {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

/* A block's shared memory behind the slots. */
struct shared_view {
  char *slots;
  float *reference;
  tc_entry *entries;
  int32_t *ranks, *sorted;
};

__device__ shared_view carve(const tc_fused_plan &p, char *memory) {
  const int32_t n = p.segments.max_tokens - p.segments.prefix_rows, even = (n + 1) & ~1;
  shared_view v;
  v.slots = memory;
  v.reference = (float *)(memory + (size_t)p.block_tokens * p.slot_bytes);
  v.entries = (tc_entry *)(v.reference + p.reference_floats);
  v.ranks = (int32_t *)(v.entries + even);
  v.sorted = v.ranks + even;
  return v;
}

template <int DTYPE>
__device__ float reference_norm(const tc_fused_plan &p, const float *reference) {
  float square[8], r[8];
  tc_clear(square);
  for (int32_t run = 0; run * TC_RUN_ELEMENTS < p.reference_floats; run++) {
    tc_staged_run(reference, run, r);
#pragma unroll
    for (int k = 0; k < 8; k++) square[k] = __fmaf_rn(r[k], r[k], square[k]);
  }
  return __fsqrt_rn(tc_sum<DTYPE>(square));
}

/* Sums of T rows in shared memory, slot_bytes apart: as tc_sum_both leaves them. */
template <int DTYPE, int T>
__device__ void sum_rows(const tc_fused_plan &p, const char *row, const float *reference,
                         float sums[T]) {
  const uint32_t dim = (uint32_t)p.tokens.dim;
  float dot[T][8], square[T][8];
#pragma unroll
  for (int t = 0; t < T; t++) {
    tc_clear(dot[t]);
    tc_clear(square[t]);
  }
  for (uint32_t run = 0; run * TC_RUN_ELEMENTS < dim; run++) {
    const bool whole = (run + 1) * TC_RUN_ELEMENTS <= dim;
    float r[8];
    tc_staged_run(reference, run, r);
#pragma unroll
    for (int t = 0; t < T; t++) {
      tc_eight<DTYPE> x;
      tc_load_run<DTYPE, 16>(x, row + t * p.slot_bytes, run, dim, whole);
#pragma unroll
      for (int k = 0; k < 8; k++) {
        const float v = tc_widen<DTYPE>(x, k);
        dot[t][k] = __fmaf_rn(v, r[k], dot[t][k]);
        square[t][k] = __fmaf_rn(v, v, square[t][k]);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < T; t++) sums[t] = tc_sum_both<DTYPE>(dot[t], square[t]);
}

/* Scores T of this warp's tokens and sends what they are; lane t finishes token t. */
template <int DTYPE, int T>
__device__ void score_some(const tc_fused_plan &p, const tc_image &m, const shared_view &v,
                           int32_t t0, int32_t local, float norm, uint32_t barrier, int lane) {
  float sums[T], dot = 0.0f, square = 0.0f;
  sum_rows<DTYPE, T>(p, v.slots + (size_t)(local + t0) * p.slot_bytes, v.reference, sums);
#pragma unroll
  for (int t = 0; t < T; t++) {
    const float d = __shfl_sync(TC_FULL, sums[t], 0);
    const float q = __shfl_sync(TC_FULL, sums[t], tc_type<DTYPE>::square_lane);
    if (lane == t) dot = d, square = q;
  }
  const float s = tc_cosine_finish(dot, __fsqrt_rn(square), norm);
  const uint32_t key = tc_key(s);
  const int32_t q = key == TC_KEY_NAN ? 0 : tc_quantise(s, tc_scale_factor(0));
  if (lane < T && p.scores != nullptr) p.scores[m.start + m.i0 + t0 + lane] = s;
#pragma unroll
  for (int t = 0; t < T; t++) {
    const uint64_t entry =
        (uint64_t)(uint32_t)__shfl_sync(TC_FULL, q, t) << 32 | __shfl_sync(TC_FULL, key, t);
    if (lane < p.cluster) {
      tc_send64(tc_peer(tc_shared(&v.entries[m.i0 + t0 + t]), lane), entry, tc_peer(barrier, lane));
    }
  }
}

template <int DTYPE>
__device__ void score_tokens(const tc_fused_plan &p, const tc_image &m, const shared_view &v,
                             int32_t local, float norm, uint32_t barrier, int lane) {
  int32_t t = 0;
  for (; t + 3 <= m.tokens; t += 3) score_some<DTYPE, 3>(p, m, v, t, local, norm, barrier, lane);
  for (; t < m.tokens; t++) score_some<DTYPE, 1>(p, m, v, t, local, norm, barrier, lane);
}

/* AUTO: q by the segment's own power of two, once all keys are here. By the whole block. */
__device__ void rescale(const shared_view &v, int32_t n, uint32_t *largest) {
  uint32_t mine = 0;
  for (int32_t j = threadIdx.x; j < n; j += blockDim.x) {
    const uint32_t bits = tc_float_bits(tc_key_score(v.entries[j].key)) & 0x7FFFFFFFu;
    if (bits < 0x7F800000u) mine = max(mine, bits);
  }
  mine = __reduce_max_sync(TC_FULL, mine);
  if ((threadIdx.x & 31) == 0) atomicMax(largest, mine);
  __syncthreads();
  const double factor = tc_scale_factor(tc_scale_exponent(*largest));
  for (int32_t j = threadIdx.x; j < n; j += blockDim.x) {
    const uint32_t key = v.entries[j].key;
    v.entries[j].q = key == TC_KEY_NAN ? 0 : tc_quantise(tc_key_score(key), factor);
  }
  __syncthreads();
}

/* Ranks T of this warp's tokens, sends the ranks; lane t returns the split that token t stands for,
 * if `splits`. */
template <int T>
__device__ tc_best rank_some(const tc_fused_plan &p, const tc_image &m, const shared_view &v,
                             const tc_curve &curve, int32_t t0, bool splits, uint32_t barrier,
                             int lane) {
  const int32_t i0 = m.i0 + t0;
  tc_entry own[T];
  int32_t ranks[T], sums[T];
#pragma unroll
  for (int t = 0; t < T; t++) {
    own[t] = v.entries[i0 + t];
    ranks[t] = sums[t] = 0;
  }
  for (int32_t j = lane; j < m.n; j += 32) {
    const tc_entry e = v.entries[j];
    const int32_t value = tc_curve_value(e.q); /* a NaN's is 0 */
#pragma unroll
    for (int t = 0; t < T; t++) {
      const bool better = e.key < own[t].key || (e.key == own[t].key && j < i0 + t);
      ranks[t] += better;
      sums[t] += better ? value : 0;
    }
  }
  tc_entry mine = own[0];
  int32_t rank = 0, sum = 0;
#pragma unroll
  for (int t = 0; t < T; t++) {
    const int32_t r = __reduce_add_sync(TC_FULL, ranks[t]);
    const int32_t s = splits ? __reduce_add_sync(TC_FULL, sums[t]) : 0;
    if (lane < p.cluster) {
      tc_send32(tc_peer(tc_shared(&v.ranks[i0 + t]), lane), (uint32_t)r, tc_peer(barrier, lane));
    }
    if (lane == t) mine = own[t], rank = r, sum = s;
  }
  if (lane >= T) return tc_best_none();
  if (p.out.cut.ranks != nullptr) p.out.cut.ranks[m.start + i0 + lane] = rank;
  if (p.out.cut.curve != nullptr) p.out.cut.curve[m.start + rank] = tc_key_score(mine.key);
  if (!splits || mine.key == TC_KEY_NAN) return tc_best_none();
  const int32_t value = tc_curve_value(mine.q);
  return tc_split_value(p.rule, curve, rank, value, sum + value);
}

__device__ tc_best rank_tokens(const tc_fused_plan &p, const tc_image &m, const shared_view &v,
                               const tc_curve &curve, bool splits, uint32_t barrier, int lane) {
  const tc_best_join join;
  tc_best best = tc_best_none();
  int32_t t = 0;
  for (; t + 3 <= m.tokens; t += 3) {
    best = join(best, rank_some<3>(p, m, v, curve, t, splits, barrier, lane));
  }
  for (; t < m.tokens; t++) {
    best = join(best, rank_some<1>(p, m, v, curve, t, splits, barrier, lane));
  }
  return splits ? tc_warp_reduce(best, join) : best;
}

/* What one thread says of an image. */
__device__ void report(const tc_fused_plan &p, const tc_image &m, int32_t k, int32_t flags,
                       int32_t offset) {
  p.out.cut.counts[m.b] = k;
  if (p.out.cut.flags != nullptr) p.out.cut.flags[m.b] = flags;
  if (p.out.cut.host_counts != nullptr) p.out.cut.host_counts[m.b] = k;
  if (p.out.new_cu == nullptr) return;
  if (m.b == 0) p.out.new_cu[0] = 0;
  p.out.new_cu[m.b + 1] = offset + k;
}
#endif

template <int DTYPE>
__global__ void __launch_bounds__(TC_FUSED_WARPS * 32, 1)
    fused(const __grid_constant__ tc_fused_plan p) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  extern __shared__ __align__(16) char memory[];
  __shared__ uint64_t barrier[2];
  __shared__ __align__(16) tc_best bests[TC_FUSED_CLUSTER], block_bests[TC_FUSED_WARPS];
  __shared__ uint32_t largest;
  __shared__ int32_t turn_here, offset_here;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t rank = tc_cluster_rank();
  const shared_view v = carve(p, memory);

  int32_t turn = blockIdx.x / p.cluster;
  if (p.out.lasting != nullptr) { /* images in the order in which clusters really start */
    if (rank == 0 && threadIdx.x == 0) turn_here = (int32_t)atomicAdd(&p.out.lasting->ticket, 1u);
    tc_cluster_arrive();
    tc_cluster_wait();
    asm volatile("ld.shared::cluster.u32 %0, [%1];"
                 : "=r"(turn)
                 : "r"(tc_peer(tc_shared(&turn_here), 0))
                 : "memory");
  }
  tc_image m;
  m.b = p.first + turn;
  const tc_segment segment = tc_segment_at(p.segments, m.b);
  m.start = segment.start, m.n = segment.n, m.valid = segment.valid;
  if (threadIdx.x == 0) {
    tc_barrier_init(&barrier[0]);
    tc_barrier_init(&barrier[1]);
    tc_barrier_init_visible();
    tc_barrier_expect(&barrier[0], 8u * (uint32_t)m.n);
    tc_barrier_expect(&barrier[1], 4u * (uint32_t)m.n + 16u * (uint32_t)p.cluster);
    largest = 0;
  }
  tc_cluster_arrive();

  /* An image shorter than its bound is spread over the cluster all the same. */
  const int32_t local = warp * p.warp_tokens;
  m.i0 = (int32_t)rank * p.block_tokens + local;
  m.tokens = max(0, min(p.warp_tokens, m.n - m.i0));
  for (int32_t t = 0; t < m.tokens; t++) {
    tc_load_token(p, m, m.i0 + t, v.slots + (size_t)(local + t) * p.slot_bytes, lane);
  }
  if (m.n > 0) tc_load_reference<DTYPE>(p, m, v.reference);
  __syncthreads();
  float norm = 0.0f;
  if (m.n > 0) norm = reference_norm<DTYPE>(p, v.reference);
  const bool bad = tc_bad_norm(norm);
  tc_copy_wait();
  __syncwarp();
  tc_cluster_wait(); /* peers' barriers exist */

  int32_t k = 0, flags = m.valid ? 0 : TAILCUT_FLAG_INVALID;
  tc_spread spread = {0, 0, 0};
  if (m.n > 0) {
    tc_delay(0);
    score_tokens<DTYPE>(p, m, v, local, norm, tc_shared(&barrier[0]), lane);
    tc_barrier_wait(&barrier[0]);
    if (p.rule.scale == TAILCUT_SCALE_AUTO) rescale(v, m.n, &largest);

    const tc_curve curve = tc_curve_of(p.rule, v.entries, m.n, lane);
    bool whole;
    const bool plain = tc_decide_plainly(p.rule, curve.stats, bad, &k, &whole);
    const bool splits =
        !plain && (p.rule.detector == TAILCUT_OTSU || p.rule.detector == TAILCUT_CHORD ||
                   p.rule.detector == TAILCUT_MASS);
    tc_delay(1);
    tc_best best = rank_tokens(p, m, v, curve, splits, tc_shared(&barrier[1]), lane);
    if (lane == 0) block_bests[warp] = best;
    __syncthreads();
    if (warp == 0) {
      best = lane < p.warps ? block_bests[lane] : tc_best_none();
      best = tc_warp_reduce(best, tc_best_join());
      if (lane < p.cluster) {
        const uint32_t to = tc_peer(tc_shared(&bests[rank]), lane);
        const uint32_t there = tc_peer(tc_shared(&barrier[1]), lane);
        tc_send64(to, best.value, there);
        tc_send64(to + 8, (uint32_t)best.rank, there);
      }
    }
    tc_delay(2);
    tc_barrier_wait(&barrier[1]);

    best = lane < p.cluster ? bests[lane] : tc_best_none();
    best = tc_warp_reduce(best, tc_best_join());
    if (p.rule.detector == TAILCUT_GAP || p.rule.detector == TAILCUT_CURVATURE) {
      for (int32_t j = threadIdx.x; j < m.n; j += blockDim.x) v.sorted[v.ranks[j]] = v.entries[j].q;
      __syncthreads();
    }
    if (!plain) k = tc_decide(p.rule, curve, best, v.entries, v.ranks, v.sorted, m.n, lane);
    k = tc_clamp_count(&p.rule, k, m.n);
    spread = tc_spread_of(p.rule.spread, k, curve.stats.usable);
    flags = tc_flags_out(bad ? TAILCUT_FLAG_BAD_REFERENCE : 0, curve.stats, whole);
  }

  int32_t offset = 0;
  if (p.out.lasting != nullptr) {
    if (warp == 0) {
      tc_delay(3);
      const int32_t before = p.first > 0 ? p.out.new_cu[p.first] : 0; /* an earlier launch's */
      offset = tc_look_back(p.out.lasting, before, turn, k, rank == 0, lane);
      if (lane == 0) {
        offset_here = offset;
        tc_leave(p.out.lasting, p.count, (uint32_t)(p.cluster * p.count));
      }
    }
    __syncthreads();
    offset = offset_here;
  }
  if (rank == 0 && threadIdx.x == 0) report(p, m, k, flags, offset);

  tc_delay(4);
  if (m.tokens > 0) {
    int32_t j = 0; /* kept tokens before this warp's first */
    for (int32_t i = lane; i < m.i0; i += 32) j += tc_spread_keeps(spread, v.ranks[i]);
    j = __reduce_add_sync(TC_FULL, j);
    /* Each image zeroes as many rows of a packed tail as it drops: those that lie behind all results
     * even if every later image kept all it has, but not if this one did. The last image's end with
     * the last result, and together they are the tail. */
    const int64_t tail = p.packed_tail ? (int64_t)offset + tc_candidates_after(p.segments, m.b) : 0;
    for (int32_t t = 0; t < m.tokens; t++) {
      const int32_t i = m.i0 + t;
      if (tc_spread_keeps(spread, v.ranks[i])) {
        tc_store_token(p, m, i, j++, k, offset, v.slots + (size_t)(local + t) * p.slot_bytes, lane);
      }
      if (p.zeroes) tc_zero_row(p, m, i, k, tail, lane);
    }
  }
#endif
}

const void *kernel_of(int32_t dtype) {
  return dtype == TAILCUT_F16    ? (const void *)fused<TAILCUT_F16>
         : dtype == TAILCUT_BF16 ? (const void *)fused<TAILCUT_BF16>
                                 : (const void *)fused<TAILCUT_F32>;
}

}  // namespace

extern "C" cudaError_t tc_cuda_fused(const tc_fused_plan *plan, cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = (unsigned)plan->cluster;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  config.gridDim = dim3((unsigned)plan->cluster * (unsigned)plan->count);
  config.blockDim = dim3((unsigned)plan->warps * 32);
  config.dynamicSmemBytes = tc_fused_shared(plan);
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  void *arguments[] = {(void *)plan};
  return cudaLaunchKernelExC(&config, kernel_of(plan->tokens.dtype), arguments);
}

extern "C" cudaError_t tc_cuda_load_fused(tc_cuda *device) {
  if (device->capability < 90) return cudaSuccess;
  for (int32_t dtype = TAILCUT_F16; dtype <= TAILCUT_F32; dtype++) {
    const void *kernel = kernel_of(dtype);
    cudaFuncAttributes attributes;
    cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    const int most = device->smem_block - (int)attributes.sharedSizeBytes;
    if (error == cudaSuccess) {
      error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
    }
    if (error == cudaSuccess) {
      error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    }
    if (error != cudaSuccess) return error;
    while (device->cluster_max > 1 &&
           !tc_cluster_fits(kernel, device->cluster_max, TC_FUSED_WARPS * 32, (size_t)most)) {
      device->cluster_max /= 2;
    }
  }
  return cudaSuccess;
}
