/* SPDX-License-Identifier: Apache-2.0 */
/* slab: how a block moves a column slice of a segment's kept rows in place: a batch of rows into
 * registers, a barrier that no thread passes before its bytes are there, the stores. compact.cu
 * says why that is safe from batch to batch; blocks own different bytes: none waits for another. */
#ifndef TAILCUT_SLAB_CUH_
#define TAILCUT_SLAB_CUH_

#include "common/delay.cuh"

constexpr int TC_SLAB_THREADS = 256;

/* Whether something is wrong: never. A barrier for the block that waits for all loads into v. A
 * load is in flight until its value is used, and a barrier alone does not use it. */
template <int HELD>
__device__ inline bool tc_all_arrived(const uint4 (&v)[HELD], int32_t rows) {
  uint32_t eaten = 0;
#pragma unroll
  for (int i = 0; i < HELD; i++) eaten ^= v[i].x;
  return __syncthreads_or(eaten == 0x9E3779B9u) != 0 && rows < 0;
}

/* Called by the whole block. Moves the 16 bytes of each row that `at`, those of result row 0, says:
 * this thread's rows are first + line, first + line + lines, ... below `end`, where it is `live`.
 * source(j): the row, at least j, that result row j comes from, or -1: it stays as it is. No source
 * lies below a result row that is reached before it, in this call or an earlier one. source is not
 * asked behind the call's last barrier. */
template <int HELD, class SOURCE>
__device__ __forceinline__ void tc_slab(char *at, int64_t row_stride, bool live, int32_t line,
                                        int32_t lines, int32_t first, int32_t end, SOURCE source) {
#pragma unroll 1
  for (int32_t base = first; base < end; base += HELD * lines) {
    const int32_t own = base + line;
    int32_t from[HELD];
    uint4 v[HELD];
#pragma unroll
    for (int i = 0; i < HELD; i++) {
      from[i] = live && own + i * lines < end ? source(own + i * lines) : -1;
    }
    tc_delay(0);
#pragma unroll
    for (int i = 0; i < HELD; i++) {
      v[i] = make_uint4(0, 0, 0, 0);
      if (from[i] >= 0) v[i] = *(const uint4 *)(at + from[i] * row_stride);
    }
    tc_delay(1);
    if (tc_all_arrived(v, end)) return;
    char *to = at + own * row_stride;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
      if (from[i] >= 0) *(uint4 *)(to + i * lines * row_stride) = v[i];
    }
  }
}

/* For a kernel of TC_SLAB_THREADS threads that has a sound kept list (ascending, below the
 * segment's candidates) in shared memory: slice `slice` of SLICE bytes of rows of row_bytes bytes,
 * a multiple of 16. `rows`: the segment's first row. */
template <int SLICE, int HELD, class INDEX>
__device__ __forceinline__ void tc_slab_of_list(char *rows, int64_t row_stride, int64_t row_bytes,
                                                int32_t prefix_rows, int32_t slice,
                                                const INDEX *kept, int32_t k) {
  constexpr int columns = SLICE / 16, lines = TC_SLAB_THREADS / columns;
  static_assert(columns * 16 == SLICE && lines * columns == TC_SLAB_THREADS, "a power of two");
  const int64_t byte = (int64_t)slice * SLICE + threadIdx.x % columns * 16;
  tc_slab<HELD>(rows + byte, row_stride, byte < row_bytes, (int32_t)(threadIdx.x / columns), lines,
                0, k, [=](int32_t j) {
                  const int32_t from = (int32_t)kept[j] + prefix_rows;
                  return from == j ? -1 : from;
                });
}

#endif /* TAILCUT_SLAB_CUH_ */
