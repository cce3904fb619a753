/* SPDX-License-Identifier: Apache-2.0 */
/* attention: what its kernels share: the arguments, tiles of rows in shared memory, the product of
 * two of them.
 *
 * Rows of q and k go through shared memory in pieces of TC_DEPTH bytes of a head's channels, zeros
 * behind the last: rings of TC_RING tiles, filled by cp.async TC_AHEAD steps before their use. The
 * 16-byte parts of a row are permuted by its number, so that neither the copies nor ldmatrix nor
 * the loads of fp32 meet in a bank. A warp multiplies 32 query rows by 8 * NI keys; whatever the
 * dtype, a thread has the same ones of the products: those of mma.m16n8k16. */
#ifndef TAILCUT_ATTENTION_CUH_
#define TAILCUT_ATTENTION_CUH_

#include <type_traits>

#include "common/dot.cuh"
#include "common/launch.cuh"
#include "common/segments.cuh"
#include "common/tensor.cuh"
#include "common/tiles.cuh"

#define TC_AT_THREADS 256
#define TC_AT_KEYS 128   /* keys of a tile */
#define TC_AT_ROWS 128   /* pairs of a query row and a head of a tile, attention_lse.cu */
#define TC_AT_QUERIES 64 /* query rows of a tile, attention_keys.cu */
#define TC_DEPTH 128     /* bytes */
#define TC_RING 3
#define TC_AHEAD 2
#define TC_AT_BLOCKS 1024 /* most blocks where several share a sum: TC_CHUNK_SEGMENTS counters */
#define TC_AT_PART 16 /* bytes of the sums of a part, whichever they are: both may be under way */

struct tc_attention_args {
  tc_segments s;
  tc_tiles t; /* tiles of TC_BLOCK rows; of keys by prefix every other one is taken */
  const uint8_t *roles;
  const char *q, *k;
  char *lse;                        /* float, the caller's; else lse.cu's: tc_at_lse */
  int64_t q_row, q_head, q_segment; /* bytes; segment: from one segment's, or row's (ragged) */
  int64_t k_row, k_head, k_segment;
  int64_t lse_row, lse_head, lse_segment;
  int32_t q_heads, k_heads, group; /* group: query heads of a key head */
  int32_t head_bytes, pieces;      /* of a head's channels; in pieces of TC_DEPTH */
  int32_t given, causal, last_query, head_max, query_max; /* given: lse is the caller's */
  uint32_t lists;      /* blocks of attention_lists that make lists; the others measure */
  int32_t per;         /* evenly: tiles of TC_AT_KEYS keys of a segment; else 0 */
  int32_t key_splits;  /* blocks that share a tile of keys: */
  int32_t head_splits; /* of them those that share its key heads */
  float scale;         /* log2(e) / sqrt(head_dim) */
  double root;         /* sqrt(head_dim) */
  double most_square;  /* of |q|^2 |k|^2, for which fp32 sums do */
  float *scores;
  int32_t *flags;
  tc_cuda_lasting *lasting;
  int32_t *list;      /* by row number: the query rows of each segment that ask, ascending */
  int32_t *asking;    /* [segments] their number */
  int64_t *row_tiles; /* [segments + 1] prefix sums of ceil(asking * group / TC_AT_ROWS) */
  uint32_t *key_bits; /* bit i of word tc_key_word(start, b) + w: row 32 w + i is a key */
  char *part_stats;   /* [blocks, TC_AT_ROWS, TC_AT_PART] tc_at_sums, of parts of the keys */
  float *part_sums;   /* [blocks, TC_AT_KEYS] of parts of the query rows and heads */
  float *squares;     /* [q_heads, then k_heads; squares_pitch] squares.cuh */
  int64_t squares_pitch;
};

cudaError_t tc_attention_lse(const tc_attention_args &args, int32_t dtype, bool wide,
                             unsigned blocks, const tc_chain *chain);
cudaError_t tc_attention_keys(const tc_attention_args &args, int32_t dtype, bool wide,
                              unsigned blocks, const tc_chain *chain);
void tc_attention_load_lse(cudaError_t *error);
void tc_attention_load_keys(cudaError_t *error);

/* Unique, since ceil(n / 32) <= floor(n / 32) + 1. */
static inline __host__ __device__ int64_t tc_key_word(int64_t start, int64_t b) {
  return start / 32 + b;
}

/* From the first head of the first row of segment b. */
__device__ inline int64_t tc_segment_offset(const tc_attention_args &args, int32_t b, int32_t start,
                                            int64_t stride) {
  return (args.s.cu_seqlens != nullptr ? start : b) * stride;
}

/* 2^x, 0 where that is no normal number. */
__device__ inline float tc_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/* ------------------------------------------------------------------------------- logits -- */

/* The greatest logit, unscaled, and the sum of 2^(their distances to it, scaled). */
template <class T>
struct tc_at_sums {
  T m, sum;
};

/* What logits are summed in: double, or fp32 by mma.sync. */
template <bool PRECISE>
using tc_logit = std::conditional_t<PRECISE, double, float>;

/* The log-sum-exp of a pair: m unscaled, l to base 2. Those of float take as much room. */
template <class T>
struct tc_at_lse {
  T m;
  float l;
};

/* What a pair pays to the key with which its logit is x, unscaled. */
template <class T>
__device__ inline float tc_paid(T x, tc_at_lse<T> lse, float scale) {
  return tc_exp2(__fmaf_rn((float)(x - lse.m), scale, -lse.l));
}

/* ------------------------------------------------------------------------ shared memory -- */

/* Where part `part` (16 bytes) of row `row` of a tile is. */
__device__ inline int tc_part_at(int row, int part) {
  return row * TC_DEPTH + ((part ^ (row & 7)) << 4);
}

template <int BYTES>
__device__ inline void tc_fetch_number(void *to, const void *from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(tc_shared_address(to)), "l"(from),
               "n"(BYTES)
               : "memory");
}

/* The part of each piece that a thread fetches: of rows threadIdx / 8, and every 32nd behind it. */
__device__ inline int tc_fetch_part() { return (int)(threadIdx.x & 7); }
__device__ inline int tc_fetch_row() { return (int)(threadIdx.x >> 3); }
/* Bytes of a head's channels from it on, in piece `piece`. */
__device__ inline int tc_fetch_bytes(const tc_attention_args &args, int piece) {
  return args.head_bytes - piece * TC_DEPTH - tc_fetch_part() * 16;
}
/* Where in a tile the first of those rows goes; each further one 32 rows behind, by the same
 * permutation. */
__device__ inline int tc_fetch_at() { return tc_part_at(tc_fetch_row(), tc_fetch_part()); }

/* This thread's part of a piece of its i-th row of a tile, as tc_copy_quad. */
template <int DTYPE, bool WIDE>
__device__ inline void tc_fetch(char *tile, int i, const char *from, int bytes) {
  tc_copy_quad<tc_type<DTYPE>::size, WIDE>(
      tc_shared_address(tile) + tc_fetch_at() + i * 32 * TC_DEPTH, from, bytes);
}

/* The same of KEYS keys, of which `left` are there; `from`: its first's. */
template <int DTYPE, bool WIDE, int KEYS>
__device__ inline void tc_fetch_keys(const tc_attention_args &args, char *tile, const char *from,
                                     int32_t left, int bytes) {
  left -= tc_fetch_row();
#pragma unroll(WIDE ? KEYS / 32 : 1)
  for (int i = 0; i < KEYS / 32; i++) {
    tc_fetch<DTYPE, WIDE>(tile, i, from + i * 32 * args.k_row, i * 32 < left ? bytes : 0);
  }
}

/* ----------------------------------------------------------------------------- products -- */

/* The query row and the key, of a warp's, of element e of c[m][i]. */
__device__ inline int tc_row_of(int m, int e) {
  return m * 16 + (e >> 1) * 8 + (int)((threadIdx.x & 31) >> 2);
}
__device__ inline int tc_key_of(int i, int e) {
  return i * 8 + (int)(threadIdx.x & 3) * 2 + (e & 1);
}

/* c += the products of rows row0 .. row0 + 31 of q and key0 .. key0 + 8 NI - 1 of k, of which
 * `bytes` bytes count. */
template <int DTYPE, bool PRECISE, int NI>
__device__ inline void tc_multiply(const char *q, const char *k, int row0, int key0, int bytes,
                                   tc_logit<PRECISE> (&c)[2][NI][4]) {
  const int lane = (int)(threadIdx.x & 31);
  if constexpr (PRECISE) {
    constexpr int EACH = 4 / tc_type<DTYPE>::size; /* elements of a word; behind the last: zeros */
    for (int at = 0; at < TC_DEPTH && at < bytes; at += 4) {
      const int part = at / 16, byte = at % 16;
      double a[4][EACH];
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const char *word = q + tc_part_at(row0 + tc_row_of(r / 2, r % 2 * 2), part) + byte;
        const tc_eight<DTYPE> x = {{*(const uint32_t *)word}};
#pragma unroll
        for (int e = 0; e < EACH; e++) a[r][e] = tc_widen<DTYPE>(x, e);
      }
#pragma unroll
      for (int j = 0; j < 2 * NI; j++) {
        const char *word = k + tc_part_at(key0 + tc_key_of(j / 2, j % 2), part) + byte;
        const tc_eight<DTYPE> x = {{*(const uint32_t *)word}};
#pragma unroll
        for (int e = 0; e < EACH; e++) {
          const double b = tc_widen<DTYPE>(x, e);
#pragma unroll
          for (int r = 0; r < 4; r++) {
            double &sum = c[r / 2][j / 2][r % 2 * 2 + j % 2];
            sum = __fma_rn(a[r][e], b, sum);
          }
        }
      }
    }
  } else {
    /* Rows of a tile begin at multiples of 8 and of 128 bytes: two parts on is a bit turned. */
    const uint32_t a_at = tc_shared_address(q + tc_part_at(row0 + lane % 16, lane / 16));
    const uint32_t b_at =
        tc_shared_address(k + tc_part_at(key0 + lane / 16 * 8 + lane % 8, lane / 8 % 2));
#pragma unroll
    for (int part = 0; part < 8; part += 2) {
      if (part * 16 >= bytes) break;
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; m++) {
        tc_load_matrices(a[m], (a_at ^ part << 4) + m * 16 * TC_DEPTH);
      }
#pragma unroll
      for (int i = 0; i < NI; i += 2) {
        uint32_t b[4]; /* lower and upper channels of 8 keys, and of the next 8 */
        tc_load_matrices(b, (b_at ^ part << 4) + i * 8 * TC_DEPTH);
#pragma unroll
        for (int m = 0; m < 2; m++) {
          tc_mma<DTYPE>(c[m][i], a[m], b[0], b[1]);
          tc_mma<DTYPE>(c[m][i + 1], a[m], b[2], b[3]);
        }
      }
    }
  }
}

template <class T, int NI>
__device__ inline void tc_clear(T (&c)[2][NI][4]) {
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int i = 0; i < NI; i++) {
#pragma unroll
      for (int e = 0; e < 4; e++) c[m][i][e] = 0;
    }
  }
}

#endif /* TAILCUT_ATTENTION_CUH_ */
