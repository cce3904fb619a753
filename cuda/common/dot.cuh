/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dot: METHOD.md's dot product and squared norm by one warp per row.
 *
 * Formula: 256 accumulators from +0, element j to accumulator j mod 256 by fma, j ascending; then a
 * tree at strides 4, 2, 1 inside groups of 8 accumulators and 16, 8, 4, 2, 1 across the 32 groups.
 * Strategy: a lane owns 8 of each run of 256 elements, hence 8 accumulators, which no other lane
 * touches. What it owns is chosen so that loads of 16 bytes are contiguous across the warp:
 *   16-bit  elements 8l .. 8l+7: one load, and group l is the lane's own
 *   fp32    elements 4l .. 4l+3 and 128+4l .. 128+4l+3: two loads of 512 contiguous bytes each.
 *           Owning 8l .. 8l+7 would ask for every sector twice; instead the upper and lower half
 *           of a group meet by one exchange of 4 values between neighbours per row, after which an
 *           even lane has group l/2 and an odd one group 16 + (l-1)/2
 * Several sums go through one butterfly: where two meet, each lane gives away the one that it does
 * not go on with (tc_meet). Additions may swap their operands against the tree: that changes no bit
 * of a number (a NaN stays a NaN; its payload is nobody's promise).
 * Precision: fp16 and bf16 widen exactly; one rounding per fma and addition.
 * Absent elements (past dim) are left out, or zeros in both operands. fma(0, 0, a) is a for every a
 * but -0, which becomes +0. An accumulator can be -0 (a negative product that underflows), so this
 * can turn the sign of a zero, and only that: a zero of either sign adds the same to anything
 * nonzero, so the tree's result differs at most in the sign of a zero. Squares are never -0; a dot
 * product of -0 and one of +0 both score +0 (tc_cosine_finish).
 * Loads are plain ones: a kernel that writes rows in place may use them.
 */
#ifndef TAILCUT_DOT_CUH_
#define TAILCUT_DOT_CUH_

#include <cuda_fp16.h>

#include "common/segments.cuh"

#define TC_RUN_ELEMENTS 256

template <int DTYPE>
struct tc_type {
  static constexpr int size = DTYPE == TAILCUT_F32 ? 4 : 2;
  static constexpr int words = 2 * size; /* a lane's 8 elements in 32-bit words */
  /* Lanes between two groups that the tree adds in its step 0 .. 4 (16, 8, 4, 2, 1 groups). */
  static __host__ __device__ constexpr int stride(int step) {
    return DTYPE != TAILCUT_F32 ? 16 >> step : step == 0 ? 1 : 32 >> step;
  }
};

/* A lane's 8 elements of a run as they lie in memory. */
template <int DTYPE>
struct tc_eight {
  uint32_t w[tc_type<DTYPE>::words];
};

/* The element that is a lane's k-th of a run. */
template <int DTYPE>
__device__ inline uint32_t tc_own(uint32_t lane, uint32_t k) {
  if (DTYPE == TAILCUT_F32) return (k & 4u) << 5 | 4 * lane | (k & 3u);
  return 8 * lane + k;
}

__device__ inline uint32_t tc_load_16(const char *p) { return *(const uint16_t *)p; }

/* 16 bytes in loads of BYTES. */
template <int BYTES>
__device__ inline void tc_load_quad(const char *p, uint32_t *w) {
  if (BYTES == 16) {
    const uint4 v = *(const uint4 *)p;
    w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
  } else if (BYTES == 8) {
    const uint2 a = *(const uint2 *)p, b = *(const uint2 *)(p + 8);
    w[0] = a.x, w[1] = a.y, w[2] = b.x, w[3] = b.y;
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      w[i] = BYTES == 4 ? *(const uint32_t *)(p + 4 * i)
                        : tc_load_16(p + 4 * i) | tc_load_16(p + 4 * i + 2) << 16;
    }
  }
}

/* The 16 bytes from element e on, of which those past dim are zero and not touched. */
template <int SIZE, int BYTES>
__device__ inline void tc_load_quad_masked(const char *row, uint32_t e, uint32_t dim, uint32_t *w) {
  const char *p = row + (size_t)e * SIZE;
  if (e + 16 / SIZE <= dim) {
    tc_load_quad<BYTES>(p, w);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    w[i] = 0;
    if (SIZE == 4) {
      if (e + i < dim) w[i] = *(const uint32_t *)(p + 4 * i);
    } else {
      if (e + 2 * i < dim) w[i] = tc_load_16(p + 4 * i);
      if (e + 2 * i + 1 < dim) w[i] |= tc_load_16(p + 4 * i + 2) << 16;
    }
  }
}

/* This lane's elements of run `run` of a row; whole: the run does not reach past dim (the same for
 * all lanes). BYTES divides the row's address. */
template <int DTYPE, int BYTES>
__device__ inline void tc_load_run(tc_eight<DTYPE> &x, const char *row, uint32_t run, uint32_t dim,
                                   bool whole) {
  constexpr int size = tc_type<DTYPE>::size;
  const uint32_t lane = threadIdx.x & 31;
#pragma unroll
  for (int h = 0; h < tc_type<DTYPE>::words / 4; h++) {
    const uint32_t e = run * TC_RUN_ELEMENTS + tc_own<DTYPE>(lane, 4 * h);
    if (whole) {
      tc_load_quad<BYTES>(row + (size_t)e * size, x.w + 4 * h);
    } else {
      tc_load_quad_masked<size, BYTES>(row, e, dim, x.w + 4 * h);
    }
  }
}

/* The k-th of the 8 elements, exactly. */
template <int DTYPE>
__device__ inline float tc_widen(const tc_eight<DTYPE> &x, int k) {
  if (DTYPE == TAILCUT_F32) return __uint_as_float(x.w[k % tc_type<DTYPE>::words]);
  const uint32_t w = x.w[k / 2];
  if (DTYPE == TAILCUT_BF16) return __uint_as_float(k & 1 ? w & 0xFFFF0000u : w << 16);
  return __half2float(__ushort_as_half((unsigned short)(k & 1 ? w >> 16 : w)));
}

/* One element, of a dtype known at run time. */
__device__ inline float tc_element(const char *data, int32_t dtype, uint32_t e) {
  if (dtype == TAILCUT_F32) return *(const float *)(data + (size_t)e * 4);
  const uint32_t h = tc_load_16(data + (size_t)e * 2);
  if (dtype == TAILCUT_BF16) return __uint_as_float(h << 16);
  return __half2float(__ushort_as_half((unsigned short)h));
}

__device__ inline void tc_clear(float *a) {
#pragma unroll
  for (int k = 0; k < 8; k++) a[k] = 0.0f;
}

/* Sum of one whole group of accumulators: which lane has which group, see above. */
template <int DTYPE>
__device__ inline float tc_group_sum(const float *a) {
  float b[4];
#pragma unroll
  for (int k = 0; k < 4; k++) {
    if (DTYPE == TAILCUT_F32) {
      const bool odd = threadIdx.x & 1;
      const float other = __shfl_xor_sync(TC_FULL, odd ? a[k] : a[k + 4], 1);
      b[k] = __fadd_rn(odd ? a[k + 4] : a[k], other);
    } else {
      b[k] = __fadd_rn(a[k], a[k + 4]);
    }
  }
  return __fadd_rn(__fadd_rn(b[0], b[2]), __fadd_rn(b[1], b[3]));
}

/* A step of the tree across groups for two sums at once: a in the lanes whose bit of this step is
 * clear, b in the others. */
template <int DTYPE>
__device__ inline float tc_meet(float a, float b, int step) {
  const int stride = tc_type<DTYPE>::stride(step);
  const bool second = threadIdx.x & stride;
  return __fadd_rn(second ? b : a, __shfl_xor_sync(TC_FULL, second ? a : b, stride));
}

/* The tree from step `step` on, of a sum that each lane has gone on with. */
template <int DTYPE>
__device__ inline float tc_across(float v, int step) {
#pragma unroll
  for (int i = 0; i < 5; i++) {
    if (i >= step) v = tc_meet<DTYPE>(v, v, i);
  }
  return v;
}

/* The tree of one sum: its value in every lane. */
template <int DTYPE>
__device__ inline float tc_sum(const float *a) {
  return tc_across<DTYPE>(tc_group_sum<DTYPE>(a), 0);
}

/* The squared norm of a row, of which RUNS runs are loaded together. */
template <int DTYPE, int BYTES, int RUNS>
__device__ inline float tc_row_square(const char *row, uint32_t dim) {
  float square[8];
  tc_clear(square);
  for (uint32_t run = 0; run * TC_RUN_ELEMENTS < dim; run += RUNS) {
    tc_eight<DTYPE> x[RUNS];
    const bool whole = (run + RUNS) * TC_RUN_ELEMENTS <= dim;
    if (whole) {
#pragma unroll
      for (int u = 0; u < RUNS; u++) tc_load_run<DTYPE, BYTES>(x[u], row, run + u, dim, true);
    } else {
#pragma unroll
      for (int u = 0; u < RUNS; u++) tc_load_run<DTYPE, BYTES>(x[u], row, run + u, dim, false);
    }
#pragma unroll
    for (int u = 0; u < RUNS; u++) {
#pragma unroll
      for (int k = 0; k < 8; k++) {
        const float v = tc_widen<DTYPE>(x[u], k);
        square[k] = __fmaf_rn(v, v, square[k]);
      }
    }
  }
  return tc_sum<DTYPE>(square);
}

template <int DTYPE, int BYTES, int RUNS>
__device__ inline float tc_row_norm(const char *row, uint32_t dim) {
  return __fsqrt_rn(tc_row_square<DTYPE, BYTES, RUNS>(row, dim));
}

/* What a row counts for where only its direction does. */
__device__ inline float tc_row_weight(float norm) { return __fdiv_rn(1.0f, tc_norm_floor(norm)); }

/* The widest load, up to 16 bytes, that divides all bits of `addresses` (or'ed together). */
static inline int tc_widest(uint64_t addresses) {
  const uint64_t low = addresses & (~addresses + 1);
  return low == 0 || low > 16 ? 16 : (int)low;
}

/* What a row of a token matrix can be loaded with: its base and strides. */
static inline int tc_token_width(const tc_segments *s, const tailcut_tokens *tokens) {
  const int64_t size = tc_dtype_size(tokens->dtype);
  uint64_t bits = (uint64_t)(uintptr_t)tokens->data | (uint64_t)(tokens->row_stride * size);
  if (s->cu_seqlens == nullptr) bits |= (uint64_t)(tokens->segment_stride * size);
  return tc_widest(bits);
}

#endif /* TAILCUT_DOT_CUH_ */
