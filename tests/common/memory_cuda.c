/* SPDX-License-Identifier: Apache-2.0 */
/* memory_cuda: memory of the GPU. A guard with a pattern stands before each allocation; behind it
 * there is nothing, so that the simulator's or compute-sanitizer's memory check sees every access
 * past the end. */
#if defined(TAILCUT_HAVE_CUDA)

#include <cuda_runtime_api.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"

enum { GUARD = 256, PATTERN = 0x5C };

static void check(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return;
  fprintf(stderr, "test memory: %s: %s (%s)\n", what, cudaGetErrorName(error),
          cudaGetErrorString(error));
  abort();
}

static void *cuda_alloc(size_t bytes, size_t misalign) {
  const size_t shift = misalign == TT_TIGHT ? 0 : misalign;
  char *base = NULL;
  check(cudaMalloc((void **)&base, GUARD + shift + bytes), "cudaMalloc");
  check(cudaMemset(base, PATTERN, GUARD + shift), "cudaMemset");
  return base + GUARD + shift;
}

static void cuda_release(void *device) {
  unsigned char guard[2 * GUARD];
  const uintptr_t at = (uintptr_t)device;
  char *base = (char *)((at & ~(uintptr_t)(GUARD - 1)) - GUARD);
  const size_t before = (size_t)((char *)device - base);
  check(cudaMemcpy(guard, base, before, cudaMemcpyDeviceToHost), "cudaMemcpy");
  for (size_t i = 0; i < before; i++) {
    if (guard[i] == PATTERN) continue;
    fprintf(stderr, "test memory: bytes before an allocation were written\n");
    abort();
  }
  check(cudaFree(base), "cudaFree");
}

static void cuda_upload(void *device, const void *host, size_t bytes) {
  if (bytes > 0) check(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
}

static void cuda_download(void *host, const void *device, size_t bytes) {
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  if (bytes > 0) check(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
}

static void cuda_sync(void) { check(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }

static void *cuda_alloc_host(size_t bytes) {
  void *host = NULL;
  check(cudaHostAlloc(&host, bytes > 0 ? bytes : 1, cudaHostAllocDefault), "cudaHostAlloc");
  return host;
}

static void cuda_release_host(void *host) { check(cudaFreeHost(host), "cudaFreeHost"); }

const tt_memory tt_memory_cuda = {"cuda",          cuda_alloc,        cuda_upload,
                                  cuda_download,   cuda_release,      cuda_sync,
                                  cuda_alloc_host, cuda_release_host, 0};

#else
typedef int tt_memory_cuda_is_not_built;
#endif
