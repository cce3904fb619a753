/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attention, the log-sum-exps: of every pair of a query row and a head over the keys it sees.
 *
 * Formula: with x = q_t,h . k_j, s = log2(e) / sqrt(d), j over the keys that row t sees:
 * m = max x, l = log2 sum 2^((x - m) s), so that softmax is 2^((x - m) s - l). Strategy: pairs that
 * read the same key head stand below each other, TC_AT_ROWS of them in a tile that stays in shared
 * memory while the keys pass by; a warp has 32 of them against 64 keys, each thread a running
 * maximum and sum of its own products, which are put together at the end. How many tiles there are
 * is known on the device only, so the blocks stay and take them in turns; where there are too few
 * tiles, several blocks share one's keys, and the last to arrive puts their sums together in order:
 * which block that is depends on timing, what it adds does not.
 * Precision: products of fp16 and bf16 are summed in fp32 by mma.sync where tc_is_precise says that
 * it does, and else, as those of fp32 always, in double, as are then their powers' sums over tiles.
 * The greatest x is taken off before the scale is put on, so that huge logits lose nothing. A NaN
 * among the logits makes the sum NaN, as infinity does; so does a row of which all are -infinity.
 * Limits: q of more than TC_RING pieces (fp16: 192 channels) is fetched again with each tile of
 * keys.
 */
#include "attention/squares.cuh"
#include "common/sync.cuh"

namespace {

constexpr int SLOT = TC_AT_ROWS * TC_DEPTH, KEY_SLOT = TC_AT_KEYS * TC_DEPTH;

struct space {
  char q[TC_RING][SLOT];
  char k[TC_RING][KEY_SLOT];
  int64_t offsets[TC_AT_ROWS]; /* bytes from q to each pair's channels; -1: no pair */
};

/* The sums of two sets of keys as one's. */
template <class T>
__device__ inline tc_at_sums<T> together(tc_at_sums<T> a, tc_at_sums<T> b, float scale) {
  const T m = fmax(a.m, b.m);
  const T from = m == -INFINITY ? 0 : m;
  return {m, a.sum * tc_exp2((float)(a.m - from) * scale) +
                 b.sum * tc_exp2((float)(b.m - from) * scale)};
}

/* A tile of pairs, and the keys against which it is put. */
struct work {
  int32_t b, start, n, k_head;
  int64_t first_pair, pairs; /* of the segment and key head: their number */
  int32_t tile, end;         /* tiles of keys [tile, end) */
};

__device__ inline int32_t list_row(const tc_attention_args &args, const work &w, int64_t pair) {
  return args.list[w.start + (int32_t)(pair / args.group)];
}

__device__ inline work find(const tc_attention_args &args, int64_t unit, int32_t splits) {
  const int32_t split = (int32_t)(unit % splits);
  const int64_t row_tile = unit / splits / args.k_heads;
  const int32_t lo = (int32_t)tc_prefix_find(args.row_tiles, 0, args.s.segments, row_tile);
  work w;
  w.b = lo;
  w.start = args.s.start[lo];
  w.n = args.s.n[lo];
  w.k_head = (int32_t)(unit / splits % args.k_heads);
  w.first_pair = (row_tile - args.row_tiles[lo]) * TC_AT_ROWS;
  w.pairs = (int64_t)args.asking[lo] * args.group;
  int32_t seen = w.n;
  if (args.causal) seen = list_row(args, w, min(w.first_pair + TC_AT_ROWS, w.pairs) - 1) + 1;
  const int64_t tiles = (seen + TC_AT_KEYS - 1) / TC_AT_KEYS;
  w.tile = (int32_t)(tiles * split / splits);
  w.end = (int32_t)(tiles * (split + 1) / splits);
  return w;
}

/* Puts the logits of a tile of keys to the sums of this thread's four pairs. bits: which of the
 * warp's keys are keys; limit: the last that each pair sees, from the warp's first on. */
template <bool MASKED, class T, int NI>
__device__ inline void take(T (&c)[2][NI][4], tc_at_sums<T> (&sums)[4], float scale, uint64_t bits,
                            const int32_t (&limit)[4]) {
#pragma unroll
  for (int r = 0; r < 4; r++) {
    T m = -INFINITY;
#pragma unroll
    for (int j = 0; j < 2 * NI; j++) {
      T &x = c[r / 2][j / 2][r % 2 * 2 + j % 2];
      if (MASKED) {
        const int key = tc_key_of(j / 2, j % 2);
        if (!(bits >> key & 1) || key > limit[r]) x = -INFINITY;
      }
      m = fmax(m, x);
    }
    m = fmax(m, sums[r].m);
    const T from = m == -INFINITY ? 0 : m;
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < 2 * NI; j++) {
      sum += tc_exp2((float)(c[r / 2][j / 2][r % 2 * 2 + j % 2] - from) * scale);
    }
    sums[r] = {m, sums[r].sum * tc_exp2((float)(sums[r].m - from) * scale) + sum};
  }
}

/* What each pair's sums come to. */
template <class T>
__device__ inline void store(const tc_attention_args &args, const work &w, int64_t pair,
                             tc_at_sums<T> sums) {
  const int32_t head = w.k_head * args.group + (int32_t)(pair % args.group);
  char *to = args.lse + tc_segment_offset(args, w.b, w.start, args.lse_segment) +
             list_row(args, w, pair) * args.lse_row + head * args.lse_head;
  /* No sum where all logits are -infinity: none is the greatest. */
  const float sum = sums.sum > 0 ? (float)sums.sum : __int_as_float(TC_NAN_BITS);
  const tc_at_lse<T> lse = {sums.m, log2f(sum)};
  uint4 whole = make_uint4(0, 0, 0, 0); /* keys.cu fetches 16 bytes whatever is in them */
  memcpy(&whole, &lse, sizeof lse);
  *(uint4 *)to = whole;
}

/* What a block does for unit `unit`. Where they are double a thread has half as many sums. */
template <int DTYPE, bool WIDE, bool PRECISE, int NI>
__device__ __forceinline__ void walk(const tc_attention_args &args, const work &w, int64_t unit,
                                     int32_t splits) {
  extern __shared__ __align__(128) char shared[];
  typedef tc_logit<PRECISE> T;
  typedef tc_at_sums<T> sums_t;
  constexpr int KEYS = 16 * NI; /* of a tile here; a warp: 32 pairs and half of them */
  static_assert(NI <= 8 && TC_AT_KEYS % KEYS == 0, "parts of a tile");
  space &room = *(space *)shared;
  sums_t *const halves = (sums_t *)room.k[0]; /* [2, TC_AT_ROWS], once all keys have passed */
  const int warp = (int)threadIdx.x >> 5;
  const int row0 = warp / 2 * 32, key0 = warp % 2 * (KEYS / 2);
  const bool resident = args.pieces <= TC_RING;
  const int32_t tile0 = w.tile * (TC_AT_KEYS / KEYS), end = w.end * (TC_AT_KEYS / KEYS);
  const char *keys = args.k + tc_segment_offset(args, w.b, w.start, args.k_segment) +
                     w.k_head * args.k_head + (tile0 * KEYS + tc_fetch_row()) * args.k_row +
                     tc_fetch_part() * 16;
  const uint32_t *bits = args.key_bits + tc_key_word(w.start, w.b);
  const bool idle = w.first_pair + row0 >= w.pairs;
  int32_t last_seen[4];
  sums_t sums[4];
#pragma unroll
  for (int r = 0; r < 4; r++) {
    const int64_t pair = min(w.first_pair + row0 + tc_row_of(r / 2, r % 2 * 2), w.pairs - 1);
    last_seen[r] = args.causal ? list_row(args, w, pair) : w.n;
    sums[r] = {-INFINITY, 0};
  }
  const int32_t all_see = args.causal ? list_row(args, w, w.first_pair) : w.n;

  int32_t next_tile = tile0, next_piece = 0, next_slot = 0;
  const auto fetch = [&]() {
    if (next_tile < end) {
      const int bytes = tc_fetch_bytes(args, next_piece);
      const int32_t first = next_tile * KEYS;
      tc_fetch_keys<DTYPE, WIDE, KEYS>(args, room.k[next_slot], keys + next_piece * TC_DEPTH,
                                       w.n - first, bytes);
      if (!resident || next_tile == tile0) {
        char *to = room.q[resident ? next_piece : next_slot];
#pragma unroll
        for (int i = 0; i < TC_AT_ROWS / 32; i++) {
          const int64_t offset = room.offsets[tc_fetch_row() + 32 * i];
          tc_fetch<DTYPE, WIDE>(to, i,
                                args.q + offset + next_piece * TC_DEPTH + tc_fetch_part() * 16,
                                offset >= 0 ? bytes : 0);
        }
      }
      if (++next_slot == TC_RING) next_slot = 0;
      if (++next_piece == args.pieces) {
        next_piece = 0;
        next_tile++;
        keys += KEYS * args.k_row;
      }
    }
    tc_copy_commit();
  };
  for (int i = 0; i < TC_AHEAD; i++) fetch();
  int slot = 0;
  for (int32_t tile = tile0; tile < end; tile++) {
    T c[2][NI][4];
    const int32_t first = tile * KEYS + key0;
    constexpr uint64_t ALL = ~(uint64_t)0 >> (64 - 8 * NI);
    uint64_t here = 0; /* which of the warp's keys there are */
    if (first < w.n) here = bits[first / 32];
    if (NI > 4 && first + 32 < w.n) here |= (uint64_t)bits[first / 32 + 1] << 32;
    tc_clear(c);
    for (int piece = 0; piece < args.pieces; piece++) {
      tc_copy_wait<TC_AHEAD - 1>();
      __syncthreads();
      fetch();
      if (!idle) {
        tc_multiply<DTYPE, PRECISE, NI>(room.q[resident ? piece : slot], room.k[slot], row0, key0,
                                        args.head_bytes - piece * TC_DEPTH, c);
      }
      if (++slot == TC_RING) slot = 0;
    }
    if (idle) continue;
    const int32_t limit[4] = {last_seen[0] - first, last_seen[1] - first, last_seen[2] - first,
                              last_seen[3] - first};
    if (here == ALL && all_see >= first + 8 * NI - 1) {
      take<false>(c, sums, args.scale, here, limit);
    } else {
      take<true>(c, sums, args.scale, here, limit);
    }
  }

  __syncthreads(); /* nobody reads keys */
#pragma unroll
  for (int r = 0; r < 4; r++) {
#pragma unroll
    for (int mask = 1; mask <= 2; mask <<= 1) {
      const sums_t other = {__shfl_xor_sync(TC_FULL, sums[r].m, mask),
                            __shfl_xor_sync(TC_FULL, sums[r].sum, mask)};
      sums[r] = together(sums[r], other, args.scale);
    }
    if ((threadIdx.x & 3) == 0) {
      halves[warp % 2 * TC_AT_ROWS + row0 + tc_row_of(r / 2, r % 2 * 2)] = sums[r];
    }
  }
  __syncthreads();
  const int64_t pair = w.first_pair + threadIdx.x;
  const bool mine = threadIdx.x < TC_AT_ROWS && pair < w.pairs;
  sums_t sum = {0, 0};
  if (mine) {
    sum = together(halves[threadIdx.x], halves[TC_AT_ROWS + threadIdx.x], args.scale);
  }
  if (splits == 1) {
    if (mine) store(args, w, pair, sum);
    return;
  }
  /* Fewer tiles than blocks: unit is the block's number. */
  const int64_t own = unit * TC_AT_ROWS + threadIdx.x;
  if (mine) *(sums_t *)(args.part_stats + own * TC_AT_PART) = sum;
  if (!tc_arrives_last(args.lasting->blocks + unit / splits, (uint32_t)splits)) return;
  if (!mine) return;
  const char *part = args.part_stats + (own - unit % splits * TC_AT_ROWS) * TC_AT_PART;
  sum = *(const sums_t *)part;
  for (int32_t i = 1; i < splits; i++) {
    part += TC_AT_ROWS * TC_AT_PART;
    sum = together(sum, *(const sums_t *)part, args.scale);
  }
  store(args, w, pair, sum);
}

/* The same apart from the kernel, whose registers are few. */
template <int DTYPE, bool WIDE>
__device__ __noinline__ void walk_precise(const tc_attention_args &args, int64_t unit,
                                          int32_t splits) {
  walk<DTYPE, WIDE, true, 4>(args, find(args, unit, splits), unit, splits);
}

template <int DTYPE, bool WIDE>
__global__ void __launch_bounds__(TC_AT_THREADS, DTYPE == TAILCUT_F32 ? 1 : 2)
    attention_lse(const __grid_constant__ tc_attention_args args) {
  extern __shared__ __align__(128) char shared[];
  space &room = *(space *)shared;
  tc_wait_previous();
  const int64_t tiles = args.row_tiles[args.s.segments] * args.k_heads;
  const int64_t most = (args.s.max_tokens + TC_AT_KEYS - 1) / TC_AT_KEYS;
  const int32_t splits =
      (int32_t)(tiles > 0 ? max(min((int64_t)gridDim.x / tiles, most), (int64_t)1) : 1);

  for (int64_t unit = blockIdx.x; unit < tiles * splits; unit += gridDim.x) {
    const work w = find(args, unit, splits);
    bool precise = false;
    if (threadIdx.x < 32) precise = tc_is_precise<DTYPE>(args, w.b, w.start, w.n, w.k_head);
    __syncthreads(); /* nobody reads the last tile's sums */
    if (threadIdx.x < TC_AT_ROWS) {
      const int64_t pair = w.first_pair + threadIdx.x;
      int64_t offset = -1;
      if (pair < w.pairs) {
        offset = tc_segment_offset(args, w.b, w.start, args.q_segment) +
                 list_row(args, w, pair) * args.q_row +
                 (w.k_head * args.group + pair % args.group) * args.q_head;
      }
      room.offsets[threadIdx.x] = offset;
    }
    precise = __syncthreads_or(precise);
    if constexpr (DTYPE == TAILCUT_F32) {
      walk<DTYPE, WIDE, true, 8>(args, w, unit, splits);
    } else if (precise) {
      walk_precise<DTYPE, WIDE>(args, unit, splits);
    } else {
      walk<DTYPE, WIDE, false, 8>(args, w, unit, splits);
    }
  }
}

typedef void (*lse_kernel)(tc_attention_args);
const lse_kernel KERNELS[3][2] = {
    {attention_lse<TAILCUT_F16, false>, attention_lse<TAILCUT_F16, true>},
    {attention_lse<TAILCUT_BF16, false>, attention_lse<TAILCUT_BF16, true>},
    {attention_lse<TAILCUT_F32, false>, attention_lse<TAILCUT_F32, true>},
};

}  // namespace

cudaError_t tc_attention_lse(const tc_attention_args &args, int32_t dtype, bool wide,
                             unsigned blocks, const tc_chain *chain) {
  return tc_launch(KERNELS[dtype - 1][wide], blocks, TC_AT_THREADS, sizeof(space), chain, args);
}

void tc_attention_load_lse(cudaError_t *error) { tc_load(KERNELS, error, sizeof(space)); }
