/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long_value: long groups by value (cut/long.cu says which rules), all stages in one launch.
 *
 * Strategy: blocks take tickets, stage by stage, a tile each. A block loads its rows, waits until
 * all blocks of the stage before have said that their work is done, and does its own: what it waits
 * for has lower tickets, so it runs or has run, and waiting ends whatever number of blocks the
 * device runs at once. Such a handover costs about what a launch in the chain does [estimate], and
 * the host has one launch instead of three to nine. The last block of all leaves the counts zero.
 * The ticket may be taken before the kernel's wait, since no other kernel of a call has this one.
 * Precision: exact. Limits: registers and shared memory of the greediest stage for all: two blocks
 * an SM, so that one loads its rows while another's stage ends; of the longest tiles, 16 rows a
 * thread, one.
 */
#include "cut/long_begin.cuh"
#include "cut/long_bins.cuh"
#include "cut/long_emit.cuh"

namespace {

/* The stages behind begin, in order: those that may only come last have the highest numbers. */
enum {
  STATS,
  FILL,
  REFINE,
  COUNT,
  DIGITS,
  EMIT_OTSU = DIGITS + TC_LONG_LEVELS,
  EMIT_STATS,
  EMIT_SELECT
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

template <int QUADS>
__global__ void __launch_bounds__(TC_LONG_THREADS, QUADS == 4 ? 1 : 2)
    cut_long(const __grid_constant__ tc_long a, const __grid_constant__ stages todo) {
  extern __shared__ uint4 dynamic[];
  stage_space<QUADS> &s = *(stage_space<QUADS> *)dynamic;
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
  if (tile.number >= 0) {
    const auto wait = [=] { tc_long_await(before, bound); };
    const int kind = todo.kind[stage];
    switch (kind) {
      case STATS:
        tc_long_make_stats<QUADS>(s.block, a, tile, place);
        break;
      case FILL:
        tc_long_fill<QUADS>(s.fill, a, tile, before);
        break;
      case REFINE:
        tc_long_refine<QUADS>(s.refine, a, tile, before);
        break;
      case COUNT:
        tc_long_count(s.otsu, a, tile, before);
        break;
      case EMIT_OTSU:
        tc_long_emit<QUADS, TC_LONG_OTSU>(s.emit_otsu, a, tile, late, wait);
        break;
      case EMIT_STATS:
      case EMIT_SELECT:
        tc_long_emit<QUADS, TC_LONG_SELECT>(s.emit_select, a, tile, kind == EMIT_STATS, wait);
        break;
      default:
        tc_long_digit<QUADS>(s.digit, a, tile, kind - DIGITS, before);
    }
  }
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
  for (int32_t i = 0; i <= todo.count; i++) done[i] = 0;
}

size_t space_of(int quads) {
  return quads == 1   ? sizeof(stage_space<1>)
         : quads == 2 ? sizeof(stage_space<2>)
                      : sizeof(stage_space<4>);
}

/* The stages of a rule that is cut by value. */
stages stages_of(const tailcut_rule &rule) {
  const bool otsu = rule.detector == TAILCUT_OTSU;
  const bool clamps = rule.min_keep > 1 || rule.max_keep >= 0 || rule.round_to > 1;
  const bool direct = !clamps && (otsu || rule.detector == TAILCUT_THRESHOLD);
  stages s = {};
  s.values = otsu;
  s.digits = !direct;
  const auto add = [&](int kind) { s.kind[s.count++] = (uint8_t)kind; };
  if (!direct || !otsu || rule.scale == TAILCUT_SCALE_AUTO) add(STATS);
  if (otsu) add(FILL), add(REFINE);
  if (otsu && !direct) add(COUNT);
  for (int level = 0; level < TC_LONG_LEVELS && !direct; level++) add(DIGITS + level);
  add(!direct ? EMIT_SELECT : otsu ? EMIT_OTSU : EMIT_STATS);
  return s;
}

}  // namespace

cudaError_t tc_long_by_value(const tc_long &a, int quads, const tc_chain *chain) {
  const stages todo = stages_of(a.cut.rule);
  const int times = todo.count + (todo.kind[todo.count - 1] == EMIT_OTSU);
  return tc_launch(TC_LONG_OF(cut_long, quads), TC_BEGINNERS + (unsigned)a.bound * (unsigned)times,
                   TC_LONG_THREADS, space_of(quads), chain, a, todo);
}

void tc_long_by_value_load(cudaError_t *error) {
  tc_load(cut_long<1>, error, space_of(1));
  tc_load(cut_long<2>, error, space_of(2));
  tc_load(cut_long<4>, error, space_of(4));
}
