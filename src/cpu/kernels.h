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

typedef enum { TC_SIMD_SCALAR = 0, TC_SIMD_NEON = 1, TC_SIMD_AVX2 = 2, TC_SIMD_AVX512 = 3 } tc_simd;

/* Functions are indexed by dtype: 0 fp16, 1 bf16, 2 fp32. Rows may have any alignment; no byte past
 * a row's last element is read. */
typedef struct tc_kernels {
  const char *name; /* "scalar", "neon", "avx2", "avx512": the values of TAILCUT_SIMD */
  /* dots[i] = <row_i, ref>, squares[i] = <row_i, row_i> in METHOD.md's order, i < rows. Row i
   * starts at row0 + i * row_stride bytes (any sign and size). ref: fp32 [dim]. dots (and with it
   * ref) or squares may be NULL. */
  void (*score_rows[3])(const void *row0, int64_t row_stride, int64_t rows, int32_t dim,
                        const float *ref, float *dots, float *squares);
  /* acc[d] = fma(row[d], w, acc[d]), d < dim */
  void (*accumulate[3])(const void *row, float w, float *acc, int32_t dim);
  /* dst[d] = row[d], widened exactly (a signalling NaN may come out quiet), d < n */
  void (*widen[3])(const void *row, float *dst, int64_t n);
} tc_kernels;

/* NULL when this build or this CPU lacks the level; SCALAR is always there. */
const tc_kernels *tc_kernels_for(tc_simd level);
/* The highest level that this build and this CPU have. */
tc_simd tc_kernels_best(void);

/* The levels themselves: only kernels.c and tests name them, and only where they are compiled. */
extern const tc_kernels tc_kernels_scalar;
#if defined(__x86_64__) && defined(__GNUC__)
extern const tc_kernels tc_kernels_avx2;
extern const tc_kernels tc_kernels_avx512;
#elif defined(__aarch64__) && defined(__GNUC__)
extern const tc_kernels tc_kernels_neon;
#endif

#endif /* TAILCUT_KERNELS_H_ */
