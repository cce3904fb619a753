/* SPDX-License-Identifier: Apache-2.0 */
/* kernels: every SIMD level against the scalar one (common/kernel_table.h), and the scalar one
 * against the independent reference, so that no level is right only with respect to another. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include <criterion/criterion.h>
#include <math.h>

#include "common/kernel_table.h"
#include "data.h"
#include "reference.h"
#include "tailcut.h"

/* Every level of this machine, scalar included; then levels' code without their instructions:
 * common/avx512_halves.h. */
#if defined(__x86_64__) && defined(__GNUC__)
extern const tc_kernels tt_kernels_avx2_vnni_halves, tt_kernels_avx512_halves,
    tt_kernels_avx512_vnni_halves;
static const tc_kernels *const halves[] = {&tt_kernels_avx2_vnni_halves, &tt_kernels_avx512_halves,
                                           &tt_kernels_avx512_vnni_halves};
enum { LEVELS = TC_SIMD_LEVELS + 3 };
#else
static const tc_kernels *const *halves;
enum { LEVELS = TC_SIMD_LEVELS };
#endif

static const tc_kernels *level_at(int l) {
  if (l < TC_SIMD_LEVELS) return tc_kernels_for((tc_simd)l);
  return tc_kernels_for(TC_SIMD_AVX2) != NULL ? halves[l - TC_SIMD_LEVELS] : NULL;
}

static uint32_t bits_of(float v) {
  uint32_t b;
  memcpy(&b, &v, 4);
  return b;
}

Test(kernels, levels_equal_scalar) {
  kt_state t;
  cr_assert(kt_init(&t, 1));
  const int levels = kt_run(&t, 8192);
#if defined(__x86_64__) || defined(__aarch64__)
  cr_assert_gt(levels, 0, "this machine has no SIMD level: nothing was compared");
#endif
  printf("%d levels, %ld values compared\n", levels, t.checks);
  cr_assert_eq(t.failures, 0, "%ld of %ld values differ", t.failures, t.checks);
}

Test(kernels, levels_in_halves_equal_scalar) {
  kt_state t;
  cr_assert(kt_init(&t, 3));
  for (int l = TC_SIMD_LEVELS; l < LEVELS; l++) {
    cr_assert_not_null(level_at(l), "no AVX2: nothing was compared");
    kt_level(&t, level_at(l), 1280);
    printf("%s in halves: %ld values compared\n", level_at(l)->name, t.checks);
  }
  cr_assert_eq(t.failures, 0, "%ld of %ld values differ", t.failures, t.checks);
}

Test(kernels, best_level_is_the_highest) {
  const tc_simd best = tc_kernels_best();
  cr_assert_not_null(level_at((int)best));
  for (int l = (int)best + 1; l < TC_SIMD_LEVELS; l++) cr_assert_null(level_at(l));
  cr_assert_eq(level_at(TC_SIMD_SCALAR), &tc_kernels_scalar);
}

/* All 65536 patterns of the half-width types: exact, sign of zero and denormals included. */
Test(kernels, widening_is_exact_for_every_pattern) {
  static uint16_t halves[65536];
  static float wide[65536];
  for (int i = 0; i < 65536; i++) halves[i] = (uint16_t)i;
  for (int l = 0; l < LEVELS; l++) {
    if (level_at(l) == NULL) continue;
    for (int dtype = 0; dtype < 2; dtype++) {
      level_at(l)->widen[dtype](halves, wide, 65536);
      for (int i = 0; i < 65536; i++) {
        const float want = tt_get(halves, dtype + 1, (size_t)i);
        const int same = isnan(want) ? isnan(wide[i]) : bits_of(want) == bits_of(wide[i]);
        cr_assert(same, "%s dtype %d pattern %04x: %a", level_at(l)->name, dtype + 1, i,
                  (double)wide[i]);
      }
    }
  }
}

/* tt_put is what other tests make their inputs with: it must round as hardware does. */
Test(kernels, narrowing_of_the_test_library_inverts_widening) {
  uint16_t half;
  for (int dtype = TAILCUT_F16; dtype <= TAILCUT_BF16; dtype++) {
    for (int i = 0; i < 65536; i++) {
      const uint16_t pattern = (uint16_t)i;
      const float v = tt_get(&pattern, dtype, 0);
      if (isnan(v)) continue;
      tt_put(&half, dtype, 0, v);
      cr_assert_eq(half, pattern, "dtype %d pattern %04x became %04x", dtype, i, half);
    }
  }
  static const struct {
    float value;
    uint16_t f16, bf16;
  } known[] = {{1.0f, 0x3C00, 0x3F80},           {-2.5f, 0xC100, 0xC020},
               {65519.0f, 0x7BFF, 0x4780},       {65520.0f, 0x7C00, 0x4780},
               {0x1p-24f, 0x0001, 0x3380},       {0x1p-25f, 0x0000, 0x3300},
               {0x1.8p-25f, 0x0001, 0x3340},     {2049.0f, 0x6800, 0x4500},
               {2051.0f, 0x6802, 0x4500},        {0x1.FFFFFEp127f, 0x7C00, 0x7F80},
               {0x1.01p0f, 0x3C04, 0x3F80},      {0x1.03p0f, 0x3C0C, 0x3F82},
               {0x1.FFFFFEp-15f, 0x0400, 0x3880}};
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
    tt_put(&half, TAILCUT_F16, 0, known[i].value);
    cr_assert_eq(half, known[i].f16, "%a to f16: %04x", (double)known[i].value, half);
    tt_put(&half, TAILCUT_BF16, 0, known[i].value);
    cr_assert_eq(half, known[i].bf16, "%a to bf16: %04x", (double)known[i].value, half);
  }
}

Test(kernels, scalar_equals_the_reference) {
  static const int32_t dims[] = {1,   2,   7,   8,   9,   31,  100,  255,  256,
                                 257, 264, 384, 511, 513, 768, 1000, 1024, 1280};
  tt_random random = {5};
  static float tokens[3 * 1280], wide[1280], ref[1280], dots[3], squares[3], sums[1280];
  for (int32_t dtype = 1; dtype <= 3; dtype++) {
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
      for (unsigned spikes = 0; spikes < 16; spikes += 5) {
        const int32_t dim = dims[i];
        tt_tokens(&random, tokens, dtype, 3, dim, dim, spikes);
        for (int32_t d = 0; d < dim; d++) ref[d] = (float)tt_normal(&random);
        tc_kernels_scalar.score_rows[dtype - 1](tokens, dim * (int64_t)tt_size(dtype), 3, dim, ref,
                                                dots, squares);
        for (int r = 0; r < 3; r++) {
          for (int32_t d = 0; d < dim; d++) wide[d] = tt_get(tokens, dtype, (size_t)(r * dim + d));
          const float dot = ref_dot(wide, ref, dim), square = ref_dot(wide, wide, dim);
          cr_assert(bits_of(dot) == bits_of(dots[r]) || (isnan(dot) && isnan(dots[r])),
                    "dot, dtype %d dim %d: %a, expected %a", dtype, dim, (double)dots[r],
                    (double)dot);
          cr_assert(bits_of(square) == bits_of(squares[r]) || (isnan(square) && isnan(squares[r])),
                    "square, dtype %d dim %d", dtype, dim);
        }
        for (int32_t d = 0; d < dim; d++) sums[d] = ref[d];
        tc_kernels_scalar.accumulate[dtype - 1](tokens, 0.7f, sums, dim);
        for (int32_t d = 0; d < dim; d++) {
          const float want = fmaf(tt_get(tokens, dtype, (size_t)d), 0.7f, ref[d]);
          cr_assert(bits_of(want) == bits_of(sums[d]) || (isnan(want) && isnan(sums[d])));
        }
      }
    }
  }
}

/* The order of additions, seen in numbers that show every one of them: a large number absorbs what
 * is added to it before its opposite comes. Derived by hand from the specification. */
Test(kernels, summation_order_by_hand) {
  static float x[512], one[512];
  float dot;
  for (int i = 0; i < 512; i++) one[i] = 1.0f;
  const struct {
    int big, opposite, small;
    float want;
  } rows[] = {
      {0, 256, 1, 1.0f}, /* 0 and 256 meet in one accumulator */
      {0, 256, 512 - 256 + 8, 1.0f},
      {0, 4, 2, 1.0f},    /* stride 4 first, then 2: 0+4 is 0 before 2 comes */
      {0, 2, 4, 0.0f},    /* ... but 0+4 absorbs the 1 */
      {0, 1, 2, 0.0f},    /* stride 2 before stride 1 */
      {0, 128, 64, 1.0f}, /* groups: stride 16 (128 elements) before 8 */
      {0, 64, 128, 0.0f},
      {0, 8, 16, 0.0f},
      {0, 7, 8, 1.0f}, /* inside the group before across groups */
      {0, 8, 7, 0.0f},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    memset(x, 0, sizeof x);
    x[rows[i].big] = 0x1p30f;
    x[rows[i].opposite] = -0x1p30f;
    x[rows[i].small] = 1.0f;
    for (int l = 0; l < LEVELS; l++) {
      if (level_at(l) == NULL) continue;
      level_at(l)->score_rows[2](x, 0, 1, 512, one, &dot, NULL);
      cr_assert_eq(dot, rows[i].want, "%s, row %zu: %g", level_at(l)->name, i, (double)dot);
    }
    cr_assert_eq(ref_dot(x, one, 512), rows[i].want, "the reference, row %zu", i);
  }
}
