/* SPDX-License-Identifier: Apache-2.0 */
/* score: the rows of one warp against their reference, for any kernel: loads, sums, finish, stores.
 * score.cu says why it is done so.
 *
 *   tc_score_short  R rows of fp16 or bf16, at most TC_SHORT_RUNS runs long or (MIDDLE) more than
 *                   that and at most TC_MIDDLE_RUNS: everything is loaded before anything is used
 *   tc_score_long   one row of any length, in pieces of which the next is always on its way
 *   tc_score_any    one row of any length and alignment; simple and slow
 *
 * The first two want rows and reference whose addresses and lengths are multiples of 16 bytes. All
 * are called by whole, converged warps; REF is the reference's dtype: the rows' or TAILCUT_F32. */
#ifndef TAILCUT_SCORE_CUH_
#define TAILCUT_SCORE_CUH_

#include "common/dot.cuh"

#define TC_SHORT_RUNS 4
#define TC_MIDDLE_RUNS 6

/* What the dot product becomes: a cosine; relevance, which is not divided by the reference's norm;
 * or, where there is no query row, 0. */
enum tc_score_kind { TC_COSINE, TC_RELEVANCE, TC_UNASKED };

/* What a lane knows of its warp's rows. */
struct tc_scored {
  bool nan; /* the score it has stored is NaN */
  bool bad; /* the reference is bad: known to the lane that is `judge` */
  bool judge;
};

/* Finishes R rows whose sums have come down to one a lane: the dot product of row 0 in lane 0, of
 * row 1 in the lane across the tree's step 1, each row's square across step 0 from there, the
 * reference's square across step R. Square roots and divisions of all rows at once, in different
 * lanes; lanes without one calculate with ones, which takes no slow path. */
template <int DTYPE, int R>
__device__ inline tc_scored tc_score_finish(float v, int32_t live, float *scores,
                                            tc_score_kind kind) {
  constexpr uint32_t SQUARE = tc_type<DTYPE>::stride(0), SECOND = tc_type<DTYPE>::stride(1),
                     REFERENCE = tc_type<DTYPE>::stride(R);
  const uint32_t lane = threadIdx.x & 31;
  const bool dot = (lane & (SQUARE | REFERENCE)) == 0;
  const float norm = __fsqrt_rn(dot ? 1.0f : v);
  const float norm_x = __shfl_xor_sync(TC_FULL, norm, SQUARE);
  const float norm_c = __shfl_sync(TC_FULL, norm, REFERENCE);
  const float divisor = dot && kind == TC_COSINE ? norm_c : 1.0f;
  float s = tc_cosine_finish(dot ? v : 1.0f, dot ? norm_x : 1.0f, divisor);
  if (kind == TC_UNASKED) s = 0.0f;
  const bool mine = lane == 0 || (R == 2 && lane == SECOND && live > 1);
  if (mine) scores[lane == 0 ? 0 : 1] = s;
  tc_scored found;
  found.nan = mine && s != s;
  found.judge = lane == 0;
  found.bad = tc_bad_norm(norm_c);
  return found;
}

/* One butterfly for the groups' sums of R dot products, R squares and the reference's square. */
template <int DTYPE, int R>
__device__ inline float tc_score_butterfly(const float *dots, const float *squares,
                                           float reference) {
  static_assert(R == 1 || R == 2, "rows of a warp");
  float v = tc_meet<DTYPE>(dots[0], squares[0], 0), c = tc_meet<DTYPE>(reference, reference, 0);
  if (R == 2) {
    v = tc_meet<DTYPE>(v, tc_meet<DTYPE>(dots[R - 1], squares[R - 1], 0), 1);
    c = tc_meet<DTYPE>(c, c, 1);
  }
  return tc_across<DTYPE>(tc_meet<DTYPE>(v, c, R), R + 1);
}

/* ------------------------------------------------------------------------------------- short -- */

/* The quads of R rows and the reference, RUNS runs of them, the last with `last` of 32 lanes. Not
 * one is used here before all are under way. */
template <int DTYPE, int REF, int R, int RUNS>
__device__ inline void tc_load_short(tc_eight<DTYPE> (&x)[R][RUNS], tc_eight<REF> (&c)[RUNS],
                                     const char *row, int64_t stride, const char *reference,
                                     uint32_t last) {
  constexpr int WIDE = REF == DTYPE ? 1 : 2; /* the reference's quads for a row's */
  const uint32_t lane = threadIdx.x & 31;
  /* Absent quads are read as the last there is, and cleared: no sector more than the row has. Whole
   * runs take the same way: ptxas would put the loads of a way of their own behind the clearing. */
  const uint32_t end = min(lane, last - 1);
#pragma unroll
  for (int u = 0; u < RUNS; u++) {
    const uint32_t at = 512 * u + 16 * (u == RUNS - 1 ? end : lane);
#pragma unroll
    for (int i = 0; i < R; i++) tc_load_quad<16>(row + i * stride + at, x[i][u].w);
#pragma unroll
    for (int h = 0; h < WIDE; h++) {
      tc_load_quad<16>(reference + WIDE * at + 16 * h, c[u].w + 4 * h);
    }
  }
  if (last < 32) {
    const bool absent = lane >= last;
#pragma unroll
    for (int k = 0; k < 4 * WIDE; k++) {
      if (absent) c[RUNS - 1].w[k] = 0;
#pragma unroll
      for (int i = 0; i < R; i++) {
        if (absent && k < 4) x[i][RUNS - 1].w[k] = 0;
      }
    }
  }
}

/* RUNS runs: the sums of R rows. A word of the quads at a time, in the order in which the tree
 * inside a group takes them: few accumulators are alive at once. */
template <int DTYPE, int REF, int R, int RUNS>
__device__ inline void tc_sum_short(const char *row, int64_t stride, const char *reference,
                                    uint32_t last, float (&sums)[2 * R + 1]) {
  constexpr int SUMS = 2 * R + 1; /* dots, squares, the reference's square */
  tc_eight<DTYPE> x[R][RUNS];
  tc_eight<REF> c[RUNS];
  tc_load_short<DTYPE, REF, R, RUNS>(x, c, row, stride, reference, last);
  float even[SUMS][2], odd[SUMS][2];
#pragma unroll
  for (int o = 0; o < 4; o++) {
    const int word = o == 1 ? 2 : o == 2 ? 1 : o;
    float a[SUMS][2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
#pragma unroll
      for (int j = 0; j < SUMS; j++) a[j][e] = 0.0f;
#pragma unroll
      for (int u = 0; u < RUNS; u++) {
        const float r = tc_widen<REF>(c[u], 2 * word + e);
        a[2 * R][e] = __fmaf_rn(r, r, a[2 * R][e]);
#pragma unroll
        for (int i = 0; i < R; i++) {
          const float v = tc_widen<DTYPE>(x[i][u], 2 * word + e);
          a[i][e] = __fmaf_rn(v, r, a[i][e]);
          a[R + i][e] = __fmaf_rn(v, v, a[R + i][e]);
        }
      }
#pragma unroll
      for (int j = 0; j < SUMS; j++) {
        if (o == 0) even[j][e] = a[j][e];
        if (o == 1) even[j][e] = __fadd_rn(even[j][e], a[j][e]);
        if (o == 2) odd[j][e] = a[j][e];
        if (o == 3) even[j][e] = __fadd_rn(even[j][e], __fadd_rn(odd[j][e], a[j][e]));
      }
    }
  }
#pragma unroll
  for (int j = 0; j < SUMS; j++) sums[j] = __fadd_rn(even[j][0], even[j][1]);
}

/* Scores rows `row`, `row + stride` (R = 2) into scores[0], scores[1]; where live is 1 there is no
 * second one: the first is read twice. */
template <int DTYPE, int REF, int R, bool MIDDLE>
__device__ inline tc_scored tc_score_short(const char *row, int64_t stride, const char *reference,
                                           uint32_t dim, int32_t live, float *scores,
                                           tc_score_kind kind = TC_COSINE) {
  static_assert(DTYPE != TAILCUT_F32, "in pieces");
  const uint32_t runs = (dim + TC_RUN_ELEMENTS - 1) / TC_RUN_ELEMENTS;
  const uint32_t last = (dim - (runs - 1) * TC_RUN_ELEMENTS) / 8;
  const int64_t next = live > 1 ? stride : 0;
  float sums[2 * R + 1];
  if constexpr (MIDDLE) {
    if (runs == 5) {
      tc_sum_short<DTYPE, REF, R, 5>(row, next, reference, last, sums);
    } else {
      tc_sum_short<DTYPE, REF, R, 6>(row, next, reference, last, sums);
    }
  } else if (runs == 4) {
    tc_sum_short<DTYPE, REF, R, 4>(row, next, reference, last, sums);
  } else if (runs == 3) {
    tc_sum_short<DTYPE, REF, R, 3>(row, next, reference, last, sums);
  } else if (runs == 2) {
    tc_sum_short<DTYPE, REF, R, 2>(row, next, reference, last, sums);
  } else {
    tc_sum_short<DTYPE, REF, R, 1>(row, next, reference, last, sums);
  }
  const float v = tc_score_butterfly<DTYPE, R>(sums, sums + R, sums[2 * R]);
  return tc_score_finish<DTYPE, R>(v, live, scores, kind);
}

/* -------------------------------------------------------------------------------------- long -- */

/* The accumulators of one row and its reference. */
struct tc_score_sums {
  float dot[8], square[8], reference[8];

  __device__ inline void clear() {
    tc_clear(dot);
    tc_clear(square);
    tc_clear(reference);
  }

  __device__ inline void add(int k, float x, float c) {
    dot[k] = __fmaf_rn(x, c, dot[k]);
    square[k] = __fmaf_rn(x, x, square[k]);
    reference[k] = __fmaf_rn(c, c, reference[k]);
  }

  template <int DTYPE>
  __device__ inline float across() const {
    const float d = tc_group_sum<DTYPE>(dot), q = tc_group_sum<DTYPE>(square);
    return tc_score_butterfly<DTYPE, 1>(&d, &q, tc_group_sum<DTYPE>(reference));
  }
};

/* A piece of a row and its reference: LINES lines, which are 32 quads of the row. */
template <int DTYPE, int REF>
struct tc_piece {
  static constexpr int WIDE = REF == DTYPE ? 1 : 2;            /* quads of the reference for one */
  static constexpr int PER_RUN = DTYPE == TAILCUT_F32 ? 2 : 1; /* lines of a run */
  static constexpr int LINES = WIDE == 1 ? 4 : 2;
  static constexpr uint32_t QUADS = 32 * LINES;
  tc_eight<DTYPE> x[LINES / PER_RUN];
  tc_eight<REF> c[LINES / PER_RUN];

  /* The first COUNT lines, `last` quads of the last one. A lane without one there reads the last.
   * */
  template <int COUNT>
  __device__ inline void load_lines(const char *row, const char *reference, uint32_t last) {
    const uint32_t lane = threadIdx.x & 31;
    const uint32_t end = last >= 32 ? lane : min(lane, last - 1);
#pragma unroll
    for (int l = 0; l < COUNT; l++) {
      const uint32_t at = 512 * l + 16 * (l == COUNT - 1 ? end : lane);
      const int run = l / PER_RUN, w = 4 * (l % PER_RUN);
      tc_load_quad<16>(row + at, x[run].w + w);
#pragma unroll
      for (int h = 0; h < WIDE; h++) {
        tc_load_quad<16>(reference + WIDE * at + 16 * h, c[run].w + w + 4 * h);
      }
    }
  }

  /* left: quads of the row from this piece on. */
  __device__ inline void load(const char *row, const char *reference, uint32_t left) {
    if (left >= QUADS) {
      load_lines<LINES>(row, reference, 32);
    } else if (LINES > 3 && left > 96) {
      load_lines<LINES>(row, reference, left - 96);
    } else if (LINES > 2 && left > 64) {
      load_lines<LINES - 1>(row, reference, left - 64);
    } else if (left > 32) {
      load_lines<2>(row, reference, left - 32);
    } else {
      load_lines<1>(row, reference, left);
    }
  }

  __device__ inline void add_line(int l, tc_score_sums *sums) const {
    const int run = l / PER_RUN, first = 4 * (l % PER_RUN);
#pragma unroll
    for (int k = first; k < first + 8 / PER_RUN; k++) {
      sums->add(k, tc_widen<DTYPE>(x[run], k), tc_widen<REF>(c[run], k));
    }
  }

  __device__ inline void add_whole(tc_score_sums *sums) const {
#pragma unroll
    for (int l = 0; l < LINES; l++) add_line(l, sums);
  }

  __device__ inline void add_last(uint32_t left, tc_score_sums *sums) const {
#pragma unroll
    for (int l = 0; l < LINES; l++) {
      if (32 * l + (threadIdx.x & 31) < left) add_line(l, sums);
    }
  }
};

/* Two pieces take turns: copying one to the other would wait for it before the next is asked for.
 * */
template <int DTYPE, int REF>
__device__ inline tc_scored tc_score_long(const char *row, const char *reference, uint32_t dim,
                                          float *scores, tc_score_kind kind) {
  typedef tc_piece<DTYPE, REF> piece;
  constexpr uint32_t QUADS = piece::QUADS, STEP = 16 * QUADS, REFERENCE_STEP = STEP * piece::WIDE;
  uint32_t left = dim / (16 / tc_type<DTYPE>::size);
  tc_score_sums sums;
  sums.clear();
  piece a, b;
  a.load(row, reference, left);
#pragma unroll 1
  while (true) {
    if (left <= QUADS) {
      a.add_last(left, &sums);
      break;
    }
    left -= QUADS;
    b.load(row + STEP, reference + REFERENCE_STEP, left);
    a.add_whole(&sums);
    if (left <= QUADS) {
      b.add_last(left, &sums);
      break;
    }
    left -= QUADS;
    row += 2 * STEP;
    reference += 2 * REFERENCE_STEP;
    a.load(row, reference, left);
    b.add_whole(&sums);
  }
  return tc_score_finish<DTYPE, 1>(sums.across<DTYPE>(), 1, scores, kind);
}

/* --------------------------------------------------------------------------------------- any -- */

/* A lane's 8 elements of a run of the reference, past dim zeros. */
template <int DTYPE, int BYTES>
__device__ inline void tc_reference_run(float *c, const char *reference, int32_t dtype,
                                        uint32_t run, uint32_t dim) {
  if (dtype == DTYPE) {
    tc_eight<DTYPE> own;
    tc_load_run<DTYPE, BYTES>(own, reference, run, dim, false);
#pragma unroll
    for (int k = 0; k < 8; k++) c[k] = tc_widen<DTYPE>(own, k);
    return;
  }
#pragma unroll
  for (int k = 0; k < 8; k++) {
    const uint32_t e = run * TC_RUN_ELEMENTS + tc_own<DTYPE>(threadIdx.x & 31, k);
    c[k] = e < dim ? *(const float *)(reference + (size_t)e * 4) : 0.0f;
  }
}

/* BYTES divides the row's address, and the reference's where it has the row's dtype. */
template <int DTYPE, int BYTES>
__device__ inline tc_scored tc_score_any(const char *row, const char *reference,
                                         int32_t reference_dtype, uint32_t dim, float *scores,
                                         tc_score_kind kind) {
  tc_score_sums sums;
  sums.clear();
#pragma unroll 2
  for (uint32_t run = 0; run * TC_RUN_ELEMENTS < dim; run++) {
    tc_eight<DTYPE> x;
    float c[8];
    tc_load_run<DTYPE, BYTES>(x, row, run, dim, false);
    tc_reference_run<DTYPE, BYTES>(c, reference, reference_dtype, run, dim);
#pragma unroll
    for (int k = 0; k < 8; k++) sums.add(k, tc_widen<DTYPE>(x, k), c[k]);
  }
  return tc_score_finish<DTYPE, 1>(sums.across<DTYPE>(), 1, scores, kind);
}

#endif /* TAILCUT_SCORE_CUH_ */
