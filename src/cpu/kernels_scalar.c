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

#define TC_DEFINE_GRAMS(t, size)                                                                 \
  TC_PLAIN static void grams_##t(const void *row0, int64_t row_stride, int32_t n, int32_t dim,   \
                                 const float *factors, void *bytes, int32_t *g, int32_t pitch) { \
    int16_t *q = bytes;                                                                          \
    memset(g, 0, sizeof *g *(size_t)(n * pitch));                                                \
    for (int32_t d0 = 0; d0 < dim; d0 += TC_NOVELTY_CHUNK) {                                     \
      const int32_t width = dim - d0 < TC_NOVELTY_CHUNK ? dim - d0 : TC_NOVELTY_CHUNK;           \
      for (int32_t i = 0; i < n; i++) {                                                          \
        const char *row = (const char *)row0 + i * row_stride + (int64_t)d0 * (size);            \
        byte_row_##t(row, width, factors[i], q + i * TC_NOVELTY_CHUNK);                          \
        multiply_row(q, i, width, g + i * pitch);                                                \
      }                                                                                          \
    }                                                                                            \
    for (int32_t i = 0; i < n; i++) {                                                            \
      for (int32_t j = 0; j < i; j++) g[j * pitch + i] = g[i * pitch + j];                       \
    }                                                                                            \
  }
#define TC_DEFINE_BYTES(t)                                                                         \
  TC_PLAIN static void byte_row_##t(const char *row, int32_t n, float factor, int16_t *q) {        \
    TC_PLAIN_LOOP                                                                                  \
    for (int32_t d = 0; d < n; d++) q[d] = factor == 0.0f ? 0 : to_byte(get_##t(row, d) * factor); \
  }

/* To nearest even, to within +-127. */
TC_PLAIN static int16_t to_byte(float v) {
  if (v >= 127.0f) return 127;
  if (v <= -127.0f) return -127;
  return (int16_t)tc_round((double)v);
}

/* g[j] += <q_i, q_j>, j <= i */
TC_PLAIN static void multiply_row(const int16_t *q, int32_t i, int32_t width, int32_t *g) {
  for (int32_t j = 0; j <= i; j++) {
    const int16_t *a = q + i * TC_NOVELTY_CHUNK, *b = q + j * TC_NOVELTY_CHUNK;
    TC_PLAIN_LOOP
    for (int32_t d = 0; d < width; d++) g[j] += a[d] * b[d];
  }
}

TC_DEFINE_BYTES(f16)
TC_DEFINE_BYTES(bf16)
TC_DEFINE_BYTES(f32)
TC_DEFINE_GRAMS(f16, 2)
TC_DEFINE_GRAMS(bf16, 2)
TC_DEFINE_GRAMS(f32, 4)

TC_PLAIN static void words(int32_t *g, int32_t pitch, int32_t n, const float *lengths) {
  for (int32_t i = 0; i < n; i++) {
    TC_PLAIN_LOOP
    for (int32_t j = 0; j < pitch; j++) {
      int32_t *word = g + i * pitch + j;
      if (j >= n || j == i) {
        *word = TC_NO_WORD;
        continue;
      }
      float c = (float)*word / (lengths[i] * lengths[j]);
      c = c > 1.0f ? 1.0f : c < -1.0f ? -1.0f : c;
      *word = (tc_round((double)(c * 0x1p20f)) + (1 << 20)) << 8 | j;
    }
  }
}

TC_PLAIN static int32_t farthest(const int32_t *words, int32_t pitch, int32_t first, int32_t steps,
                                 int32_t *nearest, int32_t *values) {
  int32_t greatest = -1;
  memcpy(nearest, words + first * pitch, sizeof *nearest * (size_t)pitch);
  for (int32_t step = 0; step < steps; step++) {
    int32_t best = 0;
    for (int32_t j = 1; j < pitch; j++) best = nearest[j] < nearest[best] ? j : best;
    values[best] = (1 << 21) - (nearest[best] >> 8);
    if (step == 0) greatest = values[best];
    TC_PLAIN_LOOP
    for (int32_t j = 0; j < pitch; j++) {
      const int32_t word = words[best * pitch + j];
      nearest[j] = word > nearest[j] ? word : nearest[j];
    }
  }
  return greatest;
}

static uint32_t bits_of(float v) {
  uint32_t bits;
  memcpy(&bits, &v, 4);
  return bits;
}

static void put_f32(char *p, int64_t d, float v) { memcpy(p + 4 * d, &v, 4); }

static void put_bf16(char *p, int64_t d, float v) {
  const uint32_t b = bits_of(v);
  const uint16_t h = (uint16_t)((b + 0x7FFFu + (b >> 16 & 1)) >> 16);
  memcpy(p + 2 * d, &h, 2);
}

/* A sum with a number whose last place is the result's rounds as fp16 does. */
static void put_f16(char *p, int64_t d, float v) {
  const uint32_t b = bits_of(v), magnitude = b & 0x7FFFFFFFu;
  uint32_t h;
  if (magnitude > 0x7F800000u) {
    h = 0x7E00u;
  } else if (magnitude >= 0x477FF000u) { /* 65520: rounds to infinity */
    h = 0x7C00u;
  } else if (magnitude < 0x38800000u) { /* below 2^-14: a multiple of 2^-24 */
    h = bits_of(from_bits(magnitude) + 0.5f) - bits_of(0.5f);
  } else {
    h = (magnitude - 0x38000000u + 0xFFFu + (magnitude >> 13 & 1)) >> 13;
  }
  const uint16_t half = (uint16_t)(b >> 31 << 15 | h);
  memcpy(p + 2 * d, &half, 2);
}

#define TC_DEFINE_MERGE(t)                                                                     \
  TC_PLAIN static void merge_##t(const char *const *rows, const float *weights, int32_t count, \
                                 float total, char *dst, int64_t n) {                          \
    for (int64_t d = 0; d < n; d++) {                                                          \
      float sum = 0.0f;                                                                        \
      TC_PLAIN_LOOP                                                                            \
      for (int32_t i = 0; i < count; i++) sum = fmaf(weights[i], get_##t(rows[i], d), sum);    \
      sum /= total;                                                                            \
      put_##t(dst, d, sum == sum ? sum : from_bits(TC_NAN_BITS));                              \
    }                                                                                          \
  }
TC_DEFINE_MERGE(f16)
TC_DEFINE_MERGE(bf16)
TC_DEFINE_MERGE(f32)

static void copy(char *dst, const char *src, int64_t n, const char *next_dst,
                 const char *next_src) {
  (void)next_dst, (void)next_src;
  memcpy(dst, src, (size_t)n);
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
    {grams_f16, grams_bf16, grams_f32},
    words,
    farthest,
    {merge_f16, merge_bf16, merge_f32},
    copy,
};
