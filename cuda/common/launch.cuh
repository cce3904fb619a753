/* SPDX-License-Identifier: Apache-2.0 */
/* launch: enqueues a kernel and says how that went. Not by <<<>>>, whose errors are told by the
 * thread's last error alone: that may be the caller's, which is not ours to report or to clear.
 *
 * The kernels of a call are a chain. From sm_90 on, all but its first may start while the one
 * before still runs (programmatic dependent launch). The rules that make this safe:
 *   - every block of every kernel calls tc_wait_previous before it exits, and before it reads what
 *     an earlier kernel of the call writes or writes what one reads or writes;
 *   - hence, behind its wait, a kernel sees all that earlier kernels did, not only the one before;
 *   - before the wait it may read what the call's inputs were when the call began and no kernel of
 *     the call has written. */
#ifndef TAILCUT_LAUNCH_CUH_
#define TAILCUT_LAUNCH_CUH_

#include <cuda_runtime.h>

#include "cuda.h"

template <typename... Parameters, typename... Arguments>
static inline cudaError_t tc_launch(void (*kernel)(Parameters...), unsigned grid, unsigned threads,
                                    size_t shared, const tc_chain *chain,
                                    const Arguments &...arguments) {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.gridDim = dim3(grid);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = chain->stream;
  config.attrs = &overlap;
  config.numAttrs = chain->follows ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

/* Loads a kernel (none: NULL) that is launched with up to `shared` bytes of shared memory, unless
 * *error says that something has failed before; or all of a table. */
template <typename... Parameters>
static inline void tc_load(void (*kernel)(Parameters...), cudaError_t *error, size_t shared = 0) {
  cudaFuncAttributes attributes;
  if (*error != cudaSuccess || kernel == nullptr) return;
  *error = cudaFuncGetAttributes(&attributes, kernel);
  if (*error != cudaSuccess || shared == 0) return;
  *error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
}
template <typename T, size_t N>
static inline void tc_load(const T (&kernels)[N], cudaError_t *error, size_t shared = 0) {
  for (const T &kernel : kernels) tc_load(kernel, error, shared);
}

/* Waits until the kernels before are complete and what they wrote is visible. */
__device__ __forceinline__ void tc_wait_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The next kernel may start once every block has said so or ended. It then takes room beside this
 * one's blocks that still wait for theirs: say it at the start only where all of them run at
 * once. */
__device__ __forceinline__ void tc_let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif /* TAILCUT_LAUNCH_CUH_ */
