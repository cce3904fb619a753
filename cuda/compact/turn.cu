/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact, turn: keys move and turn to their new positions, in any layout, in place or not.
 *
 * Formula: tailcut_rotation; src/turn.h has the arithmetic.
 * Strategy: sines are dear, so a block makes those of a tile of 8 result rows (fewer where rows
 * are long) once and keeps them for all arrays of its group, which are one where there are tiles
 * enough to fill the device. It goes through the group's pieces (up to 2 KB of a row, whole
 * parts): that piece of all rows comes to shared memory, turns there pair by pair and goes out.
 * Rows that neither move nor turn are left alone.
 *
 * In place a tile's stores may hit rows that lower tiles of its segment come from, and no others:
 * as kept[j] >= j, a row is the source of results with no higher number. So before it stores a
 * piece a block waits until every lower tile of the segment has that piece on chip. Blocks take
 * tiles by ticket, in ascending order, and wait for lower tickets only, which running blocks have;
 * the lowest that is not done waits for none, so every wait ends. This asks nothing of the kept
 * list, so lists that are damaged do no other damage than on the CPU.
 * How many pieces a tile has on chip stands in a word of `lasting`: tile number `ticket` has the
 * word ticket mod TC_RING, to which it adds `pieces` in all. Words only grow: at least (ticket /
 * TC_RING) * pieces + p says that the tile has p of them or more. A tile begins to count when the
 * word's last owner is done.
 * Precision: exact. Limits: parts of at most 16 KB.
 */
#include "compact/turn.cuh"

#include "common/delay.cuh"
#include "common/sync.cuh"

using namespace tc_turning;

namespace {

constexpr int ROWS = 8;                         /* of a tile, at most */
constexpr int TURNS = 512;                      /* of a tile: rows times pairs */
constexpr int BYTES = TC_LONGEST_TURNED;        /* of a piece of all rows of a tile */
constexpr int PIECE = 2048;                     /* of a row, where parts are not longer */
constexpr uint32_t TC_RING = TC_CHUNK_SEGMENTS; /* words of lasting->blocks */

template <int MOST>
struct turn_args {
  tc_lists lists;
  tc_tiles tiles;
  tailcut_rotation rotation;
  tc_cuda_lasting *lasting;
  uint32_t tickets, per_group; /* tickets of a group: its tiles */
  int32_t rows;                /* of a tile: a power of two */
  int32_t all_pieces;
  int32_t pieces;         /* of a group; the last group may have fewer */
  tc_arrays<MOST> arrays; /* first: pieces; slices: pieces of a row; slice_units: units of one */
};

/* A tile, as its block sees it. */
struct tile {
  uint32_t ticket, index; /* index: its number in the segment */
  tc_result result;
  int32_t first, rows;
  tc_journey way[ROWS];
  int32_t row[ROWS]; /* the source's number in the segment; -1: there is none */
  uint32_t turning;  /* bit r: row r turns */
};

struct board {
  tile t;
  tc_turn turns[TURNS];
  uint4 bytes[BYTES / 16];
  int64_t src[2][ROWS], dst[2][ROWS]; /* bytes from the array's base; dst -1: nothing moves */
};

__device__ inline uint32_t word_of(uint32_t ticket) { return ticket % TC_RING; }

__device__ inline void wait_for(const tc_cuda_lasting *lasting, uint32_t ticket, uint32_t pieces,
                                uint32_t held) {
  const uint32_t least = ticket / TC_RING * pieces + held;
  while (tc_load_acquire(&lasting->blocks[word_of(ticket)]) < least) {
  }
}

/* Called by the whole of the first warp: what ticket `ticket` is about. */
template <int MOST>
__device__ void look_up(const turn_args<MOST> &args, uint32_t ticket, tile *t) {
  const tc_segments &s = args.lists.s;
  const int lane = (int)(threadIdx.x & 31);
  const uint32_t split = (uint32_t)(TC_BLOCK / args.rows);
  const uint32_t number = ticket % args.per_group, block = number / split;
  int32_t index = 0, b = -1;
  tc_result r = {};
  if (block < tc_tiles_total(args.tiles, s)) b = tc_tile_find(args.tiles, s, block, &index);
  if (b >= 0) r = tc_result_of(args.lists, false, INT64_MAX, b, tc_segment_at(s, b));
  const uint32_t in_segment = (uint32_t)index * split + number % split;
  const int32_t first = (int32_t)in_segment * args.rows;
  const int32_t rows = min(args.rows, r.k - first), j = first + lane;
  int32_t row = -1;
  bool turns = false;
  if (lane < rows) {
    const int32_t i = tc_follow(r.kept, j, r.n);
    if (i >= 0) {
      row = i + s.prefix_rows;
      const tc_journey way = tc_journey_of(&args.rotation, b, (int64_t)r.start + row, row, j);
      turns = tc_journey_turns(&args.rotation, way);
      t->way[lane] = way;
    }
    t->row[lane] = row;
  }
  const uint32_t turning = __ballot_sync(TC_FULL, turns);
  if (lane != 0) return;
  t->ticket = ticket;
  t->index = in_segment;
  t->result = r;
  t->first = first;
  t->rows = rows;
  t->turning = turning;
}

/* Where row `r` of the tile is in an array. */
template <int MOST>
__device__ inline void locate(const turn_args<MOST> &args, const tc_row_array &a, const tile &t,
                              int r, int64_t *src, int64_t *dst) {
  const bool ragged = args.lists.s.cu_seqlens != nullptr;
  const tc_result &of = t.result;
  const int32_t j = t.first + r, row = t.row[r];
  const int32_t offset = a.packed ? args.lists.new_cu[of.b] : 0;
  *src = *dst = -1;
  if (row < 0 || offset < 0 || (int64_t)offset + of.k > a.dst_rows) return;
  const int64_t from = tc_row_offset(a, a.src_slots, a.src_row_stride, a.src_segment_stride, ragged,
                                     (int64_t)of.start + row, of.b, row);
  const int64_t to =
      tc_row_offset(a, a.dst_slots, a.dst_row_stride, a.dst_segment_stride, ragged || a.packed,
                    (int64_t)(a.packed ? offset : of.start) + j, of.b, j);
  if (from < 0 || to < 0 || (a.src == a.dst && from == to && (t.turning >> r & 1) == 0)) return;
  *src = from;
  *dst = to;
}

/* One piece of the tile: by the whole block. `held`: pieces of the group before this one. */
template <int MOST>
__device__ inline void take_piece(const turn_args<MOST> &args, int32_t piece, uint32_t held,
                                  board &s) {
  const int index = tc_array_of(args.arrays, piece);
  const tc_row_array &a = args.arrays.array[index];
  const tile &t = s.t;
  const int32_t parts_most = a.slice_units / a.part_units;
  const int32_t slice = piece - (int32_t)args.arrays.first[index];
  const int64_t first_part = (int64_t)slice * parts_most;
  const int32_t units =
      (int32_t)min((int64_t)a.slice_units, a.units - (int64_t)slice * a.slice_units);
  const int32_t pitch = (a.slice_units * a.width + 15) & ~15, part_bytes = a.part_units * a.width;
  int64_t *const src = s.src[held & 1], *const dst = s.dst[held & 1];
  char *const bytes = (char *)s.bytes;
  if ((int)threadIdx.x < t.rows) {
    locate(args, a, t, (int)threadIdx.x, &src[threadIdx.x], &dst[threadIdx.x]);
  }
  __syncthreads(); /* and what the piece before has in shared memory is stored */
  tc_delay(0);
  move_piece<true>(a, t.rows, units, first_part, pitch, src, dst, bytes);
  tc_delay(1);
  __syncthreads();
  if (threadIdx.x == 0) tc_add_release(&args.lasting->blocks[word_of(t.ticket)], 1);
  const int32_t parts = units / a.part_units;
  switch (args.rotation.dtype) {
    case TAILCUT_F16:
      turn_piece<TAILCUT_F16>(args.rotation, args.rows, t.turning, parts, part_bytes, pitch,
                              s.turns, bytes);
      break;
    case TAILCUT_BF16:
      turn_piece<TAILCUT_BF16>(args.rotation, args.rows, t.turning, parts, part_bytes, pitch,
                               s.turns, bytes);
      break;
    default:
      turn_piece<TAILCUT_F32>(args.rotation, args.rows, t.turning, parts, part_bytes, pitch,
                              s.turns, bytes);
      break;
  }
  if (a.in_place && threadIdx.x < 32) {
    const uint32_t lower = min(t.index, TC_RING - 1);
#pragma unroll 1
    for (uint32_t back = 1 + threadIdx.x; back <= lower; back += 32) {
      wait_for(args.lasting, t.ticket - back, (uint32_t)args.pieces, held + 1);
    }
  }
  tc_delay(2);
  __syncthreads();
  move_piece<false>(a, t.rows, units, first_part, pitch, dst, dst, bytes);
}

template <int MOST>
__global__ void __launch_bounds__(THREADS, 3)
    compact_turn(const __grid_constant__ turn_args<MOST> args) {
  __shared__ board s;
  __shared__ uint32_t taken;
  tc_cuda_lasting *const lasting = args.lasting;
  tc_wait_previous();
  for (;;) {
    if (threadIdx.x == 0) taken = atomicAdd(&lasting->ticket, 1u);
    __syncthreads(); /* and nobody looks at the tile before any more */
    const uint32_t ticket = taken;
    if (ticket >= args.tickets) break;
    if (threadIdx.x < 32) look_up(args, ticket, &s.t);
    if (threadIdx.x == 32 && ticket >= TC_RING) { /* the word's last owner */
      wait_for(lasting, ticket - TC_RING, (uint32_t)args.pieces, (uint32_t)args.pieces);
    }
    __syncthreads();
    const tile &t = s.t;
    const int32_t piece0 = (int32_t)(ticket / args.per_group) * args.pieces;
    const int32_t own = t.rows > 0 ? min(args.pieces, args.all_pieces - piece0) : 0;
    const int32_t half = args.rotation.rotary_dim / 2;
    for (int32_t n = (int32_t)threadIdx.x; n < t.rows * half && own > 0; n += THREADS) {
      const int32_t r = n / half;
      if (t.turning >> r & 1) s.turns[n] = tc_turn_of(&args.rotation, t.way[r], n - r * half);
    }
#pragma unroll 1
    for (int32_t p = 0; p < own; p++) take_piece(args, piece0 + p, (uint32_t)p, s);
    if (threadIdx.x == 0 && own < args.pieces) {
      tc_add_release(&lasting->blocks[word_of(ticket)], (uint32_t)(args.pieces - own));
    }
  }
  /* Whoever is last comes behind all others' looks at the words. */
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    taken = atomicAdd(&lasting->left, 1u);
  }
  __syncthreads();
  if (taken != gridDim.x - 1) return;
  __threadfence();
  for (uint32_t i = threadIdx.x; i < TC_RING; i += THREADS) lasting->blocks[i] = 0;
  if (threadIdx.x == 0) lasting->ticket = lasting->left = 0;
}

/* -------------------------------------------------------------------------------------- host -- */

int64_t padded(const tailcut_rows &r) { return (r.part_bytes + 15) & ~(int64_t)15; }

template <int MOST>
cudaError_t launch(tc_compact_call *call, const tailcut_rows *const *rows, int32_t count) {
  const tc_segments &s = call->lists.s;
  const int64_t running = 4 * (int64_t)call->device->sms;
  turn_args<MOST> args;
  args.lists = call->lists;
  args.tiles = tc_tiles_of(s, 0, s.segments);
  args.rotation = tc_rotation_of(rows[0]);
  args.lasting = call->lasting;
  args.arrays.count = count;
  args.rows = ROWS;
  while (args.rows * args.rotation.rotary_dim / 2 > TURNS) args.rows /= 2;
  for (int32_t i = 0; i < count; i++) {
    while (args.rows * padded(*rows[i]) > BYTES) args.rows /= 2;
  }
  const int64_t tiles = args.tiles.bound * (TC_BLOCK / args.rows);
  /* Shorter pieces where there are too few of them. */
  for (int64_t most = PIECE; most >= 256; most /= 2) {
    args.arrays.first[0] = 0;
    for (int32_t i = 0; i < count; i++) {
      tc_row_array *a = &args.arrays.array[i];
      *a = tc_describe_in(s, *rows[i]);
      const int64_t parts = most / padded(*rows[i]);
      tc_slice(a, (int)((parts > 1 ? parts : 1) * rows[i]->part_bytes), THREADS / 2);
      args.arrays.first[i + 1] = args.arrays.first[i] + a->slices;
    }
    args.all_pieces = (int32_t)args.arrays.first[count];
    if (tiles * args.all_pieces >= running) break;
  }
  int64_t groups = (running + tiles - 1) / tiles;
  if (groups > args.all_pieces) groups = args.all_pieces;
  args.pieces = (int32_t)((args.all_pieces + groups - 1) / groups);
  groups = (args.all_pieces + args.pieces - 1) / args.pieces;
  if (tiles * groups > UINT32_MAX / 2) return cudaErrorInvalidConfiguration; /* 2^25 segments */
  args.per_group = (uint32_t)tiles;
  args.tickets = (uint32_t)(tiles * groups);
  const unsigned blocks = (unsigned)(args.tickets < running ? args.tickets : running);
  return tc_launched(call, tc_launch(compact_turn<MOST>, blocks, THREADS, 0, &call->chain, args));
}

bool alike(const tailcut_rotation &a, const tailcut_rotation &b) {
  return a.dtype == b.dtype && a.pairing == b.pairing && a.rotary_dim == b.rotary_dim &&
         a.rotary_offset == b.rotary_offset && a.position_bytes == b.position_bytes &&
         a.positions == b.positions && a.new_base == b.new_base && a.inv_freq == b.inv_freq &&
         a.cos_sin == b.cos_sin && a.table_rows == b.table_rows;
}

}  // namespace

/* One launch for each rotation: models have one, or two. */
cudaError_t tc_compact_turn(tc_compact_call *call, const tailcut_rows *rows, int32_t count) {
  cudaError_t error = cudaSuccess;
  for (int32_t first = 0; first < count && error == cudaSuccess; first++) {
    const tailcut_rotation rotation = tc_rotation_of(&rows[first]);
    const tailcut_rows *chosen[TC_ROWS_PER_LAUNCH];
    int32_t held = 0, i = 0;
    while (!alike(rotation, tc_rotation_of(&rows[i]))) i++;
    if (i < first) continue; /* gone with that one */
    for (; i < count; i++) {
      if (alike(rotation, tc_rotation_of(&rows[i]))) chosen[held++] = &rows[i];
    }
    error = held <= TC_FEW_ARRAYS ? launch<TC_FEW_ARRAYS>(call, chosen, held)
                                  : launch<TC_ROWS_PER_LAUNCH>(call, chosen, held);
  }
  return error;
}

void tc_load_compact_turn(cudaError_t *error) {
  tc_load(compact_turn<TC_FEW_ARRAYS>, error);
  tc_load(compact_turn<TC_ROWS_PER_LAUNCH>, error);
}
