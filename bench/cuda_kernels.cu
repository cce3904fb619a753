/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_kernels: what the CUDA benchmark itself runs on the device: nothing, for the price of a graph
 * node; a wait that hides the host's launching; a copy and a sum of a large buffer; the inputs' way
 * into many slots. */
#include "cuda.h"

static __global__ void nothing() {}

static __global__ void wait(long long cycles) {
  const long long start = clock64();
  while (clock64() - start < cycles) {
  }
}

/* Four 16-byte loads of a thread are under way before the first store. */
enum { THREADS = 256, EACH = 4 };

static __global__ void copy(uint4 *to, const uint4 *from, size_t count) {
  const size_t first = (size_t)blockIdx.x * (THREADS * EACH) + threadIdx.x;
  uint4 v[EACH];
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    if (first + i * THREADS < count) v[i] = from[first + i * THREADS];
  }
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    if (first + i * THREADS < count) to[first + i * THREADS] = v[i];
  }
}

/* The sum is stored where it is one value that hardly comes: the loads cannot be left out. */
static __global__ void read(const uint4 *from, size_t count, uint32_t *sink) {
  const size_t first = (size_t)blockIdx.x * (THREADS * EACH) + threadIdx.x;
  uint32_t sum = 0;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    if (first + i * THREADS < count) {
      const uint4 v = from[first + i * THREADS];
      sum += v.x + v.y + v.z + v.w;
    }
  }
  if (sum == 0x9E3779B9u) *sink = sum;
}

static __global__ void spread(char *to, size_t stride, const uint4 *from, size_t count) {
  uint4 *const mine = (uint4 *)(to + blockIdx.y * stride);
  const size_t step = (size_t)gridDim.x * blockDim.x;
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
    mine[i] = from[i];
  }
}

static unsigned blocks_for(size_t count) {
  return (unsigned)((count + THREADS * EACH - 1) / (THREADS * EACH));
}

extern "C" cudaError_t bench_cuda_empty(cudaStream_t stream) {
  nothing<<<1, 32, 0, stream>>>();
  return cudaGetLastError();
}

extern "C" cudaError_t bench_cuda_wait(long long cycles, cudaStream_t stream) {
  wait<<<1, 1, 0, stream>>>(cycles);
  return cudaGetLastError();
}

extern "C" cudaError_t bench_cuda_copy(void *to, const void *from, size_t bytes,
                                       cudaStream_t stream) {
  copy<<<blocks_for(bytes / 16), THREADS, 0, stream>>>((uint4 *)to, (const uint4 *)from,
                                                       bytes / 16);
  return cudaGetLastError();
}

extern "C" cudaError_t bench_cuda_read(const void *from, size_t bytes, void *sink,
                                       cudaStream_t stream) {
  read<<<blocks_for(bytes / 16), THREADS, 0, stream>>>((const uint4 *)from, bytes / 16,
                                                       (uint32_t *)sink);
  return cudaGetLastError();
}

extern "C" cudaError_t bench_cuda_spread(void *to, size_t stride, int slots, const void *from,
                                         size_t bytes, cudaStream_t stream) {
  const size_t wanted = blocks_for(bytes / 16), most = 4096 / (size_t)slots + 1;
  const dim3 grid((unsigned)(wanted < most ? wanted : most), (unsigned)slots);
  spread<<<grid, THREADS, 0, stream>>>((char *)to, stride, (const uint4 *)from, bytes / 16);
  return cudaGetLastError();
}
