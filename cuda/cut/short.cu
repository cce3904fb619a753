/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_short: groups of up to TC_CUT_SHORT rows, one block per group, everything on chip.
 *
 * Formulas and strategy: cut/short.cuh. The size of the block is chosen by the host's bound:
 * nothing depends on it but time. Precision: exact, the same bits as src/cpu/cut.c. Measured:
 * bench/NOTES.md, "cut".
 */
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

}  // namespace

cudaError_t tc_cut_short(const tc_cut_args &args, bool sorts, const tc_chain *chain) {
  const int32_t most = args.segments.max_tokens - args.segments.prefix_rows;
  const shape *s = SHAPES;
  while (s->rows < most && s->rows < TC_CUT_SHORT) s++;
  return tc_launch(s->kernel, (unsigned)tc_group_count(args.segments, args.groups),
                   (unsigned)s->threads, 0, chain, args, sorts);
}

void tc_cut_short_load(cudaError_t *error) {
  for (const shape &s : SHAPES) tc_load(s.kernel, error);
}
