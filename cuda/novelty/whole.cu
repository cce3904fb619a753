/* SPDX-License-Identifier: Apache-2.0 */
/*
 * whole: windows of up to 64 rows whose bytes all fit shared memory; one block each.
 *
 * Formula: METHOD.md, NOVELTY. Strategy: a warp loads whole rows, all loads of a row (of two that
 * are short) before the first use, sums the squares in the law's order, and makes bytes of what it
 * holds: a row is read once. The bytes' products are mma of 8-bit integers. Q Q^T is symmetric, and
 * the fragments of 16 rows as A are those of the same rows as B: 10 of 16 blocks of 16 x 16 and 10
 * ldmatrix per 32 channels. Four sides of 16 rows (tc_sums) times two halves of the channels make 8
 * warps; partial sums meet in shared memory, over bytes that nobody needs any more. Then one warp
 * walks from point to point, 8 dependent instructions a step: a key's own
 * bits are where the next row's keys are. Another tells the group meanwhile.
 * Precision: exact. Limits: rows of up to 7,168 bytes at aligned places.
 *
 * Shared memory: bytes [64][channels], in units of 16, unit u of row r at u ^ (r & 7); over them
 * keys, the pair (2u, 2u + 1) of row r at u * 512 + ((u ^ r) << 3), and partial sums; behind them
 * the roots of the rows' own products, states, and which window it is.
 */
#include "novelty/quads.cuh"

namespace {

constexpr int WARPS = 8, THREADS = 32 * WARPS, ROWS = 64, PARTS = WARPS / 4;
constexpr int PAIRS = 40; /* of sums: what a lane has of the 10 blocks, in pairs */
constexpr uint32_t KEYS = ROWS * ROWS * 4, SUMS = PARTS * PAIRS * 32 * 8;

constexpr __host__ __device__ uint32_t channels_of_quad(int dtype) {
  return dtype == TAILCUT_F32 ? 128 : 256;
}

int64_t bytes_of(const tailcut_tokens &tokens) {
  return tokens.dim * (int64_t)tc_dtype_size(tokens.dtype);
}
int quads_of(const tailcut_tokens &tokens) { return (int)((bytes_of(tokens) + 511) / 512); }

uint32_t bytes_of(int32_t dtype, int quads) {
  const uint32_t bytes = ROWS * channels_of_quad(dtype) * (uint32_t)quads;
  return bytes > KEYS + SUMS ? bytes : KEYS + SUMS;
}

size_t shared_of(int32_t dtype, int quads) {
  return bytes_of(dtype, quads) + ROWS * 5 + sizeof(tc_window);
}

/* Keys in shared memory. */
struct square_keys {
  static constexpr int ROWS = 2;
  uint32_t keys, own; /* where all are; where this lane's of row 0 */

  __device__ static inline uint32_t at(uint32_t keys, uint32_t pair, uint32_t row) {
    return (keys + pair * 512) | ((pair ^ row) << 3);
  }
  __device__ explicit inline square_keys(uint32_t keys_)
      : keys(keys_), own(at(keys_, threadIdx.x & 31, 0)) {}
  __device__ static inline uint32_t key_of(int32_t place) { return (uint32_t)place << 3; }
  __device__ inline int32_t row(int k) const { return 2 * (int32_t)(threadIdx.x & 31) + k; }
  __device__ inline void load(uint32_t key, uint32_t (&out)[2]) const {
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];"
                 : "=r"(out[0]), "=r"(out[1])
                 : "r"((key & 0x1F8) ^ own));
  }
  __device__ inline int32_t similarity(int32_t i, int32_t j) const {
    uint32_t key;
    asm volatile("ld.shared.u32 %0, [%1];"
                 : "=r"(key)
                 : "r"(at(keys, (uint32_t)j >> 1, (uint32_t)i) + (uint32_t)(j & 1) * 4));
    return (int32_t)(key >> TC_KEY_SHIFT) - TC_UNIT;
  }
};

typedef tc_sums<ROWS, 1> block_sums;

/* Of block t of the side: its e-th pair of sums, which each lane has one of. */
__device__ inline uint32_t pair_of(int part, int t, int side, int e) {
  return (uint32_t)(part * PAIRS + (t * block_sums::SIDES + side) * 4 + e) * 256;
}

/* The products of this warp's blocks over its part of the channels, into the partial sums. */
__device__ inline void multiply(uint32_t bytes, uint32_t pitch, uint32_t to, int32_t n) {
  const int part = (int)(threadIdx.x >> 5) / block_sums::SIDES;
  const uint32_t steps = pitch / (32 * PARTS), from = (uint32_t)part * steps;
  block_sums sums(0, n);
  sums.add<4>(bytes, pitch, from, from + steps);
  __syncthreads(); /* no byte is needed any more */
  to += (threadIdx.x & 31) * 8;
#pragma unroll
  for (int t = 0; t < block_sums::EACH; t++) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      if ((sums.there >> t & 1) == 0) continue;
      const int32_t *c = sums.c[t][e >> 1] + (e & 1) * 2;
      asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(to + pair_of(part, t, sums.side, e)),
                   "r"(c[0]), "r"(c[1])
                   : "memory");
    }
  }
}

/* A lane's pair of sums, of all parts. */
__device__ inline int2 sum_of(uint32_t sums, int pair, uint32_t lane) {
  int2 g = {0, 0};
#pragma unroll
  for (int part = 0; part < PARTS; part++) {
    int32_t v[2];
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];"
                 : "=r"(v[0]), "=r"(v[1])
                 : "r"(sums + (uint32_t)(part * PAIRS + pair) * 256 + lane * 8));
    g.x += v[0];
    g.y += v[1];
  }
  return g;
}

/* The root of row i's product with itself. */
__device__ inline float root_of(uint32_t sums, uint32_t i) {
  const uint32_t half = i >> 3 & 1, row = i & 7;
  const int2 g = sum_of(sums, (int)(i / 16 * 4 + half * 3), row * 4 + row / 2);
  return __fsqrt_rn((float)(i & 1 ? g.y : g.x));
}

/* Partial sums to keys: a warp takes every eighth pair of sums. */
__device__ inline void make_keys(uint32_t keys, uint32_t sums, const float *roots,
                                 const uint8_t *states) {
  const int lane = (int)(threadIdx.x & 31), warp = (int)(threadIdx.x >> 5);
#pragma unroll 1
  for (int pair = warp; pair < PAIRS; pair += WARPS) {
    const int a = pair / 4 % 4, b = (a + pair / 16) % 4;
    const int i = a * 16 + (lane >> 2) + (pair & 1) * 8;
    const int j = b * 16 + (lane & 3) * 2 + (pair >> 1 & 1) * 8;
    const int2 g = sum_of(sums, pair, (uint32_t)lane);
    const float root = roots[i];
    uint32_t key[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const uint32_t p = tc_similarity(e == 0 ? g.x : g.y, root, roots[j + e]) << TC_KEY_SHIFT;
      const bool none = states[i] != TC_ROW_LIVE || states[j + e] != TC_ROW_LIVE || i == j + e;
      key[e] = none ? TC_NO_KEY : p | square_keys::key_of(j + e);
      if (a != b) {
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(
                         square_keys::at(keys, (uint32_t)i >> 1, (uint32_t)(j + e)) + (i & 1) * 4),
                     "r"(none ? TC_NO_KEY : p | square_keys::key_of(i))
                     : "memory");
      }
    }
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(
                     square_keys::at(keys, (uint32_t)j >> 1, (uint32_t)i)),
                 "r"(key[0]), "r"(key[1])
                 : "memory");
  }
}

/* TOGETHER: rows of which a warp has all loads under way. */
template <int DTYPE, int QUADS, int TOGETHER, int BLOCKS>
__global__ void __launch_bounds__(THREADS, BLOCKS)
    novelty_whole(const __grid_constant__ tc_novelty_args args, uint32_t bytes_end) {
  extern __shared__ __align__(1024) char shared[];
  const uint32_t lane = threadIdx.x & 31;
  const int32_t warp = (int32_t)(threadIdx.x >> 5), tid = (int32_t)threadIdx.x;
  const uint32_t bytes = tc_shared_address(shared);
  float *roots = reinterpret_cast<float *>(shared + bytes_end);
  uint8_t *states = reinterpret_cast<uint8_t *>(shared + bytes_end + ROWS * 4);
  tc_wait_previous();
  const tc_window w = tc_window_of_block(
      args, blockIdx.x, reinterpret_cast<tc_window *>(shared + bytes_end + ROWS * 5));
  if (w.b < 0) return;
  const uint32_t dim = (uint32_t)args.tokens.dim, row_bytes = dim * tc_type<DTYPE>::size;
  const int quads = (int)((row_bytes + 511) / 512);
  const uint32_t pitch = (uint32_t)quads * channels_of_quad(DTYPE);
  const int64_t stride = args.tokens.row_stride * tc_type<DTYPE>::size;
  const char *rows =
      (const char *)args.tokens.data + tc_token_offset(args.s, args.tokens, w.b, w.start, w.first);
  if (tid >= w.n && tid < ROWS) states[tid] = TC_ROW_ABSENT;
#pragma unroll 1
  for (int32_t i = warp * TOGETHER; i < w.n; i += WARPS * TOGETHER) {
    tc_row_quads<DTYPE, QUADS> x[TOGETHER];
#pragma unroll
    for (int k = 0; k < TOGETHER; k++) x[k].load(rows + min(i + k, w.n - 1) * stride, row_bytes);
    float square[TOGETHER];
#pragma unroll
    for (int k = 0; k < TOGETHER; k++) {
      float group[8];
      tc_clear(group);
      x[k].clear(row_bytes);
      x[k].add_squares(quads, group);
      square[k] = tc_group_sum<DTYPE>(group);
    }
#pragma unroll
    for (int k = 0; k < TOGETHER; k++) square[k] = tc_across<DTYPE>(square[k], 0);
#pragma unroll
    for (int k = 0; k < TOGETHER; k++) {
      if (i + k >= w.n) break;
      const float r = tc_mean_square(square[k], dim);
      const uint32_t number = (uint32_t)(i + k);
      x[k].make_bytes(quads, tc_shift_of(r), [&](int q, const auto &packed) {
        tc_put_bytes(tc_byte_address(bytes, number, pitch, x[k].channel(q)), packed);
      });
      if (lane == 0) states[number] = tc_state_of(r);
    }
  }
  __syncthreads();
  multiply(bytes, pitch, bytes + KEYS, w.n);
  __syncthreads();
  if (tid < ROWS) roots[tid] = root_of(bytes + KEYS, (uint32_t)tid);
  __syncthreads();
  make_keys(bytes, bytes + KEYS, roots, states);
  __syncthreads();
  tc_let_next_start();
  tc_finish_window<WARPS>(args, w, blockIdx.x, square_keys(bytes), states);
}

typedef void (*whole_kernel)(tc_novelty_args, uint32_t);
constexpr int LENGTHS = 3;
constexpr int QUADS_OF[LENGTHS] = {4, 8, 14};
#define OF(type) \
  { novelty_whole<type, 4, 2, 3>, novelty_whole<type, 8, 1, 2>, novelty_whole<type, 14, 1, 1> }
const whole_kernel KERNELS[3][LENGTHS] = {OF(TAILCUT_F16), OF(TAILCUT_BF16), OF(TAILCUT_F32)};

}  // namespace

bool tc_novelty_whole_takes(const tc_cuda *device, const tc_novelty_args &args) {
  const int quads = quads_of(args.tokens);
  return args.window == ROWS && args.width == 16 && bytes_of(args.tokens) % 16 == 0 &&
         quads <= QUADS_OF[LENGTHS - 1] &&
         shared_of(args.tokens.dtype, quads) <= (size_t)device->smem_block;
}

cudaError_t tc_novelty_whole(const tc_novelty_args &args, unsigned windows, const tc_chain *chain) {
  const int32_t dtype = args.tokens.dtype;
  const int quads = quads_of(args.tokens);
  int length = 0;
  while (QUADS_OF[length] < quads) length++;
  return tc_launch(KERNELS[dtype - 1][length], windows, THREADS, shared_of(dtype, quads), chain,
                   args, bytes_of(dtype, quads));
}

void tc_novelty_whole_load(const tc_cuda *device, cudaError_t *error) {
  tc_load(KERNELS, error, (size_t)device->smem_block);
}
