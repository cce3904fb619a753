/* SPDX-License-Identifier: Apache-2.0 */
/*
 * product: MAX_COSINE's tiles of candidates by queries; of the products only each candidate's
 * greatest leaves the chip. maxcos.cu says what for.
 *
 * Strategy: a block per SM takes its share of the items that prepare has counted, which go in bands
 * of candidate tiles: blocks that run together share queries and candidates in L2. Four sizes of
 * tiles, of which prepare has chosen one (maxcos.cuh).
 * Precision: nothing is lost below, since a dot product is divided by at least 1e-16, far above
 * what underflows; nor above, since |<x,t>| <= |x||t|, and rows whose norms overflow are passed
 * over.
 */
#include <type_traits>

#include "maxcos/fma.cuh"
#include "maxcos/maxcos.cuh"
#include "maxcos/mma.cuh"

namespace {

constexpr uint32_t BAND = 8; /* candidate tiles */

/* Item `number`: the lists of its tile, for all threads. */
template <class F, int DTYPE>
__device__ inline tc_maxcos_item open_item(const tc_maxcos_args &args, int64_t number,
                                           tc_maxcos_lists *lists) {
  const int32_t b = (int32_t)tc_prefix_find(args.items, 0, args.s.segments, number);
  const tc_maxcos_shape s = args.shapes[b];
  const int32_t start = args.s.start[b];
  const uint32_t within = (uint32_t)(number - args.items[b]);
  const uint32_t rows = (uint32_t)tc_tiles_for(s.candidates, F::M);
  const uint32_t columns = (uint32_t)tc_tiles_for(s.queries, F::N);
  const uint32_t band = within / (BAND * columns), rest = within % (BAND * columns);
  const uint32_t width = min(BAND, rows - band * BAND);
  const int32_t first_row = (int32_t)(band * BAND + rest % width) * F::M;
  const int32_t first_column = (int32_t)(rest / width) * F::N;
  tc_maxcos_item item;
  item.rows = (const char *)args.tokens.data + tc_token_offset(args.s, args.tokens, b, start, 0);
  item.stride = args.tokens.row_stride * tc_type<DTYPE>::size;
  item.dim = args.tokens.dim;
  item.candidates = min(F::M, s.candidates - first_row);
  item.queries = min(F::N, s.queries - first_column);
  item.best = (uint32_t *)args.scores + start;
  const int32_t *candidates = args.candidate_rows + start + first_row;
  const int32_t *queries = args.query_rows + start + first_column;
  __syncthreads(); /* everybody is done with the item before */
  for (int i = (int)threadIdx.x; i < F::M; i += TC_MAXCOS_THREADS) {
    lists->candidate[i] = candidates[min(i, item.candidates - 1)];
  }
  for (int i = (int)threadIdx.x; i < F::N; i += TC_MAXCOS_THREADS) {
    const int32_t row = queries[min(i, item.queries - 1)];
    const float weight = tc_row_weight(args.norms[start + row]);
    lists->query[i] = row;
    lists->weight[i] = i < item.queries ? weight : tc_bits_float(TC_NAN_BITS);
  }
  __syncthreads();
  return item;
}

template <class F, int DTYPE, bool ALIGNED>
__device__ inline void take_items(const tc_maxcos_args &args, tc_maxcos_lists *lists,
                                  char *stages) {
  typedef std::conditional_t<DTYPE == TAILCUT_F32, tc_maxcos_fma<F>, tc_maxcos_mma<F, DTYPE>>
      tile_of;
  const int64_t items = args.items[args.s.segments];
#pragma unroll 1
  for (int64_t number = blockIdx.x; number < items; number += gridDim.x) {
    const tc_maxcos_item item = open_item<F, DTYPE>(args, number, lists);
    tile_of tile;
    tile.template run<ALIGNED>(item, *lists, stages);
    tile.keep_best(item, *lists);
  }
}

template <int DTYPE, bool ALIGNED>
__global__ void __launch_bounds__(TC_MAXCOS_THREADS, 1)
    product(const __grid_constant__ tc_maxcos_args args) {
  typedef tc_maxcos_forms<DTYPE> forms;
  extern __shared__ __align__(128) char stages[];
  __shared__ tc_maxcos_lists lists;
  tc_wait_previous();
  const int form = *args.form;
  if (ALIGNED && form == 0) {
    take_items<typename forms::form_0, DTYPE, ALIGNED>(args, &lists, stages);
  } else if (ALIGNED && form == 1) {
    take_items<typename forms::form_1, DTYPE, ALIGNED>(args, &lists, stages);
  } else if (form == 2) {
    take_items<typename forms::form_2, DTYPE, ALIGNED>(args, &lists, stages);
  } else if (form == 3) {
    take_items<typename forms::form_3, DTYPE, ALIGNED>(args, &lists, stages);
  } else {
    take_items<typename forms::form_4, DTYPE, ALIGNED>(args, &lists, stages);
  }
}

typedef void (*product_kernel)(tc_maxcos_args);

/* By dtype and whether rows are aligned. */
const product_kernel KERNELS[3][2] = {
    {product<TAILCUT_F16, false>, product<TAILCUT_F16, true>},
    {product<TAILCUT_BF16, false>, product<TAILCUT_BF16, true>},
    {product<TAILCUT_F32, false>, product<TAILCUT_F32, true>},
};

}  // namespace

cudaError_t tc_maxcos_product(const tc_maxcos_args &args, bool aligned, const tc_chain *chain) {
  return tc_launch(KERNELS[args.tokens.dtype - 1][aligned], (unsigned)args.blocks,
                   TC_MAXCOS_THREADS, TC_MAXCOS_SHARED, chain, args);
}

void tc_maxcos_product_load(cudaError_t *error) { tc_load(KERNELS, error, TC_MAXCOS_SHARED); }
