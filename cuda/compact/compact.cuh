/* SPDX-License-Identifier: Apache-2.0 */
/* compact: what its forms share: the lists, a segment's share of them, rows of 16-byte units, how a
 * grid is dealt to arrays. compact.cu says which array takes which form. */
#ifndef TAILCUT_COMPACT_CUH_
#define TAILCUT_COMPACT_CUH_

#include "common/launch.cuh"
#include "common/rows.cuh"
#include "common/tiles.cuh"

constexpr int TC_FEW_ARRAYS = 8; /* what a small parameter block holds */

/* What all arrays of a call are moved by. */
struct tc_lists {
  tc_segments s;
  const int32_t *kept, *counts, *new_cu;
  int32_t kept_packed, tidied; /* tidied: was PACKED, is LOCAL and sound (TC_KEPT_TIDIED) */
};

/* Segment b's result in an array. */
struct tc_result {
  int32_t b, start, n;  /* its rows, prefix rows included, begin with number start */
  int32_t k, dst_start; /* rows of the result and the number of its first */
  const int32_t *kept;
};

/* false: the segment's offset would lead outside the kept list. */
__device__ inline bool tc_take_result(const tc_lists &lists, bool packed, int64_t dst_rows,
                                      int32_t b, const tc_segment &segment, tc_result *r) {
  const int32_t count = lists.counts[b];
  const int32_t offset = packed || lists.kept_packed ? lists.new_cu[b] : 0;
  const bool damaged = count < 0 || count > segment.n || offset < 0;
  r->b = b;
  r->n = segment.n;
  r->start = segment.start;
  r->k = damaged || (packed ? (int64_t)offset : 0) + count > dst_rows ? 0 : count;
  r->dst_start = packed ? offset : segment.start;
  r->kept = lists.kept + (lists.kept_packed && !lists.tidied ? offset : segment.start);
  return !lists.kept_packed || (offset >= 0 && (int64_t)offset + r->k <= lists.s.total);
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

/* The same for a warp whose lanes have entries one after the other, with fewer loads. `length`: the
 * list's; entries from there on give -1. All loads may go before the first warp-wide judgement. */
struct tc_entry {
  int32_t i, before;
};

__device__ inline tc_entry tc_load_entry(const int32_t *kept, int32_t j, int32_t length) {
  const bool listed = j < length;
  return {tc_load_if(listed, kept + j, -1),
          tc_load_if(listed && j > 0 && (threadIdx.x & 31) == 0, kept + j - 1, -1)};
}

__device__ inline int32_t tc_judge_entry(const tc_entry &e, int32_t j, int32_t n) {
  const int32_t left = __shfl_up_sync(TC_FULL, e.i, 1);
  const int32_t before = (threadIdx.x & 31) == 0 ? e.before : left;
  return e.i > before && e.i >= j && e.i < n ? e.i : -1;
}

/* An array whose rows are whole units of 16 bytes at aligned places, without slots. */
struct tc_unit_rows {
  const char *src;
  char *dst;
  int64_t src_row, dst_row, src_segment, dst_segment, src_part, dst_part; /* strides in bytes */
  int64_t dst_rows;
  int32_t units, part_units; /* units of a row; of a part */
  uint8_t columns_log;       /* units side by side in a block's work */
  uint8_t packed;
};

/* What a launch is about: arrays, and which of them work number w belongs to. */
template <int MOST>
struct tc_arrays {
  int32_t count, first[MOST + 1]; /* work before each array */
  tc_unit_rows array[MOST];
};

template <int MOST>
__device__ inline int tc_array_of(const tc_arrays<MOST> &arrays, int32_t work) {
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

/* Bytes from a row's first to unit `unit`. */
__device__ inline int64_t tc_unit_offset(const tc_unit_rows &a, int64_t part_stride,
                                         uint32_t unit) {
  if (unit < (uint32_t)a.part_units) return (int64_t)unit * 16;
  const uint32_t part = unit / (uint32_t)a.part_units;
  return part * part_stride + (int64_t)(unit - part * (uint32_t)a.part_units) * 16;
}

/* Bytes from the array's first row to the segment's. */
__device__ inline int64_t tc_segment_offset(const tc_lists &lists, const tc_unit_rows &a,
                                            const tc_result &r) {
  return lists.s.cu_seqlens != nullptr ? r.start * a.src_row : r.b * a.src_segment;
}

/* To the first row of its result. */
__device__ inline int64_t tc_result_offset(const tc_lists &lists, const tc_unit_rows &a,
                                           const tc_result &r) {
  return a.packed || lists.s.cu_seqlens != nullptr ? r.dst_start * a.dst_row : r.b * a.dst_segment;
}

/* -------------------------------------------------------------------------------------- host -- */

/* What a launch of a call needs besides its arrays. */
struct tc_compact_call {
  const tc_cuda *device;
  tc_lists lists;
  char *scratch;
  tc_cuda_lasting *lasting;
  tc_chain chain;
  bool more_arrays; /* than go in one launch */
  bool cleared;     /* scratch is zero */
};

/* Where a kernel has been launched: the next one follows. */
static inline cudaError_t tc_launched(tc_compact_call *call, cudaError_t error) {
  call->chain.follows = call->device->chains;
  return error;
}

static inline int32_t tc_most_candidates(const tc_segments &s) {
  return s.max_tokens > s.prefix_rows ? s.max_tokens - s.prefix_rows : 0;
}

static inline tc_unit_rows tc_describe_units(const tailcut_rows &r) {
  tc_unit_rows a = {};
  a.src = (const char *)r.src;
  a.dst = (char *)r.dst;
  a.src_row = r.src_row_stride;
  a.dst_row = r.dst_row_stride;
  a.src_segment = r.src_segment_stride;
  a.dst_segment = r.dst_segment_stride;
  a.src_part = r.src_part_stride;
  a.dst_part = r.dst_part_stride;
  a.dst_rows = r.dst_rows;
  a.part_units = (int32_t)(r.part_bytes / 16);
  a.units = a.part_units * r.parts;
  a.packed = r.placement == TAILCUT_PACKED;
  return a;
}

/* The launches of a form, each of up to TC_ROWS_PER_LAUNCH arrays that it serves. */
cudaError_t tc_compact_slabs(tc_compact_call *call, const tailcut_rows *const *rows, int32_t count);
cudaError_t tc_compact_tickets(tc_compact_call *call, const tailcut_rows *const *rows,
                               int32_t count);
cudaError_t tc_compact_tiles(tc_compact_call *call, const tailcut_rows *const *rows, int32_t count);
cudaError_t tc_compact_rest(tc_compact_call *call, const tailcut_rows *const *rows, int32_t count);
/* Arrays with a rotation, of parts of at most TC_LONGEST_TURNED bytes. */
cudaError_t tc_compact_turn(tc_compact_call *call, const tailcut_rows *const *rows, int32_t count);
/* Whether tickets can serve an array whose rows are units in place; for how many rows of a batch
 * they need which scratch. */
bool tc_tickets_serve(const tc_compact_call *call, const tailcut_rows &r);
size_t tc_compact_tickets_scratch(int64_t rows);
cudaError_t tc_load_compact_slabs();
cudaError_t tc_load_compact_tickets();
cudaError_t tc_load_compact_tiles();
cudaError_t tc_load_compact_rest();
cudaError_t tc_load_compact_turn();

#endif /* TAILCUT_COMPACT_CUH_ */
