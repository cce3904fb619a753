/* SPDX-License-Identifier: Apache-2.0 */
/* fused: the plan of a one-launch prune_visual, made on the host, and its launcher. */
#ifndef TAILCUT_FUSED_H_
#define TAILCUT_FUSED_H_

#include "cuda.h"

#if defined(__cplusplus)
extern "C" {
#endif

#define TC_FUSED_ARRAYS 8    /* row arrays that ride along in one launch */
#define TC_FUSED_TOKENS 2047 /* candidates of an image: sums of their curve values fit in int32 */
#define TC_FUSED_WARPS 16
#define TC_FUSED_CLUSTER 16

/* One row array as the kernel moves it. A token's slot in shared memory holds the parts of every
 * array that is moved, each part aligned to 16 bytes. */
typedef struct tc_fused_array {
  const char *src;
  char *dst;
  int64_t src_row, dst_row;         /* strides in bytes */
  int64_t src_segment, dst_segment; /* uniform batches */
  int64_t src_part, dst_part;
  const void *src_slots, *dst_slots; /* NULL: no table */
  int64_t page_rows, page_stride;
  int64_t dst_rows; /* rows the destination has room for */
  int32_t slot_bytes, part_bytes, parts;
  int32_t slot, slot_part; /* where the parts stand in a token's slot, bytes from part to part */
  int32_t load_bytes;      /* bytes of a part to load; 0: another array's load brings them */
  int32_t src_width, dst_width; /* widest access that suits every part: 16, 8, 4, 2 or 1 */
  int32_t packed, flags;
} tc_fused_array;

typedef struct tc_fused_plan {
  tc_segments segments;
  tailcut_tokens tokens;
  const void *reference; /* NULL: row 0 of the segment */
  int32_t reference_dtype;
  int64_t reference_stride; /* bytes, segment to segment, from segment `first` */
  tailcut_rule rule;
  int32_t first, count; /* segments of this launch */
  int32_t cluster, warps, block_tokens, warp_tokens;
  int32_t slot_bytes, reference_floats; /* the latter: dim, rounded up to 256 */
  int32_t zeroes, packed_tail;          /* an array, a PACKED one asks for zeros */
  int32_t num_arrays;
  tc_cuda_prune_out out;
  float *scores;                              /* NULL: not wanted */
  tc_fused_array arrays[TC_FUSED_ARRAYS + 1]; /* [0]: the scored rows */
} tc_fused_plan;

/* Plans the call's launch but for reference, first, count, out and scores. Bit i of *rides: row array
 * i rides along (never one after the 64th). Returns 0 where the form does not suit the device or the
 * call. */
int tc_fused_make(tc_fused_plan *plan, const tc_cuda *device, const tc_call *call,
                  const tc_segments *segments, uint64_t *rides);
size_t tc_fused_shared(const tc_fused_plan *plan);

/* fused.cu: one launch for segments plan->first .. plan->first + plan->count - 1. */
cudaError_t tc_cuda_fused(const tc_fused_plan *plan, cudaStream_t stream);

#if defined(__cplusplus)
}
#endif

#endif /* TAILCUT_FUSED_H_ */
