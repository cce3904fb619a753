/* SPDX-License-Identifier: Apache-2.0 */
/* tickets: the books of compact's tickets, kept by one warp of a block: what a ticket is about,
 * which rows a tile counts, when it may be written. compact/tickets.cu says why that is safe and
 * ends. */
#ifndef TAILCUT_COMPACT_TICKETS_CUH_
#define TAILCUT_COMPACT_TICKETS_CUH_

#include "common/block.cuh"
#include "common/sync.cuh"
#include "compact/together.cuh"

namespace tc_tickets {

constexpr int MOVERS = TC_COMPACT_THREADS;
constexpr int THREADS = MOVERS + 32;
constexpr int PIECE = 16 * MOVERS; /* entries of a list that a ticket checks */
constexpr int SEGMENTS = 32;
constexpr int LEAST_TILE = 16; /* rows */
constexpr int SLICES = 32;     /* column slices of a launch at tiles of 16 rows, 64 KB in all */
constexpr int SLOTS = 3;       /* tiles ahead: looked up, held, perhaps still being written */
static_assert(PIECE / LEAST_TILE <= MOVERS, "a tile a thread");

/* The arrays of tickets come last; the work of each is its column slices. */
template <int MOST>
struct ticket_args : tc_together<MOST> {
  uint32_t *cover;          /* a word for each tile of each slice */
  tc_cuda_lasting *lasting; /* blocks: checked pieces of a segment's list; moved: it is damaged */
  int32_t columns_log, slices;
};

/* What a ticket is about: a piece of a list to check and its tiles' cover to be zeroed, a tile to
 * move, a segment to sweep. */
enum { PIECE_OF_LIST, TILE, SWEEP, END };

/* A segment of the launch: its tickets of either kind, and how many come before and with it. */
struct share {
  tc_result result;
  int32_t pieces, tiles, pieces_end, tiles_end;
};

struct job {
  int32_t kind, array;
  share of;            /* the segment */
  int64_t offset;      /* bytes from the array's base to the segment's result */
  uint32_t unit;       /* the first of the column slice */
  uint32_t columns;    /* of it, less one: here, since movers have no register for it */
  int32_t first, rows; /* result rows, or entries of the list */
  int32_t tile;        /* its number in the segment */
  uint32_t word;       /* its word of cover; else that of the first tile of the sweep or piece */
  int32_t low, high;   /* rows it counts, as result rows are numbered */
};

/* Segment `lane` of the first 32. Called by a whole warp. */
__device__ inline tc_segment own_segment(const tc_segments &s, int lane) {
  int32_t highest = 0;
  if (s.start == nullptr && s.cu_seqlens != nullptr) {
    highest = s.cu_seqlens[min(lane, s.segments)];
#pragma unroll
    for (int step = 1; step < 32; step <<= 1) {
      highest = max(highest, __shfl_up_sync(TC_FULL, highest, step));
    }
  }
  if (lane >= s.segments) return {0, 0, false};
  if (s.start == nullptr) return tc_segment_judge(s, lane, max(highest, 0));
  return {s.start[lane], s.n[lane], true};
}

__device__ inline void make_plan(const tc_lists &lists, int32_t tile, int lane, share *shares) {
  const tc_segment segment = own_segment(lists.s, lane);
  share p = {};
  /* Whether there is room for every candidate has been seen to: tc_tickets_serve. */
  if (lane < lists.s.segments) p.result = tc_result_of(lists, false, segment.n, lane, segment);
  p.pieces = (p.result.k + PIECE - 1) / PIECE;
  p.tiles = (p.result.k + tile - 1) / tile;
  p.pieces_end = tc_warp_upto(p.pieces);
  p.tiles_end = tc_warp_upto(p.tiles);
  shares[lane] = p;
  __syncwarp();
}

/* Fills in what ticket `ticket` is about, and where a tile's rows come from (source, behind the
 * segment's first row; -1: nothing moves). Called by the whole of the ninth warp. */
template <int MOST>
__device__ void look_up(const ticket_args<MOST> &args, const share *shares, uint32_t ticket,
                        int lane, job *to, int32_t *source) {
  const uint32_t segments = (uint32_t)args.lists.s.segments, slices = (uint32_t)args.slices;
  const uint32_t pieces = (uint32_t)shares[31].pieces_end;
  const uint32_t tiles = (uint32_t)shares[31].tiles_end;
  const int32_t prefix_rows = args.lists.s.prefix_rows;
  const int32_t tile_rows = TC_TILE_HELD * MOVERS >> args.columns_log;
  job j = {};
  uint32_t slice = 0, b, number;
  if (ticket < pieces) {
    j.kind = PIECE_OF_LIST;
    b = __popc(__ballot_sync(TC_FULL, shares[lane].pieces_end <= (int32_t)ticket));
    number = ticket - (uint32_t)(shares[b].pieces_end - shares[b].pieces);
  } else if (ticket - pieces < tiles * slices) {
    j.kind = TILE;
    slice = (ticket - pieces) / tiles;
    number = ticket - pieces - slice * tiles;
    b = __popc(__ballot_sync(TC_FULL, shares[lane].tiles_end <= (int32_t)number));
    number -= (uint32_t)(shares[b].tiles_end - shares[b].tiles);
  } else if (ticket - pieces - tiles * slices < segments * slices) {
    j.kind = SWEEP;
    number = ticket - pieces - tiles * slices;
    slice = number / segments;
    b = number - slice * segments;
    number = 0;
  } else {
    if (lane == 0) to->kind = END;
    return;
  }
  j.of = shares[b];
  j.tile = (int32_t)number;
  const tc_result &r = j.of.result;
  const uint32_t rows = j.kind == PIECE_OF_LIST ? PIECE : (uint32_t)tile_rows;
  j.word = slice * tiles + number * (rows / (uint32_t)tile_rows);
  j.word += (uint32_t)(j.of.tiles_end - j.of.tiles);
  j.array = tc_array_of(args.arrays, args.end + slice);
  const tc_row_array &a = args.arrays.array[j.array];
  j.offset = tc_segment_offset(args.lists, a, r.b, r.start);
  j.unit = (uint32_t)(args.end + slice - args.arrays.first[j.array]) << args.columns_log;
  j.columns = (1u << args.columns_log) - 1;
  j.first = (int32_t)(number * rows);
  j.rows = min((int32_t)rows, r.k - j.first);
  if (j.kind == TILE) {
    j.low = number == 0 ? 0 : r.kept[j.first - 1] + prefix_rows + 1;
    j.high = j.of.tiles * tile_rows;
    if (j.tile < j.of.tiles - 1) {
      j.high = min(r.kept[j.first + tile_rows - 1] + prefix_rows + 1, j.high);
    }
    int32_t i[TC_TILE_ROWS / 32];
    tc_follow_many(r.kept, j.first, j.first + j.rows, r.n, i);
#pragma unroll
    for (int m = 0; m < TC_TILE_ROWS / 32; m++) {
      const int32_t own = m * 32 + lane, from = i[m] + prefix_rows;
      source[own] = i[m] < 0 || from == j.first + own ? -1 : from;
    }
  }
  if (lane == 0) *to = j;
}

__device__ inline void wait_for(const uint32_t *word, uint32_t value) {
  while (tc_load_acquire(word) != value) {
  }
}

/* Called by the whole of the ninth warp when the rows of tile j are on chip (or a segment may have
 * to be swept): counts them and waits until they may be written. false: nothing is written. */
template <int MOST>
__device__ inline bool settle(const ticket_args<MOST> &args, const job &j, uint32_t *sound,
                              int lane) {
  const int32_t tile_rows = TC_TILE_HELD * MOVERS >> args.columns_log;
  uint32_t *const cover = args.cover + j.word;
  if (j.of.result.k == 0) return false;
  const int32_t b = j.of.result.b;
  if ((*sound >> b & 1) == 0) {
    wait_for(&args.lasting->blocks[b], (uint32_t)j.of.pieces);
    if (tc_load_acquire(&args.lasting->moved[b]) == 0) *sound |= 1u << b;
  }
  const bool whole = (*sound >> b & 1) != 0;
  if (j.kind == SWEEP) {
    if (whole) return false;
    if (lane == 0) wait_for(cover, (uint32_t)j.of.tiles);
  } else if (!whole) {
    if (lane == 0) tc_add_release(cover - j.tile, 1); /* dropped */
    return false;
  } else {
    for (int32_t t = j.low / tile_rows + lane; t * tile_rows < j.high; t += 32) {
      const int32_t rows = min(j.high, (t + 1) * tile_rows) - max(j.low, t * tile_rows);
      tc_add_release(cover + (t - j.tile), (uint32_t)rows);
    }
    if (lane == 0) wait_for(cover, (uint32_t)tile_rows);
  }
  __syncwarp();
  return true;
}

}  // namespace tc_tickets

#endif /* TAILCUT_COMPACT_TICKETS_CUH_ */
