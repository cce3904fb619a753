/* SPDX-License-Identifier: Apache-2.0 */
/*
 * otsu: OTSU's criterion (Otsu 1979; curve.h) over curve values, for kernels that do not sort.
 *
 * An offset is o = 2^20 - p, 0 .. 2^21, ascending where scores descend. With offsets instead of p
 * only the sign of d changes: d = k * total - N * (sum of the first k offsets), B = d^2 / (k (N -
 * k)).
 * Over all ranks the best one ends a run of equal p: inside a run d is linear in k, so B is convex,
 * and B'' >= 2 B / (k (N - k)) >= 2^-37 B: an inner rank is below the better end by far more than
 * B's rounding. So the answer is an offset, and neither ranks nor ties are needed.
 * Bound of the ranks [a, b) whose offsets lie in [low, low + width]: d as a function of the rank is
 * concave, and between the ends below both tangents, of slopes that belong to the best and the
 * worst offset. They meet at k = a + x with x = (distance to the worst offset) / width and y = b -
 * k; L^2 / (k (N - k)) is convex for affine L, so B is at most the greatest of its values at a, at
 * b and of the tangents' where they meet. Evaluated in fp32 with room for its rounding (2^-20.4 for
 * the bound, 2^-21.3 for the value at an end).
 * Precision: B is exact; fp32 only decides what is looked at. Limits: 2^20 rows.
 */
#ifndef TAILCUT_CUT_OTSU_CUH_
#define TAILCUT_CUT_OTSU_CUH_

#include "cut/cut.cuh"

#define TC_NO_OFFSET 0xFFFFFFFFu /* no candidate, or no number */

/* 2^(30-e) as two factors: each a float, and the products are exact wherever q is not 0. */
struct tc_scale {
  float f, g;
};
__device__ __forceinline__ tc_scale tc_scale_of(int32_t exponent) {
  const int32_t x = 30 - exponent, half = x >> 1;
  return {tc_bits_float((uint32_t)(127 + half) << 23),
          tc_bits_float((uint32_t)(127 + x - half) << 23)};
}

/* 2^20 - p of a score that is a number: tc_quantise and tc_curve_value without doubles. */
__device__ __forceinline__ uint32_t tc_offset(float s, tc_scale scale) {
  const int32_t q = __float2int_rn(s * scale.f * scale.g); /* saturates */
  return (uint32_t)((1 << 20) - (min(max(q, -(1 << 30)), 1 << 30) >> 10));
}

/* The same of the key of a number. */
__device__ __forceinline__ uint32_t tc_key_offset(uint32_t key, tc_scale scale) {
  return tc_offset(tc_bits_float(key > 0x7FFFFFFFu ? key : key ^ 0x7FFFFFFFu), scale);
}

/* N' and the sum of all offsets. */
template <class SUM>
struct tc_otsu {
  uint32_t n;
  SUM total;

  __device__ __forceinline__ int64_t d(uint32_t k, SUM sum) const {
    return (int64_t)((uint64_t)k * total - (uint64_t)n * sum);
  }

  /* B of the first k, as bits: it is never negative. */
  __device__ __forceinline__ uint64_t exact(uint32_t k, SUM sum) const {
    const double value = tc_otsu_ratio((double)d(k, sum), (double)k, (double)(n - k));
    return (uint64_t)__double_as_longlong(value);
  }

  /* The same of d and k (n - k) in fp32; 0 where that is 0. */
  __device__ static __forceinline__ float rough(float d, float den) {
    const float ratio = __fdividef(d * d, den);
    return den > 0.0f ? ratio : 0.0f;
  }

  /* Upper bound of B at the ends of runs of equal offsets, for ranks a .. b-1 of offsets low .. low
   * + 2^shift, sum_a and sum_b being sums of the first a and b; *end: about B at b. (b - a) 2^shift
   * is below 2^31. */
  __device__ __forceinline__ float bound(uint32_t a, SUM sum_a, uint32_t b, SUM sum_b, uint32_t low,
                                         int shift, float *end) const {
    const uint32_t count = b - a;
    const float fa = (float)a, behind = (float)(n - b);
    const float da = (float)d(a, sum_a);
    *end = rough((float)d(b, sum_b), (float)b * behind);
    if (count < 2) return *end;
    const float inverse = tc_bits_float((127u - (uint32_t)shift) << 23);
    const uint32_t above = (uint32_t)(sum_b - sum_a - (SUM)count * low);
    const float y = (float)above * inverse, x = (float)((count << shift) - above) * inverse;
    const float rise = x * (float)(int64_t)(total - (uint64_t)n * low);
    const float top =
        da + rise + (fabsf(da) + fabsf(rise)) * 0x1p-21f; /* its rounding: 6 of 2^-24 */
    return fmaxf(fmaxf(*end, rough(da, fa * (float)(n - a))), rough(top, (fa + x) * (behind + y)));
  }

  /* Whether something bounded by `bound` may reach `best`: rounding of both is below this room. */
  __device__ static __forceinline__ bool survives(float bound, float best) {
    return bound * (1.0f + 0x1.8p-20f) >= best * (1.0f - 0x1p-20f);
  }
};

#endif /* TAILCUT_CUT_OTSU_CUH_ */
