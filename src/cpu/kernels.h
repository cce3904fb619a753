/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels: the inner loops of the CPU backend, one table per SIMD level, equal bits from each.
 *
 * Every level computes dot products and squared norms in METHOD.md's order, so which one runs
 * never shows in a result. kernels_scalar.c is the oracle; the others are one template
 * (kernels_simd.h) over a few operations each. The caller sets the floating-point mode: round to
 * nearest even, denormals kept.
 */
#ifndef TAILCUT_KERNELS_H_
#define TAILCUT_KERNELS_H_

#include <stdint.h>

#include "../exact.h"

/* In ascending order. -DOTPROD and -VNNI: products of bytes in one instruction, in `grams`. */
typedef enum {
  TC_SIMD_SCALAR,
  TC_SIMD_NEON,
  TC_SIMD_NEON_DOTPROD,
  TC_SIMD_AVX2,
  TC_SIMD_AVX2_VNNI,
  TC_SIMD_AVX512,
  TC_SIMD_AVX512_VNNI,
  TC_SIMD_LEVELS
} tc_simd;

/* NOVELTY's similarity of two rows of a window, and which row the other is: (p + 2^20) << 8 | j. */
#define TC_NO_WORD INT32_MAX /* of a row with itself, and where there is none */
#define TC_NOVELTY_ROWS 256  /* of a window, at most */
#define TC_NOVELTY_CHUNK 512 /* elements of a row that are integers at a time */

/* Functions are indexed by dtype: 0 fp16, 1 bf16, 2 fp32. Rows may have any alignment; no byte past
 * a row's last element is read. */
typedef struct tc_kernels {
  const char *name; /* tc_simd_names[level] */
  /* dots[i] = <row_i, ref>, squares[i] = <row_i, row_i> in METHOD.md's order, i < rows. Row i
   * starts at row0 + i * row_stride bytes (any sign and size). ref: fp32 [dim]. dots (and with it
   * ref) or squares may be NULL. */
  void (*score_rows[3])(const void *row0, int64_t row_stride, int64_t rows, int32_t dim,
                        const float *ref, float *dots, float *squares);
  /* acc[d] = fma(row[d], w, acc[d]), d < dim */
  void (*accumulate[3])(const void *row, float w, float *acc, int32_t dim);
  /* dst[d] = row[d], widened exactly (a signalling NaN may come out quiet), d < n */
  void (*widen[3])(const void *row, float *dst, int64_t n);
  /* dots[i] becomes the cosine, METHOD.md's, of a row and a reference of norm `norm`. Returns
   * whether one is NaN. */
  int (*cosines)(float *dots, const float *squares, int32_t n, float norm);
  /* What the cut does with n > 0 scores. Whether all are finite; if so, the ends of their range. */
  int (*extremes)(const float *scores, int32_t n, float *least, float *greatest);
  /* offsets[i] = top - p, p the curve's value for a finite score at this scale; METHOD.md. Behind
   * them, up to a multiple of 64, INT32_MAX. */
  void (*offsets)(const float *scores, int32_t n, float factor, int32_t top, int32_t *offsets);
  /* Bit i of `bits`, in words of 64: offsets[i] < limit, limit < INT32_MAX; zero from n on. */
  void (*below)(const int32_t *offsets, int32_t n, int32_t limit, uint64_t *bits);
  /* What NOVELTY does with the n <= 256 rows of a window. g[i * pitch + j] = <q_i, q_j>, i and j <
   * n, q the rows' bytes: elements times factors[i], a power of two, rounded, to within +-127. A
   * row of factor 0 is zero, whatever is in it. pitch: n or more, a multiple of 16. q: room for n
   * rows of TC_NOVELTY_CHUNK 16-bit integers, up to a multiple of 4. */
  void (*grams[3])(const void *row0, int64_t row_stride, int32_t n, int32_t dim,
                   const float *factors, void *q, int32_t *g, int32_t pitch);
  /* Each row's words from its products, in place, up to pitch: TC_NO_WORD from n on. lengths
   * [pitch]: sqrt of a row with itself, as fp32; nowhere 0. */
  void (*words)(int32_t *g, int32_t pitch, int32_t n, const float *lengths);
  /* METHOD.md, step 5, from row `first`: values[j] = 2^20 - m for each of the `steps` rows that are
   * chosen next; there are that many. nearest: room for pitch. Returns the greatest value, the
   * first; -1 where there is none. */
  int32_t (*farthest)(const int32_t *words, int32_t pitch, int32_t first, int32_t steps,
                      int32_t *nearest, int32_t *values);
  /* dst[d] = (sum over i of weights[i] * rows[i][d], by fma in this order from +0) / total, rounded
   * to the rows' dtype, d < n; a NaN without payload. dst may be one of the rows. */
  void (*merge[3])(const char *const *rows, const float *weights, int32_t count, float total,
                   char *dst, int64_t n);
  /* As memcpy, for rows that are copied one after the other: the next call's dst and src, which
   * need not be there. */
  void (*copy)(char *dst, const char *src, int64_t n, const char *next_dst, const char *next_src);
} tc_kernels;

/* The values of TAILCUT_SIMD. */
extern const char *const tc_simd_names[TC_SIMD_LEVELS];
/* NULL when this build or this CPU lacks the level; SCALAR is always there. */
const tc_kernels *tc_kernels_for(tc_simd level);
/* The highest level that this build and this CPU have. */
tc_simd tc_kernels_best(void);

/* The levels themselves: only kernels.c and tests name them, and only where they are compiled. */
extern const tc_kernels tc_kernels_scalar;
#if defined(__x86_64__) && defined(__GNUC__)
extern const tc_kernels tc_kernels_avx2, tc_kernels_avx2_vnni;
extern const tc_kernels tc_kernels_avx512, tc_kernels_avx512_vnni;
#elif defined(__aarch64__) && defined(__GNUC__)
extern const tc_kernels tc_kernels_neon, tc_kernels_neon_dotprod;
#endif

#endif /* TAILCUT_KERNELS_H_ */
