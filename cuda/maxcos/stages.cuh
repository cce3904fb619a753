/* SPDX-License-Identifier: Apache-2.0 */
/* stages: how the rows of a tile come on chip, ROW_BYTES of every row at a time, into one of as
 * many stages as fit. The number of a 16-byte piece is exclusive-or'ed with the row's, so that
 * neither the copies nor the reads of eight rows meet in a bank. Past dim there are zeros. */
#ifndef TAILCUT_MAXCOS_STAGES_CUH_
#define TAILCUT_MAXCOS_STAGES_CUH_

#include "common/dot.cuh"
#include "common/tensor.cuh"

#define TC_MAXCOS_THREADS 256
#define TC_MAXCOS_SHARED (96 * 1024) /* bytes of stages */
#define TC_MAXCOS_CANDIDATES 256     /* of any tile */
#define TC_MAXCOS_QUERIES 128

/* A tile: CANDIDATES x QUERIES, WM x WN warps side by side, WK behind each other. */
template <int CANDIDATES, int QUERIES, int ROW_BYTES_, int WM_, int WN_, int WK_>
struct tc_maxcos_form {
  static constexpr int M = CANDIDATES, N = QUERIES, ROW_BYTES = ROW_BYTES_;
  static constexpr int WM = WM_, WN = WN_, WK = WK_;
  static constexpr int PIECES = ROW_BYTES / 16; /* of a row in a stage */
  static constexpr int STAGE = (M + N) * ROW_BYTES;
  static constexpr int STAGES = TC_MAXCOS_SHARED / STAGE;
  static constexpr int ROWS_AT_ONCE = TC_MAXCOS_THREADS / PIECES;
  static constexpr int PASSES = (M + N) / ROWS_AT_ONCE;
  static_assert(32 * WM * WN * WK == TC_MAXCOS_THREADS && STAGES >= 3, "shape");
  static_assert(M % ROWS_AT_ONCE == 0 && N % ROWS_AT_ONCE == 0 && ROWS_AT_ONCE % 8 == 0, "passes");

  /* Where piece `piece` of row `row` lies in a stage. */
  static __device__ inline uint32_t at(uint32_t row, uint32_t piece) {
    const uint32_t turn = PIECES == 4 ? row >> 1 & 3 : row & 7;
    return row * ROW_BYTES + ((piece ^ turn) << 4);
  }
};

/* The rows of an item: those of tile row i are row numbers of the segment. */
struct tc_maxcos_lists {
  int32_t candidate[TC_MAXCOS_CANDIDATES];
  int32_t query[TC_MAXCOS_QUERIES];
  float weight[TC_MAXCOS_QUERIES]; /* 1 / max(|t|, 1e-8); NaN: passed over */
};

struct tc_maxcos_item {
  const char *rows; /* the segment's first */
  int64_t stride;   /* bytes */
  int32_t dim;
  int32_t candidates, queries; /* of the tile that there are */
  uint32_t *best;              /* by row number of the segment: tc_key of the greatest so far */
};

/* The better of `best` and the product of row `self` with the query of column `column`, which is
 * passed over where it is the row itself or NaN. */
__device__ inline float tc_maxcos_better(float best, float product, const tc_maxcos_lists &lists,
                                         uint32_t column, int32_t self) {
  const float v = __fmul_rn(product, lists.weight[column]);
  return fmaxf(best, lists.query[column] == self ? tc_bits_float(TC_NAN_BITS) : v);
}

/* Stages that rows of `dim` elements fill, one after the other. */
template <class F, int SIZE>
__device__ inline int32_t tc_maxcos_tiles(int32_t dim) {
  return (int32_t)(((int64_t)dim * SIZE + F::ROW_BYTES - 1) / F::ROW_BYTES);
}

/* This thread's part of the copies: the same piece of PASSES rows. ALIGNED: rows begin at multiples
 * of 16 bytes, and dim is one. Rows past the end of a list are copies of its last (open_item);
 * where tiles are small, and copies what takes the time, zeros. */
template <class F, int SIZE, bool ALIGNED>
struct tc_maxcos_loader {
  static constexpr int ELEMENTS = 16 / SIZE; /* of a piece */
  const char *from[F::PASSES];               /* the next pieces */
  uint32_t to, absent;                       /* bit i: row i of mine is past the end */
  int32_t left;                              /* elements from the next piece on */

  __device__ inline tc_maxcos_loader(const tc_maxcos_item &item, const tc_maxcos_lists &lists,
                                     uint32_t stages) {
    const uint32_t row = threadIdx.x / F::PIECES, piece = threadIdx.x % F::PIECES;
    to = stages + F::at(row, piece);
    left = item.dim - (int32_t)piece * ELEMENTS;
    absent = 0;
#pragma unroll
    for (int i = 0; i < F::PASSES; i++) {
      const int r = (int)row + i * F::ROWS_AT_ONCE;
      const bool query = i * F::ROWS_AT_ONCE >= F::M;
      const int32_t number = query ? lists.query[r - F::M] : lists.candidate[r];
      const bool here = query ? r - F::M < item.queries : r < item.candidates;
      if (F::N <= 64 && !here) absent |= 1u << i;
      from[i] = item.rows + number * item.stride + 16 * piece;
    }
  }

  /* Starts the next ROW_BYTES of the rows into stage `stage`. */
  __device__ inline void load(int stage) {
    const uint32_t at = to + (uint32_t)stage * F::STAGE;
    const int32_t bytes = min(left, ELEMENTS) * SIZE;
#pragma unroll
    for (int i = 0; i < F::PASSES; i++) {
      tc_copy_quad<SIZE, ALIGNED>(at + i * F::ROWS_AT_ONCE * F::ROW_BYTES, from[i],
                                  absent >> i & 1 ? 0 : bytes);
      from[i] += F::ROW_BYTES;
    }
    tc_copy_commit();
    left -= F::ROW_BYTES / SIZE;
  }
};

#endif /* TAILCUT_MAXCOS_STAGES_CUH_ */
