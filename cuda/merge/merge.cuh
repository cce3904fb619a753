/* SPDX-License-Identifier: Apache-2.0 */
/* merge: what its kernels hand on to each other. merge.cu says what they do. */
#ifndef TAILCUT_MERGE_CUH_
#define TAILCUT_MERGE_CUH_

#include "common/block.cuh"
#include "common/launch.cuh"
#include "common/windows.cuh"

constexpr int TC_MERGED_ARRAYS = 8; /* of a launch */

/* What is known of a window: how many of its candidates are kept, and what of its segment says
 * where a result is put. */
struct alignas(16) tc_merge_window {
  int32_t b, start, first;
  int32_t kept, members; /* kept 0: nothing of it is read */
  int32_t count, offset; /* rows of its segment's result; new_cu of the segment, or 0 */
  int32_t place;         /* of the segment's result: the first kept row's */
};

/* Scratch, by row number or by number of the window. Of a window that begins with candidate i of a
 * segment, at start + i + ..: entry e is the e-th of the rows that are read, those of a result one
 * after the other; entry k is the k-th kept row. Every slice of a window looks all of that up, so
 * it is packed: rows of a window are a byte. */
struct tc_merge_plan {
  tc_merge_window *windows;
  uint32_t *read;  /* column slices of the window that are on chip */
  int32_t *window; /* by candidate: the number of its window */
  float *weights;  /* of the rows that are read, */
  uint8_t *rows;   /* and which of the window they are */
  uint8_t *last;   /* of a kept row: its last entry of those, */
  uint8_t *own;    /* and the one that is itself */
  int32_t *places; /* its row of the segment's result; lists that are sound: place + k */
  int32_t *place;  /* tidied lists: the result of each candidate, -1: none */
};

/* In `read`: nobody reads this window. Slices, however many, do not add up to it. */
constexpr uint32_t TC_NOT_READ = 1u << 31;

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

cudaError_t tc_merge_tidy_lists(const tc_segments &segments, const int32_t *kept, bool packed,
                                const int32_t *counts, const int32_t *new_cu, int32_t *tidy,
                                int32_t *place, const tc_chain *chain);
cudaError_t tc_merge_plan_windows(const tc_merge_args &args, const tc_chain *chain);
cudaError_t tc_merge_rows(const tc_cuda *device, const tc_merge_args &args,
                          const tailcut_rows *rows, int32_t num_rows, tc_cuda_lasting *lasting,
                          const tc_chain *chain);
void tc_load_merge_plan(cudaError_t *error);
void tc_load_merge_rows(cudaError_t *error);
void tc_load_merge_tidy(cudaError_t *error);

#endif /* TAILCUT_MERGE_CUH_ */
