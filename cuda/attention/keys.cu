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
 * all where they have no more than two pieces (fp16: 128 channels). Where there are too few tiles
 * of keys for the device, several blocks share one: each takes a part of the query rows, or (where
 * heads and rows are reduced alike) of the key heads, and the last to arrive puts the parts
 * together in order: which block that is depends on timing, what it adds does not.
 * Precision: as lse.cu; p, over heads and over a tile's rows in fp32, over tiles in double.
 * Limits: q is fetched by every block; from L2, but for 33 tiles of keys 33 times.
 */
#include "attention/attention.cuh"
#include "common/sync.cuh"

namespace {

constexpr int NI = 4; /* a warp: 32 query rows, 32 keys */
constexpr int SLOT = TC_AT_QUERIES * TC_DEPTH, KEY_SLOT = TC_AT_KEYS * TC_DEPTH;
static_assert(TC_AT_KEYS == 2 * TC_BLOCK, "tiles by prefix");

struct space {
  char q[TC_RING][SLOT];
  char k[TC_RING][KEY_SLOT];
  double stats[TC_RING][TC_AT_QUERIES]; /* args.stats, or the caller's log-sum-exp */
  float rests[TC_RING][TC_AT_QUERIES];  /* args.rests */
  float sums[2][TC_AT_KEYS];            /* of each half of a tile's query rows */
};

/* NaN stays. */
__device__ inline float greater(float a, float b) { return b > a || b != b ? b : a; }
__device__ inline double greater(double a, double b) { return b > a || b != b ? b : a; }
template <class T>
__device__ inline T reduced(int32_t max, T a, T b) {
  return max ? greater(a, b) : a + b;
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
  if (args.causal) { /* rows before the keys see none of them */
    int32_t lo = w.t, hi = w.t_end;
    while (lo < hi) {
      const int32_t mid = lo + (hi - lo) / 2;
      if (args.list[w.start + mid] < w.first) {
        lo = mid + 1;
      } else {
        hi = mid;
      }
    }
    w.t = lo;
  }
  return w;
}

/* Fetches the steps of a walk into shared memory. */
template <int DTYPE, bool WIDE, bool PRECISE>
struct fetcher {
  const char *keys;             /* this thread's part of its first key's first head */
  const char *rows[2];          /* of the first head of its query rows; NULL: no row */
  const char *lse;              /* what stands for the first head of row threadIdx */
  int64_t head_at, key_head_at; /* bytes from the first head to this one's, of q and of k */
  int64_t lse_at;               /* bytes from `lse` to its head's */
  int32_t t, k_head, g, piece;  /* the step: a piece of a query head of a tile of query rows */
  int32_t known;                /* the tile whose rows these are */
  int slot, key_slot;

  __device__ void begin(const tc_attention_args &args, const work &w) {
    k_head = w.k_head;
    g = piece = 0;
    head_at = w.k_head * args.group * args.q_head;
    key_head_at = w.k_head * args.k_head;
    lse_at = w.k_head * args.group * args.lse_head;
  }

  __device__ void advance(const tc_attention_args &args, const work &w) {
    if (++piece < args.pieces) return;
    piece = 0;
    head_at += args.q_head;
    lse_at += args.lse_head;
    if (++g < args.group) return;
    g = 0;
    key_head_at += args.k_head;
    if (++k_head < w.k_head_end) return;
    begin(args, w);
    t += TC_AT_QUERIES;
  }

  __device__ void learn_rows(const tc_attention_args &args, const work &w) {
    const int32_t *list = args.list + w.start;
    known = t;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int32_t own = t + tc_fetch_row() + 32 * i;
      rows[i] = nullptr;
      if (own >= w.t_end) continue;
      rows[i] = args.q + tc_segment_offset(args, w.b, w.start, args.q_segment) +
                list[own] * args.q_row + tc_fetch_part() * 16;
    }
    const int32_t own = t + (int32_t)threadIdx.x;
    lse = nullptr;
    if (threadIdx.x >= TC_AT_QUERIES || own >= w.t_end) return;
    lse = args.lse == nullptr
              ? args.stats + (int64_t)(w.start + own) * args.q_heads * 8
              : (const char *)(args.lse + tc_segment_offset(args, w.b, w.start, args.lse_segment) +
                               list[own] * args.lse_row);
  }

  __device__ void step(const tc_attention_args &args, const work &w, space &room) {
    if (t < w.t_end) {
      if (known != t) learn_rows(args, w);
      const int bytes = tc_fetch_bytes(args, piece), deep = piece * TC_DEPTH;
      if (g == 0 || args.pieces > 2) {
        tc_fetch_keys<DTYPE, WIDE, TC_AT_KEYS>(args, room.k[key_slot], keys + key_head_at + deep,
                                               w.n - w.first, bytes);
        if (++key_slot == TC_RING) key_slot = 0;
      }
      char *to = room.q[slot] + tc_fetch_at();
#pragma unroll
      for (int i = 0; i < TC_AT_QUERIES / 32; i++) {
        tc_fetch<DTYPE, WIDE>(to + i * 32 * TC_DEPTH, rows[i] + head_at + deep,
                              rows[i] != nullptr ? bytes : 0);
      }
      if (piece == args.pieces - 1 && lse != nullptr) {
        double *held = &room.stats[slot][threadIdx.x];
        if (args.lse == nullptr) {
          tc_fetch_number<8>(held, lse + lse_at);
          if (PRECISE) {
            tc_fetch_number<4>(&room.rests[slot][threadIdx.x],
                               (const char *)args.rests + (lse + lse_at - args.stats) / 2);
          }
        } else {
          tc_fetch_number<4>(held, lse + lse_at);
        }
      }
      if (++slot == TC_RING) slot = 0;
      advance(args, w);
    }
    tc_step_fetched();
  }
};

/* Puts p of a head to what this thread has of the tile. limit: the last key that each of its rows
 * sees, from the warp's first on. */
template <bool PRECISE, bool MASKED, bool MAX>
__device__ inline void take(const tc_attention_args &args,
                            const typename tc_logits<PRECISE>::value (&c)[2][NI][4],
                            float (&p)[2][NI][4],
                            const typename tc_logits<PRECISE>::stat (&stats)[4],
                            const int32_t (&limit)[4]) {
#pragma unroll
  for (int r = 0; r < 4; r++) {
#pragma unroll
    for (int j = 0; j < 2 * NI; j++) {
      float &held = p[r / 2][j / 2][r % 2 * 2 + j % 2];
      float paid = tc_logits<PRECISE>::paid(args, c[r / 2][j / 2][r % 2 * 2 + j % 2], stats[r]);
      if (MASKED && tc_key_of(j / 2, j % 2) > limit[r]) paid = 0.0f;
      held = MAX ? greater(held, paid) : held + paid;
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
  typedef tc_logits<PRECISE> logits;
  typedef typename logits::stat stat;
  extern __shared__ __align__(128) char shared[];
  space &room = *(space *)shared;
  const int warp = (int)threadIdx.x >> 5;
  const int row0 = warp / 4 * 32, key0 = warp % 4 * 32;

  fetcher<DTYPE, WIDE, PRECISE> fetch;
  fetch.keys = args.k + tc_segment_offset(args, w.b, w.start, args.k_segment) +
               (w.first + tc_fetch_row()) * args.k_row + tc_fetch_part() * 16;
  fetch.begin(args, w);
  fetch.t = w.t;
  fetch.known = -1;
  fetch.slot = fetch.key_slot = 0;
  for (int i = 0; i < TC_AHEAD; i++) fetch.step(args, w, room);

  const int32_t first = w.first + key0;
  const int steps_of_keys = args.pieces > 2 ? 1 : args.pieces; /* slots that a head's keys take */
  int slot = 0, key_slot = 0;
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
      typename logits::value c[2][NI][4];
      tc_clear(c);
      for (int piece = 0; piece < args.pieces; piece++) {
        int key_at = key_slot + (args.pieces > 2 ? 0 : piece);
        if (key_at >= TC_RING) key_at -= TC_RING;
        tc_arrive();
        __syncthreads();
        fetch.step(args, w, room);
        if (!idle) {
          tc_multiply<DTYPE, PRECISE, NI>(room.q[slot], room.k[key_at], row0, key0,
                                          args.head_bytes - piece * TC_DEPTH, c);
        }
        if (piece == args.pieces - 1 && !idle) {
          stat stats[4];
          bool whole = true; /* whether lse.cu was as precise */
          if (PRECISE && args.lse == nullptr) {
            whole = tc_is_precise<DTYPE>(args, w.b, w.start, w.n, head / args.group);
          }
#pragma unroll
          for (int r = 0; r < 4; r++) {
            const int own = row0 + tc_row_of(r / 2, r % 2 * 2);
            const double *held = &room.stats[slot][own];
            if (args.lse != nullptr) {
              stats[r] = logits::given(*(const float *)held);
            } else {
              const auto *lse = (const tc_logits<false>::stat *)held;
              stats[r] = {lse->m, lse->l};
              if constexpr (PRECISE) {
                if (whole) stats[r] = {*held, room.rests[slot][own]};
              }
            }
          }
          if (masked) {
            if (args.head_max) {
              take<PRECISE, true, true>(args, c, p, stats, limit);
            } else {
              take<PRECISE, true, false>(args, c, p, stats, limit);
            }
          } else if (args.head_max) {
            take<PRECISE, false, true>(args, c, p, stats, limit);
          } else {
            take<PRECISE, false, false>(args, c, p, stats, limit);
          }
        }
        if (++slot == TC_RING) slot = 0;
        if (args.pieces > 2 && ++key_slot == TC_RING) key_slot = 0;
      }
      if (args.pieces <= 2 && (head + 1) % args.group == 0) {
        key_slot += steps_of_keys;
        if (key_slot >= TC_RING) key_slot -= TC_RING;
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
