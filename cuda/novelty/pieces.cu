/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pieces: windows of any rows, of 64, 128 or 256; one block each.
 *
 * Formula: METHOD.md, NOVELTY. Strategy: a warp has a row brought to shared memory as it lies, from
 * where its norm is known and then its bytes are made: a row is read once. As many channels of all
 * rows as there is room for beside that stay on chip as bytes; the bytes of the others go to the
 * workspace, a quarter or half of what was read, and come back a piece of the channels at a time,
 * the next while one is multiplied. Each warp keeps the sums of its blocks of 16 x 16 in registers
 * meanwhile (of 136 blocks above the diagonal of 256 rows it has 9 at most: 72 registers).
 * Similarities then lie in a triangle: row j's with the rows before it from j (j - 1) / 2 on. Row
 * j's with the rows behind it are in steps of j, j + 1 ...: 32 neighbours of them, from a multiple
 * of 32 on, are in 32 banks.
 * The workspace has room for the windows that run at a time, at most one for each SM; where it is
 * needed, blocks have several windows one after the other. Its size: window * dim bytes for each of
 * those, if dim is above about 1,790, 1,190 or 720 by window (with 227 KB of shared memory, for
 * rows of 32 bits; a size is asked for before the dtype is known).
 * Precision: exact. Limits: rows longer than a block's shared memory (of 227 KB: about 115,000
 * channels of 16 bits, 57,000 of 32) are read a part at a time, and twice. 256 rows' triangle
 * (130,560 bytes) is in the workspace too where a block has less shared memory than that (n rows
 * have n * 512 bytes there and want n (n - 1) * 2).
 */
#include "novelty/bytes.cuh"

namespace {

constexpr int WARPS = TC_PIECES_WARPS, THREADS = 32 * WARPS;
constexpr uint32_t RUN = TC_RUN_ELEMENTS;

size_t triangle_of(int32_t window) { return (size_t)window * (window - 1) / 2 * 4; }

/* Behind the bytes or the triangle over them: roots, states, which window it is. */
size_t rest_of(int32_t window) { return (size_t)window * 5 + sizeof(tc_window); }

bool spills_triangle(const tc_cuda *device, int32_t window) {
  return triangle_of(window) + rest_of(window) > (size_t)device->smem_block;
}

/* Without scratch. */
tc_pieces_layout layout_of(const tc_cuda *device, int32_t window, uint32_t dim, uint32_t size) {
  constexpr uint32_t AROUND = 48; /* up to 31 bytes before a row; whole quads are looked at */
  tc_pieces_layout l = {};
  const uint32_t rows = (uint32_t)window, room = (device->smem_block - rest_of(window)) & ~127u;
  const uint32_t all = (dim + RUN - 1) / RUN, run = RUN * size;
  l.pitch = (dim + 127) / 128 * 128;
  const bool whole = all * run + AROUND <= room;
  const uint32_t runs = whole ? all : (room / WARPS - 127 - AROUND) / run;
  l.part = runs * RUN;
  l.region = (runs * run + AROUND + 127) & ~127u;
  l.readers = (int32_t)min((uint32_t)WARPS, room / l.region);
  for (l.together = 1; l.together < 4; l.together *= 2) {
    const uint32_t twice = 2 * l.together * WARPS;
    if (l.together * WARPS >= window || rows * l.pitch + twice * l.region > room) break;
  }
  const uint32_t regions = l.region * (uint32_t)(l.readers * l.together);
  l.kept = min(l.pitch, (room - regions) / rows / 128 * 128);
  l.piece = min(l.pitch - l.kept, room / 2 / rows / 128 * 128);
  l.triangle = spills_triangle(device, window);
  l.end = max(l.kept * rows + regions, 2 * l.piece * rows);
  if (!l.triangle) l.end = max(l.end, (uint32_t)triangle_of(window));
  return l;
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

/* f(i, j, sum of rows i and j) of all that this lane has; a pair may come twice. */
template <class Sums, class F>
__device__ inline void each_sum(const Sums &sums, F f) {
  const int lane = (int)(threadIdx.x & 31);
#pragma unroll
  for (int t = 0; t < Sums::EACH; t++) {
    if ((sums.there >> t & 1) == 0) continue;
    const int i = sums.side * 16 + (lane >> 2), j = sums.other(t) * 16 + (lane & 3) * 2;
#pragma unroll
    for (int e = 0; e < 8; e++) {
      f(i + (e >> 1 & 1) * 8, j + (e >> 2) * 8 + (e & 1), sums.c[t][e >> 2][e & 3]);
    }
  }
}

/* The sums of all of a window's rows, whose bytes are there. */
template <int WINDOW>
using window_sums = tc_sums<WINDOW, WARPS * 16 / WINDOW>;

template <int WINDOW, int DTYPE>
__device__ inline void multiply(const tc_window_rows<DTYPE> &rows, window_sums<WINDOW> *sums) {
  const tc_pieces_layout &l = rows.l;
  const uint32_t bytes = rows.bytes, spilled = l.pitch - l.kept;
  const uint32_t buffer = l.piece * WINDOW;
  __syncthreads();
  if (l.kept > 0) sums->add(bytes, l.kept, 0, l.kept / 32);
  if (spilled == 0) return;
  __syncthreads(); /* the bytes that stayed are done with */
  rows.fetch(bytes, 0);
  tc_copy_commit();
  uint32_t own = 0;
#pragma unroll 1
  for (uint32_t from = 0; from < spilled; from += l.piece) {
    if (from + l.piece < spilled) rows.fetch(bytes + (buffer - own), from + l.piece);
    tc_copy_commit();
    tc_copy_wait<1>();
    __syncthreads();
    tc_delay(2);
    sums->add(bytes + own, l.piece, 0, min(spilled - from, l.piece) / 32);
    own = buffer - own;
    __syncthreads(); /* the piece is done with */
  }
}

/* Window w, which is the block's last or not. */
template <int WINDOW, int DTYPE>
__device__ inline void score_window(const tc_novelty_args &args, const tc_pieces_layout &l,
                                    const tc_window &w, int64_t number, bool last, char *shared) {
  float *const roots = reinterpret_cast<float *>(shared + l.end);
  uint8_t *const states = reinterpret_cast<uint8_t *>(shared + l.end + WINDOW * 4);
  char *const scratch = l.scratch + (size_t)blockIdx.x * WINDOW * l.row_bytes;
  const tc_window_rows<DTYPE> rows(args, l, w, shared, scratch);
  for (int32_t i = w.n + (int32_t)threadIdx.x; i < WINDOW; i += THREADS) {
    states[i] = TC_ROW_ABSENT;
  }
  rows.quantise_all(shared + l.kept * WINDOW, states);
  window_sums<WINDOW> sums((int32_t)(threadIdx.x >> 5) / window_sums<WINDOW>::SIDES, w.n);
  multiply<WINDOW>(rows, &sums);
  uint32_t *const words =
      reinterpret_cast<uint32_t *>(WINDOW == 256 && l.triangle ? scratch : shared);
  __syncthreads(); /* the bytes are done with */
  each_sum(sums, [&](int i, int j, int32_t sum) {
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
  if (last) tc_let_next_start();
  tc_finish_window<WARPS>(args, w, number, triangle<WINDOW>(words, states), states);
}

template <int WINDOW, int DTYPE>
__global__ void __launch_bounds__(THREADS, 1)
    novelty_pieces(const __grid_constant__ tc_novelty_args args,
                   const __grid_constant__ tc_pieces_layout l) {
  extern __shared__ __align__(1024) char shared[];
  tc_wait_previous();
  for (int64_t number = blockIdx.x; number < l.windows; number += gridDim.x) {
    const tc_window w = tc_window_of_block(
        args, number, reinterpret_cast<tc_window *>(shared + l.end + WINDOW * 5));
    const bool last = number + gridDim.x >= l.windows;
    if (w.b >= 0) score_window<WINDOW, DTYPE>(args, l, w, number, last, shared);
    __syncthreads(); /* all of that is done with */
  }
}

typedef void (*pieces_kernel)(tc_novelty_args, tc_pieces_layout);
#define ALL(window)                                                            \
  {                                                                            \
    novelty_pieces<window, TAILCUT_F16>, novelty_pieces<window, TAILCUT_BF16>, \
        novelty_pieces<window, TAILCUT_F32>                                    \
  }
const pieces_kernel KERNELS[3][3] = {ALL(64), ALL(128), ALL(256)};

/* Of scratch, for each row of a window. */
uint32_t row_bytes_of(const tc_cuda *device, const tc_pieces_layout &l, int32_t window) {
  const uint32_t bytes = l.kept < l.pitch ? l.pitch : 0;
  return max(bytes, spills_triangle(device, window) ? 2 * (uint32_t)window : 0);
}

/* Blocks that have scratch: no more than windows that are somebody's. */
int64_t blocks_of(const tc_cuda *device, int32_t window, int64_t total, int64_t groups) {
  return min((int64_t)device->sms, total / window + groups);
}

}  // namespace

size_t tc_novelty_pieces_scratch(const tc_cuda *device, int32_t window, int32_t dim, int64_t total,
                                 int64_t groups) {
  size_t most = 0;
  const uint32_t channels = (uint32_t)min(dim, TAILCUT_MAX_NOVELTY_DIM);
  for (int32_t w = 64; w <= max(window, 64); w *= 2) {
    for (uint32_t size = 2; size <= 4; size *= 2) {
      const uint32_t bytes = row_bytes_of(device, layout_of(device, w, channels, size), w);
      most = max(most, (size_t)blocks_of(device, w, total, groups) * (size_t)w * bytes);
    }
  }
  return most;
}

cudaError_t tc_novelty_pieces(const tc_cuda *device, const tc_novelty_args &args, int64_t windows,
                              char *scratch, const tc_chain *chain) {
  const int32_t window = args.window, dtype = args.tokens.dtype;
  tc_pieces_layout l =
      layout_of(device, window, (uint32_t)args.tokens.dim, (uint32_t)tc_dtype_size(dtype));
  l.windows = windows;
  l.scratch = scratch;
  l.row_bytes = row_bytes_of(device, l, window);
  const int64_t running = blocks_of(device, window, args.s.total, tc_group_count(args.s, args.g));
  const int64_t grid = l.row_bytes > 0 ? min(windows, running) : windows;
  return tc_launch(KERNELS[window / 128][dtype - 1], (unsigned)grid, THREADS,
                   l.end + rest_of(window), chain, args, l);
}

void tc_novelty_pieces_load(const tc_cuda *device, cudaError_t *error) {
  tc_load(KERNELS, error, (size_t)device->smem_block);
}
