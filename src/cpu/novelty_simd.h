/* SPDX-License-Identifier: Apache-2.0 */
/*
 * novelty_simd: the SIMD levels' loops of NOVELTY, for kernels_simd.h.
 *
 * Formula: METHOD.md, steps 2, 3 and 5. Precision: integers, exact in any order. Strategy: rows
 * become 16-bit integers by chunks of columns that stay in the first-level cache, in whatever order
 * packing leaves them, which is the same for every row; then blocks of 2 x 4 rows are multiplied,
 * two loads of a register for three of their products. A product and its sum with the neighbour's
 * are one operation that cannot overflow: |q| <= 127. In the loop a word carries similarity and
 * row number, so that one minimum finds both.
 *
 * The includer of kernels_simd.h defines besides:
 *   tc_half, 2 * TC_LANES integers of 16 bits, in any order: h_load(p), h_store(p, h),
 *   h_bytes(a, b)              the lanes of two vectors rounded to integers, to within +-127
 *   h_dot(i, a, b)             i plus, in each lane, the sum of two products
 *   i_load(p), i_add(i, j), i_or(i, j), i_max(i, j), i_min(i, j), i_up_8(i)
 *   i_float(i)                 each lane rounded once
 *   i_lanes()                  0, 1, 2, ...
 *   i_least(i)                 the least lane
 *   i_add_4(int32_t *p, const tc_int *i)   p[e] += sum of i[e], e < 4
 */

#define TC_CHUNK TC_NOVELTY_CHUNK

/* Elements [d, d + TC_CHUNK) of a row, times factor. */
TC_INLINE void byte_row(const char *row, int32_t d, int32_t dim, float factor, int dtype,
                        int16_t *q) {
  const tc_vec f = v_set1(factor), zero = v_zero();
  const int32_t n = dim - d < TC_CHUNK ? dim - d : TC_CHUNK;
  const int64_t size = size_of(dtype);
  const char *p = row + d * size;
  int32_t e = 0;
  for (; e + 2 * TC_LANES <= n; e += 2 * TC_LANES, p += 2 * TC_LANES * size) {
    const tc_vec a = v_fma(load(p, dtype), f, zero);
    h_store(q + e, h_bytes(a, v_fma(load(p + TC_LANES * size, dtype), f, zero)));
  }
  if (e < n) {
    const int32_t left = n - e;
    const tc_vec a = left < TC_LANES ? load_part(p, left, dtype) : load(p, dtype);
    const tc_vec b =
        left > TC_LANES ? load_part(p + TC_LANES * size, left - TC_LANES, dtype) : zero;
    h_store(q + e, h_bytes(v_fma(a, f, zero), v_fma(b, f, zero)));
  }
}

/* g[i][j] += <q_i, q_j> for i up to j or a few more, but below `rows`, over one chunk. q has rows
 * up to a multiple of 4. */
static void multiply_chunk(const int16_t *q, int32_t rows, int32_t width, int32_t *g,
                           int32_t pitch) {
  for (int32_t j = 0; j < rows; j += 4) {
    const int16_t *b = q + j * TC_CHUNK;
    for (int32_t i = 0; i < j + 4 && i < rows; i += 2) {
      const int16_t *a = q + i * TC_CHUNK;
      tc_int sums[8];
      TC_UNROLL
      for (int e = 0; e < 8; e++) sums[e] = i_set1(0);
      for (int32_t d = 0; d < width; d += 2 * TC_LANES) {
        tc_half a0 = h_load(a + d), a1 = h_load(a + TC_CHUNK + d);
        V_HOLD(a0);
        V_HOLD(a1);
        TC_UNROLL
        for (int e = 0; e < 4; e++) {
          tc_half c = h_load(b + e * TC_CHUNK + d);
          V_HOLD(c);
          sums[e] = h_dot(sums[e], a0, c);
          V_HOLD(sums[e]);
          sums[4 + e] = h_dot(sums[4 + e], a1, c);
          V_HOLD(sums[4 + e]);
        }
      }
      i_add_4(g + i * pitch + j, sums);
      if (i + 1 < rows) i_add_4(g + (i + 1) * pitch + j, sums + 4);
    }
  }
}

TC_INLINE void grams_of(const char *row0, int64_t row_stride, int32_t rows, int32_t dim,
                        const float *factors, int16_t *q, int32_t *g, int32_t pitch, int dtype) {
  const int32_t whole = (rows + 3) & ~3;
  memset(g, 0, sizeof *g * (size_t)(rows * pitch));
  for (int32_t i = rows; i < whole; i++) memset(q + i * TC_CHUNK, 0, sizeof *q * TC_CHUNK);
  for (int32_t d = 0; d < dim; d += TC_CHUNK) {
    const int32_t n = dim - d < TC_CHUNK ? dim - d : TC_CHUNK;
    for (int32_t i = 0; i < rows; i++) {
      if (factors[i] == 0.0f) {
        memset(q + i * TC_CHUNK, 0, sizeof *q * TC_CHUNK);
      } else {
        byte_row(row0 + i * row_stride, d, dim, factors[i], dtype, q + i * TC_CHUNK);
      }
    }
    multiply_chunk(q, rows, (n + 2 * TC_LANES - 1) / (2 * TC_LANES) * (2 * TC_LANES), g, pitch);
  }
  for (int32_t i = 0; i < rows; i++) {
    for (int32_t j = 0; j < i; j++) g[i * pitch + j] = g[j * pitch + i];
  }
}

#define TC_DEFINE_GRAMS(t, dtype)                                                        \
  static void grams_##t(const void *row0, int64_t row_stride, int32_t rows, int32_t dim, \
                        const float *factors, int16_t *q, int32_t *g, int32_t pitch) {   \
    grams_of((const char *)row0, row_stride, rows, dim, factors, q, g, pitch, dtype);    \
  }
TC_DEFINE_GRAMS(f16, TC_F16)
TC_DEFINE_GRAMS(bf16, TC_BF16)
TC_DEFINE_GRAMS(f32, TC_F32)

/* Columns from `rows` on get words of numbers that nobody reads as similarities. */
static void words(int32_t *g, int32_t pitch, int32_t rows, const float *lengths) {
  const tc_vec one = v_set1(1.0f), minus_one = v_set1(-1.0f), unit = v_set1(0x1p20f);
  const tc_vec zero = v_zero();
  const tc_int base = i_set1(1 << 20), lanes = i_lanes(), none = i_set1(TC_NO_WORD);
  for (int32_t i = 0; i < rows; i++) {
    int32_t *row = g + i * pitch;
    const tc_vec length = v_set1(lengths[i]);
    for (int32_t j = 0; j < pitch; j += TC_LANES) {
      if (j >= rows) {
        i_store(row + j, none);
        continue;
      }
      const tc_vec norms = v_fma(length, v_load_f32((const char *)(lengths + j)), zero);
      const tc_vec c = v_div(i_float(i_load(row + j)), norms);
      const tc_vec p = v_fma(v_max(v_min(c, one), minus_one), unit, zero);
      const tc_int word = i_or(i_up_8(i_add(i_round(p), base)), i_add(lanes, i_set1(j)));
      i_store(row + j, word);
    }
    for (int32_t j = rows; j < pitch && j % TC_LANES != 0; j++) row[j] = TC_NO_WORD;
    row[i] = TC_NO_WORD;
  }
}

static int32_t farthest(const int32_t *words, int32_t pitch, int32_t first, int32_t steps,
                        int32_t *nearest, int32_t *values) {
  const int32_t *row = words + first * pitch;
  int32_t greatest = -1;
  for (int32_t j = 0; j < pitch; j += TC_LANES) i_store(nearest + j, i_load(row + j));
  for (int32_t step = 0; step < steps; step++) {
    tc_int least = i_set1(TC_NO_WORD);
    for (int32_t j = 0; j < pitch; j += TC_LANES) {
      const tc_int word = i_max(i_load(nearest + j), i_load(row + j));
      i_store(nearest + j, word);
      least = i_min(least, word);
    }
    const int32_t word = i_least(least), j = word & 255;
    values[j] = (1 << 21) - (word >> 8);
    if (step == 0) greatest = values[j];
    row = words + j * pitch;
  }
  return greatest;
}
