/* SPDX-License-Identifier: Apache-2.0 */
/*
 * maxcos: MAX_COSINE, the greatest cosine of each candidate to a query row of its sequence.
 *
 * Formula: max over t, t = v excepted, of <v,t> / (max(|v|, 1e-8) max(|t|, 1e-8)); METHOD.md, stage
 * 2. A cosine that is NaN (a norm is not finite) is passed over while another is left.
 * Strategy: three kernels.
 *   prepare  norms of all candidates and queries, a warp per row, in METHOD.md's order, so that
 *            the same rows as on the CPU have none; beside it a block per segment lists which
 *            rows are candidates and which are queries. The last of these blocks chooses the
 *            tiles: everything is known by then, and only on the device
 *   product  a block per SM takes items, each a tile of candidates by a tile of queries
 *            (product.cu); of its products only each candidate's greatest leaves the chip
 *   finish   keys become scores, and flags are raised
 * Tiles of different queries meet by atomicMin on order-preserving keys (tc_key): integers, so the
 * order of arrival changes nothing. While the call runs `scores` holds those keys.
 * The row itself is told apart by its number where a product is looked at. |v| divides at the end:
 * it is the same for all of v's products.
 * Precision: fp16, bf16 2e-3, fp32 1e-5. Limits: rows that are no whole 16-byte pieces are copied
 * by plain loads of single elements. All rows are read twice, the second time from L2 where they
 * fit.
 */
#include "common/block.cuh"
#include "common/sync.cuh"
#include "maxcos/maxcos.cuh"

namespace {

constexpr int THREADS = TC_MAXCOS_THREADS, WARPS = THREADS / 32;
constexpr int ROLES = 16; /* that a thread looks at together */

typedef tc_block<WARPS> block;

/* ----------------------------------------------------------------------------------- prepare -- */

/* Lists the candidates and queries of segment b. */
__device__ inline void list_rows(block &block, const tc_maxcos_args &args, int32_t b) {
  const tc_segment segment = tc_segment_at(args.s, b);
  const uint8_t *roles = args.roles + segment.start;
  tc_maxcos_shape found = {0, 0};
  for (int32_t base = 0; base < segment.n; base += THREADS * ROLES) {
    const int32_t mine = base + (int32_t)threadIdx.x * ROLES;
    uint32_t candidates = 0, queries = 0; /* bit k: row mine + k */
#pragma unroll
    for (int k = 0; k < ROLES; k++) {
      const uint8_t role = mine + k < segment.n ? roles[mine + k] : (uint8_t)TAILCUT_ROLE_ABSENT;
      candidates |= (uint32_t)tc_is_candidate(role) << k;
      queries |= (uint32_t)tc_is_query(role) << k;
    }
    /* Both counts at once: 4,096 rows at most. */
    const uint32_t own = (uint32_t)__popc(candidates) | (uint32_t)__popc(queries) << 16;
    uint32_t total;
    const uint32_t before = block.prefix(own, &total);
    int32_t at = segment.start + found.candidates + (int32_t)(before & 0xFFFFu);
    for (; candidates != 0; candidates &= candidates - 1) {
      args.candidate_rows[at++] = mine + __ffs(candidates) - 1;
    }
    at = segment.start + found.queries + (int32_t)(before >> 16);
    for (; queries != 0; queries &= queries - 1) {
      args.query_rows[at++] = mine + __ffs(queries) - 1;
    }
    found.candidates += (int32_t)(total & 0xFFFFu);
    found.queries += (int32_t)(total >> 16);
  }
  if (threadIdx.x == 0) {
    args.shapes[b] = found;
    if (found.candidates > 0 && found.queries == 0) args.flags[b] |= TAILCUT_FLAG_BAD_REFERENCE;
  }
}

__device__ inline tc_maxcos_shape shape_at(const tc_maxcos_args &args, int64_t b) {
  if (b >= args.s.segments) return {0, 0};
  const int2 v = __ldcg((const int2 *)args.shapes + b);
  return {v.x, v.y};
}

/* All segments are listed: which tiles take least time, and how many of them each segment has. */
template <class Forms>
__device__ inline void plan(block &block, const tc_maxcos_args &args) {
  int64_t own[TC_MAXCOS_FORMS] = {};
#pragma unroll 1
  for (int32_t b = (int32_t)threadIdx.x; b < args.s.segments; b += THREADS) {
    const tc_maxcos_shape s = shape_at(args, b);
#pragma unroll
    for (int f = 0; f < TC_MAXCOS_FORMS; f++)
      own[f] += TC_MAXCOS_WITH(tc_maxcos_items, Forms, f, s);
  }
  int form = 0;
  int64_t least = INT64_MAX;
#pragma unroll
  for (int f = 0; f < TC_MAXCOS_FORMS; f++) {
    const int64_t rounds = tc_tiles_for(block.sum(own[f]), args.blocks);
    const int64_t time = rounds * TC_MAXCOS_WITH(tc_maxcos_cycles, Forms, f, args.tokens.dim);
    if (f >= args.first_form && time < least) form = f, least = time;
  }
  int64_t first = 0;
#pragma unroll 1
  for (int64_t base = 0; base < args.s.segments; base += THREADS) {
    const int64_t b = base + threadIdx.x;
    const int64_t items = TC_MAXCOS_WITH(tc_maxcos_items, Forms, form, shape_at(args, b));
    int64_t total;
    const int64_t before = block.prefix(items, &total);
    if (b < args.s.segments) args.items[b] = first + before;
    first += total;
  }
  if (threadIdx.x == 0) {
    args.items[args.s.segments] = first;
    *args.form = form;
  }
}

/* One row of a tile of TC_BLOCK by this warp: its norm, and nothing found yet. */
template <int DTYPE, int BYTES>
__device__ inline void begin_row(const tc_maxcos_args &args, int64_t tile, int32_t row) {
  constexpr int RUNS = DTYPE == TAILCUT_F32 ? 4 : 8; /* on their way at once */
  int32_t index;
  const int32_t b = tc_tile_find(args.t, args.s, tile, &index);
  if (b < 0) return;
  const tc_segment segment = tc_segment_at(args.s, b);
  const int64_t i = (int64_t)index * TC_BLOCK + row;
  if (i >= segment.n) return;
  const uint8_t role = args.roles[segment.start + i];
  float norm = 0.0f;
  if (tc_is_candidate(role) || tc_is_query(role)) {
    const char *x =
        (const char *)args.tokens.data + tc_token_offset(args.s, args.tokens, b, segment.start, i);
    norm = tc_row_norm<DTYPE, BYTES, RUNS>(x, (uint32_t)args.tokens.dim);
  }
  if ((threadIdx.x & 31) == 0) {
    args.norms[segment.start + i] = norm;
    args.scores[segment.start + i] =
        tc_bits_float(tc_is_candidate(role) ? TC_KEY_NAN : TC_NAN_BITS);
  }
}

template <int DTYPE, int BYTES>
__global__ void __launch_bounds__(THREADS) prepare(const __grid_constant__ tc_maxcos_args args) {
  __shared__ block::space space;
  block block(space);
  constexpr int PARTS = TC_BLOCK / WARPS; /* blocks of threads for a tile */
  tc_wait_previous();
  const int64_t units = args.s.segments + PARTS * tc_tiles_total(args.t, args.s);
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    if (unit >= args.s.segments) {
      const int64_t part = unit - args.s.segments;
      begin_row<DTYPE, BYTES>(args, part / PARTS, (int32_t)(part % PARTS) * WARPS + block.warp);
      continue;
    }
    list_rows(block, args, (int32_t)unit);
    if (tc_arrives_last(args.arrived, (uint32_t)args.s.segments)) {
      plan<tc_maxcos_forms<DTYPE>>(block, args);
    }
  }
}

/* ------------------------------------------------------------------------------------ finish -- */

/* A warp per 32 rows. */
__global__ void __launch_bounds__(THREADS) finish(const __grid_constant__ tc_maxcos_args args) {
  constexpr int HALVES = TC_BLOCK / 32;
  const int32_t lane = (int32_t)(threadIdx.x & 31);
  tc_wait_previous();
  const int64_t units = HALVES * tc_tiles_total(args.t, args.s);
  const int64_t step = (int64_t)gridDim.x * WARPS;
  for (int64_t unit = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32; unit < units; unit += step) {
    int32_t index;
    const int32_t b = tc_tile_find(args.t, args.s, unit / HALVES, &index);
    if (b < 0) continue;
    const tc_segment segment = tc_segment_at(args.s, b);
    const int64_t i = (int64_t)index * TC_BLOCK + unit % HALVES * 32 + lane;
    bool nan = false;
    if (i < segment.n && tc_is_candidate(args.roles[segment.start + i])) {
      const int32_t queries = args.shapes[b].queries;
      float *score = args.scores + segment.start + i;
      float s = 0.0f; /* there is no query, or it is the only one itself */
      if (queries > 1 || (queries == 1 && !tc_is_query(args.roles[segment.start + i]))) {
        const float best = tc_key_score(tc_float_bits(*score));
        s = tc_cosine_finish(best, args.norms[segment.start + i], 1.0f);
      }
      *score = s;
      nan = s != s;
    }
    if (__any_sync(TC_FULL, nan) && lane == 0) atomicOr(&args.flags[b], TAILCUT_FLAG_NAN);
  }
}

/* -------------------------------------------------------------------------------------- host -- */

typedef void (*prepare_kernel)(tc_maxcos_args);

/* By dtype and width of loads: 16, 8, 4, 2 bytes. */
const prepare_kernel PREPARE[3][4] = {
    {prepare<TAILCUT_F16, 16>, prepare<TAILCUT_F16, 8>, prepare<TAILCUT_F16, 4>,
     prepare<TAILCUT_F16, 2>},
    {prepare<TAILCUT_BF16, 16>, prepare<TAILCUT_BF16, 8>, prepare<TAILCUT_BF16, 4>,
     prepare<TAILCUT_BF16, 2>},
    {prepare<TAILCUT_F32, 16>, prepare<TAILCUT_F32, 8>, prepare<TAILCUT_F32, 4>, nullptr},
};

/* Takes memory for `args` from scratch (NULL: only counts). */
size_t carve(tc_maxcos_args *args, char *scratch, size_t segments, size_t rows) {
  size_t used = 0;
  const auto take = [&](size_t bytes) { return tc_cuda_take(scratch, &used, bytes); };
  args->form = (int32_t *)take(4);
  args->items = (int64_t *)take(8 * (segments + 1));
  args->shapes = (tc_maxcos_shape *)take(sizeof(tc_maxcos_shape) * segments);
  args->candidate_rows = (int32_t *)take(4 * rows);
  args->query_rows = (int32_t *)take(4 * rows);
  args->norms = (float *)take(4 * rows);
  return used;
}

}  // namespace

extern "C" size_t tc_cuda_maxcos_scratch(const tc_cuda *, const tailcut_limits *limits) {
  tc_maxcos_args args;
  return carve(&args, nullptr, (size_t)limits->segments, (size_t)limits->total_tokens);
}

extern "C" cudaError_t tc_cuda_maxcos(const tc_cuda *device, const tc_segments *segments,
                                      const tailcut_tokens *tokens, const uint8_t *roles,
                                      float *scores, int32_t *flags, char *scratch,
                                      tc_cuda_lasting *lasting, const tc_chain *chain) {
  tc_maxcos_args args;
  if (segments->segments == 0) return cudaSuccess;
  args.s = *segments;
  args.t = tc_tiles_of(*segments, 0, segments->segments);
  args.tokens = *tokens;
  args.roles = roles;
  args.scores = scores;
  args.flags = flags;
  args.arrived = &lasting->arrived;
  args.blocks = device->sms;
  carve(&args, scratch, (size_t)segments->segments, (size_t)segments->total);
  const int width = tc_token_width(segments, tokens);
  const bool aligned = width == 16 && tokens->dim % (16 / tc_dtype_size(tokens->dtype)) == 0;
  args.first_form = aligned ? 0 : TC_MAXCOS_UNALIGNED;
  const int64_t parts = TC_BLOCK / WARPS * args.t.bound, blocks = args.t.bound / (WARPS / 2) + 1;
  const tc_chain next = {chain->stream, device->chains};
  cudaError_t error = tc_launch(PREPARE[tokens->dtype - 1][tc_width_column(width)],
                                tc_grid(segments->segments + parts), THREADS, 0, chain, args);
  if (error != cudaSuccess) return error;
  error = tc_maxcos_product(args, aligned, &next);
  if (error != cudaSuccess) return error;
  return tc_launch(finish, tc_grid(blocks), THREADS, 0, &next, args);
}

extern "C" cudaError_t tc_cuda_load_maxcos(tc_cuda *) {
  cudaError_t error = cudaSuccess;
  tc_load(PREPARE, &error);
  tc_maxcos_product_load(&error);
  tc_load(finish, &error);
  return error;
}
