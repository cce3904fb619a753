/* SPDX-License-Identifier: Apache-2.0 */
/*
 * direction, spread: mean directions of few rows, over the whole device.
 *
 * A sequence's text is one or two blocks of 64 rows, and a row is 8 to 16 KB: the thread block that
 * took it alone would read a megabyte. Strategy: blocks take tickets. The first tickets are norms:
 * a part of a block of rows, a warp per row, the rows' weights into the workspace; before them, by
 * the first part of each, which rows count: a bit each. The others are sums: 128 bytes of columns
 * of a segment, whole: no sum is split, nothing is added up behind.
 * A sums' block waits (acquire) for its segment's bits (release), then copies its columns to shared
 * memory, STAGES chunks of rows ahead, while norms are still under way, and waits for these. Then a
 * thread has a column of one in SLOTS blocks of rows; when these blocks are through, their sums
 * are added in ascending order. Only lower tickets are waited for. The last of a segment's sums
 * leaves the counts zero, the last to take a ticket the ticket.
 * Reads: each row that counts twice, whole sectors, 128 bytes at a time; no other row. Roles once
 * for each part of norms: every block of sums reading them cost 4% of all that is read.
 * Precision: as METHOD.md, bit for bit. Limits: rows of whole 16-byte units.
 */
#include "common/tensor.cuh"
#include "direction/direction.cuh"

namespace {

constexpr int THREADS = 256, WARPS = THREADS / 32, RESIDENT = 3;
constexpr int SLICE = 128; /* bytes of columns */
constexpr int STAGES = 4, STAGE_ROWS = 64;
constexpr int WINDOW = 64;                     /* blocks of rows whose roles are known at a time */
constexpr int LEAST_DIM = 512, MOST_PARTS = 8; /* of a block of rows: a row a warp */
/* What `arrived` counts: norms, and above them bits; there are fewer of either. */
constexpr uint32_t BITS_ARRIVED = 1u << 16;

struct spread_args {
  tc_direction_args d;
  uint64_t *masks;              /* [tiles] bits of the rows that count; unused without roles */
  int32_t parts, slices, norms; /* of a block of rows; of a row; tickets that are norms */
  int32_t early;
};

template <int DTYPE>
struct shape {
  static constexpr int COLUMNS = SLICE / tc_type<DTYPE>::size;
  static constexpr int SLOTS = THREADS / COLUMNS; /* blocks of rows side by side */
  static constexpr int ROWS = STAGE_ROWS / SLOTS; /* of each in a chunk */
};

template <int DTYPE>
struct sums_space {
  uint4 stages[STAGES][STAGE_ROWS][SLICE / 16];
  float weights[2][STAGE_ROWS];
  float part[2][shape<DTYPE>::SLOTS][shape<DTYPE>::COLUMNS];
  uint64_t masks[WINDOW];
  uint8_t list[WINDOW]; /* blocks of the window of which a row counts */
  int32_t listed, total;
};

/* ------------------------------------------------------------------------------------- norms -- */

struct norms_space {
  uint8_t list[TC_BLOCK]; /* rows of the block that count */
  int32_t listed;
};

template <int DTYPE>
__device__ inline void norms(const spread_args &args, uint32_t ticket, norms_space &space) {
  constexpr int RUNS = DTYPE == TAILCUT_F32 ? 4 : 8;
  const int32_t warp = (int32_t)threadIdx.x / 32, tile = (int32_t)ticket / args.parts;
  const int32_t part = (int32_t)ticket - tile * args.parts;
  int32_t index;
  if (tile >= tc_tiles_total(args.d.t, args.d.s)) return;
  const int32_t b = tc_tile_find(args.d.t, args.d.s, tile, &index);
  if (b < 0) return; /* the same for the whole block, as below */
  const tc_segment segment = tc_segment_at(args.d.s, b);
  const int32_t rows = segment.n - index * TC_BLOCK;
  if (rows <= 0) return;
  uint32_t *arrived = args.d.lasting->blocks + (b - args.d.t.first);
  if (warp == 0) {
    const uint8_t *roles = args.d.roles;
    if (roles != nullptr) roles += segment.start + index * TC_BLOCK;
    const uint64_t mask = tc_query_mask(roles, rows);
    if (threadIdx.x == 0 && roles != nullptr && part == 0) {
      args.masks[tile] = mask;
      tc_add_release(arrived, BITS_ARRIVED);
    }
    tc_list_rows(mask, space.list);
    if (threadIdx.x == 0) space.listed = __popcll(mask);
  }
  __syncthreads();
  const char *block = (const char *)args.d.tokens.data +
                      tc_token_offset(args.d.s, args.d.tokens, b, segment.start, index * TC_BLOCK);
  const int64_t stride = args.d.tokens.row_stride * tc_type<DTYPE>::size;
  float *weights = args.d.block_sums + (int64_t)tile * TC_BLOCK;
  for (int32_t j = part * WARPS + warp; j < space.listed; j += args.parts * WARPS) {
    const int32_t row = space.list[j];
    const float norm =
        tc_row_norm<DTYPE, 16, RUNS>(block + row * stride, (uint32_t)args.d.tokens.dim);
    if ((threadIdx.x & 31) == 0) weights[row] = tc_row_weight(norm);
  }
  tc_delay(0);
  __syncthreads();
  if (threadIdx.x == 0) tc_add_release(arrived, 1);
}

/* -------------------------------------------------------------------------------------- sums -- */

/* Where a walk over a window's chunks is: rows [row, row + ROWS) of each of SLOTS listed blocks.
 * Chunks in which no row counts are passed over. The same for all threads. */
template <int DTYPE>
struct cursor {
  typedef shape<DTYPE> S;
  int32_t round, row;
  uint64_t any; /* of the round's blocks, rows that count */

  __device__ inline void enter(const sums_space<DTYPE> &space) {
    any = 0;
    for (int s = 0; s < S::SLOTS && round * S::SLOTS + s < space.listed; s++) {
      any |= space.masks[space.list[round * S::SLOTS + s]];
    }
  }
  __device__ inline bool done(const sums_space<DTYPE> &space) const {
    return round * S::SLOTS >= space.listed;
  }
  __device__ inline void advance(const sums_space<DTYPE> &space) {
    do {
      row += S::ROWS;
      if (row < TC_BLOCK) continue;
      row = 0;
      round++;
      enter(space);
    } while (!done(space) && (any >> row & ((1u << S::ROWS) - 1)) == 0);
  }
  /* As behind a round before the first. */
  __device__ inline void begin(const sums_space<DTYPE> &space) {
    round = -1;
    row = TC_BLOCK - S::ROWS;
    advance(space);
  }
  /* The block (of the window) and row that row r of the chunk is; -1: none that counts. */
  __device__ inline int32_t find(const sums_space<DTYPE> &space, int32_t r, int32_t *block) const {
    const int32_t e = round * S::SLOTS + r / S::ROWS, i = row + r % S::ROWS;
    if (e >= space.listed) return -1;
    *block = space.list[e];
    return space.masks[*block] >> i & 1 ? i : -1;
  }
};

/* Which rows of a window count, and which of its blocks have any; masks: the segment's, NULL: every
 * row counts. Called by the whole block. */
template <int DTYPE>
__device__ inline void open_window(const uint64_t *masks, const tc_segment &segment, int32_t base,
                                   int32_t tiles, sums_space<DTYPE> &space) {
  const int32_t warp = (int32_t)threadIdx.x / 32, lane = (int32_t)(threadIdx.x & 31);
  if (warp == 0) {
    int32_t before = 0, rows = 0;
    for (int32_t w = lane; w < WINDOW; w += 32) {
      const int32_t left = base + w < tiles ? segment.n - (base + w) * TC_BLOCK : 0;
      uint64_t mask = left >= TC_BLOCK ? ~(uint64_t)0 : ((uint64_t)1 << left) - 1;
      if (masks != nullptr) mask = left > 0 ? __ldcg(masks + base + w) : 0;
      space.masks[w] = mask;
      const uint32_t held = __ballot_sync(TC_FULL, mask != 0);
      if (mask != 0) space.list[before + __popc(held & ((1u << lane) - 1))] = (uint8_t)w;
      before += __popc(held);
      rows += __popcll(mask);
    }
    rows = (int32_t)__reduce_add_sync(TC_FULL, (uint32_t)rows);
    if (lane == 0) {
      space.listed = before;
      space.total = base == 0 ? rows : space.total + rows;
    }
  }
  __syncthreads();
}

/* Waits until the bits of segment first + g are there. Called by the whole block. */
__device__ inline void wait_for_bits(const spread_args &args, int32_t g, int32_t tiles) {
  if (threadIdx.x == 0) {
    while (tc_load_acquire(args.d.lasting->blocks + g) / BITS_ARRIVED != (uint32_t)tiles) {
    }
  }
  __syncthreads();
}

template <int DTYPE>
__device__ inline void sums(const spread_args &args, uint32_t ticket, sums_space<DTYPE> &space) {
  typedef shape<DTYPE> S;
  constexpr int size = tc_type<DTYPE>::size;
  const int32_t thread = (int32_t)threadIdx.x, slot = thread / S::COLUMNS;
  const int32_t column = thread % S::COLUMNS, dim = args.d.tokens.dim;
  const int32_t g = (int32_t)ticket / args.slices, slice = (int32_t)ticket - g * args.slices;
  const int32_t b = args.d.t.first + g, d = slice * S::COLUMNS + column;
  const tc_segment segment = tc_segment_at(args.d.s, b);
  const int32_t tiles = (segment.n + TC_BLOCK - 1) / TC_BLOCK;
  const int64_t stride = args.d.tokens.row_stride * size;
  const char *columns = (const char *)args.d.tokens.data +
                        tc_token_offset(args.d.s, args.d.tokens, b, segment.start, 0) +
                        slice * SLICE;
  const int64_t tile = tc_tile_first(args.d.t, args.d.s, b, segment.start);
  const float *weights = args.d.block_sums + tile * TC_BLOCK;
  const uint64_t *masks = args.d.roles != nullptr ? args.masks + tile : nullptr;
  float a = 0.0f, u = 0.0f;

  const auto copy = [&](const cursor<DTYPE> &at, int32_t base, int32_t stage) {
#pragma unroll
    for (int k = 0; k < STAGE_ROWS * SLICE / 16 / THREADS; k++) {
      const int32_t unit = thread + k * THREADS, r = unit / (SLICE / 16), c = unit % (SLICE / 16);
      int32_t block = 0;
      const int32_t i = at.find(space, r, &block);
      if (i < 0 || slice * SLICE + c * 16 >= dim * size) continue;
      tc_copy_16(tc_shared_address(&space.stages[stage][r][c]),
                 columns + ((int64_t)(base + block) * TC_BLOCK + i) * stride + c * 16);
    }
  };
  const auto weight = [&](const cursor<DTYPE> &at, int32_t base) {
    int32_t block = 0;
    const int32_t i = thread < STAGE_ROWS ? at.find(space, thread, &block) : -1;
    return i < 0 ? 0.0f : __ldcg(weights + (int64_t)(base + block) * TC_BLOCK + i);
  };

  if (masks != nullptr && tiles > 0) wait_for_bits(args, g, tiles);
  for (int32_t base = 0; base < tiles; base += WINDOW) {
    open_window(masks, segment, base, tiles, space);
    cursor<DTYPE> at, ahead;
    at.begin(space);
    ahead = at;
    for (int32_t s = 0; s < STAGES - 1; s++) {
      if (!ahead.done(space)) {
        copy(ahead, base, s);
        ahead.advance(space);
      }
      tc_copy_commit();
    }
    tc_delay(1);
    if (base == 0) {
      tc_wait_for_blocks(args.d, g, (uint32_t)(tiles * args.parts), BITS_ARRIVED,
                         (uint32_t)args.slices);
    }
    if (thread < STAGE_ROWS && !at.done(space)) space.weights[0][thread] = weight(at, base);
    tc_copy_wait<STAGES - 2>();
    __syncthreads();
#pragma unroll 1
    for (uint32_t q = 0; !at.done(space); q++) {
      cursor<DTYPE> next = at;
      next.advance(space);
      const bool more = !next.done(space), ends = !more || next.round != at.round;
      const float w = more ? weight(next, base) : 0.0f;
      if (!ahead.done(space)) { /* into the stage that was left at the barrier */
        copy(ahead, base, (int32_t)((q + STAGES - 1) % STAGES));
        ahead.advance(space);
      }
      tc_copy_commit();
      const int32_t e = at.round * S::SLOTS + slot, first = slot * S::ROWS;
      if (e < space.listed) {
        const uint32_t bits = (uint32_t)(space.masks[space.list[e]] >> at.row);
        const char *own = (const char *)&space.stages[q % STAGES][first][0] + column * size;
#pragma unroll
        for (int r = 0; r < S::ROWS; r++) {
          const float x = tc_element(own + r * SLICE, DTYPE, 0);
          const float sum = __fmaf_rn(x, space.weights[q & 1][first + r], a);
          if (bits >> r & 1) a = sum;
        }
      }
      if (ends) {
        space.part[at.round & 1][slot][column] = a;
        a = 0.0f;
      }
      if (thread < STAGE_ROWS) space.weights[(q + 1) & 1][thread] = w;
      tc_copy_wait<STAGES - 2>();
      tc_delay(2);
      __syncthreads();
      if (ends && slot == 0) {
        for (int s = 0; s < S::SLOTS && at.round * S::SLOTS + s < space.listed; s++) {
          u = __fadd_rn(u, space.part[at.round & 1][s][column]);
        }
      }
      at = next;
    }
    __syncthreads(); /* before the next window's masks */
  }
  const int32_t total = tiles > 0 ? space.total : 0;
  if (slot == 0 && d < dim) {
    args.d.out[(int64_t)g * dim + d] = total > 0 ? __fdiv_rn(u, (float)total) : 0.0f;
  }
  if (slice == 0 && thread == 0) {
    args.d.queries[g] = total;
    if (args.d.flags != nullptr) args.d.flags[b] = 0;
  }
}

template <int DTYPE>
__global__ void __launch_bounds__(THREADS, RESIDENT)
    direction_spread(const __grid_constant__ spread_args args) {
  __shared__ union {
    sums_space<DTYPE> sums;
    norms_space norms;
    tc_resolve_space<THREADS> resolve;
  } space;
  __shared__ uint32_t taken;
  if (args.early) tc_let_next_start();
  tc_wait_previous();
  if (blockIdx.x == tc_direction_blocks(args.d)) {
    return tc_resolve_apart<THREADS>(args.d.resolve, space.resolve);
  }
  const uint32_t ticket = tc_take_ticket(args.d, &taken);
  if (ticket < (uint32_t)args.norms) {
    norms<DTYPE>(args, ticket, space.norms);
  } else {
    sums<DTYPE>(args, ticket - (uint32_t)args.norms, space.sums);
  }
}

typedef void (*spread_kernel)(spread_args);
const spread_kernel KERNELS[3] = {direction_spread<TAILCUT_F16>, direction_spread<TAILCUT_BF16>,
                                  direction_spread<TAILCUT_F32>};

}  // namespace

bool tc_direction_spreads(const tc_cuda *device, const tc_direction_args &args) {
  const int64_t bytes = (int64_t)args.tokens.dim * tc_dtype_size(args.tokens.dtype);
  return args.t.bound < device->sms && args.t.count == args.s.segments &&
         args.tokens.dim >= LEAST_DIM && bytes % 16 == 0 &&
         tc_token_width(&args.s, &args.tokens) == 16;
}

cudaError_t tc_direction_spread(const tc_cuda *device, const tc_direction_args &d,
                                const tc_chain *chain) {
  spread_args args;
  args.d = d;
  args.masks = (uint64_t *)(d.block_sums + d.t.bound * TC_BLOCK); /* dim is more than both want */
  args.parts = 1;
  while (args.parts < MOST_PARTS && args.parts * d.t.bound < 2 * device->sms) args.parts *= 2;
  args.slices =
      (int32_t)(((int64_t)d.tokens.dim * tc_dtype_size(d.tokens.dtype) + SLICE - 1) / SLICE);
  args.norms = (int32_t)(d.t.bound * args.parts);
  const int64_t blocks =
      args.norms + (int64_t)args.slices * d.t.count + (d.resolve.flags != nullptr);
  args.early = blocks <= (int64_t)RESIDENT * device->sms;
  return tc_launch(KERNELS[d.tokens.dtype - 1], (unsigned)blocks, THREADS, 0, chain, args);
}

void tc_direction_spread_load(cudaError_t *error) { tc_load(KERNELS, error); }
