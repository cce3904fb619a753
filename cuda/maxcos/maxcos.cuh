/* SPDX-License-Identifier: Apache-2.0 */
/* maxcos: what the kernels of MAX_COSINE share: tiles, and what prepare leaves to product and
 * finish. */
#ifndef TAILCUT_MAXCOS_CUH_
#define TAILCUT_MAXCOS_CUH_

#include "common/launch.cuh"
#include "common/tiles.cuh"
#include "maxcos/stages.cuh"

#define TC_MAXCOS_FORMS 5
#define TC_MAXCOS_UNALIGNED 2 /* the largest form for rows that are copied by elements */

/* Tiles by dtype, the largest first. */
struct tc_maxcos_half_forms {
  typedef tc_maxcos_form<256, 128, 64, 4, 2, 1> form_0;
  typedef tc_maxcos_form<128, 128, 64, 2, 4, 1> form_1;
  typedef tc_maxcos_form<64, 64, 128, 2, 2, 2> form_2;
  typedef tc_maxcos_form<32, 32, 256, 2, 1, 4> form_3;
  typedef tc_maxcos_form<16, 32, 512, 1, 1, 8> form_4;
  static constexpr int BYTES = 2, PRODUCTS = 1300;
};
struct tc_maxcos_float_forms {
  typedef tc_maxcos_form<128, 64, 128, 4, 2, 1> form_0;
  typedef tc_maxcos_form<64, 64, 128, 4, 2, 1> form_1;
  typedef tc_maxcos_form<64, 32, 128, 4, 2, 1> form_2;
  typedef tc_maxcos_form<32, 32, 256, 4, 2, 1> form_3;
  typedef tc_maxcos_form<16, 32, 256, 4, 2, 1> form_4;
  static constexpr int BYTES = 4, PRODUCTS = 128;
};
template <int DTYPE>
struct tc_maxcos_forms : tc_maxcos_half_forms {};
template <>
struct tc_maxcos_forms<TAILCUT_F32> : tc_maxcos_float_forms {};

struct tc_maxcos_shape {
  int32_t candidates, queries;
};

struct tc_maxcos_args {
  tc_segments s;
  tc_tiles t;
  tailcut_tokens tokens;
  const uint8_t *roles;
  float *scores; /* until finish: keys */
  int32_t *flags;
  uint32_t *arrived;       /* zero between calls */
  int32_t blocks;          /* of product */
  int32_t first_form;      /* that may be chosen */
  int32_t *form;           /* the chosen */
  int64_t *items;          /* [segments + 1] prefix sums */
  tc_maxcos_shape *shapes; /* [segments] */
  int32_t *candidate_rows; /* by row number; a segment's begin at its start */
  int32_t *query_rows;
  float *norms; /* by row number */
};

/* Divided, rounded up. */
__host__ __device__ inline int64_t tc_tiles_for(int64_t rows, int64_t tile) {
  return (rows + tile - 1) / tile;
}

/* How many tiles a segment makes, and about how many cycles an SM takes for one: the longer of its
 * products (PRODUCTS a cycle) and of its bytes from L2 (28 a cycle where all SMs read), and what
 * does not depend on dim. */
template <class Forms, class F>
__device__ inline int64_t tc_maxcos_items(tc_maxcos_shape s) {
  return tc_tiles_for(s.candidates, F::M) * tc_tiles_for(s.queries, F::N);
}
template <class Forms, class F>
__device__ inline int64_t tc_maxcos_cycles(int32_t dim) {
  return 2500 + max((int64_t)F::M * F::N * dim / Forms::PRODUCTS,
                    (int64_t)(F::M + F::N) * Forms::BYTES * dim / 28);
}

/* call<Forms, Forms::form_N>(...) for N = form. */
#define TC_MAXCOS_WITH(call, Forms, form, ...)                      \
  ((form) == 0   ? call<Forms, typename Forms::form_0>(__VA_ARGS__) \
   : (form) == 1 ? call<Forms, typename Forms::form_1>(__VA_ARGS__) \
   : (form) == 2 ? call<Forms, typename Forms::form_2>(__VA_ARGS__) \
   : (form) == 3 ? call<Forms, typename Forms::form_3>(__VA_ARGS__) \
                 : call<Forms, typename Forms::form_4>(__VA_ARGS__))

/* product.cu. aligned: rows are whole 16-byte pieces. */
cudaError_t tc_maxcos_product(const tc_maxcos_args &args, bool aligned, const tc_chain *chain);
void tc_maxcos_product_load(cudaError_t *error);

#endif /* TAILCUT_MAXCOS_CUH_ */
