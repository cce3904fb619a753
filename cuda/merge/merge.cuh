/* SPDX-License-Identifier: Apache-2.0 */
/* merge: what its kernels hand on to each other. merge.cu says what they do. */
#ifndef TAILCUT_MERGE_CUH_
#define TAILCUT_MERGE_CUH_

#include "common/block.cuh"
#include "common/launch.cuh"
#include "common/windows.cuh"

constexpr int TC_MERGED_ARRAYS = 8; /* of a launch */

/* Of a window: its candidates begin with `first` of segment b, its results, the kept rows, with row
 * `place` of the segment's. */
struct tc_merge_header {
  int32_t b, start, first, place;
  int32_t kept, members; /* kept 0: nothing of it is read */
  int32_t count, offset; /* rows of the segment's result; its new_cu, or 0 */
};

/* What is planned for it. Every slice of a window looks all of that up, so it is packed: rows of a
 * window are a byte. Entries past `members` and `kept` say nothing. */
template <int SIZE>
struct alignas(16) tc_merge_window : tc_merge_header {
  float weights[SIZE];           /* of the rows that are read, result by result, */
  uint8_t rows[SIZE];            /* and which of the window they are */
  uint8_t last[SIZE], own[SIZE]; /* of a result: its last entry of those, and the kept row's */
};
constexpr size_t TC_MERGE_ROW_BYTES = 7;
static_assert(sizeof(tc_merge_window<64>) == sizeof(tc_merge_header) + 64 * TC_MERGE_ROW_BYTES, "");

/* Scratch: by number of the window, */
struct tc_merge_plan {
  void *windows;   /* tc_merge_window<window> */
  uint32_t *read;  /* column slices of the window that are on chip */
                   /* and by row number: */
  int32_t *window; /* the number of a candidate's window */
  int32_t *place;  /* tidied lists: the result of a candidate, -1: none; others: place + .. */
};

/* In `read`: nobody reads this window. Slices, however many, do not add up to it. */
constexpr uint32_t TC_NOT_READ = 1u << 31;

/* To or from the scratch, 16 bytes a thread. */
template <int SIZE>
__device__ inline void tc_copy_window(tc_merge_window<SIZE> *to,
                                      const tc_merge_window<SIZE> *from) {
  const uint32_t i = threadIdx.x;
  if (i < sizeof *to / 16) ((uint4 *)to)[i] = ((const uint4 *)from)[i];
}

struct tc_merge_args {
  tc_segments s;
  tc_groups g;
  tc_tiles t;
  int32_t window, n;
  int64_t numbers;                       /* of windows: no number is this or higher */
  const int32_t *kept, *counts, *new_cu; /* kept: LOCAL */
  tailcut_merge_options options;
  int32_t sizes_packed, tidied; /* tidied: by `place` and not by `kept` */
  int32_t early;                /* the next kernel may start at once */
  const int32_t *similarities;
  tc_merge_plan plan;
};

cudaError_t tc_merge_plan_windows(const tc_merge_args &args, const tc_chain *chain);
cudaError_t tc_merge_rows(const tc_cuda *device, const tc_merge_args &args,
                          const tailcut_rows *rows, int32_t num_rows, tc_cuda_lasting *lasting,
                          const tc_chain *chain);
void tc_load_merge_plan(cudaError_t *error);
void tc_load_merge_rows(cudaError_t *error);

#endif /* TAILCUT_MERGE_CUH_ */
