/* SPDX-License-Identifier: Apache-2.0 */
/* quads: a row, or a run of one, in a warp's registers: loaded, summed, made to bytes.
 *
 * Precision: fp16 in half arithmetic: 1536 + q is exact, one fma rounds to it, its low byte is q.
 * The others in fp32 (tc_byte_of). Limits: 14 quads a lane. */
#ifndef TAILCUT_NOVELTY_QUADS_CUH_
#define TAILCUT_NOVELTY_QUADS_CUH_

#include "novelty/novelty.cuh"

__device__ inline __half2 tc_halves(uint32_t bits) {
  __half2 v;
  memcpy(&v, &bits, 4);
  return v;
}

/* Four values of 16 bits (two words) times a power of two, as bytes. */
__device__ inline uint32_t tc_half_bytes(uint32_t a, uint32_t b, __half2 factor) {
  const __half2 origin = tc_halves(0x66006600u);                               /* 1536 */
  const __half2 least = tc_halves(0x65816581u), most = tc_halves(0x667F667Fu); /* -+ 127 */
  uint32_t q[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const __half2 x = __hfma2(tc_halves(i == 0 ? a : b), factor, origin);
    const __half2 v = __hmin2(__hmax2(x, least), most);
    memcpy(&q[i], &v, 4);
  }
  return __byte_perm(q[0], q[1], 0x6420);
}

/* x of a tiny row times 2^18: exact, and no half is too large then. */
__device__ inline uint32_t tc_lifted(uint32_t w) {
  const __half2 up = tc_halves(0x78007800u), more = tc_halves(0x48004800u); /* 2^15, 2^3 */
  const __half2 x = __hmul2(__hmul2(tc_halves(w), up), more);
  memcpy(&w, &x, 4);
  return w;
}

/* 16 bytes of shared memory from any address. */
__device__ inline void tc_shared_quad(const char *from, uint32_t *w) {
  const uint32_t skip = tc_shared_address(from) & 15;
  uint32_t v[8];
  tc_load_quad<16>(from - skip, v);
  tc_load_quad<16>(from - skip + 16, v + 4);
#pragma unroll
  for (int i = 0; i < 6; i++) v[i] = skip & 8 ? v[i + 2] : v[i];
#pragma unroll
  for (int i = 0; i < 5; i++) v[i] = skip & 4 ? v[i + 1] : v[i];
#pragma unroll
  for (int i = 0; i < 4; i++) w[i] = __funnelshift_r(v[i], v[i + 1], (skip & 3) * 8);
}

/* Where bytes lie in shared memory: those of row i from i * pitch on, in units of 16, unit u at
 * u ^ (i & 7). */
__device__ inline uint32_t tc_byte_address(uint32_t bytes, uint32_t number, uint32_t pitch,
                                           uint32_t channel) {
  return bytes + number * pitch + (((channel >> 4) ^ (number & 7)) << 4) + (channel & 15);
}

__device__ inline void tc_put_bytes(uint32_t to, const uint32_t (&w)[1]) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(w[0]) : "memory");
}
__device__ inline void tc_put_bytes(uint32_t to, const uint32_t (&w)[2]) {
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(to), "r"(w[0]), "r"(w[1]) : "memory");
}

/* A row as it lies in its warp's registers. */
template <int DTYPE, int QUADS>
struct tc_row_quads {
  static constexpr int PER_RUN = DTYPE == TAILCUT_F32 ? 2 : 1;
  static constexpr int COUNT = QUADS, RUNS = QUADS / PER_RUN;
  static constexpr uint32_t UNIT = 16 / tc_type<DTYPE>::size; /* channels of a lane's quad */
  static constexpr uint32_t CHANNELS = QUADS * 32 * UNIT;
  static_assert(QUADS % PER_RUN == 0, "whole runs");
  tc_eight<DTYPE> x[RUNS];

  __device__ inline uint32_t *quad(int q) { return x[q / PER_RUN].w + 4 * (q % PER_RUN); }
  __device__ static inline uint32_t channel(int q) {
    return ((uint32_t)q * 32 + (threadIdx.x & 31)) * UNIT;
  }

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

  /* The same from shared memory, ALIGNED: at a multiple of 16; `left`: channels from here on. */
  template <bool ALIGNED>
  __device__ inline void take(const char *from, uint32_t left) {
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
      const uint32_t e = channel(q);
      const char *at = from + e * tc_type<DTYPE>::size;
      if (ALIGNED) {
        tc_load_quad<16>(at, quad(q));
      } else {
        tc_shared_quad(at, quad(q));
      }
      if (left >= CHANNELS) continue;
#pragma unroll
      for (uint32_t i = 0; i < 4; i++) {
        const uint32_t first = e + i * (UNIT / 4);
        if (first >= left) quad(q)[i] = 0;
        if (UNIT == 8 && first + 1 == left) quad(q)[i] &= 0xFFFFu;
      }
    }
  }

  /* Adds `quads` quads to a lane's accumulators of METHOD.md's squared norm. */
  __device__ inline void add_squares(int quads, float *square) const {
#pragma unroll
    for (int run = 0; run < RUNS; run++) {
      if (run * PER_RUN >= quads) break;
#pragma unroll
      for (int k = 0; k < 8; k++) {
        const float v = tc_widen<DTYPE>(x[run], k);
        square[k] = __fmaf_rn(v, v, square[k]);
      }
    }
  }

  /* put(q, words) of each quad's bytes. */
  static constexpr int WORDS = DTYPE == TAILCUT_F32 ? 1 : 2; /* of bytes, of a quad */
  template <class Put>
  __device__ inline void make_bytes(int quads, int32_t shift, Put put) {
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
        const uint32_t packed[2] = {tc_half_bytes(x[q].w[0], x[q].w[1], factor),
                                    tc_half_bytes(x[q].w[2], x[q].w[3], factor)};
        put(q, packed);
      }
    } else {
      const float factor = tc_bits_float((uint32_t)(127 + shift) << 23);
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
        }
        put(q, packed);
      }
    }
  }
};

/* The sums of a warp's blocks of 16 x 16. Of each two sides of 16 rows one meets the other: a side
 * those that are up to SIDES / 2 behind it, in a ring, of which its GROUP warps have every
 * GROUP-th. All blocks of a warp share a side, which is loaded once for them. */
template <int WINDOW, int GROUP>
struct tc_sums {
  static constexpr int SIDES = WINDOW / 16, EACH = (SIDES / 2 + GROUP) / GROUP;
  int32_t c[EACH][2][4];
  int32_t side, turn; /* sides of block t: this one, and turn + t GROUP behind it */
  uint32_t there;     /* bit t: block t is this warp's, and neither side is all absent */

  __device__ inline tc_sums(int32_t turn_, int32_t n)
      : side((int32_t)(threadIdx.x >> 5) % SIDES), turn(turn_), there(0) {
#pragma unroll
    for (int t = 0; t < EACH; t++) {
      const int32_t behind = turn + t * GROUP;
      const bool own = behind < SIDES / 2 || (behind == SIDES / 2 && side < SIDES / 2);
      if (own && max(side, other(t)) * 16 < n) there |= 1u << t;
#pragma unroll
      for (int e = 0; e < 8; e++) c[t][e >> 2][e & 3] = 0;
    }
  }

  __device__ inline int32_t other(int t) const { return (side + turn + t * GROUP) % SIDES; }

  /* Adds what channels 32 * from .. 32 * to - 1 say. */
  template <int UNROLL = 1>
  __device__ inline void add(uint32_t bytes, uint32_t pitch, uint32_t from, uint32_t to) {
    const uint32_t lane = threadIdx.x & 31, swap = lane & 7, half = lane >> 4;
    uint32_t block = 16 * pitch;
    const uint32_t own = bytes + (swap + ((lane >> 3) & 1) * 8) * pitch;
    if (there == 0) return;
#pragma unroll UNROLL
    for (uint32_t step = from; step < to; step++) {
      const uint32_t at = own + (((step * 2 + half) ^ swap) << 4);
      uint32_t f[4], g[4];
      asm volatile("" : "+r"(block)); /* or there would be a register for each multiple of it */
      tc_load_matrices(f, at + (uint32_t)side * block);
#pragma unroll
      for (int t = 0; t < EACH; t++) {
        if ((there >> t & 1) == 0) continue;
        const bool same = GROUP == 1 && t == 0;
        if (!same) tc_load_matrices(g, at + (uint32_t)other(t) * block);
        tc_mma_bytes(c[t][0], f, same ? f[0] : g[0], same ? f[2] : g[2]);
        tc_mma_bytes(c[t][1], f, same ? f[1] : g[1], same ? f[3] : g[3]);
      }
    }
  }
};

#endif /* TAILCUT_NOVELTY_QUADS_CUH_ */
