/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long_stages: the cut of long groups (cut/long.cu says which rules take which stages), all in
 * one launch.
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
#include "cut/long_begin.cuh"
#include "cut/long_bins.cuh"
#include "cut/long_emit.cuh"
#include "cut/long_sort.cuh"

namespace {

/* The stages behind begin: by value, by sorting, and those that come last. */
enum {
  STATS,
  FILL,
  REFINE,
  COUNT,
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
};
struct sort_space {
  union {
    tc_long_block::space block;
    tc_sort_space sort;
    tc_select_space mark;
    tc_emit_space<TC_LONG_MARKS> emit;
  };
};

/* One tile's part of a stage, by value. before: what the stage before counts up to a.bound. late:
 * of the last stage's second half. */
template <int QUADS>
__device__ __forceinline__ void do_stage(stage_space<QUADS> &s, const tc_long &a,
                                         const tc_long_tile &tile, int kind, bool late,
                                         const uint32_t *before) {
  const auto wait = [&] { tc_long_await(before, (uint32_t)a.bound); };
  switch (kind) {
    case STATS:
      return tc_long_make_stats<QUADS>(s.block, a, tile, tile.first + tile.index);
    case FILL:
      return tc_long_fill<QUADS>(s.fill, a, tile, before);
    case REFINE:
      return tc_long_refine<QUADS>(s.refine, a, tile, before);
    case COUNT:
      return tc_long_count(s.otsu, a, tile, before);
    case EMIT_OTSU:
      return tc_long_emit<QUADS, TC_LONG_OTSU>(s.emit_otsu, a, tile, late, wait);
    case EMIT_STATS:
    case EMIT_SELECT:
      return tc_long_emit<QUADS, TC_LONG_SELECT>(s.emit_select, a, tile, kind == EMIT_STATS, wait);
    default:
      return tc_long_digit<QUADS>(s.digit, a, tile, kind - DIGITS, before);
  }
}

/* By sorting. */
template <int QUADS>
__device__ __forceinline__ void do_stage(sort_space &s, const tc_long &a, const tc_long_tile &tile,
                                         int kind, bool, const uint32_t *before) {
  const auto wait = [&] { tc_long_await(before, (uint32_t)a.bound); };
  if (kind < SORT_SCATTER) {
    tc_sort_count<QUADS>(s.sort, a, tile, kind - SORT_COUNT, before);
  } else if (kind < DECIDE) {
    tc_sort_scatter<QUADS>(s.sort, a, tile, kind - SORT_SCATTER, before);
  } else if (kind == DECIDE) {
    tc_sort_decide(s.block, a, tile, before);
  } else if (kind == MARK) {
    tc_sort_mark<QUADS>(s.mark, a, tile, before);
  } else {
    tc_long_emit<QUADS, TC_LONG_MARKS>(s.emit, a, tile, false, wait);
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
    __syncthreads();
    if (threadIdx.x == 0) tc_add_release(&done[0], 1);
    return;
  }
  tc_wait_previous();
  tc_let_next_start();
  const uint32_t number = taken - TC_BEGINNERS, bound = (uint32_t)a.bound;
  const uint32_t stage = min(number / bound, (uint32_t)todo.count - 1); /* the last: twice */
  const bool late = number - stage * bound >= bound;
  const uint32_t place = number - (stage + late) * bound;
  const bool last = stage == (uint32_t)todo.count - 1;
  const uint32_t *const before = stage > 0 ? &done[stage] : nullptr;
  tc_long_await(&done[0], TC_BEGINNERS);
  tc_long_open(a, place, tile);
  __syncthreads();
  if (tile.number >= 0) do_stage<QUADS>(s, a, tile, todo.kind[stage], late, before);
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (!last) {
    tc_add_release(&done[stage + 1], 1);
    return;
  }
  /* Whoever is the last of the last stage comes behind all others' waits. */
  __threadfence();
  const uint32_t all = gridDim.x - TC_BEGINNERS - stage * bound;
  if (atomicAdd(&done[stage + 1], 1u) != all - 1) return;
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

size_t space_of(int quads) {
  return quads == 1   ? sizeof(stage_space<1>)
         : quads == 2 ? sizeof(stage_space<2>)
                      : sizeof(stage_space<4>);
}

stages stages_of(const tc_cut_args &args) {
  const tailcut_rule &rule = args.rule;
  const bool otsu = rule.detector == TAILCUT_OTSU;
  const bool clamps = rule.min_keep > 1 || rule.max_keep >= 0 || rule.round_to > 1;
  const bool direct = !clamps && (otsu || rule.detector == TAILCUT_THRESHOLD);
  stages s = {};
  const auto add = [&](int kind) { s.kind[s.count++] = (uint8_t)kind; };
  if (!tc_cut_long_by_value(args)) {
    for (int pass = 0; pass < TC_SORT_PASSES; pass++)
      add(SORT_COUNT + pass), add(SORT_SCATTER + pass);
    add(DECIDE), add(MARK), add(EMIT_MARKS);
    return s;
  }
  s.values = otsu;
  s.digits = !direct;
  if (!direct || !otsu || rule.scale == TAILCUT_SCALE_AUTO) add(STATS);
  if (otsu) add(FILL), add(REFINE);
  if (otsu && !direct) add(COUNT);
  for (int level = 0; level < TC_LONG_LEVELS && !direct; level++) add(DIGITS + level);
  add(!direct ? EMIT_SELECT : otsu ? EMIT_OTSU : EMIT_STATS);
  return s;
}

}  // namespace

cudaError_t tc_long_stages(const tc_long &a, int quads, const tc_chain *chain) {
  const stages todo = stages_of(a.cut);
  const int times = todo.count + (todo.kind[todo.count - 1] == EMIT_OTSU);
  const unsigned blocks = TC_BEGINNERS + (unsigned)a.bound * (unsigned)times;
  if (!tc_cut_long_by_value(a.cut)) {
    return tc_launch(TC_LONG_OF(cut_long_sorting, quads), blocks, TC_LONG_THREADS, 0, chain, a,
                     todo);
  }
  return tc_launch(TC_LONG_OF(cut_long, quads), blocks, TC_LONG_THREADS, space_of(quads), chain, a,
                   todo);
}

void tc_cut_long_load(cudaError_t *error) {
  tc_load(cut_long<1>, error, space_of(1));
  tc_load(cut_long<2>, error, space_of(2));
  tc_load(cut_long<4>, error, space_of(4));
  tc_load(cut_long_sorting<1>, error);
  tc_load(cut_long_sorting<2>, error);
  tc_load(cut_long_sorting<4>, error);
}
