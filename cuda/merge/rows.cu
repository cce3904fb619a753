/* SPDX-License-Identifier: Apache-2.0 */
/*
 * merge, rows: every kept row becomes the weighted mean of itself and of those that join it.
 *
 * Formula: METHOD.md, "Novelty and merging", 9. Strategy: a block has a window and a column slice
 * of an array, of whose rows all that are wanted are brought to shared memory at once, in the order
 * of the plan: each is read once. A thread then sums 16 bytes of a result in that order.
 * In place a result lies in rows of the same window or of earlier ones, never of later ones. Blocks
 * take tickets there, in the order of windows: a slice that is on chip is counted in `read` of its
 * window, and before results are written all slices of the windows whose rows they lie in must have
 * been. Waiting ends: those are lower tickets, whose blocks run, and nobody waits before its own
 * slice is counted. Slices that other blocks have of the same window are other bytes.
 * Precision: one fma for each member, one division and one rounding for each value, in fp32.
 * Limits: rows of 16-byte units at aligned places come by cp.async; others in the pieces that their
 * addresses allow, which is several times slower.
 */
#include "common/delay.cuh"
#include "common/rows.cuh"
#include "common/sync.cuh"
#include "common/tensor.cuh"
#include "merge/merge.cuh"
#include "merge/pieces.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int STAGED = 32 << 10; /* bytes of a block's slice at most, */
constexpr int LEAST_SLICE = 64;  /* of a row in it at least */

struct merged_array {
  tc_row_array rows; /* columns_log: pieces of 16 bytes side by side */
  int32_t dtype, row_bytes;
};

struct rows_args {
  tc_merge_plan plan;
  int64_t work; /* numbers of windows times slices */
  int32_t prefix_rows, flat, tidied;
  unsigned long long *ticket; /* NULL: nothing is in place */
  uint32_t whole;             /* `read` of a window whose slices have all been read */
  int32_t slices, slice_bytes;
  int32_t count, first[TC_MERGED_ARRAYS + 1]; /* slices before each array */
  merged_array array[TC_MERGED_ARRAYS];
};

struct alignas(8) result_row {
  int32_t row;       /* of the segment's result */
  uint16_t end, own; /* behind its last member; the one that is the kept row itself */
};

template <int SIZE>
struct rows_space {
  tc_merge_window window;
  int64_t from[SIZE], to[SIZE]; /* bytes to a member's row; to a result's; -1: there is none */
  float weight[SIZE], total[SIZE];
  result_row result[SIZE];
  int64_t work;
};

/* 16 bytes of the mean of members [begin, end). */
template <int DTYPE, int SIZE>
__device__ inline uint4 mean_of(const rows_space<SIZE> &s, const uint4 *staged, int pitch,
                                int begin, int end, float total) {
  constexpr int VALUES = DTYPE == TAILCUT_F32 ? 4 : 8;
  float sum[VALUES];
#pragma unroll
  for (int i = 0; i < VALUES; i++) sum[i] = 0.0f;
#pragma unroll 4
  for (int e = begin; e < end; e++) {
    const float weight = s.weight[e];
    float x[VALUES];
    tc_widen_piece<DTYPE>(staged[e * pitch], x);
#pragma unroll
    for (int i = 0; i < VALUES; i++) sum[i] = __fmaf_rn(weight, x[i], sum[i]);
  }
  uint32_t w[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < VALUES; i++) {
    const uint32_t bits = tc_value_bits<DTYPE>(__fdiv_rn(sum[i], total));
    if (DTYPE == TAILCUT_F32) {
      w[i & 3] = bits;
    } else {
      w[i / 2] |= bits << 16 * (i % 2);
    }
  }
  return make_uint4(w[0], w[1], w[2], w[3]);
}

/* Whether the destination has room for the rows of a window's segment. */
__device__ inline bool fits(const tc_row_array &a, const tc_merge_window &w) {
  return a.packed ? w.offset >= 0 && (int64_t)w.offset + w.count <= a.dst_rows
                  : w.count <= a.dst_rows;
}

/* Where the members of a window are, and where its results go. */
template <int SIZE>
__device__ inline void locate(const rows_args &args, const tc_row_array &a,
                              const tc_merge_window &w, rows_space<SIZE> &s) {
  const int32_t i = (int32_t)threadIdx.x;
  const int64_t at = (int64_t)w.start + w.first;
  if (i < w.members) {
    const float weight = args.plan.weights[at + i];
    const int64_t row = (int64_t)w.first + args.prefix_rows + args.plan.rows[at + i];
    const int64_t from = tc_row_offset(a, a.src_slots, a.src_row_stride, a.src_segment_stride,
                                       args.flat, w.start + row, w.b, row);
    s.weight[i] = from < 0 ? 0.0f : weight;
    s.from[i] = from;
  }
  if (i < w.kept) {
    result_row result;
    result.row = args.tidied ? args.plan.places[at + i] : w.place + i;
    result.end = (uint16_t)(args.plan.last[at + i] + 1);
    result.own = args.plan.own[at + i];
    s.result[i] = result;
    s.to[i] =
        tc_row_offset(a, a.dst_slots, a.dst_row_stride, a.dst_segment_stride, args.flat || a.packed,
                      (int64_t)(a.packed ? w.offset : w.start) + result.row, w.b, result.row);
  }
}

/* The sum of the weights of a result's members that are there; 0: it is copied. */
template <int SIZE>
__device__ inline void add_weights(const tc_merge_window &w, rows_space<SIZE> &s) {
  const int32_t k = (int32_t)threadIdx.x;
  if (k >= w.kept) return;
  float total = 0.0f;
  int there = 0;
  for (int e = k > 0 ? s.result[k - 1].end : 0; e < s.result[k].end; e++) {
    total = __fadd_rn(total, s.weight[e]);
    there += s.from[e] >= 0;
  }
  s.total[k] = there > 1 ? total : 0.0f;
}

/* The slice is on chip: says so, and waits until the rows that are written may be. Called by the
 * whole of the first warp. */
template <int SIZE>
__device__ inline void settle(const rows_args &args, const tc_merge_window &w, int64_t number,
                              const rows_space<SIZE> &s) {
  const int32_t lane = (int32_t)threadIdx.x;
  if (lane == 0) tc_add_release(&args.plan.read[number], 1);
  const int32_t last = s.result[w.kept - 1].row - args.prefix_rows; /* as candidates */
  if (last < 0) return;
  const int32_t first = max(s.result[0].row - args.prefix_rows, 0);
  const int32_t from = args.plan.window[w.start + first];
  const int32_t to = min(args.plan.window[w.start + last], (int32_t)number - 1);
  for (int32_t v = from + lane; v <= to; v += 32) {
    while (tc_load_acquire(&args.plan.read[v]) < args.whole) {
    }
  }
  __syncwarp();
}

template <int SIZE>
__device__ inline void merge_slice(const rows_args &args, int64_t number, int32_t slice,
                                   rows_space<SIZE> &s, uint4 *staged) {
  int index = 0;
  while (args.first[index + 1] <= slice) index++;
  const merged_array &array = args.array[index];
  const tc_row_array &a = array.rows;
  if (threadIdx.x < SIZE) { /* those who look the plan up: each warp of them asks for the window */
    const tc_merge_window found = args.plan.windows[number];
    if (threadIdx.x == 0) s.window = found;
    if (fits(a, found)) locate(args, a, found, s);
  }
  __syncthreads();
  const tc_merge_window &w = s.window;
  if (w.kept == 0) return;
  if (!fits(a, w)) {
    if (a.in_place && threadIdx.x == 0) tc_add_release(&args.plan.read[number], 1);
    return;
  }
  const int32_t byte = (slice - args.first[index]) * args.slice_bytes;
  const int32_t bytes = min(args.slice_bytes, array.row_bytes - byte);
  const int32_t column = (int32_t)threadIdx.x & ((1 << a.columns_log) - 1);
  const int32_t line = (int32_t)threadIdx.x >> a.columns_log, lines = THREADS >> a.columns_log;
  const int32_t mine = bytes - column * 16, pitch = args.slice_bytes / 16;
  uint4 *const here = staged + column;
  const char *const src = a.src + (byte + column * 16);
  tc_delay(0);
  if (mine > 0 && a.width == 16) {
#pragma unroll 4
    for (int32_t e = line; e < w.members; e += lines) {
      if (s.from[e] >= 0) {
        tc_copy_16(tc_shared_address(here + e * pitch), src + s.from[e]);
      } else { /* adds nothing: a sum is never -0 */
        here[e * pitch] = make_uint4(0, 0, 0, 0);
      }
    }
  } else if (mine > 0) {
#pragma unroll 1
    for (int32_t e = line; e < w.members; e += lines) {
      const bool there = s.from[e] >= 0;
      here[e * pitch] = tc_load_piece(src + (there ? s.from[e] : 0), a.width, there ? mine : 0);
    }
  }
  tc_copy_commit();
  add_weights(w, s);
  tc_copy_wait<0>();
  __syncthreads();
  tc_delay(1);
  if (a.in_place) {
    if (threadIdx.x < 32) settle(args, w, number, s);
    __syncthreads();
  }
  if (mine <= 0) return;
#pragma unroll 1
  for (int32_t k = line; k < w.kept; k += lines) {
    const int32_t begin = k > 0 ? s.result[k - 1].end : 0, own = s.result[k].own;
    const float total = s.total[k];
    if (s.to[k] < 0 || s.from[own] < 0) continue;
    uint4 v;
    if (total == 0.0f) {
      if (a.in_place && s.from[own] == s.to[k]) continue;
      v = here[own * pitch];
    } else if (array.dtype == TAILCUT_F16) {
      v = mean_of<TAILCUT_F16>(s, here, pitch, begin, s.result[k].end, total);
    } else if (array.dtype == TAILCUT_BF16) {
      v = mean_of<TAILCUT_BF16>(s, here, pitch, begin, s.result[k].end, total);
    } else {
      v = mean_of<TAILCUT_F32>(s, here, pitch, begin, s.result[k].end, total);
    }
    tc_store_piece(a.dst + (s.to[k] + byte + column * 16), v, a.width, mine);
  }
}

template <int SIZE>
__global__ void __launch_bounds__(THREADS, 4) merge_rows(const __grid_constant__ rows_args args) {
  extern __shared__ uint4 staged[]; /* members of a window, a slice of each */
  __shared__ rows_space<SIZE> space;
  const bool one_each = args.work <= (int64_t)gridDim.x;
  int64_t work = blockIdx.x;
  tc_wait_previous();
  for (;;) {
    if (args.ticket != nullptr) {
      if (threadIdx.x == 0) space.work = (int64_t)atomicAdd(args.ticket, 1ull);
      __syncthreads();
      work = space.work;
      /* All have been dealt: nobody looks again. */
      const int64_t last = one_each ? args.work - 1 : args.work + gridDim.x - 1;
      if (threadIdx.x == 0 && work == last) *args.ticket = 0;
    }
    if (work >= args.work) return;
    const int64_t number = work / args.slices;
    merge_slice(args, number, (int32_t)(work - number * args.slices), space, staged);
    if (one_each) return;
    __syncthreads();
    work += gridDim.x;
  }
}

/* -------------------------------------------------------------------------------------- host -- */

typedef void (*rows_kernel)(rows_args);
const rows_kernel KERNELS[3] = {merge_rows<64>, merge_rows<128>, merge_rows<256>};

/* The slice that all arrays of a launch are cut into: as wide as a block can hold, and no wider
 * than fills the device. */
int32_t slice_of(const tc_cuda *device, const tc_merge_args &args, const tailcut_rows *rows,
                 int32_t count) {
  int64_t widest = 16, all = 0;
  for (int32_t i = 0; i < count; i++) {
    all += rows[i].part_bytes;
    if (rows[i].part_bytes > widest) widest = rows[i].part_bytes;
  }
  int32_t bytes = STAGED / args.window;
  while (bytes > LEAST_SLICE && args.numbers * (all / bytes + 1) < device->sms) bytes /= 2;
  const int64_t row = (widest + 15) / 16 * 16;
  return row < bytes ? (int32_t)row : bytes;
}

cudaError_t launch(const tc_cuda *device, const tc_merge_args &args, const tailcut_rows *rows,
                   int32_t count, tc_cuda_lasting *lasting, uint32_t *read, const tc_chain *chain) {
  rows_args a = {};
  bool in_place = false;
  a.plan = args.plan;
  a.prefix_rows = args.s.prefix_rows;
  a.flat = args.s.cu_seqlens != nullptr;
  a.tidied = args.tidied;
  a.slice_bytes = slice_of(device, args, rows, count);
  a.count = count;
  for (int32_t i = 0; i < count; i++) {
    merged_array *to = &a.array[i];
    const int32_t slices = (int32_t)((rows[i].part_bytes + a.slice_bytes - 1) / a.slice_bytes);
    to->rows = tc_describe(rows[i], !a.flat);
    to->dtype = rows[i].dtype;
    to->row_bytes = (int32_t)rows[i].part_bytes;
    while (16 << to->rows.columns_log < a.slice_bytes &&
           16 << to->rows.columns_log < to->row_bytes) {
      to->rows.columns_log++;
    }
    a.first[i + 1] = a.first[i] + slices;
    if (to->rows.in_place) *read += (uint32_t)slices, in_place = true;
  }
  a.whole = *read;
  a.slices = a.first[count];
  a.work = args.numbers * a.slices;
  if (in_place) a.ticket = (unsigned long long *)&lasting->merge_ticket;
  const size_t shared = (size_t)args.window * (size_t)a.slice_bytes;
  return tc_launch(KERNELS[args.window / 128], tc_grid(a.work), THREADS, shared, chain, a);
}

}  // namespace

cudaError_t tc_merge_rows(const tc_cuda *device, const tc_merge_args &args,
                          const tailcut_rows *rows, int32_t num_rows, tc_cuda_lasting *lasting,
                          const tc_chain *chain) {
  tc_chain link = *chain;
  uint32_t read = 0;
  for (int32_t i = 0; i < num_rows; i += TC_MERGED_ARRAYS) {
    const int32_t left = num_rows - i, count = left < TC_MERGED_ARRAYS ? left : TC_MERGED_ARRAYS;
    const cudaError_t error = launch(device, args, rows + i, count, lasting, &read, &link);
    if (error != cudaSuccess) return error;
    link.follows = device->chains;
  }
  return cudaSuccess;
}

void tc_load_merge_rows(cudaError_t *error) { tc_load(KERNELS, error); }
