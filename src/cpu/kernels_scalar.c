/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels_scalar: METHOD.md's summation, word by word. Every other level is compared with this.
 *
 * Formula: 256 accumulators from +0; element j goes to accumulator j mod 256 by fma, j ascending;
 * inside each group of 8 neighbours add at stride 4, 2, 1; then across the 32 groups at stride 16,
 * 8, 4, 2, 1. Precision: fp16, bf16 and fp32 are widened exactly, by integer arithmetic; one
 * rounding per fma and per addition. Strategy: none; auto-vectorisation is off, so that a compiler
 * cannot make the same mistake here and there.
 */
#include <math.h>
#include <string.h>

#include "../curve.h"
#include "kernels.h"

#if defined(__clang__)
#define TC_PLAIN
#define TC_PLAIN_LOOP _Pragma("clang loop vectorize(disable) interleave(disable)")
#elif defined(__GNUC__)
#define TC_PLAIN __attribute__((optimize("no-tree-vectorize")))
#define TC_PLAIN_LOOP
#else
#define TC_PLAIN
#define TC_PLAIN_LOOP
#endif

static float from_bits(uint32_t bits) {
  float v;
  memcpy(&v, &bits, 4);
  return v;
}

static float get_f32(const char *row, int64_t d) {
  float v;
  memcpy(&v, row + 4 * d, 4);
  return v;
}

static float get_bf16(const char *row, int64_t d) {
  uint16_t h;
  memcpy(&h, row + 2 * d, 2);
  return from_bits((uint32_t)h << 16);
}

static float get_f16(const char *row, int64_t d) {
  uint16_t h;
  memcpy(&h, row + 2 * d, 2);
  const uint32_t sign = (uint32_t)(h >> 15) << 31, exponent = h >> 10 & 31, fraction = h & 1023;
  if (exponent == 31) return from_bits(sign | 0x7F800000u | fraction << 13); /* inf, NaN */
  if (exponent != 0) return from_bits(sign | (exponent + 127 - 15) << 23 | fraction << 13);
  const float v = (float)fraction * 0x1p-24f; /* zero or denormal: exact as fp32 */
  return sign != 0 ? -v : v;
}

/* a[0] becomes the sum of a[0 .. n-1]: n is a power of two. */
TC_PLAIN static float halve(float *a, int n) {
  for (int stride = n / 2; stride > 0; stride /= 2) {
    TC_PLAIN_LOOP
    for (int e = 0; e < stride; e++) a[e] += a[e + stride];
  }
  return a[0];
}

TC_PLAIN static float tree(float *accumulators) {
  float groups[32];
  TC_PLAIN_LOOP
  for (int g = 0; g < 32; g++) groups[g] = halve(accumulators + 8 * g, 8);
  return halve(groups, 32);
}

#define TC_DEFINE(t)                                                                           \
  TC_PLAIN static void score_rows_##t(const void *row0, int64_t row_stride, int64_t rows,      \
                                      int32_t dim, const float *ref, float *dots,              \
                                      float *squares) {                                        \
    for (int64_t i = 0; i < rows; i++) {                                                       \
      const char *row = (const char *)row0 + i * row_stride;                                   \
      float dot[256] = {0}, square[256] = {0};                                                 \
      TC_PLAIN_LOOP                                                                            \
      for (int32_t d = 0; d < dim; d++) {                                                      \
        const float v = get_##t(row, d);                                                       \
        if (dots != NULL) dot[d % 256] = fmaf(v, ref[d], dot[d % 256]);                        \
        if (squares != NULL) square[d % 256] = fmaf(v, v, square[d % 256]);                    \
      }                                                                                        \
      if (dots != NULL) dots[i] = tree(dot);                                                   \
      if (squares != NULL) squares[i] = tree(square);                                          \
    }                                                                                          \
  }                                                                                            \
  TC_PLAIN static void accumulate_##t(const void *row, float w, float *acc, int32_t dim) {     \
    TC_PLAIN_LOOP                                                                              \
    for (int32_t d = 0; d < dim; d++) acc[d] = fmaf(get_##t((const char *)row, d), w, acc[d]); \
  }                                                                                            \
  TC_PLAIN static void widen_##t(const void *row, float *dst, int64_t n) {                     \
    TC_PLAIN_LOOP                                                                              \
    for (int64_t d = 0; d < n; d++) dst[d] = get_##t((const char *)row, d);                    \
  }

TC_DEFINE(f16)
TC_DEFINE(bf16)
TC_DEFINE(f32)

TC_PLAIN static int cosines(float *dots, const float *squares, int32_t n, float norm) {
  int any_nan = 0;
  TC_PLAIN_LOOP
  for (int32_t i = 0; i < n; i++) {
    dots[i] = tc_cosine_finish(dots[i], sqrtf(squares[i]), norm);
    any_nan |= dots[i] != dots[i];
  }
  return any_nan;
}

TC_PLAIN static int extremes(const float *scores, int32_t n, float *least, float *greatest) {
  int finite = 1;
  *least = *greatest = scores[0];
  TC_PLAIN_LOOP
  for (int32_t i = 0; i < n; i++) {
    finite &= isfinite(scores[i]) != 0;
    *least = scores[i] < *least ? scores[i] : *least;
    *greatest = scores[i] > *greatest ? scores[i] : *greatest;
  }
  return finite;
}

TC_PLAIN static void offsets(const float *scores, int32_t n, float factor, int32_t top,
                             int32_t *offsets) {
  TC_PLAIN_LOOP
  for (int32_t i = 0; i < n; i++) {
    offsets[i] = top - tc_curve_value(tc_quantise(scores[i], (double)factor));
  }
  for (int32_t i = n; i % 64 != 0; i++) offsets[i] = INT32_MAX;
}

TC_PLAIN static void below(const int32_t *offsets, int32_t n, int32_t limit, uint64_t *bits) {
  TC_PLAIN_LOOP
  for (int32_t i = 0; i < n; i++) {
    if (i % 64 == 0) bits[i / 64] = 0;
    bits[i / 64] |= (uint64_t)(offsets[i] < limit) << i % 64;
  }
}

const tc_kernels tc_kernels_scalar = {
    "scalar",
    {score_rows_f16, score_rows_bf16, score_rows_f32},
    {accumulate_f16, accumulate_bf16, accumulate_f32},
    {widen_f16, widen_bf16, widen_f32},
    cosines,
    extremes,
    offsets,
    below,
};
