/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>
#include "kernels.h"
static float from_f32(const void *row, int64_t d) {
  float v;
  memcpy(&v, (const char *)row + 4 * d, 4);
  return v;
}
static float bits(uint32_t b) {
  float v;
  memcpy(&v, &b, 4);
  return v;
}
static float from_bf16(const void *row, int64_t d) {
  uint16_t h;
  memcpy(&h, (const char *)row + 2 * d, 2);
  return bits((uint32_t)h << 16);
}
static float from_f16(const void *row, int64_t d) {
  uint16_t h;
  memcpy(&h, (const char *)row + 2 * d, 2);
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;
  if (e == 31) return bits(sign | 0x7F800000u | m << 13);
  if (e != 0) return bits(sign | (e + 112) << 23 | m << 13);
  const float v = (float)m * 0x1p-24f;
  return sign ? -v : v;
}
static float tree(float *a) {
  float g[32];
  for (int i = 0; i < 32; i++) {
    for (int s = 4; s > 0; s /= 2)
      for (int e = 0; e < s; e++) a[8 * i + e] += a[8 * i + e + s];
    g[i] = a[8 * i];
  }
  for (int s = 16; s > 0; s /= 2)
    for (int e = 0; e < s; e++) g[e] += g[e + s];
  return g[0];
}
#define DEFINE(t)                                                                        \
  static void score_##t(const void *row0, int64_t row_stride, int64_t rows, int32_t dim, \
                        const float *ref, float *dots, float *squares) {                 \
    for (int64_t i = 0; i < rows; i++) {                                                 \
      const char *row = (const char *)row0 + i * row_stride;                             \
      float a[256] = {0}, n[256] = {0};                                                  \
      for (int32_t d = 0; d < dim; d++) {                                                \
        const float v = from_##t(row, d);                                                \
        if (dots) a[d & 255] = fmaf(v, ref[d], a[d & 255]);                              \
        if (squares) n[d & 255] = fmaf(v, v, n[d & 255]);                                \
      }                                                                                  \
      if (dots) dots[i] = tree(a);                                                       \
      if (squares) squares[i] = tree(n);                                                 \
    }                                                                                    \
  }                                                                                      \
  static void accumulate_##t(const void *row, float w, float *acc, int32_t dim) {        \
    for (int32_t d = 0; d < dim; d++) acc[d] = fmaf(from_##t(row, d), w, acc[d]);        \
  }                                                                                      \
  static void widen_##t(const void *row, float *dst, int64_t n) {                        \
    for (int64_t d = 0; d < n; d++) dst[d] = from_##t(row, d);                           \
  }
DEFINE(f16)
DEFINE(bf16)
DEFINE(f32)
const tc_kernels tc_kernels_scalar = {"scalar",
                                      {score_f16, score_bf16, score_f32},
                                      {accumulate_f16, accumulate_bf16, accumulate_f32},
                                      {widen_f16, widen_bf16, widen_f32}};
