/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact, tickets: few long segments in place, by as many blocks as the device runs.
 *
 * Strategy: the first blocks do what else the call has to move (compact/together.cuh): they take no
 * tickets and nobody waits for them. All others take tickets, in order: first pieces of the kept
 * lists to be checked (and the `cover` of their tiles to be made zero), then tiles of 16 result
 * rows and 2 KB of their columns (narrower rows: more of them; slices are as wide as the narrowest
 * array's, so that all go in one launch). Eight warps hold a tile in registers, a ninth keeps the
 * books: it takes the ticket and looks up the sources of the tile behind the one that is being
 * moved. A tile may be written when all rows in it are on chip or nobody's source. cover[t] counts
 * those of tile t's rows: a loaded tile adds the rows from behind the last source of the tile
 * before it up to its own last (the last tile of a segment: up to the end) to the tiles these lie
 * in, and whoever writes tile t waits until cover[t] is whole.
 *
 * Waiting ends: as kept[j] >= j, only tiles up to t have rows of tile t to count. A block waits
 * only when its tile is loaded and counted, and only for lower tickets; the block with the lowest
 * ticket that is not yet written waits for none that is not counted (a ticket taken ahead is higher
 * than the one it waits with). A piece of a list waits for nothing.
 * On chip means that a load's value has been used: compact/slab.cuh. The count is released behind
 * the block's barrier and acquired before the barrier that the stores are behind, so reads come
 * before writes. Lists from outside may be damaged, and then the intervals mean nothing: no tile is
 * counted or written before all pieces of its segment's list are checked, which the first blocks do
 * while others load. A damaged segment is moved by the last tickets, one for each of its column
 * slices, in ascending order as slabs are, when all its tiles have been dropped.
 *
 * State: cover in scratch; ticket, left and the checks in `lasting`, zeroed by the last block to
 * leave. Precision: bytes are copied.
 * Limits: up to 32 segments, rows of 16-byte units at aligned places, 512 bytes at least, 64 KB of
 * them in a launch, no slots, no zeroed tails; 56 registers. Measured: bench/NOTES.md, "compact".
 */
#include "common/delay.cuh"
#include "compact/tickets.cuh"

using namespace tc_tickets;

namespace {

/* A piece's entries that cannot be followed: whether this thread has met one. tiles: of a slice. */
template <int MOST>
__device__ inline bool check_piece(const ticket_args<MOST> &args, const job &j, int32_t tiles) {
  const int32_t tile_rows = TC_TILE_HELD * MOVERS >> args.columns_log;
  bool damaged = false;
  if ((int32_t)threadIdx.x * tile_rows < j.rows) { /* a tile a thread */
    uint32_t *cover = args.cover + (j.word + threadIdx.x);
    for (int32_t slice = 0; slice < args.slices; slice++, cover += tiles) *cover = 0;
  }
#pragma unroll 4
  for (int32_t r = (int32_t)threadIdx.x; r < j.rows; r += MOVERS) {
    damaged |= tc_follow(j.of.result.kept, j.first + r, j.of.result.n) < 0;
  }
  return damaged;
}

/* The whole block meets: the two roles do so in different places. */
__device__ inline void meet() { asm volatile("barrier.sync 1, %0;" ::"n"(THREADS) : "memory"); }

/* The same for `threads` threads at barrier `id`, and whether any of them said so. */
template <int ID, int COUNT>
__device__ inline bool meet_or(bool said) {
  int32_t any;
  asm volatile(
      "{\n.reg .pred said, any;\nsetp.ne.s32 said, %1, 0;\n"
      "barrier.red.or.pred any, %2, %3, said;\nselp.s32 %0, 1, 0, any;\n}"
      : "=r"(any)
      : "r"((int32_t)said), "n"(ID), "n"(COUNT)
      : "memory");
  return any != 0;
}

struct board {
  job jobs[SLOTS];
  int32_t sources[SLOTS][TC_TILE_ROWS];
  share shares[SEGMENTS];
  int32_t columns_log;
  bool writes; /* the tile that is held, or the segment that is to be swept */
};

__device__ inline int after(int slot) { return slot == SLOTS - 1 ? 0 : slot + 1; }

/* The ninth warp: it is one job ahead. */
template <int MOST>
__device__ inline void keep_books(const ticket_args<MOST> &args, board &s) {
  const int lane = (int)(threadIdx.x & 31);
  uint32_t sound = 0; /* segments whose lists are known to be whole */
  uint32_t ticket = lane == 0 ? atomicAdd(&args.lasting->ticket, 1u) : 0;
  make_plan(args.lists, TC_TILE_HELD * MOVERS >> args.columns_log, lane, s.shares);
  ticket = __shfl_sync(TC_FULL, ticket, 0);
  look_up(args, s.shares, ticket, lane, &s.jobs[0], s.sources[0]);
  meet();
  for (int slot = 0; s.jobs[slot].kind != END; slot = after(slot)) {
    const job &j = s.jobs[slot];
    ticket = lane == 0 ? atomicAdd(&args.lasting->ticket, 1u) : 0;
    ticket = __shfl_sync(TC_FULL, ticket, 0);
    look_up(args, s.shares, ticket, lane, &s.jobs[after(slot)], s.sources[after(slot)]);
    const bool damaged = meet_or<1, THREADS>(false);
    if (j.kind == PIECE_OF_LIST) {
      if (lane == 0 && damaged) atomicOr(&args.lasting->moved[j.of.result.b], 1u);
      if (lane == 0) tc_add_release(&args.lasting->blocks[j.of.result.b], 1);
    } else {
      const bool writes = settle(args, j, &sound, lane);
      if (lane == 0) s.writes = writes;
    }
    meet();
  }
  /* Whoever is last comes behind all others' looks at the checks. */
  __threadfence();
  uint32_t left = lane == 0 ? atomicAdd(&args.lasting->left, 1u) : 0;
  left = __shfl_sync(TC_FULL, left, 0);
  if (left != gridDim.x - (uint32_t)args.blocks - 1) return;
  __threadfence();
  args.lasting->blocks[lane] = args.lasting->moved[lane] = 0;
  if (lane == 0) args.lasting->ticket = args.lasting->left = 0;
}

/* One row per thread at a time: lists are seldom damaged. */
__device__ inline void sweep(char *at, int64_t row_stride, bool live, int32_t line, int32_t lines,
                             int32_t prefix_rows, const tc_result &r) {
#pragma unroll 1
  for (int32_t base = 0; base < r.k; base += lines) {
    const int32_t to = base + line, i = live && to < r.k ? tc_follow(r.kept, to, r.n) : -1;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (i >= 0) v = *(const uint4 *)(at + (i + prefix_rows) * row_stride);
    if (meet_or<2, MOVERS>(v.x == 0x9E3779B9u && r.k < 0)) return;
    if (i >= 0) *(uint4 *)(at + to * row_stride) = v;
  }
}

/* The other eight. */
template <int MOST>
__device__ inline void move_tiles(const ticket_args<MOST> &args, board &s) {
  const int32_t lines = MOVERS >> args.columns_log;
  const int32_t line = (int32_t)threadIdx.x >> args.columns_log;
  meet();
#pragma unroll 1
  for (int slot = 0; s.jobs[slot].kind != END; slot = after(slot)) {
    const job &j = s.jobs[slot];
    if (j.kind == PIECE_OF_LIST) {
      meet_or<1, THREADS>(check_piece(args, j, s.shares[31].tiles_end));
      meet();
      continue;
    }
    const tc_row_array &a = args.arrays.array[j.array];
    const uint32_t unit = j.unit + (threadIdx.x & j.columns);
    const bool live = unit < (uint32_t)a.units;
    const int64_t stride = a.src_row_stride;
    char *const at = a.dst + (j.offset + tc_unit_offset(a, a.src_part_stride, unit));
    const int32_t *const source = s.sources[slot] + line;
    if (j.kind == SWEEP) {
      meet_or<1, THREADS>(false);
      meet();
      if (s.writes) sweep(at, stride, live, line, lines, args.lists.s.prefix_rows, j.of.result);
      continue;
    }
    uint4 v[TC_TILE_HELD];
    uint32_t eaten = 0;
#pragma unroll
    for (int m = 0; m < TC_TILE_HELD; m++) {
      const int32_t from = live ? source[m * lines] : -1;
      v[m] = make_uint4(0, 0, 0, 0);
      if (from >= 0) v[m] = *(const uint4 *)(at + from * stride);
    }
    tc_delay(0);
#pragma unroll
    for (int m = 0; m < TC_TILE_HELD; m++) eaten ^= v[m].x;
    meet_or<1, THREADS>(eaten == 0x9E3779B9u && j.rows < 0); /* every load has arrived */
    tc_delay(1);
    meet();
    if (!live || !s.writes) continue;
    char *const to = at + (j.first + line) * stride;
#pragma unroll
    for (int m = 0; m < TC_TILE_HELD; m++) {
      if (source[m * lines] >= 0) *(uint4 *)(to + m * lines * stride) = v[m];
    }
  }
}

union space {
  board tickets;
  tc_together_space together;
};

template <int MOST>
__global__ void __launch_bounds__(THREADS, 4)
    compact_tickets(const __grid_constant__ ticket_args<MOST> args) {
  extern __shared__ uint4 dynamic[];
  space &s = *(space *)dynamic;
  if ((int32_t)blockIdx.x < args.blocks) {
    if (threadIdx.x < MOVERS) {
      tc_move_together<MOST>(args, s.together);
    }
    return;
  }
  tc_wait_previous();
  if (threadIdx.x >= MOVERS) {
    keep_books(args, s.tickets);
  } else {
    move_tiles(args, s.tickets);
  }
}

/* -------------------------------------------------------------------------------------- host -- */

int32_t most_slices(int columns_log) { return SLICES << (TC_TILE_MOST_LOG - columns_log); }

/* together: the first arrays of `sorted`, as dealt by `first`. */
template <int MOST>
cudaError_t launch(tc_compact_call *call, const tc_row_array *arrays, int32_t count,
                   int columns_log, const tailcut_rows *const *sorted, const tc_forms &first) {
  const int64_t tile = TC_TILE_HELD * MOVERS >> columns_log, total = call->lists.s.total;
  ticket_args<MOST> args;
  tc_deal_together<MOST>(call, sorted, first, &args);
  args.cover = (uint32_t *)call->scratch;
  args.lasting = call->lasting;
  args.columns_log = columns_log;
  for (int32_t i = 0; i < count; i++) {
    const int32_t at = args.arrays.count++;
    args.arrays.array[at] = arrays[i];
    args.arrays.first[at + 1] = args.arrays.first[at] + tc_slices(arrays[i], columns_log);
  }
  args.slices = (int32_t)(args.arrays.first[args.arrays.count] - args.end);
  const int64_t most = (total / tile + SEGMENTS) * args.slices;
  const int64_t running = 4 * (int64_t)call->device->sms;
  const unsigned blocks = (unsigned)(args.blocks + (most < running ? most : running));
  const size_t shared = args.blocks > 0 ? sizeof(space) : sizeof(board);
  return tc_launched(call,
                     tc_launch(compact_tickets<MOST>, blocks, THREADS, shared, &call->chain, args));
}

}  // namespace

bool tc_tickets_serve(const tc_compact_call *call, const tailcut_rows &r) {
  const tc_segments &s = call->lists.s;
  const tc_row_array a = tc_describe_in(s, r);
  return s.segments <= SEGMENTS && a.units >= 1 << TC_TILE_LEAST_LOG &&
         a.dst_rows >= tc_most_candidates(s) &&
         tc_slices(a, TC_TILE_LEAST_LOG) <= most_slices(TC_TILE_LEAST_LOG);
}

/* Bytes for the most slices of tiles, whatever their form. */
size_t tc_compact_tickets_scratch(int64_t rows) {
  const int64_t tiles = rows / LEAST_TILE + (SEGMENTS << (TC_TILE_MOST_LOG - TC_TILE_LEAST_LOG));
  return (size_t)(SLICES * tiles) * sizeof(uint32_t);
}

cudaError_t tc_compact_tickets(tc_compact_call *call, const tailcut_rows *const *sorted,
                               const tc_forms &first) {
  const tailcut_rows *const *rows = sorted + first[TC_TICKETS];
  const int32_t count = first[TC_FORMS] - first[TC_TICKETS];
  tc_row_array batch[TC_ROWS_PER_LAUNCH];
  const tc_forms none = {};
  cudaError_t error = cudaSuccess;
  int log = TC_TILE_MOST_LOG; /* the same for all: more of them in a launch */
  for (int32_t i = 0; i < count; i++) {
    batch[i] = tc_describe_in(call->lists.s, *rows[i]);
    const int own = tc_tile_columns_log(batch[i]);
    if (own < log) log = own;
  }
  for (int32_t from = 0, to = 0; from < count && error == cudaSuccess; from = to) {
    const tc_forms &together = from == 0 ? first : none;
    for (int64_t slices = 0; to < count; to++) {
      slices += tc_slices(batch[to], log);
      if (slices > most_slices(log)) break;
    }
    const int32_t arrays = to - from;
    error = arrays + together[TC_TICKETS] <= TC_FEW_ARRAYS
                ? launch<TC_FEW_ARRAYS>(call, batch + from, arrays, log, sorted, together)
                : launch<TC_ROWS_PER_LAUNCH>(call, batch + from, arrays, log, sorted, together);
  }
  return error;
}

void tc_load_compact_tickets(cudaError_t *error) {
  tc_load(compact_tickets<TC_FEW_ARRAYS>, error, sizeof(space));
  tc_load(compact_tickets<TC_ROWS_PER_LAUNCH>, error, sizeof(space));
}
