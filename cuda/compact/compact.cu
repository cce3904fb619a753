/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact: moves the kept rows of any number of row arrays.
 *
 * Formula: result row j = source row kept[j] + prefix_rows. Which array takes which form follows
 * from host bounds alone. All but arrays that turn go in one launch (compact/together.cuh):
 *   slabs    in place, segments that one block per column slice sees to the end  slab.cuh
 *   tiles    LOCAL or PACKED into other memory, rows of 512 bytes or more        together.cuh
 *   rest     slots, pages, unaligned or narrow rows, zeroed tails, positions,    rest.cuh
 *            the kept list itself
 *   tickets  in place, few segments of more than 8,192 candidates                tickets.cu
 *   staged   slabs of few images behind a cut, rows fetched while it runs        here
 *   turn     keys that turn to new positions, of any layout, in their own launch turn.cu
 * Parts ([B, H, T, d]), strides (K beside V), prefix rows and ragged batches are no reason for the
 * rest: a unit's place in its row is worked out once per thread, a row's by one multiplication.
 *
 * In place is safe, with no copy and no spare memory: entry j of a kept list is only followed when
 * kept[j] >= j, so a row that result row j comes from never has a number below j (behind prefix
 * rows it is higher still). A block takes result rows in ascending groups. Inside a group every
 * source is in registers before the barrier, and every store is behind it. Across groups: the
 * sources of a later group have numbers at least as high as its result rows, hence above all result
 * rows of earlier groups, so what has been overwritten is never asked for again, and the next group
 * may be loaded while others still store this one. Blocks own different bytes of the rows: no block
 * reads what another writes, but for tickets, which say how they see to it. Nothing here asks kept
 * to be increasing beyond its neighbour, so a damaged list does the same damage as on the CPU. Slot
 * tables only rename rows, one to one. Loads of rows are plain ones: the compiler must not take
 * rows for constant.
 * Slabs are 256 bytes wide, narrower where they do not fill the device; segments go from last to
 * first, because the rows that were scored last are still in L2.
 * Precision: bytes are copied. Limits: 128 arrays a launch. Measured: bench/NOTES.md, "compact".
 */
#include "common/tensor.cuh"
#include "compact/together.cuh"

namespace {

template <int MOST>
__global__ void __launch_bounds__(TC_COMPACT_THREADS, 4)
    compact_rows(const __grid_constant__ tc_together<MOST> args) {
  __shared__ tc_together_space space;
  tc_move_together(args, space);
}

/* ------------------------------------------------------------------------------------ staged -- */

/* A block has a column slice of 32 bytes, all rows of which it has brought to shared memory when
 * the cut is done. Reading rows before tc_wait_previous is allowed: in a call only compaction
 * writes rows, and no two of its arrays share any. The cut leaves a tc_mark for every 32 candidates
 * (which of them stay, how many before them do), so a block reads 8 bytes a word and not the whole
 * list. A warp has neighbouring candidates, hence few words. Limits: those of slabs; up to 3,072
 * candidates; a list that the call's own cut made. */
constexpr int WARPS = TC_COMPACT_THREADS / 32;
constexpr int COLUMNS_LOG = 1, COLUMNS = 1 << COLUMNS_LOG, LINES = 32 / COLUMNS; /* of a warp */
constexpr int MOST_SHARED = 96 << 10;
constexpr int MOST_ROWS = MOST_SHARED / (16 * COLUMNS);
static_assert(MOST_ROWS <= 32 * 32 * WARPS, "a warp's words are its lanes'");

struct staged_args {
  tc_lists lists;
  tc_arrays<TC_FEW_ARRAYS> arrays;
};

__global__ void __launch_bounds__(TC_COMPACT_THREADS)
    compact_staged(const __grid_constant__ staged_args args) {
  extern __shared__ uint4 staged[]; /* the segment's candidates, the slice's units of each */
  tc_let_next_start();
  const int index = tc_array_of(args.arrays, blockIdx.x);
  const tc_row_array &a = args.arrays.array[index];
  const tc_slice_work w = tc_slice_of(a, blockIdx.x - (uint32_t)args.arrays.first[index]);
  const tc_segment segment = tc_segment_at(args.lists.s, w.b); /* not resolved: inputs only */
  const int32_t prefix_rows = args.lists.s.prefix_rows, lane = (int32_t)(threadIdx.x & 31);
  char *const at = a.dst + (tc_segment_offset(args.lists, a, w.b, segment.start) + w.offset);
  const char *from = at + (int64_t)(prefix_rows + w.line) * a.src_row_stride;
  if (w.live) {
#pragma unroll 4
    for (int32_t i = w.line; i < segment.n; i += w.lines, from += w.lines * a.src_row_stride) {
      tc_copy_16(tc_shared_address(&staged[i * COLUMNS + w.column]), from);
    }
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncthreads(); /* nothing is stored before all of it is here */
  tc_wait_previous();
  /* The warp's candidates: `turns` times LINES. Behind the last one nothing stays. */
  const int32_t turns = (segment.n + WARPS * LINES - 1) / (WARPS * LINES);
  const int32_t first = (int32_t)(threadIdx.x / 32) * turns * LINES, word = first / 32 + lane;
  const int32_t end = min(first + turns * LINES, segment.n);
  uint2 own = {0, 0}; /* a tc_mark, in one access */
  if (word * 32 < end) {
    own = *(const uint2 *)(args.lists.marks + tc_mark_of(segment.start, w.b) + word);
  }
  if (args.lists.counts[w.b] > a.dst_rows) return;
  const uint4 *staged_row = staged + w.column + (first + lane / COLUMNS) * COLUMNS;
  int32_t i = first + lane / COLUMNS;
#pragma unroll 4
  for (int32_t m = 0; m < turns; m++, i += LINES, staged_row += LINES * COLUMNS) {
    const int32_t holder = (i >> 5) - (first >> 5);
    const uint32_t stay = __shfl_sync(TC_FULL, own.x, holder), bit = 1u << (i & 31);
    const int32_t to = (int32_t)__shfl_sync(TC_FULL, own.y, holder) + __popc(stay & (bit - 1));
    if ((stay & bit) == 0 || i + prefix_rows == to || !w.live) continue;
    *(uint4 *)(at + to * a.src_row_stride) = *staged_row;
  }
}

/* -------------------------------------------------------------------------------------- host -- */

constexpr int64_t MOST_WORK = 1 << 23; /* blocks of an array, so that those of a launch are int32 */
constexpr int32_t LONG = 8192;         /* candidates: slabs do up to here even alone [estimate] */

/* Without regard to how much there is to do: TC_SLABS for everything in place. */
int form_of(const tc_segments &s, const tailcut_rows &r) {
  const int64_t units = r.part_bytes / 16 * r.parts, segments = s.segments;
  if (r.flags != 0 || r.rotation != nullptr || r.src_slots != nullptr || r.dst_slots != nullptr ||
      units > MOST_WORK || tc_unit_width(r, s.cu_seqlens == nullptr) < 16) {
    return TC_REST;
  }
  if (r.placement == TAILCUT_LOCAL && r.src == r.dst) {
    return (units + 1) / 2 * segments > MOST_WORK ? TC_REST : TC_SLABS;
  }
  const int64_t tiles = (s.total / 16 + segments * 4) * ((units - 1) / 32 + 1);
  return units < 32 || tiles > MOST_WORK ? TC_REST : TC_TILES;
}

/* Too few slabs to fill the device, each too long. */
bool needs_tickets(const tc_compact_call &call, const tailcut_rows *rows, int32_t count) {
  const tc_segments &s = call.lists.s;
  int64_t slabs = 0;
  if (tc_most_candidates(s) <= LONG) return false;
  for (int32_t i = 0; i < count; i++) {
    if (form_of(s, rows[i]) != TC_SLABS) continue;
    slabs += (rows[i].part_bytes / 16 * rows[i].parts / 16 + 1) * s.segments;
  }
  return slabs < 2 * call.device->sms;
}

cudaError_t launch_staged(tc_compact_call *call, const tailcut_rows *rows, int32_t count) {
  staged_args args;
  args.lists = call->lists;
  args.arrays.count = count;
  args.arrays.first[0] = 0;
  for (int32_t i = 0; i < count; i++) {
    tc_row_array *a = &args.arrays.array[i];
    *a = tc_describe_in(args.lists.s, rows[i]);
    args.arrays.first[i + 1] =
        args.arrays.first[i] + tc_slice_rows(a, COLUMNS_LOG, args.lists.s.segments);
  }
  return tc_launch(compact_staged, (unsigned)args.arrays.first[count], TC_COMPACT_THREADS,
                   (size_t)tc_most_candidates(args.lists.s) * 16 * COLUMNS, &call->chain, args);
}

template <int MOST>
cudaError_t launch(tc_compact_call *call, const tailcut_rows *const *rows, const tc_forms &first) {
  tc_together<MOST> args;
  tc_deal_together(call, rows, first, &args);
  return tc_launch(compact_rows<MOST>, (unsigned)args.blocks, TC_COMPACT_THREADS, 0, &call->chain,
                   args);
}

}  // namespace

extern "C" int tc_cuda_compact_stages(const tc_cuda *device, const tc_segments *s,
                                      const tailcut_rows *rows, int32_t count) {
  int64_t blocks = 0;
  if (!device->chains || s->start != nullptr || count < 1 || count > TC_FEW_ARRAYS) return 0;
  if (tc_most_candidates(*s) > MOST_ROWS) return 0;
  for (int32_t i = 0; i < count; i++) {
    if (form_of(*s, rows[i]) != TC_SLABS) return 0;
    blocks += tc_slices(tc_describe_in(*s, rows[i]), COLUMNS_LOG) * s->segments;
  }
  return blocks <= device->sms;
}

extern "C" size_t tc_cuda_compact_scratch(const tc_cuda *, const tailcut_limits *limits) {
  return tc_compact_tickets_scratch(limits->total_tokens);
}

extern "C" cudaError_t tc_cuda_compact(const tc_cuda *device, const tc_lists *lists,
                                       const tailcut_rows *rows, int32_t num_rows, char *scratch,
                                       tc_cuda_lasting *lasting, const tc_chain *chain) {
  tc_compact_call call = {device, *lists, scratch, lasting, *chain};
  if (lists->marks != nullptr) return launch_staged(&call, rows, num_rows);
  if (rows[0].rotation != nullptr) return tc_compact_turn(&call, rows, num_rows);
  const bool tickets = needs_tickets(call, rows, num_rows);
  const tailcut_rows *sorted[TC_ROWS_PER_LAUNCH];
  tc_forms first = {};
  for (int form = 0; form < TC_FORMS; form++) {
    first[form + 1] = first[form];
    for (int32_t i = 0; i < num_rows; i++) {
      int own = form_of(lists->s, rows[i]);
      if (tickets && own == TC_SLABS && tc_tickets_serve(&call, rows[i])) own = TC_TICKETS;
      if (own == form) sorted[first[form + 1]++] = &rows[i];
    }
  }
  if (first[TC_FORMS] > first[TC_TICKETS]) return tc_compact_tickets(&call, sorted, first);
  return num_rows <= TC_FEW_ARRAYS ? launch<TC_FEW_ARRAYS>(&call, sorted, first)
                                   : launch<TC_ROWS_PER_LAUNCH>(&call, sorted, first);
}

extern "C" cudaError_t tc_cuda_load_compact(tc_cuda *) {
  cudaError_t error = cudaSuccess;
  tc_load(compact_rows<TC_FEW_ARRAYS>, &error);
  tc_load(compact_rows<TC_ROWS_PER_LAUNCH>, &error);
  tc_load(compact_staged, &error, MOST_SHARED);
  tc_load_compact_tickets(&error);
  tc_load_compact_turn(&error);
  return error;
}
