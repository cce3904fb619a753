/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels_simd: the template of the SIMD levels, included once per instruction set.
 *
 * Formula: kernels.h; summation order: METHOD.md and kernels_scalar.c. Precision: fp32 with the
 * same roundings as the oracle, bit for bit (only the payload of a NaN may differ).
 * Strategy: the 256 accumulators of a row do not fit the registers twice (dot and square), so a row
 * is read by strips of columns: for TC_COLS registers of neighbouring accumulators, all elements
 * j, j+256, j+512, ... first, then that strip's part of the tree, then the next strip. The trees
 * are transpositions: one addition serves two registers, and the last levels serve several rows at
 * once. Reading 256 elements apart defeats hardware prefetchers, so a row or two ahead are
 * prefetched, into the second-level cache: prefetches into the first are limited by its few miss
 * buffers, and farther ahead costs up to a quarter (Zen 3, fp32, 12 KB). Limits: prefetches reach
 * past the last row (they cannot fault); a call with few rows prefetches what it reads.
 *
 * The includer defines, in a region compiled for its instruction set:
 *   tc_vec, TC_LANES, TC_COLS, TC_STRIPS = 256 / (TC_LANES * TC_COLS)
 *   v_zero(), v_set1(x), v_fma(a, b, c), v_load_f16/_bf16/_f32(p), v_store(float *, v)
 *   v_part_f16/_bf16/_f32(p, n)  n < TC_LANES elements, then zeros; reads nothing else
 *   v_narrow_f16/_bf16(p, v)     stores TC_LANES elements, each rounded to nearest even
 *   v_keep(n, a, b)              lanes < n of a, the others of b
 *   v_sqrt(a), v_div(a, b)       correctly rounded
 *   v_min(a, b), v_max(a, b)     anything where one is NaN
 *   V_HOLD(x)                    keeps a register where it is
 *   v_pick(a, limit, b, c)       b where a <= limit, c elsewhere and where a is NaN
 *   tc_int, TC_LANES integers: i_set1(x), i_sub(a, b), i_store(int32_t *, i)
 *   i_round(v)                   to nearest even, below 2^31
 *   i_shift_10(i)                arithmetic, to the right
 *   i_below(int32_t *p, i)       the lanes where p is below i, as bits
 *   v_strip(a)                   TC_COLS registers of one strip to one, see TC_STRIPS
 *   v_row(b)                     TC_STRIPS results of v_strip to the row's one register
 *   v_finish(z)                  TC_LANES rows' registers to the vector of their sums
 *   and what novelty_simd.h and grams_simd.h need
 */
#include <float.h>
#include <stddef.h>
#include <string.h>

#include "../curve.h"

#define TC_INLINE static inline __attribute__((always_inline))
#define TC_UNUSED __attribute__((unused))
/* At -O2 GCC leaves the loop over a strip's registers, and with it the registers, in memory. */
#if defined(__clang__)
#define TC_UNROLL _Pragma("clang loop unroll(full)")
#else
#define TC_UNROLL _Pragma("GCC unroll 16")
#endif

#define TC_UNROLLED 2 /* registers of a row at a time in products */

enum { TC_F16 = 0, TC_BF16 = 1, TC_F32 = 2 };
enum { TC_DOTS = 1, TC_SQUARES = 2 };
#define TC_STRIP_WIDTH (TC_LANES * TC_COLS) /* elements of one strip in each run of 256 */
#define TC_AHEAD 2048                       /* bytes between use and prefetch, in whole rows */

TC_INLINE int64_t size_of(int dtype) { return dtype == TC_F32 ? 4 : 2; }

TC_INLINE tc_vec load(const char *p, int dtype) {
  return dtype == TC_F16 ? v_load_f16(p) : dtype == TC_BF16 ? v_load_bf16(p) : v_load_f32(p);
}

TC_INLINE tc_vec load_part(const char *p, int64_t n, int dtype) {
  return dtype == TC_F16    ? v_part_f16(p, n)
         : dtype == TC_BF16 ? v_part_bf16(p, n)
                            : v_part_f32(p, n);
}

/* One row's accumulators, as far as one register per quantity: dot and square before v_finish.
 * `ahead`: bytes from the row to the one to prefetch. */
TC_INLINE void sum_row(const char *row, int64_t ahead, int32_t dim, const float *ref, int dtype,
                       int what, tc_vec *dot_out, tc_vec *square_out) {
  const int64_t size = size_of(dtype);
  const int32_t whole = dim / 256 * 256;
  tc_vec dots[TC_STRIPS], squares[TC_STRIPS];
  TC_UNROLL
  for (int strip = 0; strip < TC_STRIPS; strip++) {
    tc_vec dot[TC_COLS], square[TC_COLS];
    int32_t j = strip * TC_STRIP_WIDTH;
    TC_UNROLL
    for (int c = 0; c < TC_COLS; c++) dot[c] = square[c] = v_zero();
    for (; j < whole; j += 256) {
      const char *p = row + j * size;
      TC_UNROLL
      for (int b = 0; b < TC_STRIP_WIDTH * size; b += 64) {
        __builtin_prefetch((const void *)((uintptr_t)p + (uintptr_t)ahead + (uintptr_t)b), 0, 2);
      }
      TC_UNROLL
      for (int c = 0; c < TC_COLS; c++) {
        tc_vec v = load(p + c * TC_LANES * size, dtype);
        V_HOLD(v); /* GCC reads it twice */
        if (what & TC_DOTS) {
          dot[c] = v_fma(v, v_load_f32((const char *)(ref + j + c * TC_LANES)), dot[c]);
        }
        if (what & TC_SQUARES) square[c] = v_fma(v, v, square[c]);
      }
    }
    if (j < dim) { /* the last run, shorter than 256; absent elements leave accumulators alone */
      TC_UNROLL
      for (int c = 0; c < TC_COLS; c++, j += TC_LANES) {
        const char *p = row + j * size;
        if (j + TC_LANES <= dim) {
          const tc_vec v = load(p, dtype);
          if (what & TC_DOTS) dot[c] = v_fma(v, v_load_f32((const char *)(ref + j)), dot[c]);
          if (what & TC_SQUARES) square[c] = v_fma(v, v, square[c]);
        } else if (j < dim) {
          const tc_vec v = load_part(p, dim - j, dtype);
          if (what & TC_DOTS) {
            const tc_vec r = v_part_f32((const char *)(ref + j), dim - j);
            dot[c] = v_keep(dim - j, v_fma(v, r, dot[c]), dot[c]);
          }
          if (what & TC_SQUARES) square[c] = v_keep(dim - j, v_fma(v, v, square[c]), square[c]);
        }
      }
    }
    if (what & TC_DOTS) dots[strip] = v_strip(dot);
    if (what & TC_SQUARES) squares[strip] = v_strip(square);
  }
  if (what & TC_DOTS) *dot_out = v_row(dots);
  if (what & TC_SQUARES) *square_out = v_row(squares);
}

TC_INLINE void score_what(const void *row0, int64_t row_stride, int64_t rows, int32_t dim,
                          const float *ref, float *dots, float *squares, int dtype, int what) {
  enum { HALF = TC_LANES / 2 };
  const int batch = what == (TC_DOTS | TC_SQUARES) ? HALF : TC_LANES;
  const int64_t bytes = dim * size_of(dtype);
  const int64_t rows_ahead = bytes >= TC_AHEAD ? 1 : TC_AHEAD / (bytes + 1) + 1;
  const int64_t ahead = rows > rows_ahead ? rows_ahead * row_stride : 0;
  tc_vec sums[TC_LANES];
  float out[TC_LANES];
  for (int i = 0; i < TC_LANES; i++) sums[i] = v_zero();
  for (int64_t i = 0; i < rows; i += batch) {
    const int n = rows - i < batch ? (int)(rows - i) : batch;
    for (int r = 0; r < n; r++) {
      const char *row = (const char *)row0 + (i + r) * row_stride;
      /* Squares are in the upper half when there are dots too. */
      tc_vec *square = what == TC_SQUARES ? &sums[r] : &sums[HALF + r % HALF];
      sum_row(row, ahead, dim, ref, dtype, what, &sums[r], square);
    }
    v_store(out, v_finish(sums));
    if (what & TC_DOTS) memcpy(dots + i, out, sizeof *out * (size_t)n);
    if (what & TC_SQUARES) {
      memcpy(squares + i, what == TC_SQUARES ? out : out + HALF, sizeof *out * (size_t)n);
    }
  }
}

#define TC_DEFINE(t, dtype)                                                                     \
  static void score_rows_##t(const void *row0, int64_t row_stride, int64_t rows, int32_t dim,   \
                             const float *ref, float *dots, float *squares) {                   \
    if (dots != NULL && squares != NULL) {                                                      \
      score_what(row0, row_stride, rows, dim, ref, dots, squares, dtype, TC_DOTS | TC_SQUARES); \
    } else if (dots != NULL) {                                                                  \
      score_what(row0, row_stride, rows, dim, ref, dots, NULL, dtype, TC_DOTS);                 \
    } else if (squares != NULL) {                                                               \
      score_what(row0, row_stride, rows, dim, NULL, NULL, squares, dtype, TC_SQUARES);          \
    }                                                                                           \
  }                                                                                             \
  static void accumulate_##t(const void *row, float w, float *acc, int32_t dim) {               \
    const char *p = (const char *)row;                                                          \
    const tc_vec weight = v_set1(w);                                                            \
    int32_t d = 0;                                                                              \
    for (; d + TC_LANES <= dim; d += TC_LANES) {                                                \
      const tc_vec a = v_load_f32((const char *)(acc + d));                                     \
      v_store(acc + d, v_fma(load(p + d * size_of(dtype), dtype), weight, a));                  \
    }                                                                                           \
    if (d < dim) {                                                                              \
      float tail[TC_LANES];                                                                     \
      const tc_vec a = v_part_f32((const char *)(acc + d), dim - d);                            \
      v_store(tail, v_fma(load_part(p + d * size_of(dtype), dim - d, dtype), weight, a));       \
      memcpy(acc + d, tail, sizeof *tail * (size_t)(dim - d));                                  \
    }                                                                                           \
  }                                                                                             \
  static void widen_##t(const void *row, float *dst, int64_t n) {                               \
    const char *p = (const char *)row;                                                          \
    int64_t d = 0;                                                                              \
    for (; d + TC_LANES <= n; d += TC_LANES) {                                                  \
      v_store(dst + d, load(p + d * size_of(dtype), dtype));                                    \
    }                                                                                           \
    if (d < n) {                                                                                \
      float tail[TC_LANES];                                                                     \
      v_store(tail, load_part(p + d * size_of(dtype), n - d, dtype));                           \
      memcpy(dst + d, tail, sizeof *tail * (size_t)(n - d));                                    \
    }                                                                                           \
  }

TC_DEFINE(f16, TC_F16)
TC_DEFINE(bf16, TC_BF16)
TC_DEFINE(f32, TC_F32)

/* tc_cosine_finish, operation by operation. */
static int cosines(float *dots, const float *squares, int32_t n, float norm) {
  const tc_vec one = v_set1(1.0f), minus_one = v_set1(-1.0f), zero = v_zero();
  const tc_vec most = v_set1(FLT_MAX), least = v_set1(1e-8f), infinity = v_set1(INFINITY);
  const tc_vec nan = v_set1(tc_bits_float(TC_NAN_BITS)), other = v_set1(tc_norm_floor(norm));
  tc_vec sum = zero;
  float tail[TC_LANES];
  for (int32_t i = 0; i < n; i += TC_LANES) {
    const int part = n - i < TC_LANES;
    const char *p = (const char *)(dots + i), *q = (const char *)(squares + i);
    const tc_vec d = part ? v_part_f32(p, n - i) : v_load_f32(p);
    const tc_vec length = v_sqrt(part ? v_part_f32(q, n - i) : v_load_f32(q));
    const tc_vec norms = v_pick(length, most, v_max(length, least), nan);
    const tc_vec ratio = v_div(d, v_fma(norms, other, zero)); /* the product: no -0 in it */
    const tc_vec clamped = v_max(v_min(ratio, one), minus_one);
    const tc_vec s = v_fma(v_pick(ratio, infinity, clamped, nan), one, zero); /* -0 becomes +0 */
    if (part) {
      v_store(tail, s);
      memcpy(dots + i, tail, sizeof *tail * (size_t)(n - i));
      sum = v_fma(v_keep(n - i, s, zero), zero, sum);
    } else {
      v_store(dots + i, s);
      sum = v_fma(s, zero, sum); /* 0, or NaN for good */
    }
  }
  v_store(tail, sum);
  for (int e = 1; e < TC_LANES; e++) tail[0] += tail[e];
  return tail[0] != 0.0f;
}

/* The loops of the cut. Tails are short: the last vector is filled up with what changes nothing. */
static int extremes(const float *scores, int32_t n, float *least, float *greatest) {
  const tc_vec zero = v_zero();
  tc_vec low = v_set1(scores[0]), high = low, sum = zero;
  float lows[TC_LANES], highs[TC_LANES], sums[TC_LANES];
  for (int32_t i = 0; i < n; i += TC_LANES) {
    const char *p = (const char *)(scores + i);
    const tc_vec v = n - i < TC_LANES ? v_keep(n - i, v_part_f32(p, n - i), low) : v_load_f32(p);
    low = v_min(low, v);
    high = v_max(high, v);
    sum = v_fma(v, zero, sum); /* 0 as long as all are finite */
  }
  v_store(lows, low);
  v_store(highs, high);
  v_store(sums, sum);
  for (int e = 1; e < TC_LANES; e++) {
    lows[0] = lows[e] < lows[0] ? lows[e] : lows[0];
    highs[0] = highs[e] > highs[0] ? highs[e] : highs[0];
    sums[0] += sums[e];
  }
  *least = lows[0];
  *greatest = highs[0];
  return sums[0] == 0.0f;
}

/* factor is a power of two: the product is exact, or rounds to 0 either way. */
static void offsets(const float *scores, int32_t n, float factor, int32_t top, int32_t *offsets) {
  const tc_vec f = v_set1(factor), most = v_set1(0x1p30f), least = v_set1(-0x1p30f);
  const tc_int tops = i_set1(top);
  for (int32_t i = 0; i < n; i += TC_LANES) {
    const char *p = (const char *)(scores + i);
    const tc_vec v = n - i < TC_LANES ? v_part_f32(p, n - i) : v_load_f32(p);
    const tc_vec q = v_max(v_min(v_fma(v, f, v_zero()), most), least);
    i_store(offsets + i, i_sub(tops, i_shift_10(i_round(q))));
  }
  for (int32_t i = n; i % 64 != 0; i++) offsets[i] = INT32_MAX;
}

static void below(const int32_t *offsets, int32_t n, int32_t limit, uint64_t *bits) {
  const tc_int limits = i_set1(limit);
  for (int32_t w = 0; 64 * w < n; w++) {
    uint64_t word = 0;
    for (int e = 0; e < 64; e += TC_LANES) {
      word |= (uint64_t)i_below(offsets + 64 * w + e, limits) << e;
    }
    bits[w] = word;
  }
}

/* Kept rows have gaps between them: only the caller knows the next one in time. */
static void copy(char *dst, const char *src, int64_t n, const char *next_dst,
                 const char *next_src) {
  enum { STEP = 128, REGISTER = 4 * TC_LANES };
  int64_t d = 0;
  for (; d + STEP <= n; d += STEP) {
    tc_vec v[STEP / REGISTER];
    TC_UNROLL
    for (int b = 0; b < STEP; b += 64) {
      __builtin_prefetch((const void *)((uintptr_t)next_src + (uintptr_t)(d + b)), 0, 2);
      __builtin_prefetch((const void *)((uintptr_t)next_dst + (uintptr_t)(d + b)), 1, 2);
    }
    TC_UNROLL
    for (int e = 0; e < STEP / REGISTER; e++) v[e] = v_load_f32(src + d + e * REGISTER);
    TC_UNROLL
    for (int e = 0; e < STEP / REGISTER; e++) {
      v_store((float *)(void *)(dst + d + e * REGISTER), v[e]);
    }
  }
  memcpy(dst + d, src + d, (size_t)(n - d));
}

#include "merge_simd.h"
#include "novelty_simd.h"

#define Q(x) h_##x
#include "grams_simd.h"
#undef Q

/* The table's initialiser after its name; q: the prefix of what multiplies. */
#define TC_TABLE(q) TC_TABLE_OF(q)
#define TC_TABLE_OF(q)                                                                          \
  {score_rows_f16, score_rows_bf16, score_rows_f32},                                            \
      {accumulate_f16, accumulate_bf16, accumulate_f32}, {widen_f16, widen_bf16, widen_f32},    \
      cosines, extremes, offsets, below, {q##_grams_f16, q##_grams_bf16, q##_grams_f32}, words, \
      farthest, {merge_f16, merge_bf16, merge_f32}, copy
