/* SPDX-License-Identifier: Apache-2.0 */
/* cut_long: what the two kernels for long segments share (cut_long.cu by sorting, cut_bins.cu without):
 * the walk over the segments and the launch. */
#ifndef TAILCUT_CUT_LONG_CUH_
#define TAILCUT_CUT_LONG_CUH_

#include "cluster.cuh"
#include "cut.cuh"

#define TC_LONG_THREADS 512
#define TC_LONG_WARPS (TC_LONG_THREADS / 32)

/* Calls body(b, start, n) for every segment of more than `least` rows that this gang has to cut. Clusters take segments
 * in turn; a warp looks at 32 of its cluster's segments at once, and all warps see the same. */
template <class Gang, class Body>
__device__ void tc_each_long(Gang &gang, const tc_segments &s, int32_t least, Body body) {
  const int32_t clusters = (int32_t)gridDim.x / gang.ctas, own = (int32_t)blockIdx.x / gang.ctas;
  gang.sync(); /* all blocks run: their shared memory may be written */
  for (int64_t base = own; base < s.segments; base += (int64_t)clusters * 32) {
    const int64_t mine = base + (int64_t)clusters * gang.lane;
    const int32_t rows = mine < s.segments ? s.n[mine] : INT32_MIN;
    uint32_t left = __ballot_sync(TC_FULL, rows > least);
    for (; left != 0; left &= left - 1) {
      const int32_t b = (int32_t)(base + (int64_t)clusters * (__ffs((int)left) - 1));
      body(b, s.start[b], s.n[b]);
      /* Memory of the gang is used again, or a block leaves: nobody may still read it. */
      gang.sync();
    }
  }
}

/* A launch of `clusters` clusters of `ctas` blocks. */
struct tc_long_launch {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute cluster = {};
  tc_long_launch(int32_t ctas, int32_t clusters, size_t smem, const tc_chain *chain) {
    config.gridDim = dim3((unsigned)(clusters * ctas));
    config.blockDim = dim3(TC_LONG_THREADS);
    config.dynamicSmemBytes = smem;
    config.stream = chain;
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {(unsigned)ctas, 1, 1};
    config.attrs = &cluster;
    config.numAttrs = ctas > 1 ? 1 : 0;
  }
};

/* Lowers cluster_max to what the device can run of `kernel`: parts of a GPU (MIG) may lack room for
 * 16. */
template <class Kernel>
cudaError_t tc_fit_cluster(tc_cuda *device, Kernel kernel, size_t smem) {
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  if (error != cudaSuccess) return error;
  while (device->cluster_max > 1 &&
         !tc_cluster_fits((const void *)kernel, device->cluster_max, TC_LONG_THREADS, smem)) {
    device->cluster_max /= 2;
  }
  return cudaSuccess;
}

#endif /* TAILCUT_CUT_LONG_CUH_ */
