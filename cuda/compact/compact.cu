/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact: moves the kept rows of any number of row arrays.
 *
 * Formula: result row j = source row kept[j] + prefix_rows. Which array takes which form follows
 * from host bounds alone; the arrays of a form go in one launch:
 *   slabs    in place, segments that one block per column slice sees to the end  compact/slab.cu
 *   staged   the same for few images behind a cut, rows fetched while it runs    compact/slab.cu
 *   tickets  in place, few segments of more than 8,192 candidates                compact/tickets.cu
 *   tiles    LOCAL or PACKED into other memory, rows of 512 bytes or more        compact/tiles.cu
 *   rest     slots, pages, unaligned or narrow rows, zeroed tails, positions,    compact/rest.cu
 *            the kept list itself
 *   turn     keys that turn to new positions, whatever their layout                compact/turn.cu
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
 * Precision: bytes are copied. Limits: 128 arrays a launch.
 */
#include "compact/compact.cuh"

namespace {

enum { SLABS, TICKETS, TILES, REST, TURN, FORMS };

constexpr int64_t MOST_WORK = 1 << 23; /* blocks of an array, so that those of a launch are int32 */
constexpr int32_t LONG = 8192;         /* candidates: slabs do up to here even alone [estimate] */

/* Without regard to how much there is to do: SLABS for everything in place. */
int form_of(const tc_compact_call &call, const tailcut_rows &r) {
  const tc_segments &s = call.lists.s;
  const bool uniform = s.cu_seqlens == nullptr;
  if (r.rotation != nullptr) return TURN;
  const bool other = r.flags != 0 || r.src_slots != nullptr || r.dst_slots != nullptr;
  if (other || tc_unit_width(r, uniform) < 16 || r.part_bytes / 16 * r.parts > MOST_WORK) {
    return REST;
  }
  const int64_t units = r.part_bytes / 16 * r.parts;
  if (r.placement == TAILCUT_LOCAL && r.src == r.dst) {
    return (units + 1) / 2 * s.segments > MOST_WORK ? REST : SLABS;
  }
  const int64_t tiles = (s.total / 16 + s.segments * 4) * ((units - 1) / 32 + 1);
  return units < 32 || tiles > MOST_WORK ? REST : TILES;
}

/* Too few slabs to fill the device, each too long. */
bool needs_tickets(const tc_compact_call &call, const tailcut_rows *rows, int32_t count) {
  const tc_segments &s = call.lists.s;
  int64_t slabs = 0;
  if (tc_most_candidates(s) <= LONG) return false;
  for (int32_t i = 0; i < count; i++) {
    if (form_of(call, rows[i]) != SLABS) continue;
    slabs += (rows[i].part_bytes / 16 * rows[i].parts / 16 + 1) * s.segments;
  }
  return slabs < 2 * call.device->sms;
}

cudaError_t move(tc_compact_call *call, const tailcut_rows *rows, int32_t count) {
  static cudaError_t (*const forms[FORMS])(tc_compact_call *, const tailcut_rows *const *,
                                           int32_t) = {
      tc_compact_slabs, tc_compact_tickets, tc_compact_tiles, tc_compact_rest, tc_compact_turn};
  const bool tickets = needs_tickets(*call, rows, count);
  uint8_t form[TC_ROWS_PER_LAUNCH];
  for (int32_t i = 0; i < count; i++) {
    form[i] = (uint8_t)form_of(*call, rows[i]);
    if (tickets && form[i] == SLABS && tc_tickets_serve(call, rows[i])) form[i] = TICKETS;
  }
  for (int f = 0; f < FORMS; f++) {
    const tailcut_rows *chosen[TC_ROWS_PER_LAUNCH];
    int32_t held = 0;
    for (int32_t i = 0; i < count; i++) {
      if (form[i] == f) chosen[held++] = &rows[i];
    }
    if (held == 0) continue;
    const cudaError_t error = forms[f](call, chosen, held);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace

extern "C" size_t tc_cuda_compact_scratch(const tc_cuda *, const tailcut_limits *limits) {
  return tc_compact_tickets_scratch(limits->total_tokens);
}

extern "C" cudaError_t tc_cuda_compact(const tc_cuda *device, const tc_segments *segments,
                                       const int32_t *kept, int32_t kept_placement,
                                       const int32_t *counts, const int32_t *new_cu,
                                       const tailcut_rows *rows, int32_t num_rows, char *scratch,
                                       tc_cuda_lasting *lasting, const tc_chain *chain) {
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
  call.more_arrays = num_rows > TC_ROWS_PER_LAUNCH;
  for (int32_t i = 0; i < num_rows; i += TC_ROWS_PER_LAUNCH) {
    const int32_t left = num_rows - i;
    const cudaError_t error =
        move(&call, rows + i, left < TC_ROWS_PER_LAUNCH ? left : TC_ROWS_PER_LAUNCH);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

extern "C" cudaError_t tc_cuda_load_compact(tc_cuda *) {
  cudaError_t (*const loads[])() = {tc_load_compact_slabs, tc_load_compact_tickets,
                                    tc_load_compact_tiles, tc_load_compact_rest,
                                    tc_load_compact_turn};
  for (cudaError_t (*load)() : loads) {
    const cudaError_t error = load();
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}
