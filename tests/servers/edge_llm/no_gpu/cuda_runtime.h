/* SPDX-License-Identifier: Apache-2.0 */
/* Where there is no CUDA: its "device" is the CPU, for tailcut too. */
#pragma once
#include <cstdlib>
#include <cstring>

#include "tailcut.h"
#define TAILCUT_DEVICE_CUDA TAILCUT_DEVICE_CPU

typedef struct CUstream_st *cudaStream_t;
typedef int cudaError_t;
enum { cudaSuccess, cudaErrorMemoryAllocation };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };

inline cudaError_t cudaMalloc(void **memory, size_t bytes) {
  *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFree(void *memory) { return std::free(memory), cudaSuccess; }
inline cudaError_t cudaMemcpyAsync(void *to, void const *from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  return std::memcpy(to, from, bytes), cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
