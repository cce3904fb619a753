/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact: moves the kept rows of any number of row arrays.
 *
 * Formula: result row j = source row kept[j] + prefix_rows. Which array takes which form follows
 * from host bounds alone. All but arrays that turn go in one launch (compact/together.cuh):
 *   slabs    in place, segments that one block per column slice sees to the end  compact/slab.cuh
 *   tiles    LOCAL or PACKED into other memory, rows of 512 bytes or more        compact/tiles.cuh
 *   rest     slots, pages, unaligned or narrow rows, zeroed tails, positions,    compact/rest.cuh
 *            the kept list itself
 *   staged   slabs of few images behind a cut, rows fetched while it runs        compact/staged.cu
 *   tickets  in place, few segments of more than 8,192 candidates                compact/tickets.cu
 *   turn     keys that turn to new positions, of any layout, in their own launch compact/turn.cu
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
#include "compact/together.cuh"

namespace {

enum { TICKETS = TC_TOGETHER, TURN };

constexpr int64_t MOST_WORK = 1 << 23; /* blocks of an array, so that those of a launch are int32 */
constexpr int32_t LONG = 8192;         /* candidates: slabs do up to here even alone [estimate] */

template <int MOST>
__global__ void __launch_bounds__(TC_TOGETHER_THREADS, 4)
    compact_rows(const __grid_constant__ tc_together<MOST> args) {
  __shared__ tc_together_space space;
  tc_move_together(args, (int32_t)blockIdx.x, space);
}

/* -------------------------------------------------------------------------------------- host -- */

/* Without regard to how much there is to do: TC_SLABS for everything in place. */
int form_of(const tc_segments &s, const tailcut_rows &r) {
  const int64_t units = r.part_bytes / 16 * r.parts;
  if (r.rotation != nullptr) return TURN;
  if (r.flags != 0 || r.src_slots != nullptr || r.dst_slots != nullptr || units > MOST_WORK ||
      tc_unit_width(r, s.cu_seqlens == nullptr) < 16) {
    return TC_REST;
  }
  if (r.placement == TAILCUT_LOCAL && r.src == r.dst) {
    return (units + 1) / 2 * s.segments > MOST_WORK ? TC_REST : TC_SLABS;
  }
  const int64_t tiles = (s.total / 16 + s.segments * 4) * ((units - 1) / 32 + 1);
  return units < 32 || tiles > MOST_WORK ? TC_REST : TC_TILES;
}

template <int MOST>
cudaError_t launch(tc_compact_call *call, const tailcut_rows *const *rows, const tc_forms &first) {
  tc_together<MOST> args;
  tc_deal_together(call, rows, first, &args);
  return tc_launched(call, tc_launch(compact_rows<MOST>, (unsigned)args.blocks, TC_TOGETHER_THREADS,
                                     0, &call->chain, args));
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

cudaError_t move(tc_compact_call *call, const tailcut_rows *rows, int32_t count) {
  const bool tickets = needs_tickets(*call, rows, count);
  const tailcut_rows *chosen[TURN + 1][TC_ROWS_PER_LAUNCH], *together[TC_ROWS_PER_LAUNCH];
  int32_t held[TURN + 1] = {};
  tc_forms first = {};
  for (int32_t i = 0; i < count; i++) {
    int form = form_of(call->lists.s, rows[i]);
    if (tickets && form == TC_SLABS && tc_tickets_serve(call, rows[i])) form = TICKETS;
    chosen[form][held[form]++] = &rows[i];
  }
  for (int form = TC_REST; form < TC_TOGETHER; form++) {
    first[form + 1] = first[form] + held[form];
    for (int32_t i = 0; i < held[form]; i++) together[first[form] + i] = chosen[form][i];
  }
  cudaError_t error = cudaSuccess;
  if (held[TURN] > 0) error = tc_compact_turn(call, chosen[TURN], held[TURN]);
  if (error == cudaSuccess && held[TICKETS] > 0) {
    return tc_compact_tickets(call, chosen[TICKETS], held[TICKETS], together, first);
  }
  if (error != cudaSuccess || first[TC_TOGETHER] == 0) return error;
  return first[TC_TOGETHER] <= TC_FEW_ARRAYS ? launch<TC_FEW_ARRAYS>(call, together, first)
                                             : launch<TC_ROWS_PER_LAUNCH>(call, together, first);
}

}  // namespace

bool tc_is_slab(const tc_segments &s, const tailcut_rows &r) { return form_of(s, r) == TC_SLABS; }

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
