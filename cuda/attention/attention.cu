/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attention: the ATTENTION policy of relevance, in at most three launches:
 *
 *   lists         (here)   the query rows of each segment that ask, its keys as bits, how long both
 *                          are at most
 *   attention_lse (lse.cu) the log-sum-exp of every pair of a query row and a head; left out where
 *                          the caller has it
 *   attention_keys (keys.cu) what is paid to each key, reduced over heads and query rows
 *
 * Strategy: rows that ask are scattered among others and known on the device only; with their list
 * q is read for them alone. The last block of lists to arrive counts the tiles of lse.cu. Beside
 * these blocks, which are few, others read q of the rows that ask and all keys once, where they are
 * of 16 bits: their greatest squares say how the others have to sum (tc_is_precise), and what was
 * read stays in L2 for them.
 * Limits: one block looks at the roles of a segment, 32,768 of them at a time. The log-sum-exps
 * take 16 bytes for each row and head of the host's bounds, whoever asks.
 */
#include "attention/squares.cuh"
#include "common/block.cuh"
#include "common/sync.cuh"

namespace {

typedef tc_block<TC_AT_MEASURING> block_t;
constexpr int HELD = 8; /* words of 32 rows that a warp has under way */

/* The key bits of a segment; returns its first candidate, INT32_MAX where there is none, or a later
 * one: the least over the block is the first. */
__device__ inline int32_t look_at_rows(const block_t &block, const uint8_t *roles, int32_t n,
                                       uint32_t *bits) {
  const int32_t words = (n + 31) / 32;
  int32_t first = INT32_MAX;
  for (int32_t base = block.warp; base < words; base += HELD * block_t::WARPS) {
    uint32_t held[HELD];
#pragma unroll
    for (int i = 0; i < HELD; i++) {
      const int64_t row = ((int64_t)base + i * block_t::WARPS) * 32 + block.lane;
      held[i] = row < n ? roles[row] : TAILCUT_ROLE_ABSENT;
    }
#pragma unroll
    for (int i = 0; i < HELD; i++) {
      const int32_t word = base + i * block_t::WARPS;
      const uint32_t keys = __ballot_sync(TC_FULL, !tc_is_absent((uint8_t)held[i]));
      const uint32_t candidates = __ballot_sync(TC_FULL, tc_is_candidate((uint8_t)held[i]));
      if (word < words && block.lane == 0) bits[word] = keys;
      if (candidates != 0) first = min(first, word * 32 + __ffs(candidates) - 1);
    }
  }
  return first;
}

/* Prefix sums of the tiles of pairs; asking is there for all segments. */
__device__ inline void count_tiles(const tc_attention_args &args, block_t &block) {
  int64_t sum = 0;
  for (int64_t base = 0; base < args.s.segments; base += block_t::THREADS) {
    const int64_t b = base + threadIdx.x;
    int64_t own = 0, all = 0;
    if (b < args.s.segments) {
      own = ((int64_t)args.asking[b] * args.group + TC_AT_ROWS - 1) / TC_AT_ROWS;
    }
    const int64_t before = block.prefix(own, &all);
    if (b < args.s.segments) args.row_tiles[b] = sum + before;
    sum += all;
  }
  if (threadIdx.x == 0) args.row_tiles[args.s.segments] = sum;
}

template <int DTYPE, bool WIDE>
__global__ void __launch_bounds__(block_t::THREADS)
    attention_lists(const __grid_constant__ tc_attention_args args) {
  __shared__ block_t::space shared;
  block_t block(shared);
  tc_let_next_start();
  tc_wait_previous();
  if constexpr (DTYPE != TAILCUT_F32) {
    if (blockIdx.x >= args.lists) {
      const int64_t runs = (tc_tiles_total(args.t, args.s) + TC_AT_RUN - 1) / TC_AT_RUN;
      const int64_t units = runs * (args.q_heads + args.k_heads);
      for (int64_t unit = blockIdx.x - args.lists; unit < units; unit += gridDim.x - args.lists) {
        tc_measure<DTYPE, WIDE>(args, unit);
      }
      return;
    }
  }
  for (int32_t b = (int32_t)blockIdx.x; b < args.s.segments; b += (int32_t)args.lists) {
    const int32_t start = args.s.start[b], n = args.s.n[b];
    const uint8_t *roles = args.roles + start;
    int32_t *list = args.list + start;
    const int32_t first =
        block.reduce(look_at_rows(block, roles, n, args.key_bits + tc_key_word(start, b)),
                     INT32_MAX, [](int32_t x, int32_t y) { return min(x, y); });
    const auto asks = [&](int32_t row) { return tc_is_query(roles[row]); };
    const int32_t queries = tc_emit(block, n, asks, 0, list);
    __syncthreads(); /* the list is there */
    if (threadIdx.x == 0) {
      const int32_t last = queries > 0 ? list[queries - 1] : -1;
      /* Where none sees a candidate none asks. */
      const bool seen = first < INT32_MAX && (args.causal ? last >= first : queries > 0);
      args.asking[b] = !seen ? 0 : args.last_query ? 1 : queries;
      if (args.last_query && seen) list[0] = last;
      if (first < INT32_MAX && !seen) args.flags[b] |= TAILCUT_FLAG_BAD_REFERENCE;
    }
  }
  if (args.given) return;
  if (tc_arrives_last(&args.lasting->arrived, args.lists)) count_tiles(args, block);
}

typedef void (*lists_kernel)(tc_attention_args);
const lists_kernel KERNELS[3][2] = {
    {attention_lists<TAILCUT_F16, false>, attention_lists<TAILCUT_F16, true>},
    {attention_lists<TAILCUT_BF16, false>, attention_lists<TAILCUT_BF16, true>},
    {attention_lists<TAILCUT_F32, false>, attention_lists<TAILCUT_F32, false>},
};

/* How the scratch lies. Takes it from `base` into *args; returns its size. */
size_t lay_out(int64_t segments, int64_t rows, int64_t q_heads, char *base,
               tc_attention_args *args) {
  size_t used = 0;
  const auto take = [&](size_t bytes) { return (char *)tc_cuda_take(base, &used, bytes); };
  args->list = (int32_t *)take((size_t)rows * 4);
  args->asking = (int32_t *)take((size_t)segments * 4);
  args->row_tiles = (int64_t *)take((size_t)(segments + 1) * 8);
  args->key_bits = (uint32_t *)take((size_t)(tc_key_word(rows, segments) + 1) * 4);
  args->lse = take((size_t)rows * (size_t)q_heads * sizeof(tc_at_lse<double>));
  args->part_stats = take(TC_AT_BLOCKS * TC_AT_ROWS * TC_AT_PART);
  args->part_sums = (float *)take(4 * TC_AT_BLOCKS * TC_AT_KEYS * sizeof(float));
  args->squares_pitch = tc_square_at((rows / TC_BLOCK + segments) / TC_AT_RUN, segments) + 1;
  args->squares = (float *)take((size_t)args->squares_pitch * (size_t)q_heads * 2 * sizeof(float));
  return used;
}

/* Blocks that a device has at a time, about: as many as are wanted where there is work to share. */
int64_t wanted(const tc_cuda *device) {
  const int64_t blocks = 2 * (int64_t)device->sms;
  return blocks < TC_AT_BLOCKS ? blocks : TC_AT_BLOCKS;
}

/* Which blocks own which keys. Returns their number. */
int64_t share_keys(const tc_cuda *device, tc_attention_args *args) {
  const tc_segments &s = args->s;
  const int64_t most = s.max_tokens > 0 ? s.max_tokens : 1;
  const int64_t per = (most + TC_AT_KEYS - 1) / TC_AT_KEYS, even = per * s.segments;
  int64_t tiles = even;
  args->t = tc_tiles_of(s, 0, s.segments);
  args->per = (int32_t)per;
  if (args->t.deal == TC_BY_PREFIX && args->t.bound < even) {
    args->per = 0;
    tiles = args->t.bound;
  }
  const int64_t blocks = wanted(device);
  const int64_t needed = tiles < blocks ? (blocks + tiles - 1) / tiles : 1;
  const int64_t rows = args->last_query ? 1 : (most + 15) / 16;
  int64_t heads = 1;
  if (args->head_max == args->query_max) heads = needed < args->k_heads ? needed : args->k_heads;
  int64_t parts = (needed + heads - 1) / heads;
  if (parts > rows) parts = rows;
  args->head_splits = (int32_t)heads;
  args->key_splits = (int32_t)(heads * parts);
  return tiles * args->key_splits;
}

/* Whether all rows of heads are whole pieces of 16 bytes. */
bool is_wide(const tc_attention_args &args) {
  return tc_widest((uintptr_t)args.q | (uintptr_t)args.k | (uint64_t)args.q_row |
                   (uint64_t)args.q_head | (uint64_t)args.q_segment | (uint64_t)args.k_row |
                   (uint64_t)args.k_head | (uint64_t)args.k_segment | (uint64_t)args.head_bytes) ==
         16;
}

}  // namespace

extern "C" size_t tc_cuda_attention_scratch(const tc_cuda *, const tailcut_limits *limits) {
  tc_attention_args args;
  if (limits->q_heads == 0) return 0;
  return lay_out(limits->segments, limits->total_tokens, limits->q_heads, nullptr, &args);
}

extern "C" cudaError_t tc_cuda_attention(const tc_cuda *device, const tc_segments *segments,
                                         const uint8_t *roles,
                                         const tailcut_relevance_options *options, float *scores,
                                         int32_t *flags, char *scratch, tc_cuda_lasting *lasting,
                                         const tc_chain *chain) {
  const int64_t size = tc_dtype_size(options->dtype);
  const bool ragged = segments->cu_seqlens != nullptr;
  tc_attention_args args = {};
  lay_out(segments->segments, segments->total, options->q_heads, scratch, &args);
  args.s = *segments;
  args.roles = roles;
  args.q = (const char *)options->q;
  args.k = (const char *)options->k;
  args.q_row = options->q_row_stride * size;
  args.q_head = options->q_head_stride * size;
  args.q_segment = ragged ? args.q_row : options->q_segment_stride * size;
  args.k_row = options->k_row_stride * size;
  args.k_head = options->k_head_stride * size;
  args.k_segment = ragged ? args.k_row : options->k_segment_stride * size;
  args.given = options->lse != nullptr;
  args.lse_head = args.given ? options->lse_head_stride * 4 : sizeof(tc_at_lse<double>);
  args.lse_row = args.given ? options->lse_row_stride * 4 : options->q_heads * args.lse_head;
  args.lse_segment = args.lse_row;
  if (!ragged) {
    args.lse_segment =
        args.given ? options->lse_segment_stride * 4 : segments->max_tokens * args.lse_row;
  }
  if (args.given) args.lse = (char *)options->lse;
  args.q_heads = options->q_heads;
  args.k_heads = options->k_heads;
  args.group = options->q_heads / options->k_heads;
  args.head_bytes = (int32_t)(options->head_dim * size);
  args.pieces = (args.head_bytes + TC_DEPTH - 1) / TC_DEPTH;
  args.causal = options->causal;
  args.last_query = options->last_query;
  args.head_max = options->head_reduction == TAILCUT_REDUCE_MAX;
  args.query_max = options->query_reduction == TAILCUT_REDUCE_MAX;
  args.root = sqrt((double)options->head_dim);
  args.scale = (float)(1.4426950408889634 / args.root);
  /* fp32 sums err by about 2^-20 of |q||k| for every 128 products at most: 1e-3 at these logits. */
  const double most = 1000.0 * fmin(1.0, 128.0 / (double)options->head_dim);
  args.most_square = most * most * (double)options->head_dim;
  args.scores = scores;
  args.flags = flags;
  args.lasting = lasting;
  const bool wide = is_wide(args);
  const int64_t blocks = share_keys(device, &args);

  /* One block an SM in all, but half as many at least that measure. */
  args.lists = tc_grid(segments->segments);
  const int64_t left = max(device->sms - (int64_t)args.lists, (int64_t)(device->sms + 1) / 2);
  const int64_t units = (args.t.bound / TC_AT_RUN + 1) * (args.q_heads + args.k_heads);
  const int64_t measuring = options->dtype == TAILCUT_F32 ? 0 : min(left, units);

  const tc_chain next = {chain->stream, device->chains};
  cudaError_t error = tc_launch(KERNELS[options->dtype - 1][wide], args.lists + (unsigned)measuring,
                                block_t::THREADS, 0, chain, args);
  if (error == cudaSuccess && !args.given) {
    error = tc_attention_lse(args, options->dtype, wide, (unsigned)wanted(device), &next);
  }
  if (error != cudaSuccess) return error;
  return tc_attention_keys(args, options->dtype, wide, (unsigned)blocks, &next);
}

extern "C" cudaError_t tc_cuda_load_attention(tc_cuda *) {
  cudaError_t error = cudaSuccess;
  tc_load(KERNELS, &error);
  tc_attention_load_lse(&error);
  tc_attention_load_keys(&error);
  return error;
}
