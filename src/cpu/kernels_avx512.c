/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels_avx512: 16 lanes. A register holds two of METHOD.md's groups of 8 accumulators.
 *
 * Formula, strategy, precision: kernels_simd.h. The tree: a strip is 8 registers (16 groups); each
 * level adds the two halves of the values to be joined for two registers at once, so 8 registers
 * become 4, 2, 1 over strides 4, 2, 1. The row's two strips are stride 16, and 16 such registers
 * (8 rows' dots, 8 rows' squares) become one over strides 8, 4, 2, 1. Which accumulator lies where
 * is in the comments as register:lane of 128 bits.
 */
#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#ifndef TC_IN_HALVES /* tests/common/avx512_halves.c, for CPUs without AVX-512 */
#include <immintrin.h>
#include <stddef.h>
#include <string.h>

/* For this file's functions only: the library itself runs on any x86-64. */
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")
#endif

#define V_HOLD(x) __asm__("" : "+v"(x))
#endif
#define V_INLINE static inline __attribute__((always_inline))

typedef __m512 tc_vec;
#define TC_LANES 16
#define TC_COLS 8
#define TC_STRIPS 2

V_INLINE __m512 v_zero(void) { return _mm512_setzero_ps(); }
V_INLINE __m512 v_set1(float x) { return _mm512_set1_ps(x); }
V_INLINE __m512 v_fma(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
V_INLINE void v_store(float *p, __m512 v) { _mm512_storeu_ps(p, v); }

V_INLINE __m512 v_widen_bf16(__m256i h) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
V_INLINE __m512 v_load_f16(const char *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
V_INLINE __m512 v_load_bf16(const char *p) {
  return v_widen_bf16(_mm256_loadu_si256((const __m256i *)p));
}
V_INLINE __m512 v_load_f32(const char *p) { return _mm512_loadu_ps(p); }

/* Masked-off lanes of a masked load are not read: no fault, no sanitizer report that is true. */
V_INLINE __mmask16 v_first(int64_t n) { return (__mmask16)((1u << n) - 1u); }
V_INLINE __m512 v_part_f16(const char *p, int64_t n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(v_first(n), p));
}
V_INLINE __m512 v_part_bf16(const char *p, int64_t n) {
  return v_widen_bf16(_mm256_maskz_loadu_epi16(v_first(n), p));
}
V_INLINE __m512 v_part_f32(const char *p, int64_t n) {
  return _mm512_maskz_loadu_ps(v_first(n), p);
}
V_INLINE __m512 v_keep(int64_t n, __m512 a, __m512 b) {
  return _mm512_mask_blend_ps(v_first(n), b, a);
}

V_INLINE void v_narrow_f16(char *p, __m512 v) {
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
V_INLINE void v_narrow_bf16(char *p, __m512 v) {
  const __m512i b = _mm512_castps_si512(v), odd = _mm512_srli_epi32(_mm512_slli_epi32(b, 15), 31);
  const __m512i r = _mm512_add_epi32(_mm512_add_epi32(b, _mm512_set1_epi32(0x7FFF)), odd);
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16)));
}

typedef __m512i tc_int;
V_INLINE __m512 v_min(__m512 a, __m512 b) { return _mm512_min_ps(a, b); }
V_INLINE __m512 v_max(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
V_INLINE __m512 v_sqrt(__m512 a) { return _mm512_sqrt_ps(a); }
V_INLINE __m512 v_div(__m512 a, __m512 b) { return _mm512_div_ps(a, b); }
V_INLINE __m512 v_pick(__m512 a, __m512 limit, __m512 b, __m512 c) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, limit, _CMP_LE_OQ), c, b);
}
V_INLINE __m512i i_set1(int32_t x) { return _mm512_set1_epi32(x); }
V_INLINE __m512i i_sub(__m512i a, __m512i b) { return _mm512_sub_epi32(a, b); }
V_INLINE void i_store(int32_t *p, __m512i i) { _mm512_storeu_si512(p, i); }
V_INLINE __m512i i_round(__m512 v) { return _mm512_cvtps_epi32(v); }
V_INLINE __m512i i_shift_10(__m512i i) { return _mm512_srai_epi32(i, 10); }
V_INLINE uint32_t i_below(const int32_t *p, __m512i i) {
  return _mm512_cmplt_epi32_mask(_mm512_loadu_si512(p), i);
}

V_INLINE __m512i i_load(const int32_t *p) { return _mm512_loadu_si512(p); }
V_INLINE __m512i i_add(__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }
V_INLINE __m512i i_or(__m512i a, __m512i b) { return _mm512_or_si512(a, b); }
V_INLINE __m512i i_max(__m512i a, __m512i b) { return _mm512_max_epi32(a, b); }
V_INLINE __m512i i_min(__m512i a, __m512i b) { return _mm512_min_epi32(a, b); }
V_INLINE __m512i i_up_8(__m512i i) { return _mm512_slli_epi32(i, 8); }
V_INLINE __m512 i_float(__m512i i) { return _mm512_cvtepi32_ps(i); }
V_INLINE __m512i i_lanes(void) {
  return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
V_INLINE int32_t i_least(__m512i i) { return _mm512_reduce_min_epi32(i); }

/* Products of 16-bit integers: two of them and their sum are one operation. */
typedef __m512i h_register;
typedef int16_t h_integer;
enum { h_PACK = 2, h_SHIFT = 0 };
V_INLINE __m512i h_zero(void) { return _mm512_set1_epi32(0); }
V_INLINE __m512i h_load(const int16_t *p) { return _mm512_loadu_si512(p); }
V_INLINE void h_store(int16_t *p, __m512i h) { _mm512_storeu_si512(p, h); }
V_INLINE __m512i h_pack(const __m512 *v) {
  const __m512i h = _mm512_packs_epi32(_mm512_cvtps_epi32(v[0]), _mm512_cvtps_epi32(v[1]));
  return _mm512_max_epi16(_mm512_min_epi16(h, _mm512_set1_epi16(127)), _mm512_set1_epi16(-127));
}
V_INLINE __m512i h_left(__m512i h) { return h; }
V_INLINE __m512i h_dot(__m512i i, __m512i a, __m512i b) {
  return _mm512_add_epi32(i, _mm512_madd_epi16(a, b));
}
V_INLINE void i_add_4(int32_t *p, const __m512i *i) {
  const __m512i a =
      _mm512_add_epi32(_mm512_unpacklo_epi32(i[0], i[1]), _mm512_unpackhi_epi32(i[0], i[1]));
  const __m512i b =
      _mm512_add_epi32(_mm512_unpacklo_epi32(i[2], i[3]), _mm512_unpackhi_epi32(i[2], i[3]));
  const __m512i c = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  const __m256i d = _mm256_add_epi32(_mm512_castsi512_si256(c), _mm512_extracti64x4_epi64(c, 1));
  const __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(d), _mm256_extracti128_si256(d, 1));
  _mm_storeu_si128((__m128i *)p, _mm_add_epi32(sum, _mm_loadu_si128((const __m128i *)p)));
}

/* Sums of neighbouring lanes 0+1, 2+3: [a01 a23 b01 b23]; of lanes 0+2, 1+3: [a02 a13 b02 b13]. */
V_INLINE __m512 v_lanes_near(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
}
V_INLINE __m512 v_lanes_far(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
}
/* The same inside each lane. */
V_INLINE __m512 v_near(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
}
V_INLINE __m512 v_far(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
}

/* Register r holds groups 2r and 2r+1. Stride 4 joins lanes; register e of the result has groups
 * 2e, 2e+1, 2e+8, 2e+9 in its lanes, and so has element e of each lane after strides 2 and 1. */
V_INLINE __m512 v_strip(const __m512 *a) {
  const __m512 s0 = v_lanes_near(a[0], a[4]), s1 = v_lanes_near(a[1], a[5]);
  const __m512 s2 = v_lanes_near(a[2], a[6]), s3 = v_lanes_near(a[3], a[7]);
  return v_near(v_far(s0, s1), v_far(s2, s3));
}

V_INLINE __m512 v_row(const __m512 *b) { return _mm512_add_ps(b[0], b[1]); } /* stride 16 */

/* Stride 8 is lanes 0+2 and 1+3, stride 4 elements 0+2 and 1+3, stride 2 elements 0+1 and 2+3,
 * stride 1 lanes 0+1 and 2+3. The pairs are chosen so that sum i ends in element i. */
V_INLINE __m512 v_finish(const __m512 *z) {
  __m512 half[2];
  for (int i = 0; i < 2; i++, z += 8) {
    const __m512 a0 = v_lanes_far(z[0], z[4]), a1 = v_lanes_far(z[1], z[5]);
    const __m512 a2 = v_lanes_far(z[2], z[6]), a3 = v_lanes_far(z[3], z[7]);
    half[i] = v_near(v_far(a0, a1), v_far(a2, a3));
  }
  return v_lanes_near(half[0], half[1]);
}

#include "kernels_simd.h"

/* Products of bytes: half the loads and instructions. The left one is unsigned, hence 128 more. */
#ifndef TC_IN_HALVES
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(                                                          \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")
#endif
#endif

typedef __m512i b_register;
typedef int8_t b_integer;
enum { b_PACK = 4, b_SHIFT = 1 };
V_INLINE __m512i b_zero(void) { return _mm512_set1_epi32(0); }
V_INLINE __m512i b_load(const int8_t *p) { return _mm512_loadu_si512(p); }
V_INLINE void b_store(int8_t *p, __m512i b) { _mm512_storeu_si512(p, b); }
V_INLINE __m512i b_pack(const __m512 *v) { return _mm512_packs_epi16(h_pack(v), h_pack(v + 2)); }
V_INLINE __m512i b_left(__m512i b) { return _mm512_xor_si512(b, _mm512_set1_epi8(-128)); }
V_INLINE __m512i b_dot(__m512i i, __m512i a, __m512i b) { return _mm512_dpbusd_epi32(i, a, b); }
#define Q(x) b_##x
#include "grams_simd.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const tc_kernels tc_kernels_avx512 = {"avx512", TC_TABLE(h)};
const tc_kernels tc_kernels_avx512_vnni = {"avx512-vnni", TC_TABLE(b)};

#else
typedef int tc_kernels_avx512_is_elsewhere;
#endif
