/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long: the launches for groups of more than TC_CUT_SHORT rows.
 *
 * Which rule goes which way (each arrow a stage; measured: bench/NOTES.md, "cut"):
 *   OTSU over all ranks       begin -> fill -> refine -> emit       cut/long_bins.cuh
 *   the same, AUTO            one more (stats) behind begin
 *   the same, clamped         begin -> stats -> fill -> refine -> count -> 3 digits -> emit
 *   THRESHOLD                 begin -> stats -> emit
 *   TOPK, RATIO, clamped      begin -> stats -> 3 digits -> emit    cut/long_select.cuh
 *   all else: other detectors, a search range, spread, curve, ranks
 *                             begin -> 4 x (count -> scatter) -> decide -> mark -> emit
 *                                                                   cut/long_sort.cu
 * begin lists the long groups and their tiles and makes the state zero, since the scratch memory
 * comes with any content; stats says of every tile what is known of scores without their order. All
 * sizes are host bounds: lengths may differ at every replay of a captured graph.
 *
 * All stages are one launch (cut/long_stages.cu).
 */
#include "cut/long_begin.cuh"

namespace {

/* ------------------------------------------------------------------------------- host: sizes -- */

/* Long groups that there are at most, and their rows; none: 0. */
struct long_plan {
  int64_t slots, rows;
};

long_plan plan_of(int64_t groups, int64_t most, int64_t total) {
  int64_t longs = total / (TC_CUT_SHORT + 1);
  if (longs > groups) longs = groups;
  if (most <= TC_CUT_SHORT) longs = 0;
  return {longs, longs * most < total ? longs * most : total};
}

/* Takes memory for `a` from scratch (NULL: only counts), for any size of tile. */
size_t carve(tc_long *a, char *scratch, const long_plan &plan) {
  const int64_t slots = plan.slots, rows = plan.rows;
  const int64_t tiles = rows / (TC_LONG_THREADS * 4) + slots;
  if (slots == 0) return 0;
  size_t used = 0;
  const auto take = [&](size_t bytes) { return tc_cuda_take(scratch, &used, bytes); };
  a->tiles = (tc_long_tile *)take(sizeof(tc_long_tile) * tiles);
  a->found = (uint32_t *)take(sizeof(uint32_t) * tiles);
  a->stats = (tc_stats *)take(sizeof(tc_stats) * tiles);
  a->best = (tc_best *)take(sizeof(tc_best) * tiles);
  a->cuts = (tc_long_cut *)take(sizeof(tc_long_cut) * TC_LONG_LEVELS * slots);
  const size_t shared = used; /* from here on two layouts, of which a call uses one */
  a->states = (tc_long_state *)take(sizeof(tc_long_state) * slots);
  a->digits = (uint32_t *)take(sizeof(uint32_t) * TC_LONG_LEVELS * TC_LONG_DIGITS * slots);
  a->entries = (uint32_t *)take(sizeof(uint32_t) * rows);
  const size_t by_value = used;
  used = shared;
  a->items[0] = (uint64_t *)take(sizeof(uint64_t) * rows);
  a->items[1] = (uint64_t *)take(sizeof(uint64_t) * rows);
  a->q = (int32_t *)take(sizeof(int32_t) * rows);
  a->counts = (uint32_t *)take(sizeof(uint32_t) * 256 * tiles);
  a->marks = (uint32_t *)a->items[0];
  return used > by_value ? used : by_value;
}

/* Rows of a tile in units of 2,048: enough tiles to fill the device, few enough for one thread each
 * in the sums over a group's tiles (TC_LONG_TILES). */
int quads_of(int64_t rows) {
  const int64_t unit = TC_LONG_THREADS * 4;
  return rows <= 96 * unit ? 1 : rows <= TC_LONG_TILES * 2 * unit ? 2 : 4;
}

}  // namespace

extern "C" size_t tc_cuda_cut_scratch(const tc_cuda *, const tailcut_limits *limits) {
  const int64_t segments = limits->segments, rows = segments * limits->max_tokens;
  tc_long unused;
  return carve(&unused, nullptr,
               plan_of(limits->groups > segments ? limits->groups : segments, limits->max_tokens,
                       limits->total_tokens > 0 ? limits->total_tokens : rows));
}

bool tc_cut_long_by_value(const tc_cut_args &args) {
  return !tc_cut_sorts(args) && args.rule.detector != TAILCUT_MEAN &&
         args.rule.detector != TAILCUT_IQR;
}

bool tc_cut_long_takes_all(const tc_cut_args &args) {
  const tc_segments &s = args.segments;
  const int32_t groups = tc_group_count(s, args.groups);
  return plan_of(groups, s.max_tokens - s.prefix_rows, s.total).slots == groups;
}

cudaError_t tc_cut_long(const tc_cut_args *args, char *scratch, const tc_chain *chain) {
  const tc_segments &s = args->segments;
  const long_plan plan =
      plan_of(tc_group_count(s, args->groups), s.max_tokens - s.prefix_rows, s.total);
  const int quads = quads_of(plan.rows);
  tc_long a = {};
  if (plan.slots == 0) return cudaSuccess;
  carve(&a, scratch, plan);
  a.cut = *args;
  a.slots = (int32_t)plan.slots;
  a.rows = quads * TC_LONG_THREADS * 4;
  a.bound = (int32_t)(plan.rows / a.rows + plan.slots);
  a.most_left = tc_cut_long_takes_all(*args) ? -1 : TC_CUT_SHORT;
  return tc_long_stages(a, quads, chain);
}
