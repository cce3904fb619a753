/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long: groups of more than TC_CUT_SHORT rows, all stages in one launch.
 *
 * Which rule goes which way (each arrow a stage; measured: bench/NOTES.md, "cut"):
 *   OTSU over all ranks       begin -> fill -> refine -> best -> emit
 *                                                           cut/long_bins.cuh, long_otsu.cuh
 *   the same, AUTO            one more (stats) behind begin
 *   the same, clamped         begin -> stats -> fill -> refine -> best -> 3 digits -> emit
 *   THRESHOLD                 begin -> stats -> emit
 *   TOPK, RATIO, clamped      begin -> stats -> 3 digits -> emit        cut/long_keys.cuh
 *   all else: other detectors, a search range, spread, curve, ranks
 *                             begin -> 4 x (count -> scatter) -> decide -> mark -> emit
 *                                                                       cut/long_keys.cuh
 * begin lists the long groups and their tiles and makes the state zero, since the scratch memory
 * comes with any content; stats says of every tile what is known of scores without their order;
 * best has work on flat curves and for clamped rules, and OTSU's emit waits for it only there.
 * All sizes are host bounds: lengths may differ at every replay of a captured graph.
 *
 * Strategy: blocks take tickets, stage by stage, a tile each. A block loads its rows, waits until
 * all blocks of the stage before have said that their work is done, and does its own: what it waits
 * for has lower tickets, so it runs or has run, and waiting ends whatever number of blocks the
 * device runs at once. Such a handover costs about what a launch in the chain does [estimate], and
 * the host has one launch instead of three to thirteen. The last block of all leaves the counts
 * zero. The ticket may be taken before the kernel's wait, since no other kernel of a call has this
 * one. Precision: exact. Limits: registers and shared memory of the greediest stage for all: two
 * blocks an SM, so that one loads its rows while another's stage ends; by sorting, and of the
 * longest tiles (16 rows a thread), one.
 */
#include "cut/long_bins.cuh"
#include "cut/long_emit.cuh"

namespace {

/* The stages behind begin: by value, by sorting, and those that come last. */
enum {
  STATS,
  FILL,
  REFINE,
  BEST,
  DIGITS,
  SORT_COUNT = DIGITS + TC_LONG_LEVELS,
  SORT_SCATTER = SORT_COUNT + TC_SORT_PASSES,
  DECIDE = SORT_SCATTER + TC_SORT_PASSES,
  MARK,
  EMIT_OTSU,
  EMIT_STATS,
  EMIT_SELECT,
  EMIT_MARKS
};

struct stages {
  int32_t count;
  uint8_t kind[15];
  bool values, digits; /* what begin makes zero */
};

template <int QUADS>
union stage_space {
  tc_long_block::space block;
  tc_fill_space<QUADS> fill;
  tc_refine_space refine;
  tc_otsu_space otsu;
  tc_digit_space digit;
  tc_emit_space<TC_LONG_OTSU> emit_otsu;
  tc_emit_space<TC_LONG_SELECT> emit_select;
  tc_join_space<TC_LONG_THREADS> join;
};
struct sort_space {
  union {
    tc_long_block::space block;
    tc_sort_space sort;
    tc_select_space mark;
    tc_emit_space<TC_LONG_MARKS> emit;
    tc_join_space<TC_LONG_THREADS> join;
  };
};

/* One tile's part of a stage, by value. before: what the stage before counts up to a.bound, behind
 * what the one before that counts. */
template <int QUADS>
__device__ __forceinline__ void do_stage(stage_space<QUADS> &s, const tc_long &a,
                                         const stages &todo, const tc_long_tile &tile, int kind,
                                         const uint32_t *before) {
  switch (kind) {
    case STATS:
      return tc_long_make_stats<QUADS>(s.block, a, tile);
    case FILL:
      return tc_long_fill<QUADS>(s.fill, a, tile, before);
    case REFINE:
      return tc_long_refine<QUADS>(s.refine, a, tile, before);
    case BEST:
      return tc_long_best(s.otsu, a, tile, todo.digits, before);
    case EMIT_OTSU:
      return tc_long_emit<QUADS, TC_LONG_OTSU>(s.emit_otsu, s.join, a, tile, false, before);
    case EMIT_STATS:
    case EMIT_SELECT:
      return tc_long_emit<QUADS, TC_LONG_SELECT>(s.emit_select, s.join, a, tile, kind == EMIT_STATS,
                                                 before);
    default:
      return tc_long_digit<QUADS>(s.digit, a, tile, kind - DIGITS, before);
  }
}

/* By sorting. */
template <int QUADS>
__device__ __forceinline__ void do_stage(sort_space &s, const tc_long &a, const stages &,
                                         const tc_long_tile &tile, int kind,
                                         const uint32_t *before) {
  if (kind < SORT_SCATTER) {
    tc_sort_count<QUADS>(s.sort, a, tile, kind - SORT_COUNT, before);
  } else if (kind < DECIDE) {
    tc_sort_scatter<QUADS>(s.sort, a, tile, kind - SORT_SCATTER, before);
  } else if (kind == DECIDE) {
    tc_sort_decide(s.block, a, tile, before);
  } else if (kind == MARK) {
    tc_sort_mark<QUADS>(s.mark, a, tile, before);
  } else {
    tc_long_emit<QUADS, TC_LONG_MARKS>(s.emit, s.join, a, tile, false, before);
  }
}

template <int QUADS, class Space>
__device__ __forceinline__ void do_stages(Space &s, const tc_long &a, const stages &todo) {
  __shared__ tc_long_tile tile;
  __shared__ uint32_t taken;
  uint32_t *const done = a.cut.lasting->stages;
  if (threadIdx.x == 0) {
    uint32_t *ticket = &a.cut.lasting->long_ticket;
    taken = atomicAdd(ticket, 1u);
    if (taken == gridDim.x - 1) *ticket = 0;
  }
  __syncthreads();
  if (taken < TC_BEGINNERS) {
    tc_long_begin_block(s.block, a, (int32_t)taken, todo.values, todo.digits);
    if (taken == 0 && a.most_left < 0 && tc_cut_joins(a.cut)) tc_join_empty(s.join, a.cut);
    __syncthreads();
    if (threadIdx.x == 0) tc_add_release(&done[0], 1);
    return;
  }
  tc_wait_previous();
  tc_let_next_start();
  const uint32_t number = taken - TC_BEGINNERS, bound = (uint32_t)a.bound;
  const uint32_t stage = number / bound;
  const uint32_t *const before = stage > 0 ? &done[stage] : nullptr;
  tc_long_await(&done[0], TC_BEGINNERS);
  tc_long_open(a, number - stage * bound, tile);
  __syncthreads();
  if (tile.number >= 0) do_stage<QUADS>(s, a, todo, tile, todo.kind[stage], before);
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (stage != (uint32_t)todo.count - 1) {
    tc_add_release(&done[stage + 1], 1);
    return;
  }
  /* Whoever is the last of the last stage comes behind all others' waits. */
  __threadfence();
  if (atomicAdd(&done[stage + 1], 1u) != bound - 1) return;
  for (int32_t i = 1; i < todo.count; i++) { /* where no group is long, nobody has waited */
    while (tc_load_acquire(&done[i]) != bound) {
    }
  }
  for (int32_t i = 0; i <= todo.count; i++) done[i] = 0;
}

template <int QUADS>
__global__ void __launch_bounds__(TC_LONG_THREADS, QUADS == 4 ? 1 : 2)
    cut_long(const __grid_constant__ tc_long a, const __grid_constant__ stages todo) {
  extern __shared__ uint4 dynamic[];
  do_stages<QUADS>(*(stage_space<QUADS> *)dynamic, a, todo);
}

template <int QUADS>
__global__ void __launch_bounds__(TC_LONG_THREADS, 1)
    cut_long_sorting(const __grid_constant__ tc_long a, const __grid_constant__ stages todo) {
  __shared__ sort_space space;
  do_stages<QUADS>(space, a, todo);
}

/* By the logarithm of QUADS. */
typedef void (*long_kernel)(tc_long, stages);
const long_kernel BY_VALUE[] = {cut_long<1>, cut_long<2>, cut_long<4>};
const long_kernel SORTING[] = {cut_long_sorting<1>, cut_long_sorting<2>, cut_long_sorting<4>};
const size_t SPACE[] = {sizeof(stage_space<1>), sizeof(stage_space<2>), sizeof(stage_space<4>)};

/* Else by sorting. */
bool cuts_by_value(const tc_cut_args &args) {
  return !tc_cut_sorts(args) && args.rule.detector != TAILCUT_MEAN &&
         args.rule.detector != TAILCUT_IQR;
}

stages stages_of(const tc_cut_args &args) {
  const tailcut_rule &rule = args.rule;
  const bool otsu = rule.detector == TAILCUT_OTSU;
  const bool clamps = rule.min_keep > 1 || rule.max_keep >= 0 || rule.round_to > 1;
  const bool direct = !clamps && (otsu || rule.detector == TAILCUT_THRESHOLD);
  stages s = {};
  const auto add = [&](int kind) { s.kind[s.count++] = (uint8_t)kind; };
  if (!cuts_by_value(args)) {
    for (int pass = 0; pass < TC_SORT_PASSES; pass++)
      add(SORT_COUNT + pass), add(SORT_SCATTER + pass);
    add(DECIDE), add(MARK), add(EMIT_MARKS);
    return s;
  }
  s.values = otsu;
  s.digits = !direct;
  if (!direct || !otsu || rule.scale == TAILCUT_SCALE_AUTO) add(STATS);
  if (otsu) add(FILL), add(REFINE), add(BEST);
  for (int level = 0; level < TC_LONG_LEVELS && !direct; level++) add(DIGITS + level);
  add(!direct ? EMIT_SELECT : otsu ? EMIT_OTSU : EMIT_STATS);
  return s;
}

/* -------------------------------------------------------------------------------------- host -- */

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

/* Rows of a tile are 2,048 << this: enough tiles to fill the device, few enough for one thread each
 * in the sums over a group's tiles (TC_LONG_TILES). */
int shape_of(int64_t rows) {
  const int64_t unit = TC_LONG_THREADS * 4;
  return rows <= 96 * unit ? 0 : rows <= TC_LONG_TILES * 2 * unit ? 1 : 2;
}

}  // namespace

extern "C" size_t tc_cuda_cut_scratch(const tc_cuda *, const tailcut_limits *limits) {
  const int64_t segments = limits->segments, rows = segments * limits->max_tokens;
  tc_long unused;
  return carve(&unused, nullptr,
               plan_of(limits->groups > segments ? limits->groups : segments, limits->max_tokens,
                       limits->total_tokens > 0 ? limits->total_tokens : rows));
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
  const int shape = shape_of(plan.rows);
  tc_long a = {};
  if (plan.slots == 0) return cudaSuccess;
  carve(&a, scratch, plan);
  a.cut = *args;
  a.slots = (int32_t)plan.slots;
  a.rows = TC_LONG_THREADS * 4 << shape;
  a.bound = (int32_t)(plan.rows / a.rows + plan.slots);
  a.most_left = tc_cut_long_takes_all(*args) ? -1 : TC_CUT_SHORT;
  const stages todo = stages_of(a.cut);
  const unsigned blocks = TC_BEGINNERS + (unsigned)a.bound * (unsigned)todo.count;
  const bool by_value = cuts_by_value(a.cut);
  return tc_launch((by_value ? BY_VALUE : SORTING)[shape], blocks, TC_LONG_THREADS,
                   by_value ? SPACE[shape] : 0, chain, a, todo);
}

void tc_cut_long_load(cudaError_t *error) {
  for (int i = 0; i < 3; i++) tc_load(BY_VALUE[i], error, SPACE[i]);
  tc_load(SORTING, error);
}
