/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut: the launches of the cut, by the host's bounds. The kernels skip what is another form's, so
 * lengths may differ at every replay of a captured graph.
 *
 *   rows of a group     rule                          form
 *   up to TC_CUT_SHORT  OTSU (whole range), TOPK,     by value, one block       cut/short.cuh
 *   (8,192)             RATIO, THRESHOLD, MEAN, IQR
 *                       any; spread, curve, ranks     by sorting, one block     cut/short.cuh
 *   more                OTSU (whole range)            by value, all blocks      cut/long_bins.cuh
 *                       TOPK, RATIO, clamped ones     by digits of the key      cut/long_keys.cuh
 *                       THRESHOLD                     by the key of tau         cut/long.cu
 *                       any; spread, curve, ranks     by sorting                cut/long_keys.cuh
 *
 * Where both lengths are possible both are launched, short ones first, unless the long form has
 * room for all groups of any length. Where there are groups, these launches join their lists too;
 * more than TC_CHUNK_SEGMENTS segments take one more for that. A short group's block is sized by
 * the host's bound: nothing depends on it but time. Precision: exact, the same bits as
 * src/cpu/cut.c. Measured: bench/NOTES.md, "cut".
 */
#include "cut/long.cuh"
#include "cut/short.cuh"

namespace {

/* sorts: the order itself is needed. */
template <class S>
__global__ void __launch_bounds__(S::THREADS, 1)
    cut_short(const __grid_constant__ tc_cut_args args, bool sorts) {
  __shared__ tc_short_memory<S> space;
  if (args.early) tc_let_next_start();
  tc_short_prepare(space.value);
  tc_wait_previous();
  const tc_cut_group c = tc_cut_open(args, (int32_t)blockIdx.x);
  if (c.group.n > S::ROWS) {
    if (tc_cut_joins(args) && c.number == 0) tc_join_empty(space.join, args);
    return;
  }
  if (sorts) {
    tc_short_sort<true, S>(space, args, c.number, true, nullptr);
  } else {
    tc_short_cut<true>(space, args, c, true, nullptr);
  }
  if (args.groups.groups == 0) {
    __syncthreads(); /* the space is used again */
    tc_block<S::WARPS> block(space.value.block);
    tc_cut_done(block, args);
  } else if (tc_cut_joins(args)) {
    const int32_t number = (int32_t)blockIdx.x;
    const tc_group group =
        tc_group_at(args.segments, args.groups, args.scored ? nullptr : args.in_flags, number);
    if (group.n > 0) tc_join_rows(space.join, args, number, group.n);
    if (number == 0) tc_join_empty(space.join, args);
  }
}

struct shape {
  void (*kernel)(tc_cut_args, bool);
  int32_t threads, rows;
};
template <int THREADS, int ITEMS, int LOG>
shape shape_of() {
  typedef tc_short_shape<THREADS, ITEMS, LOG> S;
  return {cut_short<S>, THREADS, S::ROWS};
}
const shape SHAPES[] = {shape_of<128, 2, 8>(), shape_of<256, 3, 8>(), shape_of<512, 4, 9>(),
                        shape_of<1024, 4, 10>(), shape_of<1024, 8, 11>()};

constexpr int JOINERS = 256;

/* The lists of segment blockIdx.x, where there are more of them than have counts. */
__global__ void __launch_bounds__(JOINERS) cut_join(const __grid_constant__ tc_cut_args args) {
  __shared__ tc_join_space<JOINERS> space;
  tc_block<JOINERS / 32> block(space.block);
  tc_wait_previous();
  const int32_t b = (int32_t)blockIdx.x;
  const int32_t g0 = block.warp == 0 ? tc_first_group(args.groups, args.segments.start[b]) : 0;
  tc_join_segment(block, space, args, b,
                  block.reduce(g0, 0, [](int32_t x, int32_t y) { return max(x, y); }));
  tc_cut_done(block, args);
}

}  // namespace

extern "C" int tc_cuda_cuts_by_value(const tailcut_rule *rule) {
  switch (rule->detector) {
    case TAILCUT_OTSU:
      return rule->search_lo == 0.0 && rule->search_hi == 1.0;
    case TAILCUT_TOPK:
    case TAILCUT_RATIO:
    case TAILCUT_THRESHOLD:
    case TAILCUT_MEAN:
    case TAILCUT_IQR:
      return 1;
    default:
      return 0;
  }
}

bool tc_cut_sorts(const tc_cut_args &args) {
  return args.rule.spread > 0.0 || args.out.curve != nullptr || args.out.ranks != nullptr ||
         !tc_cuda_cuts_by_value(&args.rule);
}

extern "C" cudaError_t tc_cuda_cut(const tc_cuda *device, const tc_cut_args *args, char *scratch,
                                   const tc_chain *chain) {
  tc_chain link = *chain;
  const int32_t most = args->segments.max_tokens - args->segments.prefix_rows;
  cudaError_t error = cudaSuccess;
  if (args->segments.segments == 0) return cudaSuccess;
  if (!tc_cut_long_takes_all(*args)) {
    const shape *s = SHAPES;
    while (s->rows < most && s->rows < TC_CUT_SHORT) s++;
    error = tc_launch(s->kernel, (unsigned)tc_group_count(args->segments, args->groups),
                      (unsigned)s->threads, 0, &link, *args, tc_cut_sorts(*args));
    link.follows = device->chains;
  }
  if (error == cudaSuccess && most > TC_CUT_SHORT) {
    error = tc_cut_long(args, scratch, &link);
    link.follows = device->chains;
  }
  if (error == cudaSuccess && args->groups.groups > 0 && !tc_cut_joins(*args)) {
    error = tc_launch(cut_join, (unsigned)args->segments.segments, JOINERS, 0, &link, *args);
  }
  return error;
}

extern "C" cudaError_t tc_cuda_load_cut(tc_cuda *) {
  cudaError_t error = cudaSuccess;
  for (const shape &s : SHAPES) tc_load(s.kernel, &error);
  tc_load(cut_join, &error);
  tc_cut_long_load(&error);
  return error;
}
