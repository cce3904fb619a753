/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rotate: turns the keys of a moved row from their old position to their new one.
 *
 * Formula: y0 = x0 cos(a) - x1 sin(a), y1 = x1 cos(a) + x0 sin(a) for each pair of rotary_dim/2, a
 * by the difference of positions or by two rows of a table: tailcut_rotation.
 * Strategy: a row's cosines and sines are made once and used for all its parts; a part is turned
 * where it has been moved to. Precision: values are widened exactly, everything is computed in
 * double and rounded once, to nearest even; sines are the C library's. Rows that keep their
 * position keep their bits. Limits: scalar; arrays that share a rotation make its sines each.
 */
#include <math.h>

#include "cpu.h"

static int64_t position_at(const void *table, int32_t bytes, int64_t i) {
  return bytes == 8 ? ((const int64_t *)table)[i] : ((const int32_t *)table)[i];
}

/* Sums and differences of positions are 64 bits wide and wrap there. */
static int64_t plus(int64_t a, int64_t b) { return (int64_t)((uint64_t)a + (uint64_t)b); }
static int64_t minus(int64_t a, int64_t b) { return (int64_t)((uint64_t)a - (uint64_t)b); }

int tc_turn_find(tc_turn *turn, const tailcut_rotation *t, int32_t b, int64_t number, int64_t r,
                 int64_t j) {
  const int64_t base = t->new_base != NULL ? position_at(t->new_base, t->position_bytes, b) : 0;
  const int64_t to = plus(base, j);
  const int64_t from =
      t->positions != NULL ? position_at(t->positions, t->position_bytes, number) : plus(base, r);
  const int32_t half = t->rotary_dim / 2;
  if (to == from) return 0;
  if (t->inv_freq != NULL) {
    const double distance = (double)minus(to, from);
    for (int32_t i = 0; i < half; i++) {
      const double angle = distance * (double)t->inv_freq[i];
      turn->cosine[i] = cos(angle);
      turn->sine[i] = sin(angle);
    }
    return 1;
  }
  if (to < 0 || to >= t->table_rows || from < 0 || from >= t->table_rows) return 0;
  const float *const row_to = t->cos_sin + to * t->rotary_dim;
  const float *const row_from = t->cos_sin + from * t->rotary_dim;
  for (int32_t i = 0; i < half; i++) {
    const double cn = (double)row_to[i], sn = (double)row_to[half + i];
    const double co = (double)row_from[i], so = (double)row_from[half + i];
    const double m = co * co + so * so;
    turn->cosine[i] = (cn * co + sn * so) / m;
    turn->sine[i] = (sn * co - cn * so) / m;
  }
  return 1;
}

/* v as a number with `bits` bits of fraction and an exponent of the rest of 16 bits, rounded to
 * nearest even. */
static uint16_t narrow(double v, int bits) {
  const int bias = (1 << (14 - bits)) - 1;
  uint64_t b;
  memcpy(&b, &v, 8);
  const uint16_t sign = (uint16_t)(b >> 63 << 15);
  const uint16_t infinity = (uint16_t)(((1 << (15 - bits)) - 1) << bits);
  uint64_t magnitude = b & ~((uint64_t)1 << 63);
  if (v != v) return (uint16_t)(sign | infinity | 1 << (bits - 1));
  const int exponent = (int)(magnitude >> 52) - 1023;
  int drop = 52 - bits;
  if (exponent > bias) return sign | infinity;
  if (exponent >= 1 - bias) {
    magnitude -= (uint64_t)(1023 - bias) << 52;
  } else { /* a denormal, or nothing */
    if (exponent < -bias - bits) return sign;
    magnitude = (magnitude & (((uint64_t)1 << 52) - 1)) | (uint64_t)1 << 52;
    drop += 1 - bias - exponent;
  }
  const uint64_t half = (uint64_t)1 << (drop - 1), rest = magnitude & (2 * half - 1);
  const uint64_t kept = magnitude >> drop;
  return (uint16_t)(sign | (kept + (rest > half || (rest == half && (kept & 1)))));
}

static void put(const tailcut_rotation *t, char *values, int32_t i, double v) {
  if (t->dtype == TAILCUT_F32) {
    const float f = (float)v;
    memcpy(values + 4 * i, &f, 4);
  } else {
    const uint16_t h = narrow(v, t->dtype == TAILCUT_F16 ? 10 : 7);
    memcpy(values + 2 * i, &h, 2);
  }
}

void tc_turn_part(const tc_turn *turn, const tailcut_rotation *t, const tc_kernels *kernels,
                  char *part) {
  float x[TC_MOST_ROTARY];
  const int32_t half = t->rotary_dim / 2;
  const int neox = t->pairing == TAILCUT_ROPE_NEOX;
  char *const values = part + (int64_t)t->rotary_offset * tc_dtype_size(t->dtype);
  kernels->widen[t->dtype - TAILCUT_F16](values, x, t->rotary_dim);
  for (int32_t i = 0; i < half; i++) {
    const int32_t at0 = neox ? i : 2 * i, at1 = neox ? i + half : 2 * i + 1;
    const double x0 = (double)x[at0], x1 = (double)x[at1];
    put(t, values, at0, x0 * turn->cosine[i] - x1 * turn->sine[i]);
    put(t, values, at1, x1 * turn->cosine[i] + x0 * turn->sine[i]);
  }
}
