/* SPDX-License-Identifier: Apache-2.0 */
/* compact: what its forms share: the lists, a segment's share of them, rows of 16-byte units, how a
 * grid is dealt to arrays. compact.cu says which array takes which form. */
#ifndef TAILCUT_COMPACT_CUH_
#define TAILCUT_COMPACT_CUH_

#include "common/delay.cuh"
#include "common/launch.cuh"
#include "common/rows.cuh"
#include "common/tiles.cuh"

constexpr int TC_COMPACT_THREADS = 256; /* of a block, in every form */
constexpr int TC_FEW_ARRAYS = 8;        /* what a small parameter block holds */

/* Segment b's result in an array. */
struct tc_result {
  int32_t b, start, n;  /* its rows, prefix rows included, begin with number start */
  int32_t k, dst_start; /* rows of the result and the number of its first */
  const int32_t *kept;
};

/* No candidates either where the segment's offset would lead outside the kept list. */
__device__ inline tc_result tc_result_of(const tc_lists &lists, bool packed, int64_t dst_rows,
                                         int32_t b, const tc_segment &segment) {
  const int32_t count = lists.counts[b];
  const int32_t offset = packed || lists.placement != TAILCUT_LOCAL ? lists.new_cu[b] : 0;
  const bool damaged = count < 0 || count > segment.n || offset < 0;
  tc_result r;
  r.b = b;
  r.n = segment.n;
  r.start = segment.start;
  r.k = damaged || (packed ? (int64_t)offset : 0) + count > dst_rows ? 0 : count;
  r.dst_start = packed ? offset : segment.start;
  r.kept = lists.kept + (lists.placement == TAILCUT_PACKED ? offset : segment.start);
  if (lists.placement != TAILCUT_LOCAL && (offset < 0 || (int64_t)offset + r.k > lists.s.total)) {
    r.k = r.n = 0;
  }
  return r;
}

/* The candidate that result row j < k comes from; -1: the list is damaged there, and the row stays
 * as it is. */
__device__ inline int32_t tc_follow(const int32_t *kept, int32_t j, int32_t n) {
  const int32_t i = kept[j], before = j > 0 ? kept[j - 1] : -1;
  return i > before && i >= j && i < n ? i : -1;
}

/* *p, or `other` where it must not be read; not a branch, so nothing waits before it is used. */
__device__ inline int32_t tc_load_if(bool wanted, const int32_t *p, int32_t other) {
  int32_t v;
  asm volatile(
      "{\n.reg .pred wanted;\nsetp.ne.s32 wanted, %2, 0;\nmov.b32 %0, %3;\n"
      "@wanted ld.global.b32 %0, [%1];\n}"
      : "=&r"(v)
      : "l"(p), "r"((int32_t)wanted), "r"(other)
      : "memory");
  return v;
}

/* The same for EACH * 32 entries from entry `first` on, which a warp looks up with few loads, all
 * under way at once: i[m] is what comes of entry first + m * 32 + lane. `length`: the list's;
 * entries from there on give -1. */
template <int EACH>
__device__ inline void tc_follow_many(const int32_t *kept, int32_t first, int32_t length, int32_t n,
                                      int32_t (&i)[EACH]) {
  const int32_t lane = (int32_t)(threadIdx.x & 31);
  int32_t before = tc_load_if(lane == 0 && first > 0 && first < length, kept + first - 1, -1);
#pragma unroll
  for (int m = 0; m < EACH; m++) {
    const int32_t j = first + m * 32 + lane;
    i[m] = tc_load_if(j < length, kept + j, -1);
  }
#pragma unroll
  for (int m = 0; m < EACH; m++) {
    const int32_t j = first + m * 32 + lane, entry = i[m];
    const int32_t left = __shfl_up_sync(TC_FULL, entry, 1);
    if (lane > 0) before = left;
    i[m] = entry > before && entry >= j && entry < n ? entry : -1;
    before = __shfl_sync(TC_FULL, entry, 31);
  }
}

/* What a launch is about: arrays, and which of them work number w belongs to. */
template <int MOST>
struct tc_arrays {
  int32_t count;
  int64_t first[MOST + 1]; /* work before each array */
  tc_row_array array[MOST];
};

template <int MOST>
__device__ inline int tc_array_of(const tc_arrays<MOST> &arrays, int64_t work) {
  int lo = 0, hi = arrays.count; /* first[lo] <= work < first[hi] */
  while (hi - lo > 1) {
    const int mid = (lo + hi) / 2;
    if (arrays.first[mid] <= work) {
      lo = mid;
    } else {
      hi = mid;
    }
  }
  return lo;
}

/* For arrays whose rows are whole units of 16 bytes at aligned places, without slots. */

/* Bytes from a row's first to unit `unit`. */
__device__ inline int64_t tc_unit_offset(const tc_row_array &a, int64_t part_stride,
                                         uint32_t unit) {
  if (unit < (uint32_t)a.part_units) return (int64_t)unit * 16;
  const uint32_t part = unit / (uint32_t)a.part_units;
  return part * part_stride + (int64_t)(unit - part * (uint32_t)a.part_units) * 16;
}

/* Bytes from the array's first row to that of segment b, which has row number `start`. */
__device__ inline int64_t tc_segment_offset(const tc_lists &lists, const tc_row_array &a, int32_t b,
                                            int32_t start) {
  return lists.s.cu_seqlens != nullptr ? start * a.src_row_stride : b * a.src_segment_stride;
}

/* A column slice of a segment in place, and the unit of each row that is this thread's. */
struct tc_slice_work {
  int32_t b, line, lines;
  uint32_t column;
  bool live;
  int64_t offset; /* from the row to the unit */
};

__device__ inline tc_slice_work tc_slice_of(const tc_row_array &a, uint32_t at) {
  const uint32_t slices = (uint32_t)a.slices, b = at / slices;
  tc_slice_work w;
  w.b = (int32_t)b;
  w.column = threadIdx.x & ((1u << a.columns_log) - 1);
  w.line = (int32_t)(threadIdx.x >> a.columns_log);
  w.lines = TC_COMPACT_THREADS >> a.columns_log;
  const uint32_t unit = ((at - b * slices) << a.columns_log) + w.column;
  w.live = unit < (uint32_t)a.units;
  w.offset = tc_unit_offset(a, a.src_part_stride, unit);
  return w;
}

/* -------------------------------------------------------------------------------------- host -- */

/* The forms of compact.cu that share a launch; of arrays sorted by form, the first of each. */
enum { TC_REST, TC_TILES, TC_SLABS, TC_TICKETS, TC_FORMS };
typedef int32_t tc_forms[TC_FORMS + 1];

/* What a launch of a call needs besides its arrays. */
struct tc_compact_call {
  const tc_cuda *device;
  tc_lists lists;
  char *scratch;
  tc_cuda_lasting *lasting;
  tc_chain chain;
};

/* Where a kernel has been launched: the next one follows. */
static inline cudaError_t tc_launched(tc_compact_call *call, cudaError_t error) {
  call->chain.follows = call->device->chains;
  return error;
}

static inline tc_row_array tc_describe_in(const tc_segments &s, const tailcut_rows &r) {
  return tc_describe(r, s.cu_seqlens == nullptr);
}

static inline int32_t tc_most_candidates(const tc_segments &s) {
  return s.max_tokens > s.prefix_rows ? s.max_tokens - s.prefix_rows : 0;
}

/* Column slices of 16 << columns_log bytes of a row. */
static inline int64_t tc_slices(const tc_row_array &a, int columns_log) {
  return ((a.units - 1) >> columns_log) + 1;
}

/* Cuts rows into these: how many there are of `segments` segments. */
static inline int64_t tc_slice_rows(tc_row_array *a, int columns_log, int64_t segments) {
  a->columns_log = (uint8_t)columns_log;
  a->slices = tc_slices(*a, columns_log);
  return a->slices * segments;
}

/* The kernels of tickets.cu and turn.cu. In the launch of tickets the other arrays go too. */
cudaError_t tc_compact_tickets(tc_compact_call *call, const tailcut_rows *const *sorted,
                               const tc_forms &first);
cudaError_t tc_compact_turn(tc_compact_call *call, const tailcut_rows *rows, int32_t count);
/* Whether tickets can serve an array whose rows are units in place; for how many rows of a batch
 * they need which scratch. */
bool tc_tickets_serve(const tc_compact_call *call, const tailcut_rows &r);
size_t tc_compact_tickets_scratch(int64_t rows);
void tc_load_compact_tickets(cudaError_t *error);
void tc_load_compact_turn(cudaError_t *error);

#endif /* TAILCUT_COMPACT_CUH_ */
