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

template <int SIZE>
struct rows_space {
  tc_merge_window<SIZE> window;
  int64_t from[SIZE], to[SIZE]; /* bytes to a member's row; to a result's; -1: there is none */
  float total[SIZE];            /* of a result's weights; 0: it is copied */
  int32_t waits[2]; /* numbers of windows: results lie in rows of these, and of this one */
  int64_t work;
};

/* Up to 16 bytes from or to memory, at addresses that `Unit` divides, four units at a time. */
template <class Unit>
__device__ inline void move_units(void *to, const void *from, int bytes) {
  const int units = bytes / (int)sizeof(Unit);
#pragma unroll 1
  for (int base = 0; base < min(units, 16 / (int)sizeof(Unit)); base += 4) {
    Unit v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (base + i < units) v[i] = ((const Unit *)from)[base + i];
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (base + i < units) ((Unit *)to)[base + i] = v[i];
    }
  }
}

__device__ inline void move_piece(void *to, const void *from, int width, int bytes) {
  if (width >= 4) {
    move_units<uint32_t>(to, from, bytes);
  } else if (width == 2) {
    move_units<uint16_t>(to, from, bytes);
  } else {
    move_units<uint8_t>(to, from, bytes);
  }
}

/* Rounded to nearest even; a NaN becomes the quiet one without payload. */
template <int DTYPE>
__device__ inline uint32_t bits_of(float v) {
  const uint32_t bits = __float_as_uint(v);
  if (DTYPE == TAILCUT_F32) return v != v ? TC_NAN_BITS : bits;
  if (DTYPE == TAILCUT_BF16) return v != v ? 0x7FC0 : (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16;
  return v != v ? 0x7E00 : __half_as_ushort(__float2half_rn(v));
}

/* 16 bytes of the mean of members [begin, end). */
template <int DTYPE>
__device__ inline uint4 mean_of(const float *weights, const uint4 *staged, int pitch, int begin,
                                int end, float total) {
  constexpr int VALUES = DTYPE == TAILCUT_F32 ? 4 : 8;
  float sum[VALUES] = {};
#pragma unroll 4
  for (int e = begin; e < end; e++) {
    const float weight = weights[e];
    tc_eight<DTYPE> x;
    memcpy(x.w, &staged[e * pitch], 16);
#pragma unroll
    for (int i = 0; i < VALUES; i++) {
      sum[i] = __fmaf_rn(weight, tc_widen<DTYPE>(x, i), sum[i]);
    }
  }
  uint32_t w[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < VALUES; i++) {
    const uint32_t bits = bits_of<DTYPE>(__fdiv_rn(sum[i], total));
    w[i * 4 / VALUES] |= DTYPE == TAILCUT_F32 ? bits : bits << 16 * (i % 2);
  }
  return make_uint4(w[0], w[1], w[2], w[3]);
}

/* Whether the destination has room for the rows of a window's segment. */
__device__ inline bool fits(const tc_row_array &a, const tc_merge_header &w) {
  return a.packed ? w.offset >= 0 && (int64_t)w.offset + w.count <= a.dst_rows
                  : w.count <= a.dst_rows;
}

/* The k-th result's row of the segment's. */
template <int SIZE>
__device__ inline int32_t result_of(const rows_args &args, const tc_merge_window<SIZE> &w,
                                    int32_t k) {
  return args.tidied ? args.plan.place[w.start + w.first + w.rows[w.own[k]]] : w.place + k;
}

/* Where the members of a window are, and where its results go. */
template <int SIZE>
__device__ inline void locate(const rows_args &args, const tc_row_array &a, rows_space<SIZE> &s) {
  tc_merge_window<SIZE> &w = s.window;
  const int32_t i = (int32_t)threadIdx.x;
  if (i < w.members) {
    const int64_t row = (int64_t)w.first + args.prefix_rows + w.rows[i];
    s.from[i] = tc_row_offset(a, a.src_slots, a.src_row_stride, a.src_segment_stride, args.flat,
                              w.start + row, w.b, row);
    if (s.from[i] < 0) w.weights[i] = 0.0f;
  }
  if (i < w.kept) {
    const int64_t row = result_of(args, w, i);
    s.to[i] = tc_row_offset(a, a.dst_slots, a.dst_row_stride, a.dst_segment_stride,
                            args.flat || a.packed, (a.packed ? w.offset : w.start) + row, w.b, row);
  }
}

/* The sum of the weights of a result's members that are there. */
template <int SIZE>
__device__ inline void add_weights(rows_space<SIZE> &s) {
  const tc_merge_window<SIZE> &w = s.window;
  const int32_t k = (int32_t)threadIdx.x;
  if (k >= w.kept) return;
  float total = 0.0f;
  int there = 0;
  for (int e = k > 0 ? w.last[k - 1] + 1 : 0; e <= w.last[k]; e++) {
    total = __fadd_rn(total, w.weights[e]);
    there += s.from[e] >= 0;
  }
  s.total[k] = there > 1 ? total : 0.0f;
}

/* The windows that results lie in: where there are none, the second is below the first. */
template <int SIZE>
__device__ inline void find_waits(const rows_args &args, int64_t number, rows_space<SIZE> &s) {
  const tc_merge_window<SIZE> &w = s.window;
  const int32_t end = (int32_t)threadIdx.x;
  if (end > 1) return;
  const int32_t row = result_of(args, w, end * (w.kept - 1)) - args.prefix_rows;
  const int32_t found = args.plan.window[w.start + max(row, 0)];
  s.waits[end] = end == 0 ? found : row < 0 ? -1 : min(found, (int32_t)number - 1);
}

/* The slice is on chip: says so, and waits until the rows that are written may be. Called by the
 * whole of the first warp. */
template <int SIZE>
__device__ inline void settle(const rows_args &args, int64_t number, const rows_space<SIZE> &s) {
  const int32_t lane = (int32_t)threadIdx.x;
  if (lane == 0) tc_add_release(&args.plan.read[number], 1);
  for (int32_t v = s.waits[0] + lane; v <= s.waits[1]; v += 32) {
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
  const tc_merge_window<SIZE> &w = s.window;
  tc_copy_window(&s.window, (const tc_merge_window<SIZE> *)args.plan.windows + number);
  __syncthreads();
  if (w.kept == 0) return;
  if (!fits(a, w)) {
    if (a.in_place && threadIdx.x == 0) tc_add_release(&args.plan.read[number], 1);
    return;
  }
  locate(args, a, s);
  __syncthreads();
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
      here[e * pitch] = make_uint4(0, 0, 0, 0);
      if (s.from[e] >= 0) move_piece(here + e * pitch, src + s.from[e], a.width, mine);
    }
  }
  tc_copy_commit();
  add_weights(s);
  if (a.in_place) find_waits(args, number, s);
  tc_copy_wait<0>();
  __syncthreads();
  tc_delay(1);
  if (a.in_place) {
    if (threadIdx.x < 32) settle(args, number, s);
    __syncthreads();
  }
  if (mine <= 0) return;
#pragma unroll 1
  for (int32_t k = line; k < w.kept; k += lines) {
    const int32_t begin = k > 0 ? w.last[k - 1] + 1 : 0, end = w.last[k] + 1;
    const int32_t own = w.own[k];
    const float total = s.total[k];
    if (s.to[k] < 0 || s.from[own] < 0) continue;
    uint4 v;
    if (total == 0.0f) {
      if (a.in_place && s.from[own] == s.to[k]) continue;
      v = here[own * pitch];
    } else if (array.dtype == TAILCUT_F16) {
      v = mean_of<TAILCUT_F16>(w.weights, here, pitch, begin, end, total);
    } else if (array.dtype == TAILCUT_BF16) {
      v = mean_of<TAILCUT_BF16>(w.weights, here, pitch, begin, end, total);
    } else {
      v = mean_of<TAILCUT_F32>(w.weights, here, pitch, begin, end, total);
    }
    char *const to = a.dst + (s.to[k] + byte + column * 16);
    if (a.width == 16) {
      *(uint4 *)to = v;
    } else {
      here[own * pitch] = v;
      move_piece(to, here + own * pitch, a.width, mine);
    }
  }
}

template <int SIZE>
__global__ void __launch_bounds__(THREADS, 5) merge_rows(const __grid_constant__ rows_args args) {
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
