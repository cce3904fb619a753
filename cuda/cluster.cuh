/* SPDX-License-Identifier: Apache-2.0 */
/* cluster: the few instructions by which blocks of a cluster talk, sm_90 and newer.
 *
 * Exchange: every block owns an mbarrier that expects a known number of bytes; peers store into its
 * shared memory with st.async, which counts the bytes off. Waiting for it costs one trip between
 * SMs; a cluster barrier in the same place would cost two. */
#ifndef TAILCUT_CLUSTER_CUH_
#define TAILCUT_CLUSTER_CUH_

#include <cuda_runtime.h>
#include <stdint.h>

/* Whether the device can place a cluster of `ctas` blocks: a GPC with fewer working SMs, or a slice
 * of the device (MIG), cannot place 16. */
static inline bool tc_cluster_fits(const void *kernel, int ctas, int threads, size_t shared) {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute cluster = {};
  int fits = 0;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {(unsigned)ctas, 1, 1};
  config.gridDim = dim3((unsigned)ctas);
  config.blockDim = dim3((unsigned)threads);
  config.dynamicSmemBytes = shared;
  config.attrs = &cluster;
  config.numAttrs = 1;
  if (cudaOccupancyMaxActiveClusters(&fits, kernel, &config) == cudaSuccess) return fits > 0;
  cudaGetLastError(); /* too wide: an answer, not an error */
  return false;
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

__device__ inline uint32_t tc_shared(const void *p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

/* The same place in the shared memory of block `rank` of the cluster. */
__device__ inline uint32_t tc_peer(uint32_t address, uint32_t rank) {
  uint32_t r;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(address), "r"(rank));
  return r;
}

__device__ inline void tc_send32(uint32_t to, uint32_t value, uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(to),
      "r"(value), "r"(barrier)
      : "memory");
}

__device__ inline void tc_send64(uint32_t to, uint64_t value, uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.u64 [%0], %1, [%2];" ::"r"(to),
      "l"(value), "r"(barrier)
      : "memory");
}

/* One arrival: the owner's, which says how many bytes complete the phase. */
__device__ inline void tc_barrier_init(uint64_t *barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(tc_shared(barrier)) : "memory");
}
__device__ inline void tc_barrier_init_visible() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void tc_barrier_expect(uint64_t *barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(tc_shared(barrier)),
               "r"(bytes)
               : "memory");
}
/* Waits for the first phase; acquires what peers have stored. */
__device__ inline void tc_barrier_wait(uint64_t *barrier) {
  uint32_t done = 0;
  while (!done) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(done)
        : "r"(tc_shared(barrier))
        : "memory");
  }
}

/* Not the .aligned forms: a warp may come here from a branch that not all its lanes took. */
__device__ inline void tc_cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}
__device__ inline void tc_cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}
__device__ inline uint32_t tc_cluster_rank() {
  uint32_t r;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}

/* Global to shared memory without registers; bytes is 4, 8 or 16 and both sides are aligned to it. */
template <int BYTES>
__device__ inline void tc_copy_async(uint32_t to, const void *from) {
  if (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(BYTES)
                 : "memory");
  }
}
__device__ inline void tc_copy_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

#endif
#endif /* TAILCUT_CLUSTER_CUH_ */
