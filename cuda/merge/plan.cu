/* SPDX-License-Identifier: Apache-2.0 */
/*
 * merge, plan: which kept row each dropped one of a window joins, and with what weight.
 *
 * Formula: METHOD.md, "Novelty and merging", 7, 8 and 10. Strategy: a block has a window, a thread
 * a row of it. Which rows are kept is found in the list by a search for the window's first one; a
 * list from outside has been tidied before (merge/tidy.cu). Similarities are symmetric, so
 * that threads read the kept rows' ones side by side; the greatest is kept while they go by, in
 * ascending order. Who joins a kept row is a set of bits beside it: the bits below a row's own say
 * where the row comes among them. Precision: exact. Limits: windows of 64, 128 or 256.
 */
#include "merge/merge.cuh"

namespace {

/* Entries before each of a list, as tc_prefix_find wants them. */
struct list_before {
  const int32_t *list;
  __device__ int32_t operator[](int64_t i) const { return i > 0 ? list[i - 1] : INT32_MIN; }
};

__device__ inline float weight_of(int32_t p, int32_t power) {
  const float c = __fmul_rn((float)max(p, 0), 0x1p-20f), square = __fmul_rn(c, c);
  return power == TAILCUT_MERGE_MEAN ? 1.0f : __fmul_rn(square, square);
}

template <int SIZE>
struct plan_space {
  typename tc_block<SIZE / 32>::space block;
  tc_merge_window<SIZE> window;
  uint32_t joined[SIZE][SIZE / 32]; /* by kept row: bits of the rows that it stands for */
  uint32_t size[SIZE];              /* by kept row: their sizes' sum */
  int32_t kept[SIZE], place[SIZE];  /* by kept row: its row of the window; by row: its result */
};

/* Results of the window's rows, where it has any: place[i]. */
template <int SIZE>
__device__ inline void find_places(const tc_merge_args &args, const tc_window &w, int32_t k,
                                   plan_space<SIZE> &s) {
  const int32_t i = (int32_t)threadIdx.x, *list = args.kept + w.start;
  const bool tidied = args.tidied && i < w.n;
  s.place[i] = tidied ? args.plan.place[w.start + w.first + i] : -1;
  __syncthreads();
  if (args.tidied) return;
  const list_before before = {list};
  const int32_t j = (int32_t)tc_prefix_find(before, 0, (int64_t)k + 1, w.first - 1) + i;
  if (j < k) {
    const int32_t row = list[j] - w.first;
    if (row >= 0 && row < w.n) s.place[row] = j;
  }
  __syncthreads();
}

/* The kept row, by its number among `kept`, that row i is most like; -1: none. *p: how much. */
template <int SIZE>
__device__ inline int32_t likest(const int32_t *words, const int32_t *rows, int32_t kept, int32_t i,
                                 int32_t *p) {
  int32_t best = -1;
  *p = TC_NO_SIMILARITY;
#pragma unroll 8
  for (int32_t k = 0; k < kept; k++) {
    const int32_t word = words[rows[k] * SIZE + i];
    if (word > *p) best = k, *p = word;
  }
  return best;
}

template <int SIZE>
__device__ inline void plan_window(const tc_merge_args &args, const tc_window &w, int64_t number,
                                   plan_space<SIZE> &s) {
  tc_block<SIZE / 32> block(s.block);
  const tailcut_merge_options &options = args.options;
  const int32_t i = (int32_t)threadIdx.x, k = args.counts[w.b];
  const int64_t at = (int64_t)w.start + w.first;
  const int32_t offset = args.new_cu != nullptr ? args.new_cu[w.b] : 0;
  find_places(args, w, k, s);
  const bool is_kept = s.place[i] >= 0;
  int32_t kept, total, own = block.prefix((int32_t)is_kept, &kept);
  if (is_kept) s.kept[own] = i;
#pragma unroll
  for (int m = 0; m < SIZE / 32; m++) s.joined[i][m] = 0;
  s.size[i] = 0;
  if (i < w.n) args.plan.window[at + i] = (int32_t)number;
  __syncthreads();
  float weight = 1.0f;
  int32_t size = 1, joins = is_kept ? own : -1;
  if (i < w.n) {
    if (options.sizes_in != nullptr) {
      size = max(options.sizes_in[at + args.s.prefix_rows + i], 1);
    }
    if (!is_kept) {
      int32_t p;
      joins = likest<SIZE>(args.similarities + at * SIZE, s.kept, kept, i, &p);
      weight = weight_of(p, options.power);
    }
    if (options.sizes_in != nullptr) weight = __fmul_rn(weight, (float)size);
    if (joins >= 0) {
      atomicOr(&s.joined[joins][i / 32], 1u << (i & 31));
      atomicAdd(&s.size[joins], (uint32_t)size);
    }
    if (options.joins_out != nullptr) {
      options.joins_out[at + i] = joins >= 0 ? w.first + s.kept[joins] : -1;
    }
  }
  __syncthreads();
  int32_t count = 0;
#pragma unroll
  for (int m = 0; m < SIZE / 32; m++) count += __popc(s.joined[i][m]);
  const int32_t end = block.prefix(count, &total) + count;
  tc_merge_window<SIZE> &plan = s.window;
  if (i < kept) plan.last[i] = (uint8_t)(end - 1);
  if (i == 0) {
    const int32_t place = kept > 0 ? s.place[s.kept[0]] : 0;
    static_cast<tc_merge_header &>(plan) = {w.b, w.start, w.first, place, kept, total, k, offset};
  }
  __syncthreads();
  if (i < w.n && joins >= 0) {
    int32_t e = joins > 0 ? plan.last[joins - 1] + 1 : 0;
#pragma unroll
    for (int m = 0; m < SIZE / 32; m++) {
      const uint32_t below = i / 32 > m ? TC_FULL : i / 32 < m ? 0 : (1u << (i & 31)) - 1;
      e += __popc(s.joined[joins][m] & below);
    }
    plan.weights[e] = weight;
    plan.rows[e] = (uint8_t)i;
    if (is_kept) {
      plan.own[own] = (uint8_t)e;
      if (options.sizes_out != nullptr) {
        options.sizes_out[(args.sizes_packed ? offset : w.start) + s.place[i]] =
            (int32_t)s.size[own];
      }
    }
  }
}

template <int SIZE>
__global__ void __launch_bounds__(SIZE) merge_plan(const __grid_constant__ tc_merge_args args) {
  __shared__ plan_space<SIZE> space;
  __shared__ tc_window found;
  if (args.early) tc_let_next_start();
  tc_wait_previous();
  for (int64_t number = blockIdx.x; number < args.numbers; number += gridDim.x) {
    const tc_window w = tc_window_of_block(args, number, &found);
    if (w.b >= 0) {
      plan_window<SIZE>(args, w, number, space);
    } else if (threadIdx.x == 0) {
      space.window.kept = 0;
    }
    __syncthreads();
    tc_copy_window((tc_merge_window<SIZE> *)args.plan.windows + number, &space.window);
    if (threadIdx.x == 0) args.plan.read[number] = space.window.kept > 0 ? 0 : TC_NOT_READ;
    __syncthreads(); /* this window is no longer asked for */
  }
}

typedef void (*plan_kernel)(tc_merge_args);
const plan_kernel KERNELS[3] = {merge_plan<64>, merge_plan<128>, merge_plan<256>};

}  // namespace

cudaError_t tc_merge_plan_windows(const tc_merge_args &args, const tc_chain *chain) {
  return tc_launch(KERNELS[args.window / 128], tc_grid(args.numbers), (unsigned)args.window, 0,
                   chain, args);
}

void tc_load_merge_plan(cudaError_t *error) { tc_load(KERNELS, error); }
