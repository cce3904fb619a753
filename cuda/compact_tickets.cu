/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact, tickets: few long segments in place, by as many blocks as the device runs.
 *
 * Strategy: blocks take tickets, in order: first pieces of the kept lists to be checked, then tiles of
 * 16 result rows and 2 KB of their columns (narrower rows: more of them). Eight warps hold a tile in
 * registers, a ninth keeps the books: it takes the ticket and looks up the sources of the tile behind
 * the one that is being moved. A tile may be written when all rows in it are on chip or nobody's source.
 * cover[t] counts those of tile t's rows: a loaded tile adds the rows from behind the last source of
 * the tile before it up to its own last (the last tile of a segment: up to the end) to the tiles these
 * lie in, and whoever writes tile t waits until cover[t] is whole and zeroes it.
 *
 * Waiting ends: as kept[j] >= j, only tiles up to t have rows of tile t to count. A block waits only
 * when its tile is loaded and counted, and only for lower tickets; the block with the lowest ticket
 * that is not yet written waits for none that is not counted (a ticket taken ahead is higher than the
 * one it waits with). A piece of a list waits for nothing.
 * On chip means that a load's value has been used: slab.cuh. The count is released behind the block's
 * barrier and acquired before the barrier that the stores are behind, so reads come before writes.
 * Lists from outside may be damaged, and then the intervals mean nothing: no tile is counted or written
 * before all pieces of its segment's list are checked, which the first blocks do while others load.
 * A damaged segment is moved by the last tickets, one for each of its column slices, in ascending order
 * as slabs are, when all its tiles have been dropped.
 *
 * State: ticket and left in `lasting`, zeroed by the last block to leave; checks and cover in scratch,
 * which a kernel of its own makes zero at the start of a call. Precision: bytes are copied.
 * Limits: up to 32 segments, rows of 16-byte units at aligned places, 512 bytes at least, no slots, no
 * zeroed tails.
 *
 * Ladder (H100, the prototype's figures: bandwidth/compact.cuh, treg<16,4>; this code: not measured):
 * one segment of 64K rows of 2 KB, 26% kept, 32 us; 60% 64.
 */
#include "common/delay.cuh"
#include "compact.cuh"

namespace {

constexpr int MOVERS = 256;
constexpr int THREADS = MOVERS + 32;
constexpr int HELD = 8;      /* rows of which a thread holds a unit */
constexpr int MOST_LOG = 7;  /* columns of a tile: 2 KB */
constexpr int LEAST_LOG = 5; /* 512 bytes */
constexpr int MOST_ROWS = HELD * MOVERS >> LEAST_LOG;
constexpr int PIECE = 16 * MOVERS; /* entries of a list that a ticket checks */
constexpr int SEGMENTS = 32;
constexpr int LEAST_TILE = 16; /* rows */
constexpr int SLICES = 32;     /* column slices of a launch at tiles of 16 rows */
constexpr int SLOTS = 3; /* tiles ahead: looked up, held, perhaps still being written */

/* Scratch: the checks, then cover, a word for each tile of each slice. */
struct checks {
  uint32_t done[SEGMENTS]; /* pieces of the list that have been checked */
  uint32_t damaged[SEGMENTS];
};

template <int MOST>
struct ticket_args {
  tc_lists lists;
  checks *check;
  uint32_t *cover;
  tc_cuda_lasting *lasting;
  int32_t columns_log, slices;
  tc_arrays<MOST> arrays; /* first: column slices before each */
};

/* What a ticket is about: a piece of a list to check, a tile to move, a damaged segment to sweep. */
enum { PIECE_OF_LIST, TILE, SWEEP, END };

struct job {
  int32_t kind, array, b, n, k;
  const int32_t *kept;
  int64_t offset;        /* bytes from the array's base to the segment's result */
  uint32_t unit;         /* the first of the column slice */
  int32_t first, rows;   /* result rows, or entries of the list */
  int32_t tiles, pieces; /* of the segment */
  int32_t tile;          /* its number in the segment */
  uint32_t word;         /* its word of cover; a sweep's: that of tile 0 */
  int32_t low, high;     /* rows it counts, as result rows are numbered */
};

/* A segment of the launch: its tickets of either kind, and how many come before and with it. */
struct share {
  tc_result result;
  int32_t pieces, tiles, pieces_end, tiles_end;
};

__device__ inline int32_t sum_up_to(int32_t v, int lane) {
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    const int32_t other = __shfl_up_sync(TC_FULL, v, step);
    if (lane >= step) v += other;
  }
  return v;
}

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
  if (lane >= lists.s.segments ||
      !tc_take_result(lists, false, segment.n, lane, segment, &p.result)) {
    p.result.k = 0;
  }
  p.pieces = (p.result.k + PIECE - 1) / PIECE;
  p.tiles = (p.result.k + tile - 1) / tile;
  p.pieces_end = sum_up_to(p.pieces, lane);
  p.tiles_end = sum_up_to(p.tiles, lane);
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
  const int32_t tile_rows = HELD * MOVERS >> args.columns_log;
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
  const share &of = shares[b];
  j.b = (int32_t)b;
  j.tile = (int32_t)number;
  j.n = of.result.n;
  j.k = of.result.k;
  j.pieces = of.pieces;
  j.tiles = of.tiles;
  j.kept = of.result.kept;
  j.word = slice * tiles + number + (uint32_t)(of.tiles_end - of.tiles);
  j.array = tc_array_of(args.arrays, (int32_t)slice);
  const tc_unit_rows &a = args.arrays.array[j.array];
  j.offset = tc_segment_offset(args.lists, a, of.result);
  j.unit = (slice - (uint32_t)args.arrays.first[j.array]) << args.columns_log;
  const int32_t rows = j.kind == PIECE_OF_LIST ? PIECE : tile_rows;
  j.first = (int32_t)number * rows;
  j.rows = min(rows, j.k - j.first);
  if (j.kind == TILE) {
    j.low = number == 0 ? 0 : j.kept[j.first - 1] + prefix_rows + 1;
    j.high = j.tiles * rows;
    if (j.tile < j.tiles - 1) j.high = min(j.kept[j.first + rows - 1] + prefix_rows + 1, j.high);
    tc_entry e[MOST_ROWS / 32];
#pragma unroll
    for (int m = 0; m < MOST_ROWS / 32; m++) {
      e[m] = tc_load_entry(j.kept, j.first + m * 32 + lane, j.first + j.rows);
    }
#pragma unroll
    for (int m = 0; m < MOST_ROWS / 32; m++) {
      const int32_t to = j.first + m * 32 + lane, i = tc_judge_entry(e[m], to, j.n);
      source[m * 32 + lane] = i < 0 || i + prefix_rows == to ? -1 : i + prefix_rows;
    }
  }
  if (lane == 0) *to = j;
}

__device__ inline void add_released(uint32_t *word, uint32_t value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}

__device__ inline uint32_t load_acquired(const uint32_t *word) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
}

/* A piece's entries that cannot be followed: whether this thread has met one. */
__device__ inline bool check_piece(const job &j) {
  bool damaged = false;
#pragma unroll 4
  for (int32_t r = (int32_t)threadIdx.x; r < j.rows; r += MOVERS) {
    damaged |= tc_follow(j.kept, j.first + r, j.n) < 0;
  }
  return damaged;
}

__device__ inline void wait_for(const uint32_t *word, uint32_t value) {
  while (load_acquired(word) != value) {
  }
}

/* Called by the whole of the ninth warp when the rows of tile j are on chip (or a segment may have to
 * be swept): counts them and waits until they may be written. false: there is nothing to write. */
template <int MOST>
__device__ inline bool settle(const ticket_args<MOST> &args, const job &j, uint32_t *sound,
                              int lane) {
  const int32_t tile_rows = HELD * MOVERS >> args.columns_log;
  uint32_t *const cover = args.cover + j.word;
  if (j.k == 0) return false;
  if ((*sound >> j.b & 1) == 0) {
    wait_for(&args.check->done[j.b], (uint32_t)j.pieces);
    if (load_acquired(&args.check->damaged[j.b]) == 0) *sound |= 1u << j.b;
  }
  const bool whole = (*sound >> j.b & 1) != 0;
  if (j.kind == SWEEP) {
    if (whole) return false;
    if (lane == 0) {
      wait_for(cover, (uint32_t)j.tiles);
      *cover = 0;
    }
  } else if (!whole) {
    if (lane == 0) add_released(cover - j.tile, 1); /* dropped */
    return false;
  } else {
    for (int32_t t = j.low / tile_rows + lane; t * tile_rows < j.high; t += 32) {
      const int32_t rows = min(j.high, (t + 1) * tile_rows) - max(j.low, t * tile_rows);
      add_released(cover + (t - j.tile), (uint32_t)rows);
    }
    if (lane == 0) {
      wait_for(cover, (uint32_t)tile_rows);
      *cover = 0;
    }
  }
  __syncwarp();
  return true;
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
  int32_t sources[SLOTS][MOST_ROWS];
  share shares[SEGMENTS];
  bool writes; /* the tile that is held, or the segment that is to be swept */
};

__device__ inline int after(int slot) { return slot == SLOTS - 1 ? 0 : slot + 1; }

/* The ninth warp: it is one job ahead. */
template <int MOST>
__device__ inline void keep_books(const ticket_args<MOST> &args, board &s) {
  const int lane = (int)(threadIdx.x & 31);
  uint32_t sound = 0; /* segments whose lists are known to be whole */
  uint32_t ticket = lane == 0 ? atomicAdd(&args.lasting->ticket, 1u) : 0;
  make_plan(args.lists, HELD * MOVERS >> args.columns_log, lane, s.shares);
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
      if (lane == 0 && damaged) atomicOr(&args.check->damaged[j.b], 1u);
      if (lane == 0) add_released(&args.check->done[j.b], 1);
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
  if (left != gridDim.x - 1) return;
  __threadfence();
  args.check->done[lane] = args.check->damaged[lane] = 0;
  if (lane == 0) args.lasting->ticket = args.lasting->left = 0;
}

/* One row per thread at a time: lists are seldom damaged. */
__device__ inline void sweep(char *at, int64_t row_stride, bool live, int32_t line, int32_t lines,
                             int32_t prefix_rows, const job &j) {
#pragma unroll 1
  for (int32_t base = 0; base < j.k; base += lines) {
    const int32_t to = base + line, i = live && to < j.k ? tc_follow(j.kept, to, j.n) : -1;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (i >= 0) v = *(const uint4 *)(at + (i + prefix_rows) * row_stride);
    if (meet_or<2, MOVERS>(v.x == 0x9E3779B9u && j.k < 0)) return;
    if (i >= 0) *(uint4 *)(at + to * row_stride) = v;
  }
}

/* The other eight. */
template <int MOST>
__device__ inline void move_tiles(const ticket_args<MOST> &args, board &s) {
  const int32_t lines = MOVERS >> args.columns_log;
  const int32_t line = (int32_t)threadIdx.x >> args.columns_log;
  const uint32_t column = threadIdx.x & ((1u << args.columns_log) - 1);
  meet();
#pragma unroll 1
  for (int slot = 0; s.jobs[slot].kind != END; slot = after(slot)) {
    const job &j = s.jobs[slot];
    if (j.kind == PIECE_OF_LIST) {
      meet_or<1, THREADS>(check_piece(j));
      meet();
      continue;
    }
    const tc_unit_rows &a = args.arrays.array[j.array];
    const uint32_t unit = j.unit + column;
    const bool live = unit < (uint32_t)a.units;
    const int64_t stride = a.src_row;
    char *const at = a.dst + (j.offset + tc_unit_offset(a, a.src_part, unit));
    const int32_t *const source = s.sources[slot] + line;
    if (j.kind == SWEEP) {
      meet_or<1, THREADS>(false);
      meet();
      if (s.writes) sweep(at, stride, live, line, lines, args.lists.s.prefix_rows, j);
      continue;
    }
    uint4 v[HELD];
    uint32_t eaten = 0;
#pragma unroll
    for (int m = 0; m < HELD; m++) {
      const int32_t from = live ? source[m * lines] : -1;
      v[m] = make_uint4(0, 0, 0, 0);
      if (from >= 0) v[m] = *(const uint4 *)(at + from * stride);
    }
    tc_delay(0);
#pragma unroll
    for (int m = 0; m < HELD; m++) eaten ^= v[m].x;
    meet_or<1, THREADS>(eaten == 0x9E3779B9u && j.k < 0); /* every load has arrived */
    tc_delay(1);
    meet();
    if (!live || !s.writes) continue;
    char *const to = at + (j.first + line) * stride;
#pragma unroll
    for (int m = 0; m < HELD; m++) {
      if (source[m * lines] >= 0) *(uint4 *)(to + m * lines * stride) = v[m];
    }
  }
}

template <int MOST>
__global__ void __launch_bounds__(THREADS, 4)
    compact_tickets(const __grid_constant__ ticket_args<MOST> args) {
  __shared__ board s;
  tc_wait_previous();
  if (threadIdx.x >= MOVERS) {
    keep_books(args, s);
  } else {
    move_tiles(args, s);
  }
}

/* Nothing else in a call touches these words, so they need not wait. */
__global__ void __launch_bounds__(256) compact_clear(uint32_t *words, int64_t count) {
  tc_let_next_start();
  for (int64_t i = blockIdx.x * 256 + threadIdx.x; i < count; i += gridDim.x * 256) words[i] = 0;
  tc_wait_previous();
}

/* ----------------------------------------------------------------------------------------- host -- */

int64_t tiles_bound(int64_t rows, int64_t tile) { return rows / tile + SEGMENTS; }

int columns_log_of(const tc_unit_rows &a) { /* as wide as leaves no columns idle */
  int log = MOST_LOG;
  while (log > LEAST_LOG && a.units & ((1 << log) - 1)) log--;
  return log;
}

template <int MOST>
cudaError_t launch(tc_compact_call *call, const tc_unit_rows *rows, int32_t count,
                   int columns_log) {
  const int64_t tile = HELD * MOVERS >> columns_log, total = call->lists.s.total;
  ticket_args<MOST> args;
  args.lists = call->lists;
  args.check = (checks *)call->scratch;
  args.cover = (uint32_t *)(args.check + 1);
  args.lasting = call->lasting;
  args.columns_log = columns_log;
  args.arrays.count = count;
  args.arrays.first[0] = 0;
  for (int32_t i = 0; i < count; i++) {
    args.arrays.array[i] = rows[i];
    args.arrays.first[i + 1] = args.arrays.first[i] + ((rows[i].units - 1) >> columns_log) + 1;
  }
  args.slices = args.arrays.first[count];
  const int64_t most = tiles_bound(total, tile) * args.slices;
  const int64_t running = 4 * (int64_t)call->device->sms;
  return tc_launched(call, tc_launch(compact_tickets<MOST>,
                                     (unsigned)(most < running ? most : running), THREADS, 0,
                                     &call->chain, args));
}

cudaError_t clear(tc_compact_call *call, int64_t words) {
  const int64_t blocks = (words + 1023) / 1024, most = call->device->sms;
  call->cleared = true;
  return tc_launched(call, tc_launch(compact_clear, (unsigned)(blocks < most ? blocks : most), 256,
                                     0, &call->chain, (uint32_t *)call->scratch, words));
}

}  // namespace

bool tc_tickets_serve(const tc_compact_call *call, const tailcut_rows &r) {
  const tc_unit_rows a = tc_describe_units(r);
  const tc_segments &s = call->lists.s;
  return s.segments <= SEGMENTS && a.units >= 1 << LEAST_LOG &&
         a.dst_rows >= tc_most_candidates(s) && (a.units - 1) >> LEAST_LOG < SLICES;
}

/* Bytes for SLICES slices of tiles of 16 rows: larger tiles have fewer words each. */
size_t tc_compact_tickets_scratch(int64_t rows) {
  return sizeof(checks) + (size_t)(SLICES * tiles_bound(rows, LEAST_TILE)) * sizeof(uint32_t);
}

cudaError_t tc_compact_tickets(tc_compact_call *call, const tailcut_rows *const *rows,
                               int32_t count) {
  const int64_t total = call->lists.s.total;
  tc_unit_rows batch[TC_ROWS_PER_LAUNCH];
  if (!call->cleared) {
    int64_t slices = call->more_arrays ? SLICES : 0;
    for (int32_t i = 0; i < count && slices < SLICES; i++) {
      const tc_unit_rows a = tc_describe_units(*rows[i]);
      slices += ((a.units - 1) >> columns_log_of(a)) + 1;
    }
    if (slices > SLICES) slices = SLICES;
    const int64_t words = slices * tiles_bound(total, LEAST_TILE);
    const cudaError_t error = clear(call, words + (int64_t)(sizeof(checks) / sizeof(uint32_t)));
    if (error != cudaSuccess) return error;
  }
  for (int log = LEAST_LOG; log <= MOST_LOG; log++) {
    int32_t held = 0, slices = 0;
    for (int32_t i = 0; i <= count; i++) {
      tc_unit_rows a = {};
      if (i < count) a = tc_describe_units(*rows[i]);
      if (i < count && columns_log_of(a) != log) continue;
      const int32_t more = i < count ? ((a.units - 1) >> log) + 1 : 0;
      if (held > 0 && (i == count || slices + more > SLICES)) {
        const cudaError_t error = held <= TC_FEW_ARRAYS
                                      ? launch<TC_FEW_ARRAYS>(call, batch, held, log)
                                      : launch<TC_ROWS_PER_LAUNCH>(call, batch, held, log);
        if (error != cudaSuccess) return error;
        held = slices = 0;
      }
      if (i == count) break;
      batch[held++] = a;
      slices += more;
    }
  }
  return cudaSuccess;
}

cudaError_t tc_load_compact_tickets() {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, compact_clear);
  if (error != cudaSuccess) return error;
  error = cudaFuncGetAttributes(&attributes, compact_tickets<TC_FEW_ARRAYS>);
  if (error != cudaSuccess) return error;
  return cudaFuncGetAttributes(&attributes, compact_tickets<TC_ROWS_PER_LAUNCH>);
}
