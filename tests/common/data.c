/* SPDX-License-Identifier: Apache-2.0 */
/* data: splitmix64 and what is made of it; fp16 and bf16 by integer arithmetic. */
#include "data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <tailcut.h>

#include "backends.h"

uint64_t tt_next(tt_random *random) {
  uint64_t z = (random->state += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

int32_t tt_below(tt_random *random, int32_t n) {
  return (int32_t)((tt_next(random) >> 32) % (uint32_t)n);
}

double tt_uniform(tt_random *random) { return (double)(tt_next(random) >> 11) * 0x1p-53; }

double tt_normal(tt_random *random) {
  const double u = tt_uniform(random), v = tt_uniform(random);
  return sqrt(-2.0 * log(1.0 - u)) * cos(6.283185307179586 * v);
}

size_t tt_size(int32_t dtype) { return dtype == TAILCUT_F32 ? 4 : 2; }

/* The upper `32 - drop` bits of b, rounded to nearest even. */
static uint32_t round_bits(uint32_t b, int drop) {
  const uint32_t half = 1u << (drop - 1), rest = b & (2 * half - 1);
  const uint32_t kept = b >> drop;
  return kept + (rest > half || (rest == half && (kept & 1)));
}

static uint16_t to_f16(uint32_t b) {
  const uint32_t sign = b >> 31 << 15, magnitude = b & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return (uint16_t)(sign | 0x7E00u);
  if (magnitude >= 0x38800000u) { /* normal in fp16: 2^-14 and above */
    const uint32_t r = round_bits(magnitude - 0x38000000u, 13);
    return (uint16_t)(sign | (r > 0x7C00u ? 0x7C00u : r));
  }
  if (magnitude < 0x33000000u) return (uint16_t)sign; /* below 2^-25 */
  const int exponent = (int)(magnitude >> 23);        /* 102..112 */
  const uint32_t fraction = (magnitude & 0x7FFFFFu) | 0x800000u;
  return (uint16_t)(sign | round_bits(fraction, 126 - exponent));
}

static float from_f16(uint16_t h) {
  const int exponent = h >> 10 & 31, fraction = h & 1023;
  const float sign = h >> 15 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? sign * NAN : sign * INFINITY;
  if (exponent == 0) return sign * ldexpf((float)fraction, -24);
  return sign * ldexpf((float)(1024 + fraction), exponent - 25);
}

void tt_put(void *array, int32_t dtype, size_t i, float value) {
  uint32_t b;
  uint16_t h;
  memcpy(&b, &value, 4);
  if (dtype == TAILCUT_F32) {
    memcpy((char *)array + 4 * i, &b, 4);
    return;
  }
  if (dtype == TAILCUT_F16) {
    h = to_f16(b);
  } else {
    h = (b & 0x7FFFFFFFu) > 0x7F800000u ? (uint16_t)(b >> 16 | 0x40u) : (uint16_t)round_bits(b, 16);
  }
  memcpy((char *)array + 2 * i, &h, 2);
}

float tt_get(const void *array, int32_t dtype, size_t i) {
  float value;
  uint16_t h;
  if (dtype == TAILCUT_F32) {
    memcpy(&value, (const char *)array + 4 * i, 4);
    return value;
  }
  memcpy(&h, (const char *)array + 2 * i, 2);
  if (dtype == TAILCUT_F16) return from_f16(h);
  const uint32_t b = (uint32_t)h << 16;
  memcpy(&value, &b, 4);
  return value;
}

/* One row's values: shared direction times a degree, plus noise, then its spikes. */
static void one_row(tt_random *random, float *row, const float *shared, int32_t dim, int32_t dtype,
                    unsigned spikes) {
  const double degree = tt_uniform(random) * tt_uniform(random) * 2.0 - 0.3;
  const int which = tt_below(random, 8);
  double scale = exp(tt_normal(random));
  if ((spikes & TT_HUGE) && which == 1) scale = dtype == TAILCUT_F16 ? 2e4 : 1e19;
  if ((spikes & TT_TINY) && which == 2) scale = dtype == TAILCUT_F16 ? 1e-6 : 1e-39;
  if ((spikes & TT_TINY) && which == 3) scale = dtype == TAILCUT_F16 ? 3e-8 : 1e-23;
  for (int32_t d = 0; d < dim; d++) {
    row[d] = (float)(scale * (degree * (double)shared[d] + 0.4 * tt_normal(random)));
  }
  if (spikes & TT_MASSIVE) {
    row[dim / 2] *= 30.0f;
    if (which == 7) row[dim / 3] *= 200.0f;
  }
  if ((spikes & TT_NOT_FINITE) && which == 4) row[tt_below(random, dim)] = NAN;
  if ((spikes & TT_NOT_FINITE) && which == 5) {
    row[tt_below(random, dim)] = tt_below(random, 2) ? INFINITY : -INFINITY;
  }
  if ((spikes & TT_ZERO_ROWS) && which == 6) memset(row, 0, sizeof *row * (size_t)dim);
}

void tt_tokens(tt_random *random, void *tokens, int32_t dtype, int64_t rows, int32_t dim,
               int64_t stride, unsigned spikes) {
  float *shared = tt_host(sizeof *shared * (size_t)dim);
  float *row = tt_host(sizeof *row * (size_t)dim);
  for (int32_t d = 0; d < dim; d++) shared[d] = (float)tt_normal(random);
  for (int64_t r = 0; r < rows; r++) {
    const size_t at = (size_t)(r * stride);
    /* A tie repeats the row before it, so that ties also meet across blocks of rows. */
    if (r == 0 || !(spikes & TT_TIES) || tt_below(random, 3) == 0) {
      one_row(random, row, shared, dim, dtype, spikes);
    }
    for (int32_t d = 0; d < dim; d++) tt_put(tokens, dtype, at + (size_t)d, row[d]);
    for (int64_t d = dim; d < stride; d++) tt_put(tokens, dtype, at + (size_t)d, NAN);
  }
  free(shared);
  free(row);
}
