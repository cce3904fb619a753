/* SPDX-License-Identifier: Apache-2.0 */
/* fused_rows: an image's rows on their way to and from a block's shared memory (fused.cu). */
#ifndef TAILCUT_FUSED_ROWS_CUH_
#define TAILCUT_FUSED_ROWS_CUH_

#include "dot.cuh"
#include "fused.h"
#include "move.cuh"
#include "rows.cuh"
#include "segments.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

struct tc_image {
  int32_t b, start, n;
  int32_t i0, tokens; /* this warp's first candidate, and how many it has */
  bool valid;
};

/* Bytes from an array's base to candidate i's row; -1: there is none. */
__device__ inline int64_t tc_source_at(const tc_fused_plan &p, const tc_image &m,
                                       const tc_fused_array &a, int32_t i) {
  const int64_t row = (int64_t)i + p.segments.prefix_rows;
  return tc_row_offset(a, a.src_slots, a.src_row, a.src_segment, p.segments.cu_seqlens != nullptr,
                       m.start + row, m.b, row);
}

/* To result row j of a segment whose results begin at row `first` (LOCAL: its own first row). */
__device__ inline int64_t tc_result_at(const tc_fused_plan &p, const tc_image &m,
                                       const tc_fused_array &a, int64_t first, int32_t j) {
  return tc_row_offset(a, a.dst_slots, a.dst_row, a.dst_segment,
                       a.packed || p.segments.cu_seqlens != nullptr, first + j, m.b, j);
}

/* Starts the copies of candidate i's pieces into its slot. */
__device__ inline void tc_load_token(const tc_fused_plan &p, const tc_image &m, int32_t i,
                                     char *slot, int lane) {
  for (int32_t a = 0; a < p.num_arrays; a++) {
    const tc_fused_array &array = p.arrays[a];
    if (array.load_bytes == 0) continue;
    const int64_t at = tc_source_at(p, m, array, i);
    if (at < 0) continue;
    for (int32_t part = 0; part < array.parts; part++) {
      tc_load_bytes(slot + array.slot + part * array.slot_part,
                    array.src + at + part * array.src_part, array.load_bytes, array.src_width,
                    lane);
    }
  }
}

/* The image's reference as fp32, by all threads of the block. */
template <int DTYPE>
__device__ inline void tc_load_reference(const tc_fused_plan &p, const tc_image &m,
                                         float *reference) {
  const char *row = (const char *)p.reference;
  if (row == nullptr) {
    row = (const char *)p.tokens.data + tc_first_row_offset(p.segments, p.tokens, m.b, m.start);
  } else {
    row += (int64_t)(m.b - p.first) * p.reference_stride;
  }
  for (uint32_t e = threadIdx.x; e < (uint32_t)p.reference_floats; e += blockDim.x) {
    reference[tc_place<DTYPE>(e)] =
        e < (uint32_t)p.tokens.dim ? tc_element(row, p.reference_dtype, e) : 0.0f;
  }
}

/* Stores a kept token: result j of the segment's k. */
__device__ inline void tc_store_token(const tc_fused_plan &p, const tc_image &m, int32_t i,
                                      int32_t j, int32_t k, int32_t offset, const char *slot,
                                      int lane) {
  if (lane == 0) {
    if (p.out.cut.kept != nullptr) p.out.cut.kept[m.start + j] = i;
    if (p.out.kept_packed != nullptr) p.out.kept_packed[offset + j] = i;
  }
  for (int32_t a = 1; a < p.num_arrays; a++) {
    const tc_fused_array &array = p.arrays[a];
    if (j >= tc_result_rows(array, offset, k)) continue;
    const int64_t to = tc_result_at(p, m, array, array.packed ? offset : m.start, j);
    if (to < 0) continue;
    char *dst = array.dst + to;
    if (array.flags & TAILCUT_ROWS_RENUMBER) {
      for (int32_t part = lane; part < array.parts; part += 32) {
        tc_store_position(dst + part * array.dst_part, array.part_bytes, j);
      }
      continue;
    }
    const int64_t at = tc_source_at(p, m, array, i);
    if (at < 0 || array.src + at == dst) continue; /* no row, or in place and already there */
    for (int32_t part = 0; part < array.parts; part++) {
      tc_store_bytes(dst + part * array.dst_part, slot + array.slot + part * array.slot_part,
                     array.part_bytes, array.dst_width, lane);
    }
  }
}

/* Zeroes row j behind the segment's k results in each array that asks for it: result row j of the
 * segment (LOCAL), or of one whose results begin at `tail` (PACKED). */
__device__ inline void tc_zero_row(const tc_fused_plan &p, const tc_image &m, int32_t j, int32_t k,
                                   int64_t tail, int lane) {
  for (int32_t a = 1; a < p.num_arrays; a++) {
    const tc_fused_array &array = p.arrays[a];
    if (!(array.flags & TAILCUT_ROWS_ZERO_TAIL)) continue;
    if (j < (array.packed ? k : tc_result_rows(array, 0, k))) continue;
    if ((array.packed ? tail : 0) + j >= array.dst_rows) continue;
    const int64_t to = tc_result_at(p, m, array, array.packed ? tail : m.start, j);
    if (to < 0) continue;
    for (int32_t part = 0; part < array.parts; part++) {
      tc_store_bytes(array.dst + to + part * array.dst_part, nullptr, array.part_bytes,
                     array.dst_width, lane);
    }
  }
}

#endif
#endif /* TAILCUT_FUSED_ROWS_CUH_ */
