/* SPDX-License-Identifier: Apache-2.0 */
/* slab: how a block moves a column slice of a segment's kept rows in place: a batch of rows into
 * registers, a barrier that no thread passes before its bytes are there, the stores. compact.cu
 * says why that is safe from batch to batch; blocks own different bytes: none waits for another.
 * Entries of the list are looked up once per block. Limits: none; past 8,192 rows tickets serve few
 * segments better. */
#ifndef TAILCUT_SLAB_CUH_
#define TAILCUT_SLAB_CUH_

#include "compact/compact.cuh"

constexpr int TC_SLAB_HELD = 6;     /* rows of which a thread holds a unit */
constexpr int TC_SLAB_LISTED = 768; /* rows whose sources are looked up at a time: whole batches */

/* Whether something is wrong: never. A barrier for the block that waits for all loads into v. A
 * load is in flight until its value is used, and a barrier alone does not use it. */
__device__ inline bool tc_all_arrived(const uint4 (&v)[TC_SLAB_HELD], int32_t rows) {
  uint32_t eaten = 0;
#pragma unroll
  for (int i = 0; i < TC_SLAB_HELD; i++) eaten ^= v[i].x;
  return __syncthreads_or(eaten == 0x9E3779B9u) != 0 && rows < 0;
}

/* Called by the whole block. Moves the 16 bytes of each row that `at`, those of result row 0, says:
 * this thread's rows are first + line, first + line + lines, ... below `end`, where it is `live`.
 * source(j): the row, at least j, that result row j comes from, or -1: it stays as it is. No source
 * lies below a result row that is reached before it, in this call or an earlier one. source is not
 * asked behind the call's last barrier. */
template <class SOURCE>
__device__ __forceinline__ void tc_slab(char *at, int64_t row_stride, bool live, int32_t line,
                                        int32_t lines, int32_t first, int32_t end, SOURCE source) {
#pragma unroll 1
  for (int32_t base = first; base < end; base += TC_SLAB_HELD * lines) {
    const int32_t own = base + line;
    int32_t from[TC_SLAB_HELD];
    uint4 v[TC_SLAB_HELD];
#pragma unroll
    for (int i = 0; i < TC_SLAB_HELD; i++) {
      from[i] = live && own + i * lines < end ? source(own + i * lines) : -1;
    }
    tc_delay(0);
#pragma unroll
    for (int i = 0; i < TC_SLAB_HELD; i++) {
      v[i] = make_uint4(0, 0, 0, 0);
      if (from[i] >= 0) v[i] = *(const uint4 *)(at + from[i] * row_stride);
    }
    tc_delay(1);
    if (tc_all_arrived(v, end)) return;
    char *to = at + own * row_stride;
#pragma unroll
    for (int i = 0; i < TC_SLAB_HELD; i++) {
      if (from[i] >= 0) *(uint4 *)(to + i * lines * row_stride) = v[i];
    }
  }
}

/* For a kernel of TC_COMPACT_THREADS threads that has a sound kept list (ascending, below the
 * segment's candidates) in shared memory: slice `slice` of SLICE bytes of rows of row_bytes bytes,
 * a multiple of 16. `rows`: the segment's first row. */
template <int SLICE>
__device__ __forceinline__ void tc_slab_of_list(char *rows, int64_t row_stride, int64_t row_bytes,
                                                int32_t prefix_rows, int32_t slice,
                                                const int32_t *kept, int32_t k) {
  constexpr int columns = SLICE / 16, lines = TC_COMPACT_THREADS / columns;
  static_assert(columns * 16 == SLICE && lines * columns == TC_COMPACT_THREADS, "a power of two");
  const int64_t byte = (int64_t)slice * SLICE + threadIdx.x % columns * 16;
  tc_slab(rows + byte, row_stride, byte < row_bytes, (int32_t)(threadIdx.x / columns), lines, 0, k,
          [=](int32_t j) {
            const int32_t from = kept[j] + prefix_rows;
            return from == j ? -1 : from;
          });
}

/* Slab `at` of an array: a slice of columns of a segment. source: TC_SLAB_LISTED places in shared
 * memory. */
__device__ __forceinline__ void tc_move_slab(const tc_lists &lists, const tc_row_array &a,
                                             uint32_t at, int32_t *source) {
  constexpr int EACH = TC_SLAB_LISTED / TC_COMPACT_THREADS;
  const tc_slice_work w = tc_slice_of(a, at);
  tc_wait_previous();
  const tc_result r = tc_result_of(lists, false, a.dst_rows, w.b, tc_segment_at(lists.s, w.b));
  const int32_t prefix_rows = lists.s.prefix_rows;
  char *to = a.dst + (tc_segment_offset(lists, a, r.b, r.start) + w.offset);
#pragma unroll 1
  for (int32_t first = 0; first < r.k; first += TC_SLAB_LISTED) {
    const int32_t warp = (int32_t)(threadIdx.x >> 5) * (EACH * 32);
    if (first + warp < r.k) {
      int32_t i[EACH];
      tc_follow_many(r.kept, first + warp, r.k, r.n, i);
#pragma unroll
      for (int m = 0; m < EACH; m++) {
        const int32_t own = warp + m * 32 + (int32_t)(threadIdx.x & 31);
        source[own] = i[m] < 0 || i[m] + prefix_rows == first + own ? -1 : i[m] + prefix_rows;
      }
    }
    /* The sources of rows before were last asked for before the last batch's barrier. */
    __syncthreads();
    tc_slab(to, a.src_row_stride, w.live, w.line, w.lines, first, min(first + TC_SLAB_LISTED, r.k),
            [=](int32_t j) { return source[j - first]; });
  }
}

#endif /* TAILCUT_SLAB_CUH_ */
