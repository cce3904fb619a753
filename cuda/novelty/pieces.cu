/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pieces: windows of any rows, of 64, 128 or 256; one block each.
 *
 * Formula: METHOD.md, NOVELTY. Strategy: the rows are read twice. First a warp a row for norms,
 * hence scales and states; then a piece of the channels at a time, 65,536 bytes of all rows, made
 * to bytes and multiplied while each warp keeps the sums of its blocks of 16 x 16 in registers (of
 * 136 blocks above the diagonal of 256 rows it has 9 at most: 72 registers). Similarities then lie
 * in a triangle: row j's with the rows before it from j (j - 1) / 2 on. Row j's with the rows
 * behind it are in steps of j, j + 1 ...: 32 neighbours of them, from a multiple of 32 on, are in 32
 * banks.
 * Precision: exact. Limits: rows whose bytes would fit are read twice as well; 256 rows' triangle
 * (130,560 bytes) is in the workspace where a block has less shared memory than that, at its first
 * row's place (n rows have n * 128 words and want n (n - 1) / 2).
 */
#include "novelty/novelty.cuh"

namespace {

constexpr int WARPS = 16, THREADS = 32 * WARPS;
constexpr uint32_t PIECE = 65536; /* bytes of shared memory that a piece takes */

size_t triangle_of(int32_t window) { return (size_t)window * (window - 1) / 2 * 4; }
/* Where the rest begins, behind the piece or the triangle over it: scales (then roots), states,
 * and which window it is. */
size_t rest_of(size_t words) { return words > PIECE ? words : PIECE; }
size_t shared_of(int32_t window, size_t words) {
  return rest_of(words) + (size_t)window * 5 + sizeof(tc_window);
}

__device__ inline uint32_t row_of(uint32_t i) { return i * (i - 1) / 2; } /* of a triangle */

template <int WINDOW>
struct triangle {
  static constexpr int ROWS = WINDOW / 32;
  const uint32_t *words; /* (p + 2^20) << TC_KEY_SHIFT */
  uint32_t absent;       /* bit k: this lane's k-th row is blank or absent */

  __device__ inline triangle(const uint32_t *words_, const uint8_t *states)
      : words(words_), absent(0) {
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
      if (states[row(k)] != TC_ROW_LIVE) absent |= 1u << k;
    }
  }
  __device__ static inline uint32_t key_of(int32_t place) { return (uint32_t)place; }
  __device__ inline int32_t row(int k) const { return 32 * k + (int32_t)(threadIdx.x & 31); }
  __device__ inline void load(uint32_t key, uint32_t (&out)[ROWS]) const {
    const uint32_t j = key & (WINDOW - 1), own = row_of(j);
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
      const uint32_t i = (uint32_t)row(k);
      const bool none = i == j || (absent >> k & 1);
      out[k] = none ? TC_NO_KEY : words[i > j ? row_of(i) + j : own + i] | i;
    }
  }
  __device__ inline int32_t similarity(int32_t i, int32_t j) const {
    const uint32_t word = words[i > j ? row_of(i) + j : row_of(j) + i];
    return (int32_t)(word >> TC_KEY_SHIFT) - TC_UNIT;
  }
};

/* Scales and states of a warp's rows. */
template <int DTYPE>
__device__ inline void judge_rows(const tc_novelty_args &args, const tc_window &w, const char *rows,
                                  int64_t stride, float *scales, uint8_t *states) {
  constexpr int NARROW = tc_type<DTYPE>::size;
  const uint32_t dim = (uint32_t)args.tokens.dim;
#pragma unroll 1
  for (int32_t i = (int32_t)threadIdx.x >> 5; i < w.n; i += WARPS) {
    const char *row = rows + i * stride;
    const float square = args.width == 16 ? tc_row_square<DTYPE, 16, 4>(row, dim)
                                          : tc_row_square<DTYPE, NARROW, 2>(row, dim);
    const float r = tc_mean_square(square, dim);
    if ((threadIdx.x & 31) != 0) continue;
    states[i] = tc_state_of(r);
    scales[i] = tc_bits_float((uint32_t)(127 + tc_shift_of(r)) << 23);
  }
}

/* Channels [256 run, 256 (run + runs)) of all rows, as bytes in units of 16, unit u of row i at
 * u ^ (i & 7). AHEAD: rows of which a warp has all loads under way. */
template <int DTYPE, int AHEAD>
__device__ inline void store_piece(const tc_novelty_args &args, const tc_window &w,
                                   const char *rows, int64_t stride, uint32_t run, uint32_t runs,
                                   uint32_t pitch, const float *scales, char *bytes) {
  constexpr int NARROW = tc_type<DTYPE>::size;
  const uint32_t dim = (uint32_t)args.tokens.dim, lane = threadIdx.x & 31;
#pragma unroll 1
  for (uint32_t u = 0; u < runs; u++) {
    const bool is_whole = (run + u + 1) * TC_RUN_ELEMENTS <= dim;
#pragma unroll AHEAD
    for (int32_t i = (int32_t)threadIdx.x >> 5; i < w.n; i += WARPS) {
      tc_eight<DTYPE> x;
      if (args.width == 16) {
        tc_load_run<DTYPE, 16>(x, rows + i * stride, run + u, dim, is_whole);
      } else {
        tc_load_run<DTYPE, NARROW>(x, rows + i * stride, run + u, dim, is_whole);
      }
      uint32_t q[8];
#pragma unroll
      for (int k = 0; k < 8; k++) q[k] = tc_byte_of(tc_widen<DTYPE>(x, k), scales[i]);
      const uint32_t a = tc_low_bytes(q[0], q[1], q[2], q[3]);
      const uint32_t b = tc_low_bytes(q[4], q[5], q[6], q[7]);
      char *to = bytes + (uint32_t)i * pitch;
      const uint32_t turn = (uint32_t)i & 7, unit = u * 16;
      if constexpr (DTYPE == TAILCUT_F32) { /* a lane's channels are 4 and, 128 on, 4 more */
        to += lane % 4 * 4;
        *reinterpret_cast<uint32_t *>(to + (((unit + lane / 4) ^ turn) << 4)) = a;
        *reinterpret_cast<uint32_t *>(to + (((unit + 8 + lane / 4) ^ turn) << 4)) = b;
      } else {
        to += (((unit + lane / 2) ^ turn) << 4) + lane % 2 * 8;
        *reinterpret_cast<uint2 *>(to) = make_uint2(a, b);
      }
    }
  }
}

/* Which 16 rows and columns block `number` of those above the diagonal is. */
__device__ inline void place_block(int number, int *a, int *b) {
  int j = 0;
  while ((j + 1) * (j + 2) / 2 <= number) j++;
  *a = number - j * (j + 1) / 2;
  *b = j;
}

template <int WINDOW>
struct sums {
  static constexpr int SIDE = WINDOW / 16, BLOCKS = SIDE * (SIDE + 1) / 2;
  static constexpr int EACH = (BLOCKS + WARPS - 1) / WARPS;
  static constexpr uint32_t PITCH = PIECE / WINDOW, BLOCK = 16 * PITCH, NONE = 0xFFFFFFFF;
  int32_t c[EACH][2][4];
  /* Where the rows and columns of each block begin in a piece, columns in the upper half. NONE:
   * there is no block, or its rows are all absent. */
  uint32_t places[EACH];

  __device__ inline explicit sums(int32_t n) {
#pragma unroll
    for (int t = 0; t < EACH; t++) {
      const int number = (int)(threadIdx.x >> 5) + WARPS * t;
      int a, b;
      place_block(number, &a, &b);
      places[t] =
          number < BLOCKS && b * 16 < n ? (uint32_t)a * BLOCK | (uint32_t)b * BLOCK << 16 : NONE;
#pragma unroll
      for (int e = 0; e < 8; e++) c[t][e >> 2][e & 3] = 0;
    }
  }

  /* Adds what `steps` times 32 channels of the piece say. */
  __device__ inline void add(uint32_t bytes, uint32_t steps) {
    const uint32_t lane = threadIdx.x & 31, turn = lane & 7, half = lane >> 4;
    const uint32_t own = bytes + (turn + ((lane >> 3) & 1) * 8) * PITCH;
#pragma unroll 1
    for (uint32_t step = 0; step < steps; step++) {
      const uint32_t at = own + (((step * 2 + half) ^ turn) << 4);
#pragma unroll
      for (int t = 0; t < EACH; t++) {
        if (places[t] == NONE) continue;
        uint32_t f[4], g[4];
        tc_load_matrices(f, at + (places[t] & 0xFFFF));
        tc_load_matrices(g, at + (places[t] >> 16));
        tc_mma_bytes(c[t][0], f, g[0], g[2]);
        tc_mma_bytes(c[t][1], f, g[1], g[3]);
      }
    }
  }

  /* f(i, j, sum of rows i and j) of all that this lane has. */
  template <class F>
  __device__ inline void each(F f) const {
    const int lane = (int)(threadIdx.x & 31);
#pragma unroll
    for (int t = 0; t < EACH; t++) {
      if (places[t] == NONE) continue;
      const int i = (int)((places[t] & 0xFFFF) / PITCH) + (lane >> 2);
      const int j = (int)((places[t] >> 16) / PITCH) + (lane & 3) * 2;
#pragma unroll
      for (int e = 0; e < 8; e++) {
        f(i + (e >> 1 & 1) * 8, j + (e >> 2) * 8 + (e & 1), c[t][e >> 2][e & 3]);
      }
    }
  }
};

template <int DTYPE_>
struct dtype_is {
  static constexpr int DTYPE = DTYPE_;
};

/* f of the rows' dtype, as a constant. */
template <class F>
__device__ inline void with_dtype(int32_t dtype, F f) {
  if (dtype == TAILCUT_F16) {
    f(dtype_is<TAILCUT_F16>());
  } else if (dtype == TAILCUT_BF16) {
    f(dtype_is<TAILCUT_BF16>());
  } else {
    f(dtype_is<TAILCUT_F32>());
  }
}

template <int WINDOW>
__global__ void __launch_bounds__(THREADS, 1)
    novelty_pieces(const __grid_constant__ tc_novelty_args args, uint32_t bytes_end) {
  extern __shared__ __align__(1024) char shared[];
  constexpr uint32_t PITCH = sums<WINDOW>::PITCH, RUNS = PITCH / TC_RUN_ELEMENTS;
  constexpr int AHEAD = WINDOW == 256 ? 2 : 4; /* as many as registers are left for */
  float *scales = reinterpret_cast<float *>(shared + bytes_end), *roots = scales;
  uint8_t *states = reinterpret_cast<uint8_t *>(shared + bytes_end + WINDOW * 4);
  tc_wait_previous();
  const tc_window w = tc_window_of_block(
      args, blockIdx.x, reinterpret_cast<tc_window *>(shared + bytes_end + WINDOW * 5));
  if (w.b < 0) return;
  const uint32_t dim = (uint32_t)args.tokens.dim;
  const int64_t stride = args.tokens.row_stride * (args.tokens.dtype == TAILCUT_F32 ? 4 : 2);
  const char *rows =
      (const char *)args.tokens.data + tc_token_offset(args.s, args.tokens, w.b, w.start, w.first);
  for (int32_t i = w.n + (int32_t)threadIdx.x; i < WINDOW; i += THREADS) {
    states[i] = TC_ROW_ABSENT;
  }
  with_dtype(args.tokens.dtype, [&](auto type) {
    judge_rows<decltype(type)::DTYPE>(args, w, rows, stride, scales, states);
  });
  sums<WINDOW> products(w.n);
#pragma unroll 1
  for (uint32_t run = 0; run * TC_RUN_ELEMENTS < dim; run += RUNS) {
    const uint32_t left = dim - run * TC_RUN_ELEMENTS;
    const uint32_t channels = left < PITCH ? left : PITCH;
    const uint32_t runs = (channels + TC_RUN_ELEMENTS - 1) / TC_RUN_ELEMENTS;
    __syncthreads(); /* the scales are there; the piece before is done with */
    with_dtype(args.tokens.dtype, [&](auto type) {
      store_piece<decltype(type)::DTYPE, AHEAD>(args, w, rows, stride, run, runs, PITCH, scales,
                                                shared);
    });
    __syncthreads();
    products.add(tc_shared_address(shared), (channels + 31) / 32);
  }
  uint32_t *words = args.words != nullptr ? args.words + ((size_t)w.start + w.first) * (WINDOW / 2)
                                          : reinterpret_cast<uint32_t *>(shared);
  __syncthreads(); /* the bytes are done with */
  products.each([&](int i, int j, int32_t sum) {
    if (i == j) roots[i] = __fsqrt_rn((float)sum);
    if (i < j && j < w.n) words[row_of((uint32_t)j) + (uint32_t)i] = (uint32_t)sum;
  });
  __syncthreads();
#pragma unroll 1
  for (int32_t j = (int32_t)threadIdx.x >> 5; j < w.n; j += WARPS) {
    for (int32_t i = (int32_t)threadIdx.x & 31; i < j; i += 32) {
      uint32_t *word = words + (row_of((uint32_t)j) + (uint32_t)i);
      *word = tc_similarity((int32_t)*word, roots[i], roots[j]) << TC_KEY_SHIFT;
    }
  }
  __syncthreads();
  tc_let_next_start();
  tc_finish_window<WARPS>(args, w, blockIdx.x, triangle<WINDOW>(words, states), states);
}

typedef void (*pieces_kernel)(tc_novelty_args, uint32_t);
const pieces_kernel KERNELS[3] = {novelty_pieces<64>, novelty_pieces<128>, novelty_pieces<256>};

}  // namespace

size_t tc_novelty_pieces_words(const tc_cuda *device, int32_t window) {
  return shared_of(window, triangle_of(window)) > (size_t)device->smem_block ? window / 2 : 0;
}

cudaError_t tc_novelty_pieces(const tc_novelty_args &args, unsigned windows,
                              const tc_chain *chain) {
  const int32_t window = args.window;
  const size_t words = args.words != nullptr ? 0 : triangle_of(window);
  return tc_launch(KERNELS[window / 128], windows, THREADS, shared_of(window, words), chain, args,
                   (uint32_t)rest_of(words));
}

cudaError_t tc_novelty_pieces_load(const tc_cuda *device) {
  cudaError_t error = cudaSuccess;
  for (const pieces_kernel kernel : KERNELS) {
    tc_load(kernel, &error);
    if (error != cudaSuccess) return error;
    error = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 device->smem_block);
  }
  return error;
}
