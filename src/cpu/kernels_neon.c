/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels_neon: 4 lanes, part of every AArch64. Two registers are one of METHOD.md's groups of 8.
 *
 * Formula, strategy, precision: kernels_simd.h. The tree: a strip is 8 registers (4 groups), which
 * become one over strides 4 (a plain addition), 2 and 1; strides 16, 8, 4 across the groups are
 * plain additions; 4 such registers (2 rows' dots, 2 rows' squares) become one over strides 2, 1.
 */
#include "kernels.h"

#if defined(__aarch64__) && defined(__GNUC__)

#include <arm_neon.h>
#include <stddef.h>
#include <string.h>

#define V_HOLD(x) __asm__("" : "+w"(x))
#define V_INLINE static inline __attribute__((always_inline))

typedef float32x4_t tc_vec;
#define TC_LANES 4
#define TC_COLS 8
#define TC_STRIPS 8

V_INLINE float32x4_t v_zero(void) { return vdupq_n_f32(0.0f); }
V_INLINE float32x4_t v_set1(float x) { return vdupq_n_f32(x); }
V_INLINE float32x4_t v_fma(float32x4_t a, float32x4_t b, float32x4_t c) {
  return vfmaq_f32(c, a, b);
}
V_INLINE void v_store(float *p, float32x4_t v) { vst1q_f32(p, v); }

V_INLINE float32x4_t v_widen_f16(uint16x4_t h) { return vcvt_f32_f16(vreinterpret_f16_u16(h)); }
V_INLINE float32x4_t v_widen_bf16(uint16x4_t h) {
  return vreinterpretq_f32_u32(vshll_n_u16(h, 16));
}
/* Through bytes: the elements may have any alignment. */
V_INLINE uint16x4_t v_load_16(const char *p) {
  return vreinterpret_u16_u8(vld1_u8((const uint8_t *)p));
}
V_INLINE float32x4_t v_load_f16(const char *p) { return v_widen_f16(v_load_16(p)); }
V_INLINE float32x4_t v_load_bf16(const char *p) { return v_widen_bf16(v_load_16(p)); }
V_INLINE float32x4_t v_load_f32(const char *p) {
  return vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)p));
}

V_INLINE uint16x4_t v_part_16(const char *p, int64_t n) {
  uint16_t tail[4] = {0};
  memcpy(tail, p, 2 * (size_t)n);
  return vld1_u16(tail);
}
V_INLINE float32x4_t v_part_f16(const char *p, int64_t n) { return v_widen_f16(v_part_16(p, n)); }
V_INLINE float32x4_t v_part_bf16(const char *p, int64_t n) { return v_widen_bf16(v_part_16(p, n)); }
V_INLINE float32x4_t v_part_f32(const char *p, int64_t n) {
  float tail[4] = {0};
  memcpy(tail, p, 4 * (size_t)n);
  return vld1q_f32(tail);
}
V_INLINE float32x4_t v_keep(int64_t n, float32x4_t a, float32x4_t b) {
  static const uint32_t lane[4] = {0, 1, 2, 3};
  return vbslq_f32(vcltq_u32(vld1q_u32(lane), vdupq_n_u32((uint32_t)n)), a, b);
}

V_INLINE void v_narrow_16(char *p, uint16x4_t h) { vst1_u8((uint8_t *)p, vreinterpret_u8_u16(h)); }
V_INLINE void v_narrow_f16(char *p, float32x4_t v) {
  v_narrow_16(p, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}
V_INLINE void v_narrow_bf16(char *p, float32x4_t v) {
  const uint32x4_t b = vreinterpretq_u32_f32(v);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(b, 16), vdupq_n_u32(1));
  v_narrow_16(p, vshrn_n_u32(vaddq_u32(vaddq_u32(b, vdupq_n_u32(0x7FFF)), odd), 16));
}

typedef int32x4_t tc_int;
V_INLINE float32x4_t v_min(float32x4_t a, float32x4_t b) { return vminq_f32(a, b); }
V_INLINE float32x4_t v_max(float32x4_t a, float32x4_t b) { return vmaxq_f32(a, b); }
V_INLINE float32x4_t v_sqrt(float32x4_t a) { return vsqrtq_f32(a); }
V_INLINE float32x4_t v_div(float32x4_t a, float32x4_t b) { return vdivq_f32(a, b); }
V_INLINE float32x4_t v_pick(float32x4_t a, float32x4_t limit, float32x4_t b, float32x4_t c) {
  return vbslq_f32(vcleq_f32(a, limit), b, c);
}
V_INLINE int32x4_t i_set1(int32_t x) { return vdupq_n_s32(x); }
V_INLINE int32x4_t i_sub(int32x4_t a, int32x4_t b) { return vsubq_s32(a, b); }
V_INLINE void i_store(int32_t *p, int32x4_t i) { vst1q_s32(p, i); }
V_INLINE int32x4_t i_round(float32x4_t v) { return vcvtnq_s32_f32(v); }
V_INLINE int32x4_t i_shift_10(int32x4_t i) { return vshrq_n_s32(i, 10); }
V_INLINE uint32_t i_below(const int32_t *p, int32x4_t i) {
  static const uint32_t bits[4] = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(vcltq_s32(vld1q_s32(p), i), vld1q_u32(bits)));
}

V_INLINE int32x4_t i_load(const int32_t *p) { return vld1q_s32(p); }
V_INLINE int32x4_t i_add(int32x4_t a, int32x4_t b) { return vaddq_s32(a, b); }
V_INLINE int32x4_t i_or(int32x4_t a, int32x4_t b) { return vorrq_s32(a, b); }
V_INLINE int32x4_t i_max(int32x4_t a, int32x4_t b) { return vmaxq_s32(a, b); }
V_INLINE int32x4_t i_min(int32x4_t a, int32x4_t b) { return vminq_s32(a, b); }
V_INLINE int32x4_t i_up_8(int32x4_t i) { return vshlq_n_s32(i, 8); }
V_INLINE float32x4_t i_float(int32x4_t i) { return vcvtq_f32_s32(i); }
V_INLINE int32x4_t i_lanes(void) {
  static const int32_t lane[4] = {0, 1, 2, 3};
  return vld1q_s32(lane);
}
V_INLINE int32_t i_least(int32x4_t i) { return vminvq_s32(i); }

/* Products of 16-bit integers. */
typedef int16x8_t h_register;
typedef int16_t h_integer;
enum { h_PACK = 2, h_SHIFT = 0 };
V_INLINE int16x8_t h_zero(void) { return vdupq_n_s16(0); }
V_INLINE int16x8_t h_load(const int16_t *p) { return vld1q_s16(p); }
V_INLINE void h_store(int16_t *p, int16x8_t h) { vst1q_s16(p, h); }
V_INLINE int16x8_t h_pack(const float32x4_t *v) {
  const int32x4_t a = vcvtnq_s32_f32(v[0]), b = vcvtnq_s32_f32(v[1]);
  const int16x8_t h = vcombine_s16(vqmovn_s32(a), vqmovn_s32(b));
  return vmaxq_s16(vminq_s16(h, vdupq_n_s16(127)), vdupq_n_s16(-127));
}
V_INLINE int16x8_t h_left(int16x8_t h) { return h; }
V_INLINE int32x4_t h_dot(int32x4_t i, int16x8_t a, int16x8_t b) {
  return vmlal_high_s16(vmlal_s16(i, vget_low_s16(a), vget_low_s16(b)), a, b);
}
V_INLINE void i_add_4(int32_t *p, const int32x4_t *i) {
  const int32x4_t sum = vpaddq_s32(vpaddq_s32(i[0], i[1]), vpaddq_s32(i[2], i[3]));
  vst1q_s32(p, vaddq_s32(vld1q_s32(p), sum));
}

/* [a02 a13 b02 b13] */
V_INLINE float32x4_t v_far(float32x4_t a, float32x4_t b) {
  const float64x2_t x = vreinterpretq_f64_f32(a), y = vreinterpretq_f64_f32(b);
  return vaddq_f32(vreinterpretq_f32_f64(vtrn1q_f64(x, y)),
                   vreinterpretq_f32_f64(vtrn2q_f64(x, y)));
}

/* Strides 4, 2, 1: element g of the result is the sum of the strip's group g. */
V_INLINE float32x4_t v_strip(const float32x4_t *a) {
  const float32x4_t g0 = vaddq_f32(a[0], a[1]), g1 = vaddq_f32(a[2], a[3]);
  const float32x4_t g2 = vaddq_f32(a[4], a[5]), g3 = vaddq_f32(a[6], a[7]);
  return vpaddq_f32(v_far(g0, g1), v_far(g2, g3));
}

/* Strides 16, 8, 4. */
V_INLINE float32x4_t v_row(const float32x4_t *b) {
  const float32x4_t g0 = vaddq_f32(b[0], b[4]), g4 = vaddq_f32(b[1], b[5]);
  const float32x4_t g8 = vaddq_f32(b[2], b[6]), g12 = vaddq_f32(b[3], b[7]);
  return vaddq_f32(vaddq_f32(g0, g8), vaddq_f32(g4, g12));
}

/* Strides 2, 1. */
V_INLINE float32x4_t v_finish(const float32x4_t *z) {
  return vpaddq_f32(v_far(z[0], z[1]), v_far(z[2], z[3]));
}

#include "kernels_simd.h"

/* Products of bytes, four and their sum in one operation, where the CPU has it. As text: not every
 * compiler has a function for it in a build that does not ask for such CPUs. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#elif !defined(__ARM_FEATURE_DOTPROD) && !defined(__ARM_FEATURE_SVE)
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#if defined(__ARM_FEATURE_SVE) && !defined(__ARM_FEATURE_DOTPROD)
#define TC_DOTPROD h /* GCC's option would lose SVE */
#else
#define TC_DOTPROD b

typedef int8x16_t b_register;
typedef int8_t b_integer;
enum { b_PACK = 4, b_SHIFT = 0 };
V_INLINE int8x16_t b_zero(void) { return vdupq_n_s8(0); }
V_INLINE int8x16_t b_load(const int8_t *p) { return vld1q_s8(p); }
V_INLINE void b_store(int8_t *p, int8x16_t b) { vst1q_s8(p, b); }
V_INLINE int8x16_t b_pack(const float32x4_t *v) {
  return vcombine_s8(vmovn_s16(h_pack(v)), vmovn_s16(h_pack(v + 2)));
}
V_INLINE int8x16_t b_left(int8x16_t b) { return b; }
V_INLINE int32x4_t b_dot(int32x4_t i, int8x16_t a, int8x16_t b) {
  __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(i) : "w"(a), "w"(b));
  return i;
}
#define Q(x) b_##x
#include "grams_simd.h"
#endif
#if defined(__clang__)
#pragma clang attribute pop
#endif

const tc_kernels tc_kernels_neon = {"neon", TC_TABLE(h)};
const tc_kernels tc_kernels_neon_dotprod = {"neon-dotprod", TC_TABLE(TC_DOTPROD)};

#else
typedef int tc_kernels_neon_is_elsewhere;
#endif
