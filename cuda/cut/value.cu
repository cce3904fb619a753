/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_value: from scores to kept rows without sorting, one block per group, everything on chip.
 *
 * Formulas and strategy: cut/value.cuh, cut/otsu.cuh, cut/group.cuh. Rules that ask for ranks in a
 * run of equal values (CHORD, MASS) or neighbours, spread, curve and ranks are cut/sort.cu's, and
 * so is here, by the same code, a group in which too many rows can win. Precision: exact, the same
 * bits as src/cpu/cut.c. Limits: TC_CUT_SHORT rows.
 *
 * Ladder (H100, OTSU, chained, 576 / 2K / 4K / 8K rows):
 * 1. block radix sort: 11.4, 19.4, 22.6, 36.6 us.
 * 2. the prototypes of this: 2.3 to 2.5, 3.2, 4.8, 6.4 to 6.9; TOPK 2.2 and 5.0 (576, 8K),
 *    THRESHOLD 1.2 and 2.5.
 * 3. this: not measured.
 */
#include "cut/group.cuh"

namespace {

template <class S>
__global__ void __launch_bounds__(S::THREADS, 1)
    cut_value(const __grid_constant__ tc_cut_args args) {
  __shared__ tc_group_space<S> space;
  if (args.early) tc_let_next_start();
  tc_cut_prepare(space.value);
  tc_wait_previous();
  const tc_cut_group c = tc_cut_open(args, (int32_t)blockIdx.x);
  if (c.group.n > S::ROWS) return;
  tc_cut_rows(space, args, c, true, c.kept);
  if (args.groups.groups == 0) {
    __syncthreads(); /* the space is used again */
    tc_block<S::WARPS> block(space.value.block);
    tc_cut_done(block, args);
  }
}

typedef void (*cut_kernel)(tc_cut_args);
struct shape {
  cut_kernel kernel;
  int32_t threads, rows;
};
template <int THREADS, int ITEMS, int LOG>
shape shape_of() {
  typedef tc_value_shape<THREADS, ITEMS, LOG> S;
  return {cut_value<S>, THREADS, S::ROWS};
}
const shape SHAPES[] = {shape_of<128, 2, 8>(), shape_of<256, 3, 9>(), shape_of<512, 4, 9>(),
                        shape_of<1024, 4, 10>(), shape_of<1024, 8, 11>()};

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

cudaError_t tc_cut_value(const tc_cuda *, const tc_cut_args &args, const tc_chain *chain) {
  const int32_t most = args.segments.max_tokens - args.segments.prefix_rows;
  const shape *s = SHAPES;
  while (s->rows < most && s->rows < TC_CUT_SHORT) s++;
  return tc_launch(s->kernel, (unsigned)tc_group_count(args.segments, args.groups),
                   (unsigned)s->threads, 0, chain, args);
}

cudaError_t tc_cut_value_load() {
  for (const shape &s : SHAPES) {
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, s.kernel);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}
