/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact: moves the kept rows of any number of row arrays.
 *
 * Formula: result row j = source row kept[j] + prefix_rows. Which array takes which form follows
 * from host bounds alone. Slabs, tiles and the rest go in one launch, each other form in its own:
 *   slabs    in place, segments that one block per column slice sees to the end  compact/slab.cuh
 *   tiles    LOCAL or PACKED into other memory, rows of 512 bytes or more        compact/tiles.cuh
 *   rest     slots, pages, unaligned or narrow rows, zeroed tails, positions,    compact/rest.cuh
 *            the kept list itself
 *   staged   slabs of few images behind a cut, rows fetched while it runs        compact/staged.cu
 *   tickets  in place, few segments of more than 8,192 candidates                compact/tickets.cu
 *   turn     keys that turn to new positions, whatever their layout              compact/turn.cu
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
#include "compact/rest.cuh"
#include "compact/slab.cuh"
#include "compact/tiles.cuh"

namespace {

constexpr int THREADS = 256;
static_assert(THREADS == TC_SLAB_THREADS && THREADS == TC_TILE_THREADS &&
                  THREADS == tc_rest::THREADS,
              "blocks do either");

enum { REST, TILES, SLABS, TOGETHER, TICKETS = TOGETHER, TURN };

constexpr int64_t MOST_WORK = 1 << 23; /* blocks of an array, so that those of a launch are int32 */
constexpr int32_t LONG = 8192;         /* candidates: slabs do up to here even alone [estimate] */

template <int MOST>
struct rows_args {
  tc_lists lists;
  tc_tiles tiles;
  int32_t split;           /* rest: parts of a tile */
  int32_t rest_blocks;     /* the first blocks: they share the rest's work */
  int64_t rest, tiles_end; /* work of the rest, and with that of tiles */
  tc_arrays<MOST> arrays;  /* of the rest, of tiles, of slabs, in this order */
};

template <int MOST>
__global__ void __launch_bounds__(THREADS, 4)
    compact_rows(const __grid_constant__ rows_args<MOST> args) {
  __shared__ union {
    int32_t source[TC_SLAB_LISTED];
    tc_tile_space tile;
    tc_rest::space rest;
  } space;
  if ((int32_t)blockIdx.x < args.rest_blocks) {
    tc_wait_previous();
    tc_rest::move(args, blockIdx.x, args.rest_blocks, args.rest, space.rest);
    return;
  }
  int64_t number = args.rest + (blockIdx.x - (uint32_t)args.rest_blocks);
  if (number >= args.tiles_end) { /* from the last to the first */
    number = args.tiles_end + (gridDim.x - 1 - blockIdx.x);
  }
  const int index = tc_array_of(args.arrays, number);
  const tc_row_array &a = args.arrays.array[index];
  const uint32_t at = (uint32_t)(number - args.arrays.first[index]);
  if (a.in_place) {
    tc_move_slab(args.lists, a, at, space.source);
  } else {
    tc_move_tile(args.lists, args.tiles, a, at, space.tile);
  }
}

/* -------------------------------------------------------------------------------------- host -- */

/* Without regard to how much there is to do: SLABS for everything in place. */
int form_of(const tc_segments &s, const tailcut_rows &r) {
  const int64_t units = r.part_bytes / 16 * r.parts;
  if (r.rotation != nullptr) return TURN;
  if (r.flags != 0 || r.src_slots != nullptr || r.dst_slots != nullptr || units > MOST_WORK ||
      tc_unit_width(r, s.cu_seqlens == nullptr) < 16) {
    return REST;
  }
  if (r.placement == TAILCUT_LOCAL && r.src == r.dst) {
    return (units + 1) / 2 * s.segments > MOST_WORK ? REST : SLABS;
  }
  const int64_t tiles = (s.total / 16 + s.segments * 4) * ((units - 1) / 32 + 1);
  return units < 32 || tiles > MOST_WORK ? REST : TILES;
}

/* As wide as fills the device. */
int slab_columns_log(const tc_cuda *device, const tc_segments &s, const tc_row_array *slabs,
                     int32_t count) {
  for (int log = 4; log > 1; log--) {
    int64_t blocks = 0;
    for (int32_t i = 0; i < count; i++) blocks += tc_slices(slabs[i], log) * s.segments;
    if (blocks * 4 >= device->sms * 3) return log;
  }
  return 1;
}

/* held[f]: the first and the end of the arrays of form f. */
template <int MOST>
cudaError_t launch(tc_compact_call *call, const tailcut_rows *const *rows,
                   const int32_t (&held)[TOGETHER + 1]) {
  const tc_segments &s = call->lists.s;
  const int32_t count = held[TOGETHER];
  rows_args<MOST> args;
  tc_row_array *const array = args.arrays.array;
  int64_t work[MOST];
  args.lists = call->lists;
  args.tiles = tc_tiles_of(s, 0, s.segments);
  args.arrays.count = count;
  for (int32_t i = 0; i < count; i++) array[i] = tc_describe_in(call, *rows[i]);
  tc_rest::deal(&args, rows, held[TILES], 2 * (int64_t)call->device->sms, work);
  for (int32_t i = held[TILES]; i < held[SLABS]; i++) {
    work[i] = tc_deal_tiles(s, args.tiles, &array[i]);
  }
  const int log = slab_columns_log(call->device, s, array + held[SLABS], count - held[SLABS]);
  for (int32_t i = held[SLABS]; i < count; i++) {
    array[i].columns_log = (uint8_t)log;
    array[i].slices = tc_slices(array[i], log);
    work[i] = array[i].slices * s.segments;
  }
  args.arrays.first[0] = 0;
  for (int32_t i = 0; i < count; i++) args.arrays.first[i + 1] = args.arrays.first[i] + work[i];
  args.rest = args.arrays.first[held[TILES]];
  args.tiles_end = args.arrays.first[held[SLABS]];
  args.rest_blocks = held[TILES] > 0 ? (int32_t)tc_grid(args.rest) : 0;
  const int64_t blocks = args.rest_blocks + args.arrays.first[count] - args.rest;
  return tc_launched(
      call, tc_launch(compact_rows<MOST>, (unsigned)blocks, THREADS, 0, &call->chain, args));
}

/* Too few slabs to fill the device, each too long. */
bool needs_tickets(const tc_compact_call &call, const tailcut_rows *rows, int32_t count) {
  const tc_segments &s = call.lists.s;
  int64_t slabs = 0;
  if (tc_most_candidates(s) <= LONG) return false;
  for (int32_t i = 0; i < count; i++) {
    if (form_of(s, rows[i]) != SLABS) continue;
    slabs += (rows[i].part_bytes / 16 * rows[i].parts / 16 + 1) * s.segments;
  }
  return slabs < 2 * call.device->sms;
}

cudaError_t move(tc_compact_call *call, const tailcut_rows *rows, int32_t count) {
  const bool tickets = needs_tickets(*call, rows, count);
  const tailcut_rows *chosen[TURN + 1][TC_ROWS_PER_LAUNCH], *together[TC_ROWS_PER_LAUNCH];
  int32_t held[TURN + 1] = {}, first[TOGETHER + 1] = {};
  for (int32_t i = 0; i < count; i++) {
    int form = form_of(call->lists.s, rows[i]);
    if (tickets && form == SLABS && tc_tickets_serve(call, rows[i])) form = TICKETS;
    chosen[form][held[form]++] = &rows[i];
  }
  for (int form = REST; form < TOGETHER; form++) {
    first[form + 1] = first[form] + held[form];
    for (int32_t i = 0; i < held[form]; i++) together[first[form] + i] = chosen[form][i];
  }
  cudaError_t error = cudaSuccess;
  if (held[TURN] > 0) error = tc_compact_turn(call, chosen[TURN], held[TURN]);
  if (error == cudaSuccess && held[TICKETS] > 0) {
    error = tc_compact_tickets(call, chosen[TICKETS], held[TICKETS]);
  }
  if (error != cudaSuccess || first[TOGETHER] == 0) return error;
  return first[TOGETHER] <= TC_FEW_ARRAYS ? launch<TC_FEW_ARRAYS>(call, together, first)
                                          : launch<TC_ROWS_PER_LAUNCH>(call, together, first);
}

}  // namespace

bool tc_is_slab(const tc_segments &s, const tailcut_rows &r) { return form_of(s, r) == SLABS; }

extern "C" size_t tc_cuda_compact_scratch(const tc_cuda *, const tailcut_limits *limits) {
  return tc_compact_tickets_scratch(limits->total_tokens);
}

extern "C" cudaError_t tc_cuda_compact(const tc_cuda *device, const tc_segments *segments,
                                       const int32_t *kept, int32_t kept_placement,
                                       const tc_mark *marks, const int32_t *counts,
                                       const int32_t *new_cu, const tailcut_rows *rows,
                                       int32_t num_rows, char *scratch, tc_cuda_lasting *lasting,
                                       const tc_chain *chain) {
  tc_compact_call call = {};
  if (segments->segments <= 0) return cudaSuccess;
  call.device = device;
  call.lists.s = *segments;
  call.lists.kept = kept;
  call.lists.counts = counts;
  call.lists.new_cu = new_cu;
  call.lists.kept_packed = kept_placement != TAILCUT_LOCAL;
  call.lists.tidied = kept_placement == TC_KEPT_TIDIED;
  call.scratch = scratch;
  call.lasting = lasting;
  call.chain = *chain;
  if (marks != nullptr) return tc_compact_staged(&call, marks, rows, num_rows);
  for (int32_t i = 0; i < num_rows; i += TC_ROWS_PER_LAUNCH) {
    const int32_t left = num_rows - i;
    const cudaError_t error =
        move(&call, rows + i, left < TC_ROWS_PER_LAUNCH ? left : TC_ROWS_PER_LAUNCH);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

extern "C" cudaError_t tc_cuda_load_compact(tc_cuda *) {
  cudaError_t error = cudaSuccess;
  tc_load(compact_rows<TC_FEW_ARRAYS>, &error);
  tc_load(compact_rows<TC_ROWS_PER_LAUNCH>, &error);
  tc_load_compact_staged(&error);
  tc_load_compact_tickets(&error);
  tc_load_compact_turn(&error);
  return error;
}
