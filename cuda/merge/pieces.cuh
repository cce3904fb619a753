/* SPDX-License-Identifier: Apache-2.0 */
/* merge, pieces: 16 bytes of a row as they come from and go to memory, and the values in them.
 *
 * Precision: widening is exact; values are rounded to nearest even as METHOD.md's y_d is. */
#ifndef TAILCUT_MERGE_PIECES_CUH_
#define TAILCUT_MERGE_PIECES_CUH_

#include <cuda_fp16.h>
#include <string.h>

#include "common/rows.cuh"

/* Up to 16 bytes of a row whose addresses `width` divides; zeros behind them. */
__device__ inline uint4 tc_load_piece(const char *from, int width, int bytes) {
  uint32_t w[4] = {0, 0, 0, 0};
  if (width >= 4) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (4 * i < bytes) w[i] = *(const uint32_t *)(from + 4 * i);
    }
  } else if (width == 2) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (2 * i < bytes) w[i / 2] |= (uint32_t) * (const uint16_t *)(from + 2 * i) << 16 * (i % 2);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 16; i++) {
      if (i < bytes) w[i / 4] |= (uint32_t) * (const uint8_t *)(from + i) << 8 * (i % 4);
    }
  }
  return make_uint4(w[0], w[1], w[2], w[3]);
}

__device__ inline void tc_store_piece(char *to, const uint4 &v, int width, int bytes) {
  const uint32_t w[4] = {v.x, v.y, v.z, v.w};
  if (width == 16) {
    *(uint4 *)to = v;
  } else if (width >= 4) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (4 * i < bytes) *(uint32_t *)(to + 4 * i) = w[i];
    }
  } else if (width == 2) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (2 * i < bytes) *(uint16_t *)(to + 2 * i) = (uint16_t)(w[i / 2] >> 16 * (i % 2));
    }
  } else {
#pragma unroll
    for (int i = 0; i < 16; i++) {
      if (i < bytes) *(uint8_t *)(to + i) = (uint8_t)(w[i / 4] >> 8 * (i % 4));
    }
  }
}

/* The values of 16 bytes, exactly. */
template <int DTYPE, int VALUES>
__device__ inline void tc_widen_piece(const uint4 &v, float (&x)[VALUES]) {
  const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < VALUES; i++) {
    if (DTYPE == TAILCUT_F32) x[i] = __uint_as_float(w[i & 3]);
    if (DTYPE == TAILCUT_BF16) {
      x[i] = __uint_as_float(i & 1 ? w[i / 2] & 0xFFFF0000u : w[i / 2] << 16);
    }
    if (DTYPE == TAILCUT_F16 && i % 2 == 0) {
      __half2 pair;
      memcpy(&pair, &w[i / 2], sizeof pair);
      const float2 both = __half22float2(pair);
      x[i] = both.x, x[i + 1] = both.y;
    }
  }
}

/* Rounded to nearest even; a NaN becomes the quiet one without payload. */
template <int DTYPE>
__device__ inline uint32_t tc_value_bits(float v) {
  const uint32_t bits = __float_as_uint(v);
  if (DTYPE == TAILCUT_F32) return v != v ? TC_NAN_BITS : bits;
  if (DTYPE == TAILCUT_BF16) return v != v ? 0x7FC0 : (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16;
  return v != v ? 0x7E00 : __half_as_ushort(__float2half_rn(v));
}

#endif
