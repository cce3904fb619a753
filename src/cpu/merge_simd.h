/* SPDX-License-Identifier: Apache-2.0 */
/*
 * merge_simd: the SIMD levels' loop of merging, for kernels_simd.h.
 *
 * Formula: METHOD.md, MERGE: weighted means of a few rows. Strategy: MERGE_COLS registers of
 * columns through all rows, then the next ones. Precision: fp32, one fma a row in the order given,
 * one division, one rounding to the rows' dtype.
 */

TC_INLINE void narrow(char *p, tc_vec v, int dtype) {
  if (dtype == TC_F16) {
    v_narrow_f16(p, v);
  } else if (dtype == TC_BF16) {
    v_narrow_bf16(p, v);
  } else {
    v_store((float *)(void *)p, v);
  }
}

TC_INLINE tc_vec finish_mean(tc_vec sum, tc_vec total) {
  const tc_vec mean = v_div(sum, total);
  return v_pick(mean, v_set1(INFINITY), mean, v_set1(tc_bits_float(TC_NAN_BITS)));
}

TC_INLINE void merge_rows(const char *const *rows, const float *weights, int32_t count, float total,
                          char *dst, int64_t n, int dtype) {
  enum { MERGE_COLS = 8 };
  const int64_t size = size_of(dtype), step = MERGE_COLS * TC_LANES;
  const tc_vec t = v_set1(total);
  int64_t d = 0;
  for (; d + step <= n; d += step) {
    tc_vec sums[MERGE_COLS];
    TC_UNROLL
    for (int c = 0; c < MERGE_COLS; c++) sums[c] = v_zero();
    for (int32_t i = 0; i < count; i++) {
      const tc_vec w = v_set1(weights[i]);
      const char *p = rows[i] + d * size;
      TC_UNROLL
      for (int c = 0; c < MERGE_COLS; c++) {
        sums[c] = v_fma(w, load(p + c * TC_LANES * size, dtype), sums[c]);
      }
    }
    TC_UNROLL
    for (int c = 0; c < MERGE_COLS; c++) {
      narrow(dst + (d + c * TC_LANES) * size, finish_mean(sums[c], t), dtype);
    }
  }
  for (; d < n; d += TC_LANES) {
    const int64_t left = n - d;
    char tail[4 * TC_LANES];
    tc_vec sum = v_zero();
    for (int32_t i = 0; i < count; i++) {
      const char *p = rows[i] + d * size;
      const tc_vec v = left < TC_LANES ? load_part(p, left, dtype) : load(p, dtype);
      sum = v_fma(v_set1(weights[i]), v, sum);
    }
    narrow(tail, finish_mean(sum, t), dtype);
    memcpy(dst + d * size, tail, (size_t)((left < TC_LANES ? left : TC_LANES) * size));
  }
}

#define TC_DEFINE_MERGE(t, dtype)                                                                  \
  static void merge_##t(const char *const *rows, const float *weights, int32_t count, float total, \
                        char *dst, int64_t n) {                                                    \
    merge_rows(rows, weights, count, total, dst, n, dtype);                                        \
  }
TC_DEFINE_MERGE(f16, TC_F16)
TC_DEFINE_MERGE(bf16, TC_BF16)
TC_DEFINE_MERGE(f32, TC_F32)
