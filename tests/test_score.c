/* SPDX-License-Identifier: Apache-2.0 */
/* score: cosines known by hand, special values by their bits, and closeness to float64, which does
 * not share the reference's summation. The table of cases (test_prune.c) has the exact bits of
 * dims, strides, layouts and reference vectors. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "data.h"

enum { MOST = 64 };

typedef struct answer {
  float scores[MOST];
  int32_t flags;
} answer;

/* `rows` tokens in one segment against one vector; each buffer ends where memory ends. */
static answer score(const tt_backend *backend, tailcut_handle handle, const void *tokens,
                    int32_t dtype, int32_t rows, int32_t dim, const void *vector,
                    int32_t vector_dtype) {
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tailcut_tokens t = TAILCUT_TOKENS_INITIALIZER;
  tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  answer a;
  batch.segments = limits.segments = 1;
  batch.max_tokens = limits.max_tokens = rows;
  t.dtype = dtype;
  t.dim = limits.dim = dim;
  t.data = tt_upload(backend, tokens, (size_t)(rows * dim) * tt_size(dtype), TT_TIGHT);
  reference.dtype = vector_dtype;
  reference.data = tt_upload(backend, vector, (size_t)dim * tt_size(vector_dtype), TT_TIGHT);
  float *scores = tt_upload(backend, NULL, 4 * (size_t)rows, TT_TIGHT);
  int32_t *flags = tt_upload(backend, NULL, 4, TT_TIGHT);
  tt_workspace w = tt_workspace_new(backend, handle, TAILCUT_CALL_SCORE, &limits);
  cr_assert_eq(tailcut_score(handle, &batch, &t, &reference, scores, flags, w.data, w.size, NULL),
               TAILCUT_OK, "%s", tailcut_last_error());
  tt_download(backend, a.scores, scores, 4 * (size_t)rows);
  tt_download(backend, &a.flags, flags, 4);
  void *all[] = {(void *)(uintptr_t)t.data, (void *)(uintptr_t)reference.data, scores, flags,
                 w.data};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) tt_free(backend, all[i]);
  return a;
}

typedef struct known {
  const char *name;
  float x[2], c[2];
  uint32_t bits; /* FLOOR(dot): dot / fp32(1e-8); FLOORS: over its fp32 square; rounded once */
  int32_t flags;
  double floored;
} known;

#define FLOOR(flags, dot) 0, flags, (dot) / (double)1e-8f
#define FLOORS(flags, dot) 0, flags, (dot) / (double)0x1.cd2b2ap-54f /* fp32(1e-8)^2 in fp32 */

#define QUIET_NAN 0x7FC00000u
#define BAD TAILCUT_FLAG_BAD_REFERENCE
#define SOME_NAN TAILCUT_FLAG_NAN

static const known rows[] = {
    {.name = "same direction", {3, 4}, {6, 8}, 0x3F800000u, 0},
    {.name = "opposite", {3, 4}, {-3, -4}, 0xBF800000u, 0},
    {.name = "0.6", {3, 4}, {1, 0}, 0x3F19999Au, 0},
    {.name = "orthogonal is +0", {3, 4}, {4, -3}, 0, 0},
    {.name = "orthogonal, all minus", {-1, 0}, {0, 1}, 0, 0}, /* the sum is -0 + 0 */
    {.name = "zero row", {0, 0}, {1, 2}, 0, 0},
    {.name = "zero reference", {1, 2}, {0, 0}, 0, BAD},
    {.name = "both zero", {0, 0}, {0, 0}, 0, BAD},
    /* The floor is on each norm, not on their product. */
    {.name = "a product below 1e-8", {0x1p-17f, 0}, {0x1p-17f, 0}, 0x3F800000u, 0},
    {.name = "minus, a product below 1e-8", {0x1p-17f, 0}, {-0x1p-17f, 0}, 0xBF800000u, 0},
    {.name = "0.6 of tiny ones", {0x3p-22f, 0x4p-22f}, {0x1p-24f, 0}, 0x3F19999Au, 0},
    {.name = "row below the floor", {0x1p-40f, 0}, {1, 0}, FLOOR(0, 0x1p-40)},
    {.name = "reference below the floor", {-1, 0}, {0x1p-40f, 0}, FLOOR(0, -0x1p-40)},
    {.name = "both below the floor", {0x1p-40f, 0}, {0x1p-40f, 0}, FLOORS(0, 0x1p-80)},
    /* The square underflows: norm 0, and nothing rescues it. */
    {.name = "underflowing reference", {1, 0}, {0x1p-80f, 0}, FLOOR(BAD, 0x1p-80)},
    {.name = "underflowing row", {0x1p-80f, 0}, {1, 0}, FLOOR(0, 0x1p-80)},
    {.name = "denormal row", {0x1p-140f, 0}, {1, 0}, FLOOR(0, 0x1p-140)},
    /* The square overflows: norm inf, so NaN, though the division would give 0. */
    {.name = "the largest norms", {0x1.fffffep63f, 0}, {0x1.fffffep63f, 0}, 0x3F800000u, 0},
    {.name = "overflowing row", {0x1p100f, 0}, {1, 0}, QUIET_NAN, SOME_NAN},
    {.name = "overflowing row, small reference", {3e19f, 0}, {1e-3f, 0}, QUIET_NAN, SOME_NAN},
    {.name = "overflowing reference", {1, 0}, {0x1p100f, 0}, QUIET_NAN, SOME_NAN | BAD},
    {.name = "both overflow", {0x1p100f, 0}, {0x1p100f, 0}, QUIET_NAN, SOME_NAN | BAD},
    {.name = "overflowing row, zero reference", {0x1p100f, 0}, {0, 0}, QUIET_NAN, SOME_NAN | BAD},
    {.name = "zero row, overflowing reference", {0, 0}, {0x1p100f, 0}, QUIET_NAN, SOME_NAN | BAD},
    {.name = "infinite row", {INFINITY, 1}, {1, 1}, QUIET_NAN, SOME_NAN},
    {.name = "infinite reference", {1, 1}, {INFINITY, 1}, QUIET_NAN, SOME_NAN | BAD},
    {.name = "NaN row", {NAN, 1}, {1, 1}, QUIET_NAN, SOME_NAN},
    {.name = "negative NaN row", {-NAN, 1}, {1, 1}, QUIET_NAN, SOME_NAN},
    {.name = "NaN reference", {1, 1}, {1, NAN}, QUIET_NAN, SOME_NAN | BAD},
};

Test(score, known_answers) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  for (int b = 0; b < count; b++) {
    tailcut_handle handle = tt_create(&backends[b]);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
      const known *k = &rows[i];
      uint32_t want = k->bits, got;
      if (k->floored != 0.0) {
        const float s = (float)k->floored;
        memcpy(&want, &s, 4);
      }
      const answer a = score(&backends[b], handle, k->x, TAILCUT_F32, 1, 2, k->c, TAILCUT_F32);
      memcpy(&got, &a.scores[0], 4);
      cr_expect_eq(got, want, "%s on %s: %08x, expected %08x", k->name, backends[b].name, got,
                   want);
      cr_expect_eq(a.flags, k->flags, "%s on %s: flags %d", k->name, backends[b].name, a.flags);
    }
    tailcut_destroy(handle);
  }
}

/* Rounding carries some cosines of a vector with itself above 1: the clamp must be seen to work. */
Test(score, clamped_to_one) {
  int count, above = 0;
  const tt_backend *backends = tt_backends(&count);
  tailcut_handle handle = tt_create(&backends[0]);
  tt_random random = {3};
  float x[40], minus[40];
  for (int turn = 0; turn < 300; turn++) {
    for (int d = 0; d < 40; d++) x[d] = (float)tt_normal(&random), minus[d] = -x[d];
    /* What it would be: dot and square are the same sum. */
    const answer a = score(&backends[0], handle, x, TAILCUT_F32, 1, 40, x, TAILCUT_F32);
    const answer b = score(&backends[0], handle, x, TAILCUT_F32, 1, 40, minus, TAILCUT_F32);
    cr_assert_leq(a.scores[0], 1.0f);
    cr_assert_gt(a.scores[0], 1.0f - 1e-6f);
    cr_assert_eq(b.scores[0], -a.scores[0]);
    above += a.scores[0] == 1.0f;
  }
  cr_assert_gt(above, 150, "only %d of 300 are exactly 1", above);
  tailcut_destroy(handle);
}

Test(score, close_to_float64) {
  static const int32_t dims[] = {1, 2, 8, 100, 256, 384, 1000, 1024, 1280, 4096};
  int count;
  const tt_backend *backends = tt_backends(&count);
  tt_random random = {21};
  float *tokens = tt_host(MOST * 4096 * 4), *vector = tt_host(4096 * 4);
  for (int b = 0; b < count; b++) {
    tailcut_handle handle = tt_create(&backends[b]);
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
      for (int32_t dtype = 1; dtype <= 3; dtype++) {
        const int32_t dim = dims[i], n = 1 + tt_below(&random, MOST - 1);
        tt_tokens(&random, tokens, dtype, n, dim, dim, TT_PLAIN);
        for (int32_t d = 0; d < dim; d++) {
          tt_put(vector, dtype, (size_t)d,
                 (float)tt_normal(&random) + tt_get(tokens, dtype, (size_t)d));
        }
        const answer a = score(&backends[b], handle, tokens, dtype, n, dim, vector, dtype);
        cr_assert_eq(a.flags, 0);
        for (int32_t r = 0; r < n; r++) {
          double dot = 0, xx = 0, cc = 0;
          for (int32_t d = 0; d < dim; d++) {
            const double x = (double)tt_get(tokens, dtype, (size_t)(r * dim + d));
            const double c = (double)tt_get(vector, dtype, (size_t)d);
            dot += x * c, xx += x * x, cc += c * c;
          }
          const double want = dot / (sqrt(xx) * sqrt(cc));
          cr_assert(fabs(want - (double)a.scores[r]) < 2e-6, "%s dtype %d dim %d row %d: %g, %g",
                    backends[b].name, dtype, dim, r, (double)a.scores[r], want);
        }
      }
    }
    tailcut_destroy(handle);
  }
  free(tokens);
  free(vector);
}

/* Half-width inputs are widened exactly: the same numbers as fp32 give the same bits. */
Test(score, the_same_numbers_in_any_type) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  tt_random random = {22};
  float wide[32 * 300], vector[300];
  uint16_t half[32 * 300], half_vector[300];
  for (int b = 0; b < count; b++) {
    tailcut_handle handle = tt_create(&backends[b]);
    for (int32_t dtype = TAILCUT_F16; dtype <= TAILCUT_BF16; dtype++) {
      tt_tokens(&random, half, dtype, 32, 300, 300, TT_TINY);
      tt_tokens(&random, half_vector, dtype, 1, 300, 300, TT_PLAIN);
      for (size_t i = 0; i < 32 * 300; i++) wide[i] = tt_get(half, dtype, i);
      for (size_t i = 0; i < 300; i++) vector[i] = tt_get(half_vector, dtype, i);
      const answer x = score(&backends[b], handle, half, dtype, 32, 300, half_vector, dtype);
      const answer y = score(&backends[b], handle, half, dtype, 32, 300, vector, TAILCUT_F32);
      const answer z = score(&backends[b], handle, wide, TAILCUT_F32, 32, 300, vector, TAILCUT_F32);
      cr_assert_arr_eq(x.scores, y.scores, 32 * 4, "fp32 reference, dtype %d", dtype);
      cr_assert_arr_eq(x.scores, z.scores, 32 * 4, "fp32 tokens, dtype %d", dtype);
    }
    tailcut_destroy(handle);
  }
}
