/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score: cosine of every candidate to its segment's reference vector.
 *
 * Formula: s = <x,c> / (max(|x|, 1e-8) * max(|c|, 1e-8)), clamped; METHOD.md, stage 1. Strategy: a
 * block takes a tile of 64 candidates of one segment (or a half, a quarter, an eighth of it, when
 * there are few), a warp one row at a time, summed as dot.cuh says. The reference is widened once
 * per block into shared memory, in the order in which lanes read it, while each warp's first row is
 * already on its way; from then on the next piece of a row is loaded before the current one is
 * summed. Sums of a tile meet in shared memory and are finished by one thread per row (square root
 * and division are long instruction sequences: 64 rows share them).
 * Precision: as METHOD.md, bit for bit. Limits: a reference that does not fit in shared memory
 * (dim above about 57,000) is read from global memory by every warp, element by element.
 *
 * Ladder: 1. as described. Prediction: 90% of the copy bandwidth from 2,000 rows of 2 KB on; not
 * measured.
 */
#include "common/dot.cuh"
#include "common/launch.cuh"
#include "common/tiles.cuh"

namespace {

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int SMEM_KEPT_BACK = 1024; /* static shared memory, and what the driver takes */

struct score_args {
  tc_segments s;
  tc_tiles t;
  tailcut_tokens tokens;
  const char *reference;
  int64_t reference_stride; /* bytes */
  int32_t reference_dtype, source;
  int32_t split;  /* blocks per tile: 1, 2, 4 or 8 */
  int32_t staged; /* the reference fits in shared memory */
  float *scores;
  int32_t *flags;
  int32_t stores_flags; /* instead of or'ing: BAD_REFERENCE alone, of segments with candidates */
};

/* A warp's 8 reference values of a run, in lane order. */
template <int DTYPE>
__device__ inline void reference_run(float *r, const float *staged, const char *data, int32_t dtype,
                                     uint32_t run, uint32_t dim) {
  const uint32_t lane = threadIdx.x & 31;
  if (staged != nullptr) {
    tc_staged_run(staged, run, r);
    return;
  }
#pragma unroll
  for (int k = 0; k < 8; k++) {
    const uint32_t e = run * TC_RUN_ELEMENTS + tc_own<DTYPE>(lane, k);
    r[k] = e < dim ? tc_element(data, dtype, e) : 0.0f;
  }
}

template <int DTYPE>
__device__ float reference_norm(const float *staged, const char *data, int32_t dtype,
                                uint32_t dim) {
  float square[8], r[8];
  tc_clear(square);
  for (uint32_t run = 0; run * TC_RUN_ELEMENTS < dim; run++) {
    reference_run<DTYPE>(r, staged, data, dtype, run, dim);
#pragma unroll
    for (int k = 0; k < 8; k++) square[k] = __fmaf_rn(r[k], r[k], square[k]);
  }
  return __fsqrt_rn(tc_sum<DTYPE>(square));
}

/* A piece of a row: RUNS runs, those past dim zero. */
template <int DTYPE>
struct piece {
  static constexpr int RUNS = DTYPE == TAILCUT_F32 ? 2 : 4;
  tc_eight<DTYPE> x[RUNS];

  template <int BYTES>
  __device__ inline void load(const char *row, uint32_t number, uint32_t dim) {
    const uint32_t end = (number + 1) * (RUNS * TC_RUN_ELEMENTS);
    if (end <= dim) {
#pragma unroll
      for (int u = 0; u < RUNS; u++) {
        tc_load_run<DTYPE, BYTES>(x[u], row, number * RUNS + u, dim, true);
      }
    } else {
#pragma unroll
      for (int u = 0; u < RUNS; u++) {
        tc_load_run<DTYPE, BYTES>(x[u], row, number * RUNS + u, dim, false);
      }
    }
  }
};

/* Sums of rows warp, warp + WARPS, ... of the tile. `ahead` holds the first piece of the first. */
template <int DTYPE, int BYTES, bool STAGED>
__device__ inline void sum_rows(piece<DTYPE> &ahead, const char *tile, int64_t stride, int rows,
                                uint32_t dim, const float *staged, const char *data, int32_t dtype,
                                float *dots, float *squares) {
  constexpr int RUNS = piece<DTYPE>::RUNS;
  constexpr uint32_t ELEMENTS = RUNS * TC_RUN_ELEMENTS;
  const uint32_t lane = threadIdx.x & 31, pieces = (dim - 1) / ELEMENTS + 1;
  for (int row = (int)(threadIdx.x / 32); row < rows; row += WARPS) {
    float dot[8], square[8];
    tc_clear(dot);
    tc_clear(square);
    for (uint32_t p = 0; p < pieces; p++) {
      const piece<DTYPE> now = ahead;
      if (p + 1 < pieces) {
        ahead.template load<BYTES>(tile + row * stride, p + 1, dim);
      } else if (row + WARPS < rows) {
        ahead.template load<BYTES>(tile + (row + WARPS) * stride, 0, dim);
      }
#pragma unroll
      for (int u = 0; u < RUNS; u++) {
        const uint32_t run = p * RUNS + u;
        if (run * TC_RUN_ELEMENTS >= dim) break;
        float r[8];
        reference_run<DTYPE>(r, STAGED ? staged : nullptr, data, dtype, run, dim);
#pragma unroll
        for (int k = 0; k < 8; k++) {
          const float x = tc_widen<DTYPE>(now.x[u], k);
          dot[k] = __fmaf_rn(x, r[k], dot[k]);
          square[k] = __fmaf_rn(x, x, square[k]);
        }
      }
    }
    const float sum = tc_sum_both<DTYPE>(dot, square);
    if (lane == 0) dots[row] = sum;
    if (lane == tc_type<DTYPE>::square_lane) squares[row] = sum;
  }
}

template <int DTYPE, int BYTES>
__global__ void __launch_bounds__(THREADS) score(const __grid_constant__ score_args args) {
  extern __shared__ float4 staged_quads[];
  __shared__ float dots[TC_BLOCK], squares[TC_BLOCK], norm;
  float *staged = (float *)staged_quads;
  const uint32_t dim = (uint32_t)args.tokens.dim;
  const int64_t stride = args.tokens.row_stride * tc_type<DTYPE>::size;
  const int32_t rows_each = TC_BLOCK / args.split;
  const int64_t units = tc_tiles_total(args.t, args.s) * args.split;
  const int warp = (int)(threadIdx.x / 32);
  const char *current = nullptr; /* the reference that is staged */
  tc_wait_previous();

  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    int32_t index;
    const int32_t b = tc_tile_find(args.t, args.s, unit / args.split, &index);
    if (b < 0) continue; /* the same for the whole block, as below */
    const tc_segment segment = tc_segment_at(args.s, b);
    const int32_t first = index * TC_BLOCK + (int32_t)(unit % args.split) * rows_each;
    const int32_t rows = min(rows_each, segment.n - first);
    if (rows <= 0) continue;
    const char *tokens = (const char *)args.tokens.data;
    const char *tile = tokens + tc_token_offset(args.s, args.tokens, b, segment.start, first);
    piece<DTYPE> ahead;
    if (warp < rows) ahead.template load<BYTES>(tile + warp * stride, 0, dim);

    const char *data = args.reference;
    if (args.source == TAILCUT_REFERENCE_ROW) {
      data = tokens + tc_first_row_offset(args.s, args.tokens, b, segment.start);
    } else {
      data +=
          (b - (args.source == TAILCUT_REFERENCE_MEAN ? args.t.first : 0)) * args.reference_stride;
    }
    if (data != current) {
      if (args.staged) {
        const uint32_t padded = (dim + TC_RUN_ELEMENTS - 1) & ~(uint32_t)(TC_RUN_ELEMENTS - 1);
        for (uint32_t e = threadIdx.x; e < padded; e += THREADS) {
          staged[tc_place<DTYPE>(e)] = e < dim ? tc_element(data, args.reference_dtype, e) : 0.0f;
        }
        __syncthreads();
      }
      if (warp == WARPS - 1) {
        const float value =
            reference_norm<DTYPE>(args.staged ? staged : nullptr, data, args.reference_dtype, dim);
        if ((threadIdx.x & 31) == 0) norm = value;
      }
      current = data;
    }
    if (args.staged) {
      sum_rows<DTYPE, BYTES, true>(ahead, tile, stride, rows, dim, staged, data,
                                   args.reference_dtype, dots, squares);
    } else {
      sum_rows<DTYPE, BYTES, false>(ahead, tile, stride, rows, dim, staged, data,
                                    args.reference_dtype, dots, squares);
    }
    __syncthreads();
    int nan = 0;
    if ((int)threadIdx.x < rows) {
      const float s = tc_cosine_finish(dots[threadIdx.x], __fsqrt_rn(squares[threadIdx.x]), norm);
      args.scores[segment.start + first + (int32_t)threadIdx.x] = s;
      nan = s != s;
    }
    const bool bad = tc_bad_norm(norm); /* before the barrier that lets it change */
    nan = __syncthreads_or(nan);
    if (threadIdx.x == 0 && args.flags != nullptr) {
      if (args.stores_flags) {
        if (first == 0) args.flags[b] = bad ? TAILCUT_FLAG_BAD_REFERENCE : 0;
      } else {
        if (nan) atomicOr(&args.flags[b], TAILCUT_FLAG_NAN);
        if (first == 0 && bad) atomicOr(&args.flags[b], TAILCUT_FLAG_BAD_REFERENCE);
      }
    }
  }
}

typedef void (*score_kernel)(score_args);

/* By dtype and width of loads: 16, 8, 4, 2 bytes. */
const score_kernel KERNELS[3][4] = {
    {score<TAILCUT_F16, 16>, score<TAILCUT_F16, 8>, score<TAILCUT_F16, 4>, score<TAILCUT_F16, 2>},
    {score<TAILCUT_BF16, 16>, score<TAILCUT_BF16, 8>, score<TAILCUT_BF16, 4>,
     score<TAILCUT_BF16, 2>},
    {score<TAILCUT_F32, 16>, score<TAILCUT_F32, 8>, score<TAILCUT_F32, 4>, nullptr},
};

}  // namespace

extern "C" cudaError_t tc_cuda_score(const tc_cuda *device, const tc_segments *segments,
                                     const tailcut_tokens *tokens,
                                     const tailcut_reference *reference, int32_t first,
                                     int32_t count, float *scores, int32_t *flags, int stores_flags,
                                     const tc_chain *chain) {
  if (count <= 0) return cudaSuccess;
  score_args args;
  args.s = *segments;
  args.t = tc_tiles_of(*segments, first, count);
  args.tokens = *tokens;
  args.reference = (const char *)reference->data;
  args.reference_dtype =
      reference->source == TAILCUT_REFERENCE_ROW ? tokens->dtype : reference->dtype;
  args.reference_stride = reference->segment_stride * tc_dtype_size(args.reference_dtype);
  args.source = reference->source;
  args.scores = scores;
  args.flags = flags;
  args.stores_flags = stores_flags;
  /* Fewer rows per block while that fills the device; each warp has at least one. */
  args.split = 1;
  while (args.split < TC_BLOCK / WARPS && args.t.bound * args.split < 2 * device->sms) {
    args.split *= 2;
  }
  const int64_t bytes = ((int64_t)tokens->dim + 255) / 256 * 1024;
  args.staged = bytes + SMEM_KEPT_BACK <= device->smem_block;
  const int width = tc_token_width(segments, tokens);
  const int column = width == 16 ? 0 : width == 8 ? 1 : width == 4 ? 2 : 3;
  return tc_launch(KERNELS[tokens->dtype - 1][column], tc_grid(args.t.bound * args.split), THREADS,
                   args.staged ? (size_t)bytes : 0, chain, args);
}

extern "C" cudaError_t tc_cuda_load_score(tc_cuda *device) {
  for (const auto &row : KERNELS) {
    for (const score_kernel kernel : row) {
      cudaFuncAttributes attributes;
      if (kernel == nullptr) continue;
      cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
      if (error == cudaSuccess) {
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     device->smem_block - SMEM_KEPT_BACK);
      }
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}
