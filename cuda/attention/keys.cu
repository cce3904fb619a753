/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attention, the keys: what the query rows pay to each, reduced over heads and query rows.
 *
 * Formula: p = 2^((q_t,h . k_j - m) s - l), m and l from lse.cu, or 0 and the caller's log-sum-exp
 * in base 2; over the heads, then over the query rows, the mean or the greatest p. Strategy: a
 * block owns TC_AT_KEYS keys and walks over tiles of TC_AT_QUERIES query rows, in each over the
 * heads: logits are computed once more, p is reduced over the heads in the registers where it came
 * to be, and over the tile's rows at its end; no map is stored, and a key's score is written once.
 * The query heads of one key head come one after the other, so that its keys are fetched once for
 * all where the ring holds them beside the next's (fp16: 128 channels). Where there are too few
 * tiles of keys for the device, several blocks share one: each takes a part of the query rows, or
 * (where heads and rows are reduced alike) of the key heads, and the last to arrive puts the parts
 * together in order: which block that is depends on timing, what it adds does not.
 * Precision: as lse.cu; p, over heads and over a tile's rows in fp32, over tiles in double.
 * Limits: q is fetched by every block; from L2, but for 33 tiles of keys 33 times.
 */
#include "attention/squares.cuh"
#include "common/sync.cuh"

namespace {

constexpr int NI = 4; /* a warp: 32 query rows, 32 keys */
constexpr int SLOT = TC_AT_QUERIES * TC_DEPTH, KEY_SLOT = TC_AT_KEYS * TC_DEPTH;
static_assert(TC_AT_KEYS == 2 * TC_BLOCK, "tiles by prefix");

struct space {
  char q[TC_RING][SLOT];
  char k[TC_RING][KEY_SLOT];
  tc_at_lse<double> lse[TC_RING][TC_AT_QUERIES]; /* args.lse */
  float sums[2][TC_AT_KEYS];                     /* of each half of a tile's query rows */
};

/* The sum or (max) the greater, where NaN stays. */
template <class T>
__device__ inline T reduced(bool max, T a, T b) {
  if (max) return b > a || b != b ? b : a;
  return a + b;
}

/* The keys of a block and what it does for them. */
struct work {
  int32_t b, start, n, first; /* keys [first, first + TC_AT_KEYS) below n; n 0: none */
  int32_t t, t_end;           /* query rows: places in the segment's list */
  int32_t k_head, k_head_end;
};

__device__ inline work find(const tc_attention_args &args) {
  const uint32_t tile = blockIdx.x / (uint32_t)args.key_splits;
  const int32_t split = (int32_t)(blockIdx.x % (uint32_t)args.key_splits);
  work w = {-1, 0, 0, 0, 0, 0, 0, 0};
  if (args.per > 0) {
    w.b = (int32_t)(tile / (uint32_t)args.per);
    w.first = (int32_t)(tile % (uint32_t)args.per) * TC_AT_KEYS;
  } else if (tile < tc_tiles_total(args.t, args.s)) {
    int32_t index = 0;
    w.b = tc_tile_find(args.t, args.s, tile, &index);
    if (index % 2 != 0) return w;
    w.first = index * TC_BLOCK;
  }
  if (w.b < 0) return w;
  w.start = args.s.start[w.b];
  w.n = w.first < args.s.n[w.b] ? args.s.n[w.b] : 0;
  if (w.n == 0) return w;
  const int32_t by_heads = split % args.head_splits, by_rows = split / args.head_splits;
  w.k_head = args.k_heads * by_heads / args.head_splits;
  w.k_head_end = args.k_heads * (by_heads + 1) / args.head_splits;
  /* Rows in sixteens, to fill the tiles of as many blocks. */
  const int32_t asking = args.asking[w.b], parts = args.key_splits / args.head_splits;
  const int32_t units = (asking + 15) / 16; /* and parts: at most 2^16 and 2^11 */
  w.t = units * by_rows / parts * 16;
  w.t_end = min(units * (by_rows + 1) / parts * 16, asking);
  const int32_t *list = args.list + w.start; /* rows before the keys see none of them */
  if (args.causal && w.t < w.t_end && list[w.t] < w.first) {
    w.t = (int32_t)tc_prefix_find(list, w.t, w.t_end, w.first - 1) + 1;
  }
  return w;
}

/* Whether the keys of a key head are fetched once for all of its query heads. */
__device__ inline bool fetches_once(const tc_attention_args &args) { return args.pieces < TC_RING; }

/* Fetches the steps of a walk into shared memory: a piece of a query head of a tile of query rows
 * each, and of its keys. */
template <int DTYPE, bool WIDE, bool PRECISE>
struct fetcher {
  const char *keys; /* this thread's part of its first key's first head */
  int32_t rows[2];  /* its query rows; -1: no row */
  int32_t t, k_head, g, piece;
  uint32_t steps, key_steps; /* so far */

  __device__ void learn_rows(const tc_attention_args &args, const work &w) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int32_t own = t + tc_fetch_row() + 32 * i;
      rows[i] = own < w.t_end ? args.list[w.start + own] : -1;
    }
  }

  __device__ void advance(const tc_attention_args &args, const work &w) {
    if (++piece < args.pieces) return;
    piece = 0;
    if (++g < args.group) return;
    g = 0;
    if (++k_head < w.k_head_end) return;
    k_head = w.k_head;
    t += TC_AT_QUERIES;
    learn_rows(args, w);
  }

  __device__ void step(const tc_attention_args &args, const work &w, space &room) {
    if (t < w.t_end) {
      const int bytes = tc_fetch_bytes(args, piece), deep = piece * TC_DEPTH;
      const int32_t head = k_head * args.group + g, slot = (int32_t)(steps++ % TC_RING);
      if (g == 0 || !fetches_once(args)) {
        tc_fetch_keys<DTYPE, WIDE, TC_AT_KEYS>(args, room.k[key_steps++ % TC_RING],
                                               keys + k_head * args.k_head + deep, w.n - w.first,
                                               bytes);
      }
      const char *q = args.q + tc_segment_offset(args, w.b, w.start, args.q_segment) +
                      head * args.q_head + deep + tc_fetch_part() * 16;
#pragma unroll(WIDE ? 2 : 1) /* fewer registers for narrow copies */
      for (int i = 0; i < 2; i++) {
        const int32_t row = i == 0 ? rows[0] : rows[1];
        tc_fetch<DTYPE, WIDE>(room.q[slot], i, q + row * args.q_row, row >= 0 ? bytes : 0);
      }
      const int32_t row = tc_fetch_part() == 0 ? rows[0] : rows[1];
      if (piece == args.pieces - 1 && tc_fetch_part() < 2 && row >= 0) {
        void *to = &room.lse[slot][tc_fetch_row() + 32 * tc_fetch_part()];
        const char *from = args.lse + tc_segment_offset(args, w.b, w.start, args.lse_segment) +
                           row * args.lse_row + head * args.lse_head;
        if (args.given) {
          tc_fetch_number<4>(to, from);
        } else {
          tc_fetch_number<sizeof(tc_at_lse<tc_logit<PRECISE>>)>(to, from);
        }
      }
      advance(args, w);
    }
    tc_copy_commit();
  }
};

/* What a slot of space::lse holds. whole: lse.cu was as precise. */
template <class T>
__device__ inline tc_at_lse<T> held_lse(const tc_attention_args &args, const void *held,
                                        bool whole) {
  if (args.given) {
    const float lse = *(const float *)held;
    return {isfinite(lse) ? lse * (T)args.root : (T)__int_as_float(TC_NAN_BITS), 0.0f};
  }
  if (whole) return *(const tc_at_lse<T> *)held;
  const auto *parts = (const tc_at_lse<float> *)held;
  return {parts->m, parts->l};
}

/* Puts p of a head to what this thread has of the tile. limit: the last key that each of its rows
 * sees, from the warp's first on. */
template <bool MASKED, bool MAX, class T>
__device__ inline void take(const T (&c)[2][NI][4], float (&p)[2][NI][4],
                            const tc_at_lse<T> (&lse)[4], float scale, const int32_t (&limit)[4]) {
#pragma unroll
  for (int r = 0; r < 4; r++) {
#pragma unroll
    for (int j = 0; j < 2 * NI; j++) {
      float &held = p[r / 2][j / 2][r % 2 * 2 + j % 2];
      float paid = tc_paid(c[r / 2][j / 2][r % 2 * 2 + j % 2], lse[r], scale);
      if (MASKED && tc_key_of(j / 2, j % 2) > limit[r]) paid = 0.0f;
      held = reduced(MAX, held, paid);
    }
  }
}

/* Over the tile's rows: each half's into sums, by key. */
__device__ inline void reduce_rows(const tc_attention_args &args, const float (&p)[2][NI][4],
                                   float *sums) {
#pragma unroll
  for (int j = 0; j < 2 * NI; j++) {
    float v = p[0][j / 2][j % 2];
#pragma unroll
    for (int r = 1; r < 4; r++) {
      v = reduced(args.query_max, v, p[r / 2][j / 2][r % 2 * 2 + j % 2]);
    }
#pragma unroll
    for (int mask = 4; mask <= 16; mask <<= 1) {
      v = reduced(args.query_max, v, __shfl_xor_sync(TC_FULL, v, mask));
    }
    if ((threadIdx.x & 31) < 4) sums[tc_key_of(j / 2, j % 2)] = v;
  }
}

__device__ inline void finish(const tc_attention_args &args, const work &w, double sum) {
  const int32_t key = w.first + (int32_t)threadIdx.x;
  if (threadIdx.x >= TC_AT_KEYS || key >= w.n) return;
  double count = 1.0;
  if (!args.head_max) count *= args.q_heads;
  if (!args.query_max) count *= max(args.asking[w.b], 1);
  float score = (float)(sum / count);
  if (!tc_is_candidate(args.roles[w.start + key])) {
    score = __int_as_float(TC_NAN_BITS);
  } else if (score != score) {
    score = __int_as_float(TC_NAN_BITS);
    atomicOr(args.flags + w.b, TAILCUT_FLAG_NAN);
  }
  args.scores[w.start + key] = score;
}

/* What a block does; unless PRECISE for heads for which fp32 sums do. */
template <int DTYPE, bool WIDE, bool PRECISE>
__device__ __forceinline__ void walk(const tc_attention_args &args, const work &w) {
  typedef tc_logit<PRECISE> T;
  extern __shared__ __align__(128) char shared[];
  space &room = *(space *)shared;
  const int warp = (int)threadIdx.x >> 5;
  const int row0 = warp / 4 * 32, key0 = warp % 4 * 32;
  const int32_t first = w.first + key0;

  fetcher<DTYPE, WIDE, PRECISE> fetch = {};
  fetch.keys = args.k + tc_segment_offset(args, w.b, w.start, args.k_segment) +
               (w.first + tc_fetch_row()) * args.k_row + tc_fetch_part() * 16;
  fetch.t = w.t;
  fetch.k_head = w.k_head;
  fetch.learn_rows(args, w);
  for (int i = 0; i < TC_AHEAD; i++) fetch.step(args, w, room);

  uint32_t steps = 0, key_steps = 0; /* behind us */
  double sum = 0.0;
  for (int32_t t = w.t; t < w.t_end; t += TC_AT_QUERIES) {
    const bool idle = t + row0 >= w.t_end;
    float p[2][NI][4];
    int32_t limit[4];
    bool masked = t + row0 + 32 > w.t_end;
    tc_clear(p);
    if (args.causal && !idle) masked |= args.list[w.start + t + row0] < first + 31;
#pragma unroll
    for (int r = 0; r < 4; r++) {
      const int32_t own = t + row0 + tc_row_of(r / 2, r % 2 * 2);
      limit[r] = own >= w.t_end ? -1 : args.causal ? args.list[w.start + own] - first : TC_AT_KEYS;
    }
    for (int32_t head = w.k_head * args.group; head < w.k_head_end * args.group; head++) {
      T c[2][NI][4];
      tc_clear(c);
      uint32_t key_step = key_steps;
      for (int piece = 0; piece < args.pieces; piece++) {
        tc_copy_wait<TC_AHEAD - 1>();
        __syncthreads();
        fetch.step(args, w, room);
        if (!idle) {
          tc_multiply<DTYPE, PRECISE, NI>(room.q[steps % TC_RING], room.k[key_step % TC_RING], row0,
                                          key0, args.head_bytes - piece * TC_DEPTH, c);
        }
        steps++;
        key_step++;
      }
      const bool last = (head + 1) % args.group == 0; /* of the key head */
      if (last || !fetches_once(args)) key_steps = key_step;
      if (idle) continue;
      const bool whole = !PRECISE || args.given ||
                         tc_is_precise<DTYPE>(args, w.b, w.start, w.n, head / args.group);
      tc_at_lse<T> lse[4];
#pragma unroll
      for (int r = 0; r < 4; r++) {
        lse[r] = held_lse<T>(
            args, &room.lse[(steps - 1) % TC_RING][row0 + tc_row_of(r / 2, r % 2 * 2)], whole);
      }
      if (args.head_max) {
        if (masked) {
          take<true, true>(c, p, lse, args.scale, limit);
        } else {
          take<false, true>(c, p, lse, args.scale, limit);
        }
      } else if (masked) {
        take<true, false>(c, p, lse, args.scale, limit);
      } else {
        take<false, false>(c, p, lse, args.scale, limit);
      }
    }
    reduce_rows(args, p, room.sums[warp / 4] + key0);
    __syncthreads();
    if (threadIdx.x < TC_AT_KEYS) {
      const float tile =
          reduced(args.query_max, room.sums[0][threadIdx.x], room.sums[1][threadIdx.x]);
      sum = reduced(args.query_max, sum, (double)tile);
    }
    /* The next tile's barriers come before its sums. */
  }

  if (args.key_splits > 1) {
    /* Fewer tiles than TC_AT_BLOCKS. */
    const uint32_t tile = blockIdx.x / args.key_splits;
    if (threadIdx.x < TC_AT_KEYS) {
      args.part_sums[(int64_t)blockIdx.x * TC_AT_KEYS + threadIdx.x] = (float)sum;
    }
    if (!tc_arrives_last(args.lasting->blocks + tile, (uint32_t)args.key_splits)) return;
    if (threadIdx.x >= TC_AT_KEYS) return;
    const float *parts =
        args.part_sums + (int64_t)tile * args.key_splits * TC_AT_KEYS + threadIdx.x;
    sum = 0.0;
    for (int32_t i = 0; i < args.key_splits; i++) {
      sum = reduced(args.query_max, sum, (double)parts[i * TC_AT_KEYS]);
    }
  }
  finish(args, w, sum);
}

/* The same apart from the kernel, whose registers are few. */
template <int DTYPE, bool WIDE>
__device__ __noinline__ void walk_precise(const tc_attention_args &args) {
  walk<DTYPE, WIDE, true>(args, find(args));
}

template <int DTYPE, bool WIDE>
__global__ void __launch_bounds__(TC_AT_THREADS, DTYPE == TAILCUT_F32 ? 1 : 2)
    attention_keys(const __grid_constant__ tc_attention_args args) {
  tc_wait_previous();
  const work w = find(args);
  if (w.n == 0) return;
  if constexpr (DTYPE == TAILCUT_F32) {
    walk<DTYPE, WIDE, true>(args, w);
  } else {
    bool precise = false; /* for one of the heads: then for all */
    const int32_t warp = (int32_t)threadIdx.x >> 5;
    for (int32_t h = w.k_head + warp; h < w.k_head_end && w.t < w.t_end; h += TC_AT_THREADS / 32) {
      precise |= tc_is_precise<DTYPE>(args, w.b, w.start, w.n, h);
    }
    if (__syncthreads_or(precise)) {
      walk_precise<DTYPE, WIDE>(args);
    } else {
      walk<DTYPE, WIDE, false>(args, w);
    }
  }
}

typedef void (*keys_kernel)(tc_attention_args);
const keys_kernel KERNELS[3][2] = {
    {attention_keys<TAILCUT_F16, false>, attention_keys<TAILCUT_F16, true>},
    {attention_keys<TAILCUT_BF16, false>, attention_keys<TAILCUT_BF16, true>},
    {attention_keys<TAILCUT_F32, false>, attention_keys<TAILCUT_F32, true>},
};

}  // namespace

cudaError_t tc_attention_keys(const tc_attention_args &args, int32_t dtype, bool wide,
                              unsigned blocks, const tc_chain *chain) {
  return tc_launch(KERNELS[dtype - 1][wide], blocks, TC_AT_THREADS, sizeof(space), chain, args);
}

void tc_attention_load_keys(cudaError_t *error) { tc_load(KERNELS, error, sizeof(space)); }
