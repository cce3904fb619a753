/* SPDX-License-Identifier: Apache-2.0 */
/*
 * turn: by how much keys turn (tailcut_rotation), once for every backend: the same operations on
 * doubles in the same order give the same bits.
 *
 * Formula: sine and cosine of r = a - n pi/2, |r| <= pi/4, by the polynomials of FreeBSD's msun
 * (k_sin.c, k_cos.c), dealt to a by the quadrant n. pi/2 comes in three parts of 53 bits; each
 * product is subtracted by fma and the first difference is exact, so that r is accurate up to
 * |a| = 2^40. Precision: within 2^-52 of the true sine and cosine; built uncontracted.
 */
#ifndef TAILCUT_TURN_H_
#define TAILCUT_TURN_H_

#include "curve.h"

typedef struct tc_turn {
  double cosine, sine;
} tc_turn;

TC_HD tc_turn tc_turn_by_angle(double a) {
  const double to_integer = 0x1.8p52; /* in a sum with it the lowest bits are those of n */
  const double sum = a * 0x1.45f306dc9c883p-1 + to_integer, n = sum - to_integer;
  double r = fma(-n, 0x1.921fb54442d18p+0, a);
  r = fma(-n, 0x1.1a62633145c07p-54, r);
  r = fma(-n, -0x1.f1976b7ed8fbcp-110, r);
  const double z = r * r;
  double s = 1.58969099521155010221e-10, c = -1.13596475577881948265e-11;
  s = s * z + -2.50507602534068634195e-08;
  s = s * z + 2.75573137070700676789e-06;
  s = s * z + -1.98412698298579493134e-04;
  s = s * z + 8.33333333332248946124e-03;
  s = s * z + -1.66666666666666324348e-01;
  s = r + r * z * s;
  c = c * z + 2.08757232129817482790e-09;
  c = c * z + -2.75573143513906633035e-07;
  c = c * z + 2.48015872894767294178e-05;
  c = c * z + -1.38888888888741095749e-03;
  c = c * z + 4.16666666666666019037e-02;
  c = 1.0 - (0.5 * z - z * z * c);
  uint64_t quadrant;
  memcpy(&quadrant, &sum, sizeof quadrant);
  tc_turn turn;
  turn.cosine = quadrant & 1 ? s : c;
  turn.sine = quadrant & 1 ? c : s;
  if ((quadrant + 1) & 2) turn.cosine = -turn.cosine;
  if (quadrant & 2) turn.sine = -turn.sine;
  return turn;
}

/* From row (co, so) of a table to row (cn, sn). */
TC_HD tc_turn tc_turn_by_rows(double cn, double sn, double co, double so) {
  const double m = co * co + so * so;
  tc_turn turn;
  turn.cosine = (cn * co + sn * so) / m;
  turn.sine = (sn * co - cn * so) / m;
  return turn;
}

/* A row that goes from one position to another. */
typedef struct tc_journey {
  int64_t from, to;
} tc_journey;

TC_HD int64_t tc_position_at(const void *table, int32_t bytes, int64_t i) {
  return bytes == 8 ? ((const int64_t *)table)[i] : ((const int32_t *)table)[i];
}

/* Result row j of segment b comes from the segment's row r, number `number` of the batch. Sums have
 * 64 bits and wrap there. */
TC_HD tc_journey tc_journey_of(const tailcut_rotation *t, int32_t b, int64_t number, int64_t r,
                               int64_t j) {
  uint64_t base = 0;
  tc_journey way;
  if (t->new_base != NULL) base = (uint64_t)tc_position_at(t->new_base, t->position_bytes, b);
  way.to = (int64_t)(base + (uint64_t)j);
  way.from = t->positions != NULL ? tc_position_at(t->positions, t->position_bytes, number)
                                  : (int64_t)(base + (uint64_t)r);
  return way;
}

/* Whether its keys turn; if not, its bits stay. */
TC_HD int tc_journey_turns(const tailcut_rotation *t, tc_journey way) {
  if (way.from == way.to) return 0;
  if (t->cos_sin == NULL) return 1;
  return way.from >= 0 && way.from < t->table_rows && way.to >= 0 && way.to < t->table_rows;
}

/* By how much pair i does. */
TC_HD tc_turn tc_turn_of(const tailcut_rotation *t, tc_journey way, int32_t i) {
  if (t->cos_sin == NULL) {
    const int64_t distance = (int64_t)((uint64_t)way.to - (uint64_t)way.from);
    return tc_turn_by_angle((double)distance * (double)t->inv_freq[i]);
  }
  const int32_t half = t->rotary_dim / 2;
  const float *now = t->cos_sin + way.to * t->rotary_dim + i;
  const float *then = t->cos_sin + way.from * t->rotary_dim + i;
  return tc_turn_by_rows((double)now[0], (double)now[half], (double)then[0], (double)then[half]);
}

#endif /* TAILCUT_TURN_H_ */
