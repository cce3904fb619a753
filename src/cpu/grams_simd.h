/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grams_simd: the products of a window's rows, for kernels_simd.h; included for each way to
 * multiply.
 *
 * Formula: METHOD.md, steps 2 and 3. Precision: integers, exact in any order. Strategy: rows become
 * small integers by chunks of columns, in whatever order packing leaves them, which is the same for
 * every row; then blocks of 2 x 4 rows are multiplied, two loads of a register for three of their
 * products. The loop over columns is unrolled: a taken branch costs about a cycle.
 *
 * Q(x) gives every name here its prefix. The includer defines besides what kernels_simd.h needs:
 *   Q(integer), Q(register)        one q, and PACK * TC_LANES of them
 *   enum Q(PACK)                   vectors to a register: 2 (16-bit integers) or 4 (bytes)
 *   enum Q(SHIFT)                  1 where Q(left) adds 128 to each integer, or 0
 *   Q(load)(p), Q(store)(p, r)
 *   Q(pack)(const tc_vec *v)       PACK vectors rounded to integers, to within +-127, in any order
 *   Q(left)(r)                     what Q(dot) wants on its left
 *   Q(dot)(i, a, b)                tc_int i plus, in each lane, the sum of PACK products
 *   V_HOLD(x)                      keeps a register where it is (GCC loads twice, and moves sums)
 *   i_add_4(int32_t *p, const tc_int *i)   p[e] += sum of i[e], e < 4
 */

#undef TC_STEP
#define TC_STEP (Q(PACK) * TC_LANES) /* columns to a register */

/* The first n columns of a row, times factor; zeros up to `width`. */
TC_INLINE void Q(row)(const char *p, int32_t n, int32_t width, float factor, int dtype,
                      Q(integer) * q) {
  const tc_vec f = v_set1(factor), zero = v_zero();
  const int64_t size = size_of(dtype);
  tc_vec v[Q(PACK)];
  int32_t e = 0;
  for (; e + TC_STEP <= n; e += TC_STEP) {
    TC_UNROLL
    for (int k = 0; k < Q(PACK); k++, p += TC_LANES * size) v[k] = v_fma(load(p, dtype), f, zero);
    Q(store)(q + e, Q(pack)(v));
  }
  for (; e < width; e += TC_STEP) {
    TC_UNROLL
    for (int k = 0; k < Q(PACK); k++, p += TC_LANES * size) {
      const int32_t left = n - e - k * TC_LANES;
      v[k] = left >= TC_LANES ? load(p, dtype) : left > 0 ? load_part(p, left, dtype) : zero;
      v[k] = v_fma(v[k], f, zero);
    }
    Q(store)(q + e, Q(pack)(v));
  }
}

/* g[i][j] += <q_i, q_j> for i up to j or a few more, but below `rows`, over one chunk; with SHIFT
 * <q_i + 128, q_j>, and shifts[j] += <128, q_j>. q has rows up to a multiple of 4. */
static void Q(multiply)(const Q(integer) * q, int32_t rows, int32_t width, int32_t *g,
                        int32_t pitch, int32_t *shifts) {
  tc_int sums[8];
  for (int32_t j = 0; Q(SHIFT) && j < rows; j += 4) {
    TC_UNROLL
    for (int e = 0; e < 4; e++) {
      const Q(integer) *b = q + (j + e) * TC_NOVELTY_CHUNK;
      sums[e] = i_set1(0);
      for (int32_t d = 0; d < width; d += TC_STEP) {
        sums[e] = Q(dot)(sums[e], Q(left)(Q(zero)()), Q(load)(b + d));
      }
    }
    i_add_4(shifts + j, sums);
  }
  for (int32_t j = 0; j < rows; j += 4) {
    const Q(integer) *b = q + j * TC_NOVELTY_CHUNK;
    for (int32_t i = 0; i < j + 4 && i < rows; i += 2) {
      const Q(integer) *a = q + i * TC_NOVELTY_CHUNK;
      TC_UNROLL
      for (int e = 0; e < 8; e++) sums[e] = i_set1(0);
      for (int32_t d = 0; d < width; d += TC_UNROLLED * TC_STEP) {
        TC_UNROLL
        for (int u = 0; u < TC_UNROLLED; u++) {
          const int32_t at = d + u * TC_STEP;
          Q(register) a0 = Q(left)(Q(load)(a + at));
          Q(register) a1 = Q(left)(Q(load)(a + TC_NOVELTY_CHUNK + at));
          V_HOLD(a0);
          V_HOLD(a1);
          TC_UNROLL
          for (int e = 0; e < 4; e++) {
            Q(register) c = Q(load)(b + e * TC_NOVELTY_CHUNK + at);
            V_HOLD(c);
            sums[e] = Q(dot)(sums[e], a0, c);
            V_HOLD(sums[e]);
            sums[4 + e] = Q(dot)(sums[4 + e], a1, c);
            V_HOLD(sums[4 + e]);
          }
        }
      }
      i_add_4(g + i * pitch + j, sums);
      if (i + 1 < rows) i_add_4(g + (i + 1) * pitch + j, sums + 4);
    }
  }
}

TC_INLINE void Q(grams)(const char *row0, int64_t row_stride, int32_t rows, int32_t dim,
                        const float *factors, Q(integer) * q, int32_t *g, int32_t pitch,
                        int dtype) {
  const int32_t whole = (rows + 3) & ~3;
  int32_t shifts[TC_NOVELTY_ROWS + 4] = {0};
  memset(g, 0, sizeof *g * (size_t)(rows * pitch));
  memset(q + rows * TC_NOVELTY_CHUNK, 0, sizeof *q * (size_t)((whole - rows) * TC_NOVELTY_CHUNK));
  for (int32_t d = 0; d < dim; d += TC_NOVELTY_CHUNK) {
    const int32_t n = dim - d < TC_NOVELTY_CHUNK ? dim - d : TC_NOVELTY_CHUNK;
    const int32_t most = TC_UNROLLED * TC_STEP, width = (n + most - 1) / most * most;
    for (int32_t i = 0; i < rows; i++) {
      Q(integer) *to = q + i * TC_NOVELTY_CHUNK;
      if (factors[i] == 0.0f) {
        memset(to, 0, sizeof *to * (size_t)width);
      } else {
        Q(row)(row0 + i * row_stride + d * size_of(dtype), n, width, factors[i], dtype, to);
      }
    }
    Q(multiply)(q, rows, width, g, pitch, shifts);
  }
  for (int32_t i = 0; i < rows; i++) {
    int32_t *row = g + i * pitch;
    for (int32_t j = i; Q(SHIFT) && j < rows; j++) {
      row[j] = (int32_t)((uint32_t)row[j] - (uint32_t)shifts[j]);
    }
    for (int32_t j = 0; j < i; j++) row[j] = g[j * pitch + i];
  }
}

#define TC_DEFINE_GRAMS(t, dtype)                                                           \
  static void Q(grams_##t)(const void *row0, int64_t row_stride, int32_t rows, int32_t dim, \
                           const float *factors, void *q, int32_t *g, int32_t pitch) {      \
    Q(grams)((const char *)row0, row_stride, rows, dim, factors, q, g, pitch, dtype);       \
  }
TC_DEFINE_GRAMS(f16, TC_F16)
TC_DEFINE_GRAMS(bf16, TC_BF16)
TC_DEFINE_GRAMS(f32, TC_F32)
#undef TC_DEFINE_GRAMS
