/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chip: dot products and squared norms of rows in shared memory, by one warp.
 *
 * Formula: METHOD.md's summation. Strategy: a lane owns elements 8l .. 8l+7 of every run of 256,
 * which are 8 of the 256 accumulators: one group, so the tree's strides 4, 2, 1 stay in the lane
 * and 16 .. 1 across the groups are a butterfly between lanes. Dot and square share the butterfly:
 * after stride 16 one half of the warp carries the one, the other half the other. Precision: one
 * rounding per fma and addition. Elements past dim are left out.
 */
#ifndef TAILCUT_CHIP_CUH_
#define TAILCUT_CHIP_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "decide.cuh"

/* The reference lies in two planes, so that the lanes' 16-byte loads are next to each other: quad 0
 * of every group of 8, then quad 1. `floats` is dim rounded up to 8. */
__device__ inline int32_t tc_plane_index(int32_t d, int32_t floats) {
  return (d & 4) / 4 * (floats / 2) + d / 8 * 4 + (d & 3);
}

/* Element i of a row anywhere, widened exactly. */
__device__ inline float tc_widen_at(const void *row, int32_t dtype, int64_t i) {
  if (dtype == TAILCUT_F32) return ((const volatile float *)row)[i];
  const uint16_t h = ((const volatile uint16_t *)row)[i];
  return dtype == TAILCUT_F16 ? __half2float(__ushort_as_half(h))
                              : __uint_as_float((uint32_t)h << 16);
}

/* Eight neighbours of a row, widened; p is aligned to 16. */
template <int DTYPE>
__device__ inline void tc_widen8(const char *p, float x[8]) {
  if (DTYPE == TAILCUT_F32) {
    const float4 a = ((const float4 *)p)[0], b = ((const float4 *)p)[1];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
    x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    return;
  }
  const uint4 raw = *(const uint4 *)p;
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (DTYPE == TAILCUT_F16) {
      x[2 * i] = __half2float(__ushort_as_half((unsigned short)(words[i] & 0xFFFF)));
      x[2 * i + 1] = __half2float(__ushort_as_half((unsigned short)(words[i] >> 16)));
    } else {
      x[2 * i] = __uint_as_float(words[i] << 16);
      x[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
    }
  }
}

__device__ inline void tc_reference8(const float *planes, int32_t floats, int32_t d, float c[8]) {
  const float4 a = *(const float4 *)(planes + d / 2);
  const float4 b = *(const float4 *)(planes + floats / 2 + d / 2);
  c[0] = a.x, c[1] = a.y, c[2] = a.z, c[3] = a.w;
  c[4] = b.x, c[5] = b.y, c[6] = b.z, c[7] = b.w;
}

/* Strides 4, 2, 1 of a lane's group. */
__device__ inline float tc_group_sum(const float a[8]) {
  const float b0 = __fadd_rn(a[0], a[4]), b1 = __fadd_rn(a[1], a[5]);
  const float b2 = __fadd_rn(a[2], a[6]), b3 = __fadd_rn(a[3], a[7]);
  return __fadd_rn(__fadd_rn(b0, b2), __fadd_rn(b1, b3));
}

/* Strides 16 .. 1 of two quantities at once; every lane gets both sums. */
__device__ inline void tc_butterfly(float *first, float *second, int lane) {
  const bool low = lane < 16;
  float mine = low ? *first : *second;
  mine = __fadd_rn(mine, __shfl_xor_sync(TC_WARP, low ? *second : *first, 16));
#pragma unroll
  for (int stride = 8; stride > 0; stride /= 2) {
    mine = __fadd_rn(mine, __shfl_xor_sync(TC_WARP, mine, stride));
  }
  *first = __shfl_sync(TC_WARP, mine, 0);
  *second = __shfl_sync(TC_WARP, mine, 16);
}

/* Dots with the reference and squares of T rows, slot_bytes apart; every lane gets all. */
template <int DTYPE, int T>
__device__ inline void tc_dot_square(const char *row, int32_t slot_bytes, const float *planes,
                                     int32_t floats, int32_t dim, int lane, float dots[T],
                                     float squares[T]) {
  constexpr int SIZE = DTYPE == TAILCUT_F32 ? 4 : 2;
  float dot[T][8], square[T][8];
#pragma unroll
  for (int t = 0; t < T; t++) {
#pragma unroll
    for (int e = 0; e < 8; e++) dot[t][e] = square[t][e] = 0.0f;
  }
  int32_t d = 8 * lane;
  for (; d + 8 <= dim; d += 256) {
    float c[8];
    tc_reference8(planes, floats, d, c);
#pragma unroll
    for (int t = 0; t < T; t++) {
      float x[8];
      tc_widen8<DTYPE>(row + t * slot_bytes + d * SIZE, x);
#pragma unroll
      for (int e = 0; e < 8; e++) {
        dot[t][e] = __fmaf_rn(x[e], c[e], dot[t][e]);
        square[t][e] = __fmaf_rn(x[e], x[e], square[t][e]);
      }
    }
  }
  if (d < dim) {
    float c[8];
    tc_reference8(planes, floats, d, c);
#pragma unroll
    for (int t = 0; t < T; t++) {
#pragma unroll
      for (int e = 0; e < 7; e++) {
        if (d + e >= dim) continue;
        const float x = tc_widen_at(row + t * slot_bytes, DTYPE, d + e);
        dot[t][e] = __fmaf_rn(x, c[e], dot[t][e]);
        square[t][e] = __fmaf_rn(x, x, square[t][e]);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < T; t++) {
    dots[t] = tc_group_sum(dot[t]);
    squares[t] = tc_group_sum(square[t]);
    tc_butterfly(&dots[t], &squares[t], lane);
  }
}

/* The norm of the reference; every lane gets it. */
__device__ inline float tc_plane_norm(const float *planes, int32_t floats, int32_t dim, int lane) {
  float square[8];
#pragma unroll
  for (int e = 0; e < 8; e++) square[e] = 0.0f;
  for (int32_t d = 8 * lane; d < dim; d += 256) {
    float c[8];
    tc_reference8(planes, floats, d, c);
#pragma unroll
    for (int e = 0; e < 8; e++) {
      if (d + e < dim) square[e] = __fmaf_rn(c[e], c[e], square[e]);
    }
  }
  float sum = tc_group_sum(square), unused = sum;
  tc_butterfly(&sum, &unused, lane);
  return __fsqrt_rn(sum);
}

#endif /* TAILCUT_CHIP_CUH_ */
