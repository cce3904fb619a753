/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attention: the ATTENTION policy of relevance, in at most three launches:
 *
 *   lists         (here)   the query rows of each segment that ask, its keys as bits
 *   attention_lse (lse.cu) the log-sum-exp of every pair of a query row and a head; left out where
 *                          the caller has it
 *   attention_keys (keys.cu) what is paid to each key, reduced over heads and query rows
 *
 * Strategy: rows that ask are scattered among others and known on the device only; with their list
 * q is read for them alone. The last block of lists to arrive counts the tiles of lse.cu.
 * Limits: one block looks at the roles of a segment, 32,768 of them at a time. The log-sum-exps
 * take 8 bytes for each row and head of the host's bounds, whoever asks.
 */
#include "attention/attention.cuh"
#include "common/block.cuh"
#include "common/sync.cuh"

namespace {

typedef tc_block<32> block_t;
constexpr int HELD = 8; /* words of 32 rows that a warp has under way */

/* The key bits of a segment; returns its first candidate, INT32_MAX where there is none, or a later
 * one: the least over the block is the first. */
__device__ inline int32_t look_at_rows(const tc_attention_args &args, const block_t &block,
                                       const uint8_t *roles, int32_t n, uint32_t *bits) {
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

__global__ void __launch_bounds__(block_t::THREADS)
    attention_lists(const __grid_constant__ tc_attention_args args) {
  __shared__ block_t::space shared;
  block_t block(shared);
  tc_let_next_start();
  tc_wait_previous();
  for (int32_t b = (int32_t)blockIdx.x; b < args.s.segments; b += (int32_t)gridDim.x) {
    const int32_t start = args.s.start[b], n = args.s.n[b];
    const uint8_t *roles = args.roles + start;
    int32_t *list = args.list + start;
    const int32_t first =
        block.reduce(look_at_rows(args, block, roles, n, args.key_bits + tc_key_word(start, b)),
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
  if (args.lse != nullptr) return;
  if (tc_arrives_last(&args.lasting->arrived, gridDim.x)) count_tiles(args, block);
}

/* How the scratch lies. Takes it from `base` into *args; returns its size. */
size_t lay_out(const tc_cuda *device, int64_t segments, int64_t rows, int64_t q_heads, char *base,
               tc_attention_args *args) {
  size_t used = 0;
  const auto take = [&](size_t bytes) { return (char *)tc_cuda_take(base, &used, bytes); };
  (void)device;
  if (q_heads == 0) return 0;
  args->list = (int32_t *)take((size_t)rows * 4);
  args->asking = (int32_t *)take((size_t)segments * 4);
  args->row_tiles = (int64_t *)take((size_t)(segments + 1) * 8);
  args->key_bits = (uint32_t *)take((size_t)(tc_key_word(rows, segments) + 1) * 4);
  args->stats = take((size_t)rows * (size_t)q_heads * 8);
  args->part_stats = take(TC_AT_BLOCKS * TC_AT_ROWS * 16);
  args->part_sums = (float *)take(4 * TC_AT_BLOCKS * TC_AT_KEYS * sizeof(float));
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

/* Whether all rows of heads can be fetched by 16 bytes. */
bool is_wide(const tc_attention_args &args) {
  return (((uintptr_t)args.q | (uintptr_t)args.k | (uint64_t)args.q_row | (uint64_t)args.q_head |
           (uint64_t)args.q_segment | (uint64_t)args.k_row | (uint64_t)args.k_head |
           (uint64_t)args.k_segment) %
          16) == 0;
}

}  // namespace

extern "C" size_t tc_cuda_attention_scratch(const tc_cuda *device, const tailcut_limits *limits) {
  tc_attention_args args;
  return lay_out(device, limits->segments, limits->total_tokens, limits->q_heads, nullptr, &args);
}

extern "C" cudaError_t tc_cuda_attention(const tc_cuda *device, const tc_segments *segments,
                                         const uint8_t *roles,
                                         const tailcut_relevance_options *options, float *scores,
                                         int32_t *flags, char *scratch, tc_cuda_lasting *lasting,
                                         const tc_chain *chain) {
  const int64_t size = tc_dtype_size(options->dtype);
  const bool ragged = segments->cu_seqlens != nullptr;
  tc_attention_args args = {};
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
  args.lse = options->lse;
  args.lse_row = options->lse_row_stride;
  args.lse_head = args.lse != nullptr ? options->lse_head_stride * 4 : (int64_t)sizeof(float2);
  args.lse_segment = ragged ? args.lse_row : options->lse_segment_stride;
  args.q_heads = options->q_heads;
  args.k_heads = options->k_heads;
  args.group = options->q_heads / options->k_heads;
  args.head_bytes = (int32_t)(options->head_dim * size);
  args.pieces = (args.head_bytes + TC_DEPTH - 1) / TC_DEPTH;
  args.causal = options->causal;
  args.last_query = options->last_query;
  args.head_max = options->head_reduction == TAILCUT_REDUCE_MAX;
  args.query_max = options->query_reduction == TAILCUT_REDUCE_MAX;
  args.wide_scale = 1.4426950408889634 / sqrt((double)options->head_dim);
  args.scale = (float)args.wide_scale;
  args.scores = scores;
  args.flags = flags;
  args.lasting = lasting;
  lay_out(device, segments->segments, segments->total, options->q_heads, scratch, &args);
  const bool wide = is_wide(args);
  const int64_t blocks = share_keys(device, &args);

  const tc_chain next = {chain->stream, device->chains};
  cudaError_t error =
      tc_launch(attention_lists, tc_grid(segments->segments), block_t::THREADS, 0, chain, args);
  if (error == cudaSuccess && args.lse == nullptr) {
    error = tc_attention_lse(args, options->dtype, wide, (unsigned)wanted(device), &next);
  }
  if (error != cudaSuccess) return error;
  return tc_attention_keys(args, options->dtype, wide, (unsigned)blocks, &next);
}

extern "C" cudaError_t tc_cuda_load_attention(tc_cuda *) {
  cudaError_t error = cudaSuccess;
  tc_load(attention_lists, &error);
  tc_attention_load_lse(&error);
  tc_attention_load_keys(&error);
  return error;
}
