/* SPDX-License-Identifier: Apache-2.0 */
/* launch: enqueues a kernel and says how that went. Not by <<<>>>, whose errors are told by the
 * thread's last error alone: that may be the caller's, which is not ours to report or to clear. */
#ifndef TAILCUT_LAUNCH_CUH_
#define TAILCUT_LAUNCH_CUH_

#include <cuda_runtime.h>

template <typename... Parameters, typename... Arguments>
static inline cudaError_t tc_launch(void (*kernel)(Parameters...), unsigned grid, unsigned threads,
                                    size_t shared, cudaStream_t stream,
                                    const Arguments &...arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

#endif /* TAILCUT_LAUNCH_CUH_ */
