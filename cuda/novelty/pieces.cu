/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pieces: windows of any rows, of 64, 128 or 256; one block each.
 *
 * Formula: METHOD.md, NOVELTY. Strategy: a warp holds a row in registers, which its norm is known
 * from and its bytes are made of, as many channels as shared memory has room for of all rows: that
 * much is read once. What is left is read again, a piece of the channels at a time. Pieces are
 * multiplied while each warp keeps the sums of its blocks of 16 x 16 in registers (of 136 blocks
 * above the diagonal of 256 rows it has 9 at most: 72 registers). Similarities then lie in a
 * triangle: row j's with the rows before it from j (j - 1) / 2 on. Row j's with the rows behind it
 * are in steps of j, j + 1 ...: 32 neighbours of them, from a multiple of 32 on, are in 32 banks.
 * Precision: exact. Limits: with 227 KB of shared memory 896 channels of 256 rows are read once,
 * 1,792 of 128, 3,584 of 64; of rows longer than a warp holds (HELD) all are read twice. 256 rows'
 * triangle (130,560 bytes) is in the workspace where a block has less shared memory than that, at
 * its first row's place (n rows have n * 128 words and want n (n - 1) / 2).
 */
#include "novelty/quads.cuh"

namespace {

constexpr int WARPS = 16, THREADS = 32 * WARPS;
constexpr int HELD = 14; /* quads in a warp's registers: 3,584 channels of 16 bits, 1,792 of 32 */

size_t triangle_of(int32_t window) { return (size_t)window * (window - 1) / 2 * 4; }

/* Behind the bytes or the triangle over them: shifts (then roots), states, which window it is. */
size_t rest_of(int32_t window) { return (size_t)window * 5 + sizeof(tc_window); }

/* Channels of a piece: all, or what there is room for. */
uint32_t pitch_of(const tc_cuda *device, const tc_novelty_args &args) {
  const size_t all = ((size_t)args.tokens.dim + 127) / 128;
  const size_t room = ((size_t)device->smem_block - rest_of(args.window)) / args.window / 128;
  return (uint32_t)(all < room ? all : room) * 128;
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

/* The rows of a window, and how a piece of them lies in shared memory: the bytes of row i from
 * i * pitch on, in units of 16, unit u at u ^ (i & 7). */
template <int DTYPE>
struct piece {
  static constexpr int SIZE = tc_type<DTYPE>::size;
  const char *rows;
  int64_t stride; /* bytes */
  int32_t n;
  uint32_t dim, pitch, bytes; /* bytes: where those are */

  __device__ inline piece(const tc_novelty_args &args, const tc_window &w, uint32_t pitch_,
                          const char *shared)
      : rows((const char *)args.tokens.data +
             tc_token_offset(args.s, args.tokens, w.b, w.start, w.first)),
        stride(args.tokens.row_stride * SIZE),
        n(w.n),
        dim((uint32_t)args.tokens.dim),
        pitch(pitch_),
        bytes(tc_shared_address(shared)) {}
};

/* Shifts and states of all rows. Where a warp can hold a row, its bytes too. */
template <int BYTES, int DTYPE>
__device__ inline void judge_rows(const piece<DTYPE> &p, int32_t *shifts, uint8_t *states) {
  typedef tc_row_quads<DTYPE, HELD> held;
#pragma unroll 1
  for (int32_t i = (int32_t)threadIdx.x >> 5; i < p.n; i += WARPS) {
    const char *row = p.rows + i * p.stride;
    held x;
    float square[8];
    tc_clear(square);
#pragma unroll 1
    for (uint32_t from = 0; from < p.dim; from += held::CHANNELS) {
      x.template load_any<BYTES>(row + (size_t)from * p.SIZE, p.dim - from);
      x.add_squares(held::quads_of(p.dim - from), square);
    }
    const float r = tc_mean_square(tc_sum<DTYPE>(square), p.dim);
    if ((threadIdx.x & 31) == 0) {
      states[i] = tc_state_of(r);
      shifts[i] = tc_shift_of(r);
    }
    if (p.dim > held::CHANNELS) continue;
    x.template store<true>(p.bytes, (uint32_t)i, p.pitch, held::quads_of(min(p.dim, p.pitch)),
                           tc_shift_of(r), p.pitch);
  }
}

/* The bytes of the piece from channel `from` on, which is read for them; one run of a row at a
 * time, since few registers are left beside the sums. */
template <int BYTES, int DTYPE>
__device__ inline void store_piece(const piece<DTYPE> &p, uint32_t from, const int32_t *shifts) {
  typedef tc_row_quads<DTYPE, DTYPE == TAILCUT_F32 ? 2 : 1> held;
  const uint32_t channels = min(p.dim - from, p.pitch);
#pragma unroll 1
  for (uint32_t at = 0; at < channels; at += held::CHANNELS) {
    const uint32_t left = channels - at;
#pragma unroll 1
    for (int32_t i = (int32_t)threadIdx.x >> 5; i < p.n; i += WARPS) {
      held x;
      x.template load_any<BYTES>(p.rows + i * p.stride + (size_t)(from + at) * p.SIZE, left);
      x.template store<true>(p.bytes + at, (uint32_t)i, p.pitch, held::quads_of(left), shifts[i],
                             p.pitch - at);
    }
  }
}

/* The sums of a warp's blocks of 16 x 16. Of each two sides of 16 rows one meets the other: a side
 * those that are up to SIDE / 2 behind it, in a ring, of which its GROUP warps have every GROUP-th.
 * All blocks of a warp share a side, which is loaded once for them. */
template <int WINDOW>
struct sums {
  static constexpr int SIDE = WINDOW / 16, GROUP = WARPS / SIDE;
  static constexpr int EACH = (SIDE / 2 + GROUP) / GROUP;
  int32_t c[EACH][2][4];
  int32_t side, turn; /* sides of block t: this one, and turn + t GROUP behind it */
  uint32_t there;     /* bit t: block t is this warp's, and neither side is all absent */

  __device__ inline explicit sums(int32_t n)
      : side((int32_t)(threadIdx.x >> 5) % SIDE),
        turn((int32_t)(threadIdx.x >> 5) / SIDE),
        there(0) {
#pragma unroll
    for (int t = 0; t < EACH; t++) {
      const int32_t behind = turn + t * GROUP;
      const bool own = behind < SIDE / 2 || (behind == SIDE / 2 && side < SIDE / 2);
      if (own && max(side, other(t)) * 16 < n) there |= 1u << t;
#pragma unroll
      for (int e = 0; e < 8; e++) c[t][e >> 2][e & 3] = 0;
    }
  }

  __device__ inline int32_t other(int t) const { return (side + turn + t * GROUP) % SIDE; }

  /* Adds what `steps` times 32 channels of the piece say. */
  __device__ inline void add(uint32_t bytes, uint32_t pitch, uint32_t steps) {
    const uint32_t lane = threadIdx.x & 31, swap = lane & 7, half = lane >> 4;
    uint32_t block = 16 * pitch;
    const uint32_t own = bytes + (swap + ((lane >> 3) & 1) * 8) * pitch;
    if (there == 0) return;
#pragma unroll 1
    for (uint32_t step = 0; step < steps; step++) {
      const uint32_t at = own + (((step * 2 + half) ^ swap) << 4);
      uint32_t f[4], g[4];
      asm volatile("" : "+r"(block)); /* or there would be a register for each multiple of it */
      tc_load_matrices(f, at + (uint32_t)side * block);
#pragma unroll
      for (int t = 0; t < EACH; t++) {
        if ((there >> t & 1) == 0) continue;
        tc_load_matrices(g, at + (uint32_t)other(t) * block);
        tc_mma_bytes(c[t][0], f, g[0], g[2]);
        tc_mma_bytes(c[t][1], f, g[1], g[3]);
      }
    }
  }

  /* f(i, j, sum of rows i and j) of all that this lane has; a pair may come twice. */
  template <class F>
  __device__ inline void each(F f) const {
    const int lane = (int)(threadIdx.x & 31);
#pragma unroll
    for (int t = 0; t < EACH; t++) {
      if ((there >> t & 1) == 0) continue;
      const int i = side * 16 + (lane >> 2), j = other(t) * 16 + (lane & 3) * 2;
#pragma unroll
      for (int e = 0; e < 8; e++) {
        f(i + (e >> 1 & 1) * 8, j + (e >> 2) * 8 + (e & 1), c[t][e >> 2][e & 3]);
      }
    }
  }
};

/* BYTES: what the rows are loaded in. */
template <int WINDOW, int DTYPE, int BYTES>
__global__ void __launch_bounds__(THREADS, 1)
    novelty_pieces(const __grid_constant__ tc_novelty_args args, uint32_t pitch,
                   uint32_t bytes_end) {
  extern __shared__ __align__(1024) char shared[];
  int32_t *shifts = reinterpret_cast<int32_t *>(shared + bytes_end);
  float *roots = reinterpret_cast<float *>(shifts);
  uint8_t *states = reinterpret_cast<uint8_t *>(shared + bytes_end + WINDOW * 4);
  tc_wait_previous();
  const tc_window w = tc_window_of_block(
      args, blockIdx.x, reinterpret_cast<tc_window *>(shared + bytes_end + WINDOW * 5));
  if (w.b < 0) return;
  const piece<DTYPE> first(args, w, pitch, shared);
  for (int32_t i = w.n + (int32_t)threadIdx.x; i < WINDOW; i += THREADS) {
    states[i] = TC_ROW_ABSENT;
  }
  judge_rows<BYTES>(first, shifts, states);
  const bool held = first.dim <= tc_row_quads<DTYPE, HELD>::CHANNELS;
  sums<WINDOW> products(w.n);
#pragma unroll 1
  for (uint32_t from = 0; from < first.dim; from += pitch) {
    __syncthreads(); /* the shifts are there; the piece before is done with */
    if (from > 0 || !held) {
      store_piece<BYTES>(first, from, shifts);
      __syncthreads();
    }
    products.add(first.bytes, pitch, (min(first.dim - from, pitch) + 31) / 32);
  }
  uint32_t *words = args.words != nullptr ? args.words + ((size_t)w.start + w.first) * (WINDOW / 2)
                                          : reinterpret_cast<uint32_t *>(shared);
  __syncthreads(); /* the bytes are done with */
  products.each([&](int i, int j, int32_t sum) {
    if (i == j) roots[i] = __fsqrt_rn((float)sum);
    if (i != j && max(i, j) < w.n) {
      words[row_of((uint32_t)max(i, j)) + (uint32_t)min(i, j)] = (uint32_t)sum;
    }
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

typedef void (*pieces_kernel)(tc_novelty_args, uint32_t, uint32_t);
#define OF(window, type, narrow) \
  { novelty_pieces<window, type, 16>, novelty_pieces<window, type, narrow> }
#define ALL(window) \
  { OF(window, TAILCUT_F16, 2), OF(window, TAILCUT_BF16, 2), OF(window, TAILCUT_F32, 4) }
const pieces_kernel KERNELS[3][3][2] = {ALL(64), ALL(128), ALL(256)};

}  // namespace

size_t tc_novelty_pieces_words(const tc_cuda *device, int32_t window) {
  return triangle_of(window) + rest_of(window) > (size_t)device->smem_block ? window / 2 : 0;
}

cudaError_t tc_novelty_pieces(const tc_cuda *device, const tc_novelty_args &args, unsigned windows,
                              const tc_chain *chain) {
  const int32_t window = args.window;
  const uint32_t pitch = pitch_of(device, args);
  const size_t words = args.words != nullptr ? 0 : triangle_of(window);
  const size_t bytes = (size_t)window * pitch, end = words > bytes ? words : bytes;
  const pieces_kernel kernel = KERNELS[window / 128][args.tokens.dtype - 1][args.width < 16];
  return tc_launch(kernel, windows, THREADS, end + rest_of(window), chain, args, pitch,
                   (uint32_t)end);
}

void tc_novelty_pieces_load(const tc_cuda *device, cudaError_t *error) {
  tc_load(KERNELS, error, (size_t)device->smem_block);
}
