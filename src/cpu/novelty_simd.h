/* SPDX-License-Identifier: Apache-2.0 */
/*
 * novelty_simd: the SIMD levels' loops of NOVELTY, for kernels_simd.h.
 *
 * Formula: METHOD.md, steps 3 and 5. Precision: integers, exact in any order. Strategy: in the loop
 * a word carries similarity and row number, so that one minimum finds both.
 *
 * The includer of kernels_simd.h defines besides:
 *   i_load(p), i_add(i, j), i_or(i, j), i_max(i, j), i_min(i, j), i_up_8(i)
 *   i_float(i)                 each lane rounded once
 *   i_lanes()                  0, 1, 2, ...
 *   i_least(i)                 the least lane
 */

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
