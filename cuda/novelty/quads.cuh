/* SPDX-License-Identifier: Apache-2.0 */
/* quads: a row of whole 16-byte units in a warp's registers: loaded, summed, made to bytes.
 *
 * Precision: fp16 in half arithmetic: 1536 + q is exact, one fma rounds to it, its low byte is q.
 * The others in fp32 (tc_byte_of). Limits: 14 quads a lane. */
#ifndef TAILCUT_NOVELTY_QUADS_CUH_
#define TAILCUT_NOVELTY_QUADS_CUH_

#include "novelty/novelty.cuh"

/* Four values of 16 bits (two words) times a power of two, as bytes. */
__device__ inline uint32_t tc_half_bytes(uint32_t a, uint32_t b, __half2 factor) {
  const uint32_t origin = 0x66006600u, least = 0x65816581u, most = 0x667F667Fu; /* 1536 -+ 127 */
  __half2 x[2], lo, hi, zero;
  memcpy(&x[0], &a, 4);
  memcpy(&x[1], &b, 4);
  memcpy(&lo, &least, 4);
  memcpy(&hi, &most, 4);
  memcpy(&zero, &origin, 4);
  uint32_t q[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const __half2 v = __hmin2(__hmax2(__hfma2(x[i], factor, zero), lo), hi);
    memcpy(&q[i], &v, 4);
  }
  return __byte_perm(q[0], q[1], 0x6420);
}

/* x of a tiny row times 2^18: exact, and no half is too large then. */
__device__ inline uint32_t tc_lifted(uint32_t w) {
  const uint32_t up = 0x78007800u, more = 0x48004800u; /* 2^15, 2^3 */
  __half2 x, a, b;
  memcpy(&x, &w, 4);
  memcpy(&a, &up, 4);
  memcpy(&b, &more, 4);
  x = __hmul2(__hmul2(x, a), b);
  memcpy(&w, &x, 4);
  return w;
}

/* A row as it lies in its warp's registers. */
template <int DTYPE, int QUADS>
struct tc_row_quads {
  static constexpr int PER_RUN = DTYPE == TAILCUT_F32 ? 2 : 1;
  static constexpr int RUNS = QUADS / PER_RUN;
  static_assert(QUADS % PER_RUN == 0, "whole runs");
  tc_eight<DTYPE> x[RUNS];

  __device__ inline uint32_t *quad(int q) { return x[q / PER_RUN].w + 4 * (q % PER_RUN); }

  /* Quads past the row's end are read as its last, and cleared by `clear`. */
  __device__ inline void load(const char *row, uint32_t bytes) {
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
      const uint32_t at = (uint32_t)q * 512 + (threadIdx.x & 31) * 16;
      tc_load_quad<16>(row + min(at, bytes - 16), quad(q));
    }
  }
  __device__ inline void clear(uint32_t bytes) {
    if (bytes % (512 * PER_RUN) == 0) return;
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
      const bool absent = (uint32_t)q * 512 + (threadIdx.x & 31) * 16 >= bytes;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (absent) quad(q)[i] = 0;
      }
    }
  }

  /* METHOD.md's squared norm of `quads` quads, but for the tree across groups. */
  __device__ inline float group_square(int quads) const {
    float square[8];
    tc_clear(square);
#pragma unroll
    for (int run = 0; run < RUNS; run++) {
      if (run * PER_RUN >= quads) break;
#pragma unroll
      for (int k = 0; k < 8; k++) {
        const float v = tc_widen<DTYPE>(x[run], k);
        square[k] = __fmaf_rn(v, v, square[k]);
      }
    }
    return tc_group_sum<DTYPE>(square);
  }

  /* The bytes of row `number` to shared memory; returns this lane's part of their product. */
  __device__ inline int32_t store(uint32_t bytes, uint32_t number, uint32_t pitch, int quads,
                                  int32_t shift) {
    const uint32_t lane = threadIdx.x & 31;
    const uint32_t row = bytes + number * pitch, turn = number & 7;
    int32_t product = 0;
    if constexpr (DTYPE == TAILCUT_F16) {
      if (shift > 15) {
        shift = min(shift - 18, 15); /* there all but zeros are 127 in any case */
#pragma unroll
        for (int q = 0; q < QUADS; q++) {
#pragma unroll
          for (int i = 0; i < 4; i++) x[q].w[i] = tc_lifted(x[q].w[i]);
        }
      }
      const __half2 factor =
          __half2half2(__ushort_as_half((unsigned short)(((shift + 15) & 31) << 10)));
#pragma unroll
      for (int q = 0; q < QUADS; q++) {
        if (q >= quads) break;
        const uint32_t a = tc_half_bytes(x[q].w[0], x[q].w[1], factor);
        const uint32_t b = tc_half_bytes(x[q].w[2], x[q].w[3], factor);
        product = __dp4a((int32_t)b, (int32_t)b, __dp4a((int32_t)a, (int32_t)a, product));
        const uint32_t unit = (uint32_t)q * 16 + (lane >> 1);
        asm volatile(
            "st.shared.v2.u32 [%0], {%1, %2};" ::"r"(row + ((unit ^ turn) << 4) + (lane & 1) * 8),
            "r"(a), "r"(b)
            : "memory");
      }
    } else {
      const float factor = tc_bits_float((uint32_t)(127 + shift) << 23);
      constexpr int WORDS = DTYPE == TAILCUT_F32 ? 1 : 2; /* of bytes, of a quad */
#pragma unroll
      for (int q = 0; q < QUADS; q++) {
        if (q >= quads) break;
        uint32_t packed[WORDS];
#pragma unroll
        for (int h = 0; h < WORDS; h++) {
          uint32_t v[4];
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const int k = DTYPE == TAILCUT_F32 ? 4 * (q % PER_RUN) + i : 4 * h + i;
            v[i] = tc_byte_of(tc_widen<DTYPE>(x[q / PER_RUN], k), factor);
          }
          packed[h] = tc_low_bytes(v[0], v[1], v[2], v[3]);
          product = __dp4a((int32_t)packed[h], (int32_t)packed[h], product);
        }
        const uint32_t unit = (uint32_t)q * 8 * WORDS + lane * WORDS / 4;
        const uint32_t to = row + ((unit ^ turn) << 4) + lane * WORDS % 4 * 4;
        if constexpr (WORDS == 1) {
          asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(packed[0]) : "memory");
        } else {
          asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(to), "r"(packed[0]),
                       "r"(packed[WORDS - 1])
                       : "memory");
        }
      }
    }
    return product;
  }
};

#endif /* TAILCUT_NOVELTY_QUADS_CUH_ */
