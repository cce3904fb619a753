/* SPDX-License-Identifier: Apache-2.0 */
/* reference_rotate: the re-rotation of keys from the specification, as multiplication of complex
 * numbers; and the comparison of what need only be close. */
#include <complex.h>
#include <math.h>
#include <string.h>

#include "data.h"
#include "reference.h"

static int64_t position(const void *array, int32_t bytes, int64_t i) {
  int64_t wide;
  int32_t narrow;
  if (bytes == 8) {
    memcpy(&wide, (const char *)array + 8 * i, 8);
    return wide;
  }
  memcpy(&narrow, (const char *)array + 4 * i, 4);
  return narrow;
}

/* Pair i of a row that goes from position `from` to `to`: what its keys are multiplied by. */
static long double complex turn(const tailcut_rotation *t, int64_t from, int64_t to, int32_t i) {
  const int64_t half = t->rotary_dim / 2;
  if (t->inv_freq != NULL) {
    const double angle = (double)(to - from) * (double)t->inv_freq[i];
    return cosl((long double)angle) + sinl((long double)angle) * (long double complex)I;
  }
  const float *a = t->cos_sin + to * t->rotary_dim + i, *b = t->cos_sin + from * t->rotary_dim + i;
  const long double complex now = (long double)a[0] + (long double)a[half] * (long double complex)I;
  const long double complex then =
      (long double)b[0] + (long double)b[half] * (long double complex)I;
  const long double norm = creall(then) * creall(then) + cimagl(then) * cimagl(then);
  return now * conjl(then) / norm;
}

int ref_turn(const tailcut_rotation *t, int32_t b, int64_t number, int64_t r, int64_t j,
             const void *part, long double *values) {
  const int64_t base = t->new_base ? position(t->new_base, t->position_bytes, b) : 0;
  const int64_t from = t->positions ? position(t->positions, t->position_bytes, number) : base + r;
  const int64_t to = base + j;
  const int64_t least = from < to ? from : to, most = from < to ? to : from;
  if (least == most) return 0;
  if (t->cos_sin != NULL && (least < 0 || most >= t->table_rows)) return 0;
  for (int32_t i = 0; i < t->rotary_dim / 2; i++) {
    const int neox = t->pairing == TAILCUT_ROPE_NEOX;
    const int32_t re = neox ? i : 2 * i, im = neox ? i + t->rotary_dim / 2 : 2 * i + 1;
    const long double x0 = (long double)tt_get(part, t->dtype, (size_t)(t->rotary_offset + re));
    const long double x1 = (long double)tt_get(part, t->dtype, (size_t)(t->rotary_offset + im));
    const long double complex c = turn(t, from, to, i);
    /* By hand: a complex product has rules of its own for infinities. */
    values[re] = x0 * creall(c) - x1 * cimagl(c);
    values[im] = x1 * creall(c) + x0 * cimagl(c);
  }
  return 1;
}

/* Numbers of a dtype in their order, one apart where the next is; both zeros are 0. */
static int64_t step_of(const uint8_t *p, int32_t dtype) {
  uint32_t bits = 0;
  memcpy(&bits, p, tt_size(dtype)); /* little-endian */
  const uint32_t sign = dtype == TAILCUT_F32 ? 0x80000000u : 0x8000u;
  return bits & sign ? -(int64_t)(bits & ~sign) : (int64_t)bits;
}

int ref_differs(const uint8_t *got, const uint8_t *want, const uint8_t *open, size_t i) {
  if (got[i] == want[i]) return 0;
  if (open == NULL || open[i] == 0) return 1;
  if (open[i] == REF_OPEN) return 0;
  const int32_t dtype = open[i] - REF_OPEN;
  const size_t at = i / tt_size(dtype) * tt_size(dtype);
  const float a = tt_get(got + at, dtype, 0), b = tt_get(want + at, dtype, 0);
  const int64_t steps = step_of(got + at, dtype) - step_of(want + at, dtype);
  if (a != a || b != b) return (a != a) != (b != b);
  return steps < -1 || steps > 1;
}
