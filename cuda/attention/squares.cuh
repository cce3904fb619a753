/* SPDX-License-Identifier: Apache-2.0 */
/* attention, squares: whether fp32 sums of 16-bit products are within the tolerance, by Cauchy and
 * Schwarz: from the greatest squares of the query rows that ask and of the keys, by head and runs
 * of TC_AT_RUN tiles of TC_BLOCK rows. */
#ifndef TAILCUT_ATTENTION_SQUARES_CUH_
#define TAILCUT_ATTENTION_SQUARES_CUH_

#include "attention/attention.cuh"
#include "common/block.cuh"

#define TC_AT_MEASURING 32 /* warps of a block that measures */
#define TC_AT_RUN 16

/* Where the lengths of segment b's rows in a run of tiles are. Unique: a run's segments ascend. */
static inline __host__ __device__ int64_t tc_square_at(int64_t run, int32_t b) { return run + b; }

/* Whether the products of a segment and key head have to be summed in double: fp32's always, for
 * 1e-5 holds for any logits only where they are exact to more than 24 bits; those of 16-bit values
 * where a product can be so large that fp32 sums are not within the tolerance. By Cauchy and
 * Schwarz, from attention_lists' squares, which are infinite where they overflow; where one of them
 * underflows and the other is finite the products are tiny. Called by whole, converged warps. */
template <int DTYPE>
__device__ inline bool tc_is_precise(const tc_attention_args &args, int32_t b, int32_t start,
                                     int32_t n, int32_t k_head) {
  if constexpr (DTYPE == TAILCUT_F32) return true;
  const int64_t tile = tc_tile_first(args.t, args.s, b, start);
  const int64_t end = tc_square_at((tile + (n - 1) / TC_BLOCK) / TC_AT_RUN, b);
  float q = 0.0f, k = 0.0f; /* NaN is passed over: such a product is NaN however it is summed */
  for (int64_t i = tc_square_at(tile / TC_AT_RUN, b) + (threadIdx.x & 31); i <= end; i += 32) {
    k = fmaxf(k, args.squares[(args.q_heads + k_head) * args.squares_pitch + i]);
#pragma unroll 8
    for (int32_t g = 0; g < args.group; g++) {
      q = fmaxf(q, args.squares[(k_head * args.group + g) * args.squares_pitch + i]);
    }
  }
  q = __uint_as_float(__reduce_max_sync(TC_FULL, __float_as_uint(q)));
  k = __uint_as_float(__reduce_max_sync(TC_FULL, __float_as_uint(k)));
  return !((double)q * (double)k <= args.most_square);
}

/* The greatest squared norm among 32 rows: those whose bit is set in `which`; of one head, from
 * `row` on in the first of them. NaN is passed over. By a warp: eight lanes a row. */
template <int DTYPE, bool WIDE>
__device__ inline float tc_greatest_square(const char *row, int64_t stride, uint32_t dim,
                                           uint32_t which) {
  constexpr int ROWS = 4; /* of a lane at a time */
  const int own = (int)(threadIdx.x & 31) >> 3;
  const uint32_t part = threadIdx.x & 7;
  float greatest = 0.0f;
  if (which == 0) return greatest;
  const int spare = __ffs(which) - 1; /* taken again in place of those that do not count */
  for (int r0 = own; r0 < 32; r0 += 4 * ROWS) {
    float squares[ROWS] = {};
    int64_t from[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      from[i] = (which >> (r0 + 4 * i) & 1 ? r0 + 4 * i : spare) * stride;
    }
    for (uint32_t e = part * 8; e < dim; e += 64) {
      tc_eight<DTYPE> x[ROWS];
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        if (WIDE) {
          tc_load_quad<16>(row + from[i] + e * 2, x[i].w);
        } else {
          tc_load_quad_masked<2, 2>(row + from[i], e, dim, x[i].w);
        }
      }
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
#pragma unroll
        for (int k = 0; k < 8; k++) {
          const float v = tc_widen<DTYPE>(x[i], k);
          squares[i] = __fmaf_rn(v, v, squares[i]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
#pragma unroll
      for (int mask = 1; mask <= 4; mask <<= 1) {
        squares[i] += __shfl_xor_sync(TC_FULL, squares[i], mask);
      }
      greatest = fmaxf(greatest, squares[i]);
    }
  }
  return tc_warp_reduce(greatest, [](float a, float b) { return fmaxf(a, b); });
}

/* Which of rows row0 .. row0 + 31 of n ask, as far as that is for roles to say. */
__device__ inline uint32_t tc_rows_that_ask(const tc_attention_args &args, const uint8_t *roles,
                                            int32_t row0, int32_t n) {
  const int32_t lane = (int32_t)(threadIdx.x & 31);
  const auto asks = [&](int64_t row) { return row < n && tc_is_query(roles[row]); };
  uint32_t which = __ballot_sync(TC_FULL, asks(row0 + lane));
  if (!args.last_query || which == 0) return which;
  for (int64_t row = row0 + 32; row < n; row += 256) {
    bool later = false;
#pragma unroll
    for (int i = 0; i < 8; i++) later |= asks(row + i * 32 + lane);
    if (__any_sync(TC_FULL, later)) return 0;
  }
  return 1u << (31 - __clz(which));
}

/* The squares of a run of tiles and a head: a warp has half a tile. */
template <int DTYPE, bool WIDE>
__device__ inline void tc_measure(const tc_attention_args &args, int64_t unit) {
  static_assert(TC_AT_MEASURING == 2 * TC_AT_RUN && TC_BLOCK == 64, "half a tile a warp");
  const int32_t warp = (int32_t)(threadIdx.x / 32), lane = (int32_t)(threadIdx.x & 31);
  __shared__ float squares[TC_AT_MEASURING];
  __shared__ int32_t segments[TC_AT_MEASURING];
  const int32_t heads = args.q_heads + args.k_heads, head = (int32_t)(unit % heads);
  const int64_t run = unit / heads, tile = run * TC_AT_RUN + warp / 2;
  int32_t b = -1;
  float square = 0.0f;
  if (tile < tc_tiles_total(args.t, args.s)) {
    int32_t index;
    b = tc_tile_find(args.t, args.s, tile, &index);
    const int32_t start = args.s.start[b], n = args.s.n[b];
    const int32_t row0 = index * TC_BLOCK + warp % 2 * 32;
    const uint32_t dim = (uint32_t)args.head_bytes / 2;
    const uint8_t *roles = args.roles + start;
    if (head < args.q_heads) {
      const char *row = args.q + tc_segment_offset(args, b, start, args.q_segment) +
                        row0 * args.q_row + head * args.q_head;
      const uint32_t which = tc_rows_that_ask(args, roles, row0, n);
      square = tc_greatest_square<DTYPE, WIDE>(row, args.q_row, dim, which);
    } else {
      const int32_t own = row0 + lane;
      const char *row = args.k + tc_segment_offset(args, b, start, args.k_segment) +
                        row0 * args.k_row + (head - args.q_heads) * args.k_head;
      const uint32_t which = __ballot_sync(TC_FULL, own < n && !tc_is_absent(roles[own]));
      square = tc_greatest_square<DTYPE, WIDE>(row, args.k_row, dim, which);
    }
  }
  __syncthreads(); /* nobody reads those of the unit before */
  if (lane == 0) {
    squares[warp] = square;
    segments[warp] = b;
  }
  __syncthreads();
  if (warp > 0) return;
  /* Those of a segment stand together: the first of them gets the greatest. */
  square = squares[lane];
  b = segments[lane];
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    const float other = __shfl_down_sync(TC_FULL, square, step);
    if (__shfl_down_sync(TC_FULL, b, step) == b) square = fmaxf(square, other);
  }
  const int32_t before = __shfl_up_sync(TC_FULL, b, 1);
  if (b < 0 || (lane > 0 && before == b)) return;
  args.squares[head * args.squares_pitch + tc_square_at(run, b)] = square;
}

#endif /* TAILCUT_ATTENTION_SQUARES_CUH_ */
