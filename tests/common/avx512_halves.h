/* SPDX-License-Identifier: Apache-2.0 */
/*
 * avx512_halves: the AVX-512 operations of src/cpu/kernels_avx512.c in two halves of AVX2 each, and
 * VNNI's of kernels_avx2.c, so that their logic is tested where no CPU has these.
 *
 * What works on each element or on lanes of 128 bits is the same instruction on 256 bits: the CPU
 * itself rounds, saturates and shuffles. Only what crosses halves or takes a mask is written out,
 * from the instruction set's reference. Masked loads read the chosen elements and nothing else.
 * Macros evaluate their arguments more than once. Limits: needs a CPU with AVX2, FMA and F16C.
 */
#ifndef TAILCUT_TESTS_AVX512_HALVES_H_
#define TAILCUT_TESTS_AVX512_HALVES_H_

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* Until the end of the file that is tested. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

typedef struct halves_ps {
  __m256 h[2];
} halves_ps;

typedef struct halves_int {
  __m256i h[2];
} halves_int;

/* ------------------------------------------------------------ what crosses halves, and masks -- */

#define HALVES_DEFINE static inline __attribute__((unused))

HALVES_DEFINE __m256i halves_load_16(uint32_t mask, const char *p) {
  uint16_t e[16] = {0};
  for (int i = 0; i < 16; i++) {
    if (mask >> i & 1) memcpy(e + i, p + 2 * i, 2);
  }
  return _mm256_loadu_si256((const __m256i *)(const void *)e);
}

HALVES_DEFINE halves_ps halves_of(const float *e) {
  return (halves_ps){{_mm256_loadu_ps(e), _mm256_loadu_ps(e + 8)}};
}

HALVES_DEFINE halves_ps halves_load_32(uint32_t mask, const char *p) {
  float e[16] = {0};
  for (int i = 0; i < 16; i++) {
    if (mask >> i & 1) memcpy(e + i, p + 4 * i, 4);
  }
  return halves_of(e);
}

HALVES_DEFINE halves_ps halves_blend(uint32_t mask, halves_ps a, halves_ps b) {
  float e[16], other[16];
  memcpy(e, &a, sizeof e);
  memcpy(other, &b, sizeof other);
  for (int i = 0; i < 16; i++) {
    if (mask >> i & 1) e[i] = other[i];
  }
  return halves_of(e);
}

/* Two lanes of a, then two of b, each chosen by two bits. */
HALVES_DEFINE halves_ps halves_lanes(halves_ps a, halves_ps b, uint32_t chosen) {
  float x[16], y[16], e[16];
  memcpy(x, &a, sizeof x);
  memcpy(y, &b, sizeof y);
  for (int lane = 0; lane < 4; lane++) {
    memcpy(e + 4 * lane, (lane < 2 ? x : y) + 4 * (chosen >> 2 * lane & 3), 16);
  }
  return halves_of(e);
}

HALVES_DEFINE uint32_t halves_signs(__m256 a, __m256 b) {
  return (uint32_t)_mm256_movemask_ps(a) | (uint32_t)_mm256_movemask_ps(b) << 8;
}

HALVES_DEFINE uint32_t halves_less(halves_int a, halves_int b) {
  return halves_signs(_mm256_castsi256_ps(_mm256_cmpgt_epi32(b.h[0], a.h[0])),
                      _mm256_castsi256_ps(_mm256_cmpgt_epi32(b.h[1], a.h[1])));
}

HALVES_DEFINE __m256i halves_low_16(halves_int a) {
  uint32_t wide[16];
  uint16_t e[16];
  memcpy(wide, &a, sizeof wide);
  for (int i = 0; i < 16; i++) e[i] = (uint16_t)wide[i];
  return _mm256_loadu_si256((const __m256i *)(const void *)e);
}

/* Four products of an unsigned and a signed byte, and their sum, to each 32-bit integer. */
HALVES_DEFINE __m256i halves_dpbusd(__m256i i, __m256i a, __m256i b) {
  uint32_t sums[8];
  uint8_t x[32];
  int8_t y[32];
  memcpy(sums, &i, sizeof sums);
  memcpy(x, &a, sizeof x);
  memcpy(y, &b, sizeof y);
  for (int e = 0; e < 32; e++) sums[e / 4] += (uint32_t)(x[e] * y[e]);
  return _mm256_loadu_si256((const __m256i *)(const void *)sums);
}

HALVES_DEFINE int32_t halves_least(halves_int a) {
  int32_t e[16];
  memcpy(e, &a, sizeof e);
  for (int i = 1; i < 16; i++) e[0] = e[i] < e[0] ? e[i] : e[0];
  return e[0];
}

/* ---------------------------------------------------------------------------- the operations -- */

#define __m512 halves_ps
#define __m512i halves_int
#define HALVES(T, x, y) ((T){{x, y}})
#define HALVES_1(T, op, a) HALVES(T, op((a).h[0]), op((a).h[1]))
#define HALVES_2(T, op, a, b) HALVES(T, op((a).h[0], (b).h[0]), op((a).h[1], (b).h[1]))

/* Some compilers have these as macros already. */
#undef _mm512_cmp_ps_mask
#undef _mm512_cmplt_epi32_mask
#undef _mm512_cvtps_ph
#undef _mm512_extracti64x4_epi64
#undef _mm512_setr_epi32
#undef _mm512_shuffle_f32x4
#undef _mm512_shuffle_ps
#undef _mm512_slli_epi32
#undef _mm512_srai_epi32
#undef _mm512_srli_epi32

#define _mm256_maskz_loadu_epi16(mask, p) halves_load_16(mask, (const char *)(p))
#define _mm512_maskz_loadu_ps(mask, p) halves_load_32(mask, (const char *)(p))
#define _mm512_mask_blend_ps(mask, a, b) halves_blend(mask, a, b)
#define _mm512_shuffle_f32x4(a, b, chosen) halves_lanes(a, b, chosen)
#define _mm512_cmplt_epi32_mask(a, b) halves_less(a, b)
#define _mm512_cvtepi32_epi16(a) halves_low_16(a)
#define _mm512_reduce_min_epi32(a) halves_least(a)
#define _mm512_cmp_ps_mask(a, b, how) \
  halves_signs(_mm256_cmp_ps((a).h[0], (b).h[0], how), _mm256_cmp_ps((a).h[1], (b).h[1], how))
#define _mm512_castsi512_si256(a) ((a).h[0])
#define _mm512_extracti64x4_epi64(a, half) ((a).h[half])

#define _mm512_setzero_ps() HALVES(halves_ps, _mm256_setzero_ps(), _mm256_setzero_ps())
#define _mm512_set1_ps(x) HALVES(halves_ps, _mm256_set1_ps(x), _mm256_set1_ps(x))
#define _mm512_set1_epi8(x) HALVES(halves_int, _mm256_set1_epi8(x), _mm256_set1_epi8(x))
#define _mm512_set1_epi16(x) HALVES(halves_int, _mm256_set1_epi16(x), _mm256_set1_epi16(x))
#define _mm512_set1_epi32(x) HALVES(halves_int, _mm256_set1_epi32(x), _mm256_set1_epi32(x))
#define _mm512_setr_epi32(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) \
  HALVES(halves_int, _mm256_setr_epi32(a, b, c, d, e, f, g, h),           \
         _mm256_setr_epi32(i, j, k, l, m, n, o, p))
#define _mm512_loadu_ps(p) \
  HALVES(halves_ps, _mm256_loadu_ps((const float *)(p)), _mm256_loadu_ps((const float *)(p) + 8))
#define _mm512_loadu_si512(p)                                  \
  HALVES(halves_int, _mm256_loadu_si256((const __m256i *)(p)), \
         _mm256_loadu_si256((const __m256i *)(p) + 1))
#define _mm512_storeu_ps(p, a) (_mm256_storeu_ps(p, (a).h[0]), _mm256_storeu_ps((p) + 8, (a).h[1]))
#define _mm512_storeu_si512(p, a) \
  (_mm256_storeu_si256((__m256i *)(p), (a).h[0]), _mm256_storeu_si256((__m256i *)(p) + 1, (a).h[1]))

#define _mm512_castps_si512(a) HALVES_1(halves_int, _mm256_castps_si256, a)
#define _mm512_castsi512_ps(a) HALVES_1(halves_ps, _mm256_castsi256_ps, a)
#define _mm512_cvtepi32_ps(a) HALVES_1(halves_ps, _mm256_cvtepi32_ps, a)
#define _mm512_cvtps_epi32(a) HALVES_1(halves_int, _mm256_cvtps_epi32, a)
#define _mm512_sqrt_ps(a) HALVES_1(halves_ps, _mm256_sqrt_ps, a)
#define HALVES_WIDEN(T, op, a) \
  HALVES(T, op(_mm256_castsi256_si128(a)), op(_mm256_extracti128_si256(a, 1)))
#define _mm512_cvtepu16_epi32(a) HALVES_WIDEN(halves_int, _mm256_cvtepu16_epi32, a)
#define _mm512_cvtph_ps(a) HALVES_WIDEN(halves_ps, _mm256_cvtph_ps, a)
#define _mm512_cvtps_ph(a, how) \
  _mm256_set_m128i(_mm256_cvtps_ph((a).h[1], how), _mm256_cvtps_ph((a).h[0], how))

#define _mm512_add_ps(a, b) HALVES_2(halves_ps, _mm256_add_ps, a, b)
#define _mm512_div_ps(a, b) HALVES_2(halves_ps, _mm256_div_ps, a, b)
#define _mm512_max_ps(a, b) HALVES_2(halves_ps, _mm256_max_ps, a, b)
#define _mm512_min_ps(a, b) HALVES_2(halves_ps, _mm256_min_ps, a, b)
#define _mm512_fmadd_ps(a, b, c)                                   \
  HALVES(halves_ps, _mm256_fmadd_ps((a).h[0], (b).h[0], (c).h[0]), \
         _mm256_fmadd_ps((a).h[1], (b).h[1], (c).h[1]))
#define _mm512_shuffle_ps(a, b, chosen)                            \
  HALVES(halves_ps, _mm256_shuffle_ps((a).h[0], (b).h[0], chosen), \
         _mm256_shuffle_ps((a).h[1], (b).h[1], chosen))

#define _mm256_dpbusd_avx_epi32(i, a, b) halves_dpbusd(i, a, b)
#define _mm512_dpbusd_epi32(i, a, b)                              \
  HALVES(halves_int, halves_dpbusd((i).h[0], (a).h[0], (b).h[0]), \
         halves_dpbusd((i).h[1], (a).h[1], (b).h[1]))
#define _mm512_add_epi32(a, b) HALVES_2(halves_int, _mm256_add_epi32, a, b)
#define _mm512_madd_epi16(a, b) HALVES_2(halves_int, _mm256_madd_epi16, a, b)
#define _mm512_max_epi16(a, b) HALVES_2(halves_int, _mm256_max_epi16, a, b)
#define _mm512_max_epi32(a, b) HALVES_2(halves_int, _mm256_max_epi32, a, b)
#define _mm512_min_epi16(a, b) HALVES_2(halves_int, _mm256_min_epi16, a, b)
#define _mm512_min_epi32(a, b) HALVES_2(halves_int, _mm256_min_epi32, a, b)
#define _mm512_or_si512(a, b) HALVES_2(halves_int, _mm256_or_si256, a, b)
#define _mm512_packs_epi16(a, b) HALVES_2(halves_int, _mm256_packs_epi16, a, b)
#define _mm512_packs_epi32(a, b) HALVES_2(halves_int, _mm256_packs_epi32, a, b)
#define _mm512_sub_epi32(a, b) HALVES_2(halves_int, _mm256_sub_epi32, a, b)
#define _mm512_unpackhi_epi32(a, b) HALVES_2(halves_int, _mm256_unpackhi_epi32, a, b)
#define _mm512_unpackhi_epi64(a, b) HALVES_2(halves_int, _mm256_unpackhi_epi64, a, b)
#define _mm512_unpacklo_epi32(a, b) HALVES_2(halves_int, _mm256_unpacklo_epi32, a, b)
#define _mm512_unpacklo_epi64(a, b) HALVES_2(halves_int, _mm256_unpacklo_epi64, a, b)
#define _mm512_xor_si512(a, b) HALVES_2(halves_int, _mm256_xor_si256, a, b)
#define HALVES_SHIFT(op, a, n) HALVES(halves_int, op((a).h[0], n), op((a).h[1], n))
#define _mm512_slli_epi32(a, n) HALVES_SHIFT(_mm256_slli_epi32, a, n)
#define _mm512_srai_epi32(a, n) HALVES_SHIFT(_mm256_srai_epi32, a, n)
#define _mm512_srli_epi32(a, n) HALVES_SHIFT(_mm256_srli_epi32, a, n)

#endif /* TAILCUT_TESTS_AVX512_HALVES_H_ */
