/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_long: the launches for groups of more than TC_CUT_SHORT rows, and the first of them.
 *
 * Which rule goes which way (each arrow a kernel; measured: bench/NOTES.md, "cut"):
 *   OTSU over all ranks       begin -> fill -> refine -> emit       cut/long_otsu.cu
 *   the same, AUTO            one more (stats) behind begin
 *   the same, clamped         begin -> stats -> fill -> refine -> count -> 3 digits -> emit
 *   THRESHOLD                 begin -> stats -> emit
 *   TOPK, RATIO, clamped      begin -> stats -> 3 digits -> emit    cut/long_select.cu
 *   all else: other detectors, a search range, spread, curve, ranks
 *                             begin -> stats -> 4 x (count -> scatter) -> decide -> mark -> emit
 *                                                                   cut/long_sort.cu
 * begin lists the long groups and their tiles and makes the state zero, since the scratch memory
 * comes with any content; stats says of every tile what is known of scores without their order. All
 * sizes are host bounds: lengths may differ at every replay of a captured graph.
 */
#include "cut/long.cuh"

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
  a->ticket = (uint32_t *)take(4);
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

bool by_value(const tc_cut_args &args) {
  return !tc_cut_sorts(args) && args.rule.detector != TAILCUT_MEAN &&
         args.rule.detector != TAILCUT_IQR;
}

/* ---------------------------------------------------------------------------------- kernels -- */

/* Words of all the given memory, dealt to the blocks behind the first. */
__device__ void make_zero(void *memory, size_t stride, size_t bytes, int32_t pieces) {
  const int64_t each = (int64_t)(bytes / 16), blocks = (int64_t)gridDim.x - 1;
  for (int64_t i = ((int64_t)blockIdx.x - 1) * TC_LONG_THREADS + threadIdx.x; i < each * pieces;
       i += blocks * TC_LONG_THREADS) {
    ((uint4 *)((char *)memory + i / each * stride))[i % each] = make_uint4(0, 0, 0, 0);
  }
}

/* The tiles of the long groups, in order; those up to the bound say that they are none. */
__device__ void list_groups(tc_long_block &block, const tc_long &a) {
  const tc_segments &s = a.cut.segments;
  const int32_t groups = tc_group_count(s, a.cut.groups);
  const bool by_warp = s.cu_seqlens != nullptr && s.start == nullptr; /* a whole warp judges one */
  const int32_t step = by_warp ? TC_LONG_WARPS : TC_LONG_THREADS;
  int32_t longs = 0;
  uint64_t used = 0; /* tiles << 32 | rows */
  for (int32_t base = 0; base < groups; base += step) {
    const int32_t number = base + (by_warp ? block.warp : (int32_t)threadIdx.x);
    tc_long_tile mine = {};
    bool is_long = false;
    if (number < groups) {
      const tc_cut_group c = tc_cut_open(a.cut, number);
      mine.group = c.group;
      mine.number = number;
      mine.flags = c.flags;
      is_long = c.group.n > TC_CUT_SHORT && (!by_warp || block.lane == 0);
    }
    if (!__syncthreads_or(is_long)) continue;
    const uint32_t which = __ballot_sync(TC_FULL, is_long);
    int32_t here;
    const int32_t earlier = block.before(__popc(which), &here);
    const int32_t ordinal = longs + earlier + __popc(which & ((1u << block.lane) - 1));
    longs += here;
    mine.slot = ordinal;
    is_long = is_long && ordinal < a.slots;
    mine.tiles = is_long ? (mine.group.n + a.rows - 1) / a.rows : 0;
    const int32_t rows = is_long ? mine.group.n : 0;
    uint64_t all;
    const uint64_t before = used + block.prefix((uint64_t)mine.tiles << 32 | (uint32_t)rows, &all);
    mine.first = (int32_t)(before >> 32);
    mine.base = (int32_t)(uint32_t)before;
    used += all;
    for (uint32_t left = __ballot_sync(TC_FULL, is_long); left != 0; left &= left - 1) {
      tc_long_tile tile = tc_shuffle(mine, __ffs((int)left) - 1);
      for (tile.index = block.lane; tile.index < tile.tiles; tile.index += 32) {
        a.tiles[tile.first + tile.index] = tile;
      }
    }
  }
  tc_long_tile none = {};
  none.number = -1;
  for (int32_t i = (int32_t)(used >> 32) + (int32_t)threadIdx.x; i < a.bound;
       i += TC_LONG_THREADS) {
    a.tiles[i] = none;
  }
}

/* Nobody else touches the scratch memory: it may be zeroed before the wait. */
__global__ void __launch_bounds__(TC_LONG_THREADS)
    begin(const __grid_constant__ tc_long a, bool values, bool digits) {
  __shared__ tc_long_block::space space;
  if (blockIdx.x > 0) {
    make_zero(a.found, 0, (sizeof(uint32_t) * a.bound + 15) / 16 * 16, 1);
    if (values) {
      make_zero(a.states, sizeof(tc_long_state), offsetof(tc_long_state, at), a.slots);
    }
    if (digits) {
      const size_t bytes = sizeof(uint32_t) * TC_LONG_LEVELS * TC_LONG_DIGITS;
      make_zero(a.digits, bytes, bytes, a.slots);
    }
  } else if (threadIdx.x == 0) {
    *a.ticket = 0;
  }
  tc_wait_previous();
  tc_let_next_start();
  if (blockIdx.x > 0) return;
  tc_long_block block(space);
  list_groups(block, a);
}

template <int QUADS>
__global__ void __launch_bounds__(TC_LONG_THREADS) stats(const __grid_constant__ tc_long a) {
  __shared__ tc_long_block::space space;
  __shared__ tc_long_tile tile;
  tc_long_block block(space);
  if (!tc_long_begin(a, tile)) return;
  const tc_cut_group c = tc_long_group(a, tile);
  const uint32_t tau_key = tc_tau_key(a.cut.rule);
  tc_long_rows<QUADS> rows;
  tc_stats own = tc_stats_none();
  tc_long_load(a, c, tc_long_first<QUADS>(tile.index), &rows);
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) tc_stats_add(&own, tc_long_key(rows, i), tau_key);
  own = block.reduce(own, tc_stats_none(), tc_stats_join());
  if (threadIdx.x == 0) a.stats[blockIdx.x] = own;
}

cudaError_t launch(const tc_cuda *device, const tc_long &a, int quads, tc_chain *link) {
  const tailcut_rule &rule = a.cut.rule;
  const bool value = by_value(a.cut), otsu = rule.detector == TAILCUT_OTSU;
  const bool clamps = rule.min_keep > 1 || rule.max_keep >= 0 || rule.round_to > 1;
  const bool direct = value && !clamps && (otsu || rule.detector == TAILCUT_THRESHOLD);
  const tc_long_mode mode = !value           ? TC_LONG_MARKS
                            : direct && otsu ? TC_LONG_OTSU
                            : direct         ? TC_LONG_STATS
                                             : TC_LONG_SELECT;
  cudaError_t error =
      tc_launch(begin, 1 + 32, TC_LONG_THREADS, 0, link, a, value && otsu, mode == TC_LONG_SELECT);
  link->follows = device->chains;
  if (error == cudaSuccess && (mode != TC_LONG_OTSU || rule.scale == TAILCUT_SCALE_AUTO)) {
    error = tc_launch(TC_LONG_OF(stats, quads), (unsigned)a.bound, TC_LONG_THREADS, 0, link, a);
  }
  if (error == cudaSuccess && value && otsu) error = tc_long_otsu(a, quads, !direct, link);
  if (error == cudaSuccess && mode == TC_LONG_SELECT) error = tc_long_select(a, quads, link);
  if (error == cudaSuccess && mode == TC_LONG_MARKS) error = tc_long_sort(a, quads, link);
  return error == cudaSuccess ? tc_long_emit(a, quads, mode, link) : error;
}

}  // namespace

extern "C" size_t tc_cuda_cut_scratch(const tc_cuda *, const tailcut_limits *limits) {
  const int64_t segments = limits->segments, rows = segments * limits->max_tokens;
  tc_long unused;
  return carve(&unused, nullptr,
               plan_of(limits->groups > segments ? limits->groups : segments, limits->max_tokens,
                       limits->total_tokens > 0 ? limits->total_tokens : rows));
}

cudaError_t tc_cut_long(const tc_cuda *device, const tc_cut_args *args, char *scratch,
                        const tc_chain *chain) {
  const tc_segments &s = args->segments;
  const long_plan plan =
      plan_of(tc_group_count(s, args->groups), s.max_tokens - s.prefix_rows, s.total);
  const int quads = quads_of(plan.rows);
  tc_chain link = *chain;
  tc_long a = {};
  if (plan.slots == 0) return cudaSuccess;
  carve(&a, scratch, plan);
  a.cut = *args;
  a.slots = (int32_t)plan.slots;
  a.rows = quads * TC_LONG_THREADS * 4;
  a.bound = (int32_t)(plan.rows / a.rows + plan.slots);
  return launch(device, a, quads, &link);
}

void tc_cut_long_load(cudaError_t *error) {
  tc_load(begin, error);
  TC_LONG_LOAD(stats, error);
  tc_long_otsu_load(error);
  tc_long_select_load(error);
  tc_long_sort_load(error);
  tc_long_emit_load(error);
}
