/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rotate: turns the keys of a moved row from their old position to their new one.
 *
 * Formula: y0 = x0 cos(a) - x1 sin(a), y1 = x1 cos(a) + x0 sin(a) for each pair of rotary_dim/2, a
 * by the difference of positions or by two rows of a table: tailcut_rotation, turn.h.
 * Strategy: a row's cosines and sines are made once and used for all its parts; a part is turned
 * where it has been moved to. Precision: exact; values are widened, products and sums are doubles,
 * and what comes out is rounded once, to nearest even (NaN to one NaN). Rows that keep their
 * position keep their bits. Limits: scalar; arrays that share a rotation make its sines each.
 */
#include "cpu.h"

int tc_turns_find(tc_turn *turns, const tailcut_rotation *t, int32_t b, int64_t number, int64_t r,
                  int64_t j) {
  const tc_journey way = tc_journey_of(t, b, number, r, j);
  if (!tc_journey_turns(t, way)) return 0;
  for (int32_t i = 0; i < t->rotary_dim / 2; i++) turns[i] = tc_turn_of(t, way, i);
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
  if (v != v) return (uint16_t)(infinity | 1 << (bits - 1));
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
    const float f = v != v ? tc_bits_float(TC_NAN_BITS) : (float)v;
    memcpy(values + 4 * i, &f, 4);
  } else {
    const uint16_t h = narrow(v, t->dtype == TAILCUT_F16 ? 10 : 7);
    memcpy(values + 2 * i, &h, 2);
  }
}

void tc_turn_part(const tc_turn *turns, const tailcut_rotation *t, const tc_kernels *kernels,
                  char *part) {
  float x[TC_MOST_ROTARY];
  const int32_t half = t->rotary_dim / 2;
  const int neox = t->pairing == TAILCUT_ROPE_NEOX;
  char *const values = part + (int64_t)t->rotary_offset * tc_dtype_size(t->dtype);
  kernels->widen[t->dtype - TAILCUT_F16](values, x, t->rotary_dim);
  for (int32_t i = 0; i < half; i++) {
    const int32_t at0 = neox ? i : 2 * i, at1 = neox ? i + half : 2 * i + 1;
    const double x0 = (double)x[at0], x1 = (double)x[at1];
    put(t, values, at0, x0 * turns[i].cosine - x1 * turns[i].sine);
    put(t, values, at1, x1 * turns[i].cosine + x0 * turns[i].sine);
  }
}
