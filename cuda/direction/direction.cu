/* SPDX-License-Identifier: Apache-2.0 */
/*
 * direction: mean direction of the rows of each segment that count.
 *
 * Formula: u = (1/T) sum over t of t / max(|t|, 1e-8), in blocks of 64 rows; METHOD.md, stage 2.
 * Which call takes which form follows from host bounds alone:
 *   spread  fewer blocks of rows than the device has multiprocessors, rows of whole 16-byte
 *           units, 512 elements or more: a sequence's text, a few images        direction/spread.cu
 *   tiles   all else: a thread block for a block of rows                         here
 * Strategy of tiles: a warp per row for the norms (dot.cuh), then a thread per one or two columns
 * for the weighted sums, so no sum is ever split; the second reading comes from L1 or L2. The last
 * to arrive of a segment's blocks adds the block sums in ascending order. Which block that is
 * depends on timing; what it adds, and in which order, does not.
 * A block of which no row counts leaves zeros, and adding them is skipping it: u + 0 is u for every
 * u but -0, which a sum that begins at +0 never becomes (rounded to nearest, x + y is -0 only if
 * both are).
 * Where segments may have more than LONG_BLOCKS blocks the last arriver would read too much alone
 * (4 MB for 65,536 rows of 1,024 columns): there blocks take tickets, and the last tickets add the
 * sums of FINISH_COLUMNS columns of a segment each, when all of its blocks, whose tickets are
 * lower, have arrived.
 * Precision: as METHOD.md, bit for bit (a component that is NaN may have another payload).
 */
#include "direction/direction.cuh"

namespace {

constexpr int THREADS = 512, WARPS = THREADS / 32;
constexpr int FINISH_COLUMNS = 128;
constexpr int LONG_BLOCKS = 64; /* blocks of a segment that the last arriver adds itself */

/* How many rows of a segment count, behind the next barrier. Called by the whole block. */
__device__ inline void count_rows(const tc_direction_args &args, const tc_segment &segment,
                                  int *total) {
  if (threadIdx.x == 0) *total = args.roles == nullptr ? segment.n : 0;
  __syncthreads();
  if (args.roles == nullptr) return;
  int count = 0;
  for (int32_t i = (int32_t)threadIdx.x; i < segment.n; i += THREADS) {
    count += tc_is_query(args.roles[segment.start + i]);
  }
  atomicAdd(total, count);
}

/* Column d of a segment's direction from its block sums. */
__device__ inline void finish_column(const tc_direction_args &args, int32_t b,
                                     const tc_segment &segment, int32_t rows, uint32_t d) {
  const uint32_t dim = (uint32_t)args.tokens.dim;
  const int32_t blocks = (segment.n + TC_BLOCK - 1) / TC_BLOCK;
  const int64_t tile = tc_tile_first(args.t, args.s, b, segment.start);
  const float *sums = args.block_sums + tile * dim + d;
  float u = 0.0f;
#pragma unroll 8
  for (int32_t i = 0; i < blocks; i++) u = __fadd_rn(u, __ldcg(sums + (int64_t)i * dim));
  args.out[(int64_t)(b - args.t.first) * dim + d] = rows > 0 ? __fdiv_rn(u, (float)rows) : 0.0f;
  if (d == 0) args.queries[b - args.t.first] = rows;
}

/* COLUMNS columns from d on: weighted sum of the listed rows, stored as a block sum. */
template <int DTYPE, int COLUMNS>
__device__ inline void sum_columns(const char *block, int64_t stride, const float *weights,
                                   const uint8_t *list, int rows, uint32_t d, float *sums) {
  constexpr int size = tc_type<DTYPE>::size;
  float a[COLUMNS];
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) a[c] = 0.0f;
  const char *column = block + (size_t)d * size;
#pragma unroll 8
  for (int j = 0; j < rows; j++) {
    const char *p = column + list[j] * stride;
    const float w = weights[j];
    float x[COLUMNS];
    if (COLUMNS == 1) {
      x[0] = tc_element(p, DTYPE, 0);
    } else if (DTYPE == TAILCUT_F32) {
      const float2 v = *(const float2 *)p;
      x[0] = v.x, x[COLUMNS - 1] = v.y;
    } else {
      tc_eight<DTYPE> v;
      v.w[0] = *(const uint32_t *)p;
      x[0] = tc_widen<DTYPE>(v, 0), x[COLUMNS - 1] = tc_widen<DTYPE>(v, 1);
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) a[c] = __fmaf_rn(x[c], w, a[c]);
  }
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) sums[d + c] = a[c];
}

/* Finisher `number`: some columns of a segment, of which not all threads have one. */
__device__ inline void finish(const tc_direction_args &args, int32_t number, int *total) {
  const int32_t dim = args.tokens.dim, slices = (dim + FINISH_COLUMNS - 1) / FINISH_COLUMNS;
  const int32_t g = number / slices, b = args.t.first + g;
  const tc_segment segment = tc_segment_at(args.s, b);
  if (segment.n == 0) return;
  count_rows(args, segment, total);
  const uint32_t blocks = (uint32_t)((segment.n + TC_BLOCK - 1) / TC_BLOCK);
  tc_wait_for_blocks(args, g, blocks, 0, (uint32_t)slices);
  const int32_t d = (number - g * slices) * FINISH_COLUMNS + (int32_t)threadIdx.x;
  if (threadIdx.x < FINISH_COLUMNS && d < dim) {
    finish_column(args, b, segment, *total, (uint32_t)d);
  }
}

template <int DTYPE, int BYTES>
__global__ void __launch_bounds__(THREADS, 2)
    direction(const __grid_constant__ tc_direction_args args) {
  constexpr int RUNS = DTYPE == TAILCUT_F32 ? 2 : 4; /* of a row, loaded together */
  constexpr int COLUMNS = BYTES >= 2 * tc_type<DTYPE>::size ? 2 : 1;
  __shared__ float weights[TC_BLOCK];
  __shared__ uint8_t list[TC_BLOCK]; /* rows of the block that count */
  __shared__ int listed, total;
  __shared__ uint32_t taken;
  __shared__ tc_resolve_space<THREADS> temp;
  const int64_t blocks_here = tc_direction_blocks(args);
  const uint32_t dim = (uint32_t)args.tokens.dim, lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  const int64_t stride = args.tokens.row_stride * tc_type<DTYPE>::size;

  tc_wait_previous();
  const int64_t tiles = tc_tiles_total(args.t, args.s);
  if (blockIdx.x == blocks_here) return tc_resolve_apart<THREADS>(args.resolve, temp);
  /* Segments without rows have no tile: the grid has a block for each of them as well. */
  for (int32_t g = (int32_t)blockIdx.x; g < args.t.count; g += (int32_t)blocks_here) {
    if (args.flags != nullptr && threadIdx.x == 0) args.flags[args.t.first + g] = 0;
    if (tc_segment_at(args.s, args.t.first + g).n > 0) continue;
    if (threadIdx.x == 0) args.queries[g] = 0;
    for (uint32_t d = threadIdx.x; d < dim; d += THREADS) args.out[(int64_t)g * dim + d] = 0.0f;
  }

  int64_t tile = blockIdx.x;
  if (args.finishers > 0) { /* one ticket a block */
    tile = tc_take_ticket(args, &taken);
    if (tile >= args.t.bound) {
      finish(args, (int32_t)(tile - args.t.bound), &total);
      return;
    }
  }
  for (; tile < tiles; tile += blocks_here) {
    int32_t index;
    const int32_t b = tc_tile_find(args.t, args.s, tile, &index);
    if (b < 0) continue; /* the same for the whole block, as below */
    const tc_segment segment = tc_segment_at(args.s, b);
    const int32_t rows = min(TC_BLOCK, segment.n - index * TC_BLOCK);
    if (rows <= 0) continue;
    const uint8_t *roles = args.roles;
    if (roles != nullptr) roles += segment.start + index * TC_BLOCK;
    const char *block = (const char *)args.tokens.data +
                        tc_token_offset(args.s, args.tokens, b, segment.start, index * TC_BLOCK);
    if (warp == 0) {
      const uint64_t mask = tc_query_mask(roles, rows);
      tc_list_rows(mask, list);
      if (lane == 0) listed = __popcll(mask);
    }
    __syncthreads();
    for (int j = (int)warp; j < listed; j += WARPS) {
      const float norm = tc_row_norm<DTYPE, BYTES, RUNS>(block + list[j] * stride, dim);
      if (lane == 0) weights[j] = tc_row_weight(norm);
    }
    __syncthreads();
    float *sums = args.block_sums + tile * dim;
    for (int64_t d = (int64_t)threadIdx.x * COLUMNS; d < dim; d += THREADS * COLUMNS) {
      if (d + COLUMNS <= dim) {
        sum_columns<DTYPE, COLUMNS>(block, stride, weights, list, listed, (uint32_t)d, sums);
      } else {
        sum_columns<DTYPE, 1>(block, stride, weights, list, listed, (uint32_t)d, sums);
      }
    }
    uint32_t *arrived = args.lasting->blocks + (b - args.t.first);
    if (args.finishers > 0) {
      __syncthreads();
      if (threadIdx.x == 0) tc_add_release(arrived, 1);
    } else {
      const int32_t blocks = (segment.n + TC_BLOCK - 1) / TC_BLOCK;
      if (tc_arrives_last(arrived, (uint32_t)blocks)) {
        count_rows(args, segment, &total);
        __syncthreads();
        for (uint32_t d = threadIdx.x; d < dim; d += THREADS) {
          finish_column(args, b, segment, total, d);
        }
      }
    }
    __syncthreads(); /* before the next tile's list */
  }
}

typedef void (*direction_kernel)(tc_direction_args);

/* By dtype and width of loads: 16, 8, 4, 2 bytes. */
const direction_kernel KERNELS[3][4] = {
    {direction<TAILCUT_F16, 16>, direction<TAILCUT_F16, 8>, direction<TAILCUT_F16, 4>,
     direction<TAILCUT_F16, 2>},
    {direction<TAILCUT_BF16, 16>, direction<TAILCUT_BF16, 8>, direction<TAILCUT_BF16, 4>,
     direction<TAILCUT_BF16, 2>},
    {direction<TAILCUT_F32, 16>, direction<TAILCUT_F32, 8>, direction<TAILCUT_F32, 4>, nullptr},
};

}  // namespace

extern "C" cudaError_t tc_cuda_direction(const tc_cuda *device, const tc_segments *segments,
                                         const tailcut_tokens *tokens, const uint8_t *roles,
                                         int32_t first, int32_t count, const tc_cuda_space *space,
                                         float *out, int32_t *flags,
                                         const tc_resolution *resolution, const tc_chain *chain) {
  if (count <= 0) return cudaSuccess;
  tc_direction_args args;
  args.s = *segments;
  args.t = tc_tiles_of(*segments, first, count);
  args.tokens = *tokens;
  args.roles = roles;
  args.block_sums = space->block_sums;
  args.out = out;
  args.queries = space->queries;
  args.flags = flags;
  args.lasting = space->lasting;
  args.finishers = 0;
  args.resolve = {};
  if (resolution != nullptr) {
    args.resolve = tc_resolve_args_of(*segments, resolution->groups, resolution->input_flags,
                                      *space, resolution->flags);
  }
  if (tc_direction_spreads(device, args)) return tc_direction_spread(device, args, chain);
  if (segments->max_tokens > LONG_BLOCKS * TC_BLOCK) {
    args.finishers = (int32_t)((tokens->dim + FINISH_COLUMNS - 1) / FINISH_COLUMNS * count);
  }
  const int column = tc_width_column(tc_token_width(segments, tokens));
  const unsigned grid =
      args.finishers > 0 ? (unsigned)(args.t.bound + args.finishers) : tc_grid(args.t.bound);
  return tc_launch(KERNELS[tokens->dtype - 1][column], grid + (resolution != nullptr), THREADS, 0,
                   chain, args);
}

extern "C" cudaError_t tc_cuda_load_direction(tc_cuda *) {
  cudaError_t error = cudaSuccess;
  tc_load(KERNELS, &error);
  tc_direction_spread_load(&error);
  return error;
}
