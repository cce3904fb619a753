/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels_avx2: 8 lanes, with FMA and F16C. A register is one of METHOD.md's groups of 8.
 *
 * Formula, strategy, precision: kernels_simd.h. The tree: a strip is 4 registers, which become one
 * over strides 4 and 2; stride 1 joins two strips into 8 groups; strides 16 and 8 are plain
 * additions; 8 such registers (4 rows' dots, 4 rows' squares) become one over strides 4, 2, 1.
 */
#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#ifndef TC_IN_HALVES /* tests/common/avx2_vnni.c, for CPUs without VNNI */
#include <immintrin.h>
#include <stddef.h>
#include <string.h>

/* For this file's functions only: the library itself runs on any x86-64. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define V_HOLD(x) __asm__("" : "+x"(x))
#endif
#define V_INLINE static inline __attribute__((always_inline))

typedef __m256 tc_vec;
#define TC_LANES 8
#define TC_COLS 4
#define TC_STRIPS 8

V_INLINE __m256 v_zero(void) { return _mm256_setzero_ps(); }
V_INLINE __m256 v_set1(float x) { return _mm256_set1_ps(x); }
V_INLINE __m256 v_fma(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
V_INLINE void v_store(float *p, __m256 v) { _mm256_storeu_ps(p, v); }

V_INLINE __m256 v_widen_bf16(__m128i h) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
V_INLINE __m256 v_load_f16(const char *p) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
V_INLINE __m256 v_load_bf16(const char *p) { /* one operation instead of two: -1 is a zero byte */
  const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
  const __m256i places =
      _mm256_setr_epi8(-1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7, /* the halves */
                       -1, -1, 8, 9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15);
  return _mm256_castsi256_ps(_mm256_shuffle_epi8(both, places));
}
V_INLINE __m256 v_load_f32(const char *p) { return _mm256_loadu_ps((const float *)p); }

V_INLINE __m256i v_first(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}
V_INLINE __m128i v_part_16(const char *p, int64_t n) {
  uint16_t tail[8] = {0};
  memcpy(tail, p, 2 * (size_t)n);
  return _mm_loadu_si128((const __m128i *)tail);
}
V_INLINE __m256 v_part_f16(const char *p, int64_t n) { return _mm256_cvtph_ps(v_part_16(p, n)); }
V_INLINE __m256 v_part_bf16(const char *p, int64_t n) { return v_widen_bf16(v_part_16(p, n)); }
V_INLINE __m256 v_part_f32(const char *p, int64_t n) {
  return _mm256_maskload_ps((const float *)p, v_first(n)); /* masked-off lanes cannot fault */
}
V_INLINE __m256 v_keep(int64_t n, __m256 a, __m256 b) {
  return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(v_first(n)));
}

V_INLINE void v_narrow_f16(char *p, __m256 v) {
  _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
V_INLINE void v_narrow_bf16(char *p, __m256 v) {
  const __m256i b = _mm256_castps_si256(v), odd = _mm256_srli_epi32(_mm256_slli_epi32(b, 15), 31);
  const __m256i r = _mm256_add_epi32(_mm256_add_epi32(b, _mm256_set1_epi32(0x7FFF)), odd);
  const __m256i h = _mm256_srli_epi32(r, 16);
  const __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi32(h, h), 0x08);
  _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(both));
}

typedef __m256i tc_int;
V_INLINE __m256 v_min(__m256 a, __m256 b) { return _mm256_min_ps(a, b); }
V_INLINE __m256 v_max(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
V_INLINE __m256 v_sqrt(__m256 a) { return _mm256_sqrt_ps(a); }
V_INLINE __m256 v_div(__m256 a, __m256 b) { return _mm256_div_ps(a, b); }
V_INLINE __m256 v_pick(__m256 a, __m256 limit, __m256 b, __m256 c) {
  return _mm256_blendv_ps(c, b, _mm256_cmp_ps(a, limit, _CMP_LE_OQ));
}
V_INLINE __m256i i_set1(int32_t x) { return _mm256_set1_epi32(x); }
V_INLINE __m256i i_sub(__m256i a, __m256i b) { return _mm256_sub_epi32(a, b); }
V_INLINE void i_store(int32_t *p, __m256i i) { _mm256_storeu_si256((__m256i *)p, i); }
V_INLINE __m256i i_round(__m256 v) { return _mm256_cvtps_epi32(v); }
V_INLINE __m256i i_shift_10(__m256i i) { return _mm256_srai_epi32(i, 10); }
V_INLINE uint32_t i_below(const int32_t *p, __m256i i) {
  const __m256i less = _mm256_cmpgt_epi32(i, _mm256_loadu_si256((const __m256i *)p));
  return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(less));
}

V_INLINE __m256i i_load(const int32_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
V_INLINE __m256i i_add(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }
V_INLINE __m256i i_or(__m256i a, __m256i b) { return _mm256_or_si256(a, b); }
V_INLINE __m256i i_max(__m256i a, __m256i b) { return _mm256_max_epi32(a, b); }
V_INLINE __m256i i_min(__m256i a, __m256i b) { return _mm256_min_epi32(a, b); }
V_INLINE __m256i i_up_8(__m256i i) { return _mm256_slli_epi32(i, 8); }
V_INLINE __m256 i_float(__m256i i) { return _mm256_cvtepi32_ps(i); }
V_INLINE __m256i i_lanes(void) { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
V_INLINE int32_t i_least(__m256i i) {
  __m128i m = _mm_min_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  m = _mm_min_epi32(m, _mm_shuffle_epi32(m, 0x4E));
  return _mm_cvtsi128_si32(_mm_min_epi32(m, _mm_shuffle_epi32(m, 0xB1)));
}

/* Products of 16-bit integers: two of them and their sum are one operation. */
typedef __m256i h_register;
typedef int16_t h_integer;
enum { h_PACK = 2, h_SHIFT = 0 };
V_INLINE __m256i h_zero(void) { return _mm256_setzero_si256(); }
V_INLINE __m256i h_load(const int16_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
V_INLINE void h_store(int16_t *p, __m256i h) { _mm256_storeu_si256((__m256i *)p, h); }
V_INLINE __m256i h_pack(const __m256 *v) {
  const __m256i h = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
  return _mm256_max_epi16(_mm256_min_epi16(h, _mm256_set1_epi16(127)), _mm256_set1_epi16(-127));
}
V_INLINE __m256i h_left(__m256i h) { return h; }
V_INLINE __m256i h_dot(__m256i i, __m256i a, __m256i b) {
  return _mm256_add_epi32(i, _mm256_madd_epi16(a, b));
}
V_INLINE void i_add_4(int32_t *p, const __m256i *i) {
  const __m256i a = _mm256_hadd_epi32(i[0], i[1]), b = _mm256_hadd_epi32(i[2], i[3]);
  const __m256i c = _mm256_hadd_epi32(a, b);
  const __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(c), _mm256_extracti128_si256(c, 1));
  _mm_storeu_si128((__m128i *)p, _mm_add_epi32(sum, _mm_loadu_si128((const __m128i *)p)));
}

/* Sums of lanes of 128 bits [a0+a1, b0+b1]; inside each lane of neighbours [a01 a23 b01 b23] and of
 * elements two apart [a02 a13 b02 b13]. Where they can, blends take the place of one of two
 * shuffles: there are more units for them. */
V_INLINE __m256 v_lanes(__m256 a, __m256 b) {
  return _mm256_add_ps(_mm256_blend_ps(a, b, 0xF0), _mm256_permute2f128_ps(a, b, 0x21));
}
V_INLINE __m256 v_near(__m256 a, __m256 b) {
  return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xDD));
}
V_INLINE __m256 v_far(__m256 a, __m256 b) {
  return _mm256_add_ps(_mm256_blend_ps(a, b, 0xCC), _mm256_shuffle_ps(a, b, 0x4E));
}

/* Strides 4 and 2. Lane 0 of the result: two values each of groups 0 and 1; lane 1: of 2 and 3. */
V_INLINE __m256 v_strip(const __m256 *a) { return v_far(v_lanes(a[0], a[2]), v_lanes(a[1], a[3])); }

/* Stride 1 (8 groups to a register: 0 1 4 5 | 2 3 6 7), 16, 8. */
V_INLINE __m256 v_row(const __m256 *b) {
  const __m256 g0 = v_near(b[0], b[1]), g8 = v_near(b[2], b[3]);
  const __m256 g16 = v_near(b[4], b[5]), g24 = v_near(b[6], b[7]);
  return _mm256_add_ps(_mm256_add_ps(g0, g16), _mm256_add_ps(g8, g24));
}

/* Stride 4 is elements two apart, stride 2 the lanes, stride 1 neighbours. The pairs are chosen so
 * that sum i ends in element i. */
V_INLINE __m256 v_finish(const __m256 *z) {
  const __m256 a0 = v_far(z[0], z[1]), a1 = v_far(z[2], z[3]);
  const __m256 a2 = v_far(z[4], z[5]), a3 = v_far(z[6], z[7]);
  return v_near(v_lanes(a0, a2), v_lanes(a1, a3));
}

#include "kernels_simd.h"

/* Products of bytes: half the loads and instructions. The left one is unsigned, hence 128 more. */
#if defined(TC_IN_HALVES) || __GNUC__ >= 11 || (defined(__clang__) && __clang_major__ >= 12)
#define TC_VNNI b
#ifndef TC_IN_HALVES
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,avxvnni")
#endif
#endif

typedef __m256i b_register;
typedef int8_t b_integer;
enum { b_PACK = 4, b_SHIFT = 1 };
V_INLINE __m256i b_zero(void) { return _mm256_setzero_si256(); }
V_INLINE __m256i b_load(const int8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
V_INLINE void b_store(int8_t *p, __m256i b) { _mm256_storeu_si256((__m256i *)p, b); }
V_INLINE __m256i b_pack(const __m256 *v) { return _mm256_packs_epi16(h_pack(v), h_pack(v + 2)); }
V_INLINE __m256i b_left(__m256i b) { return _mm256_xor_si256(b, _mm256_set1_epi8(-128)); }
V_INLINE __m256i b_dot(__m256i i, __m256i a, __m256i b) { return _mm256_dpbusd_avx_epi32(i, a, b); }
#define Q(x) b_##x
#include "grams_simd.h"

#else
#define TC_VNNI h /* the compiler does not know it */
#endif

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const tc_kernels tc_kernels_avx2 = {"avx2", TC_TABLE(h)};
const tc_kernels tc_kernels_avx2_vnni = {"avx2-vnni", TC_TABLE(TC_VNNI)};

#else
typedef int tc_kernels_avx2_is_elsewhere;
#endif
