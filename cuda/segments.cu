/* SPDX-License-Identifier: Apache-2.0 */
/* segments: resolve (common/resolve.cuh) in a launch of its own. Small calls without groups do
 * without it; a sequence's directions have it beside them (direction/direction.cu). */
#include "common/launch.cuh"
#include "common/resolve.cuh"

namespace {

constexpr int THREADS = 1024;

__global__ void __launch_bounds__(THREADS) resolve(const __grid_constant__ tc_resolve_args args) {
  __shared__ tc_resolve_space<THREADS> temp;
  tc_wait_previous();
  tc_resolve<THREADS>(args, temp);
}

}  // namespace

extern "C" cudaError_t tc_cuda_resolve(const tc_cuda *, const tc_segments *segments,
                                       const tc_groups *groups, const int32_t *input_flags,
                                       const tc_cuda_space *space, int32_t *flags,
                                       const tc_chain *chain) {
  return tc_launch(resolve, 1, THREADS, 0, chain,
                   tc_resolve_args_of(*segments, *groups, input_flags, *space, flags));
}

extern "C" cudaError_t tc_cuda_load_resolve(tc_cuda *device) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, resolve);
  /* Code for an older architecture, compiled on by the driver: it has no waits (launch.cuh). */
  if (error == cudaSuccess && attributes.ptxVersion < 90) device->chains = 0;
  return error;
}
