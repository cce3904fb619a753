/* SPDX-License-Identifier: Apache-2.0 */
/* kernels: the inner loops of the CPU backend, one table per SIMD level, equal bits from each. */
#ifndef TAILCUT_KERNELS_H_
#define TAILCUT_KERNELS_H_

#include <stdint.h>

typedef enum { TC_SIMD_SCALAR = 0, TC_SIMD_NEON = 1, TC_SIMD_AVX2 = 2, TC_SIMD_AVX512 = 3 } tc_simd;

/* Indexed by dtype: 0 fp16, 1 bf16, 2 fp32. */
typedef struct tc_kernels {
  const char *name;
  /* dots[i] = <row_i, ref>, squares[i] = <row_i, row_i> in METHOD.md's order, i < rows. Row i
   * starts at row0 + i * row_stride bytes. ref: fp32 [dim]. dots (and ref) or squares may be
   * NULL. */
  void (*score_rows[3])(const void *row0, int64_t row_stride, int64_t rows, int32_t dim,
                        const float *ref, float *dots, float *squares);
  /* acc[d] = fma(row[d], w, acc[d]) */
  void (*accumulate[3])(const void *row, float w, float *acc, int32_t dim);
  /* dst[d] = row[d], widened exactly */
  void (*widen[3])(const void *row, float *dst, int64_t n);
} tc_kernels;

/* NULL when this build or this CPU lacks the level. */
const tc_kernels *tc_kernels_for(tc_simd level);
tc_simd tc_kernels_best(void);

#endif
