/* SPDX-License-Identifier: Apache-2.0 */
/* segments: where each segment starts, how many candidates it has, whether its bounds hold. */
#include "cpu.h"

void tc_segments_resolve(tc_run *run) {
  const tailcut_batch *batch = &run->call->batch;
  int64_t highest = 0; /* of all offsets so far: one below it would share rows with others */
  int32_t sum = 0;
  for (int32_t b = 0; b < batch->segments; b++) {
    int64_t start = (int64_t)b * batch->max_tokens;
    int64_t length = batch->max_tokens;
    int valid = 1;
    if (batch->cu_seqlens != NULL) {
      const int64_t end = batch->cu_seqlens[b + 1];
      start = batch->cu_seqlens[b];
      length = end - start;
      valid = start >= highest && length >= 0 && end <= batch->total_tokens;
      if (start > highest) highest = start;
    } else if (batch->lengths != NULL) {
      length = batch->lengths[b];
    }
    valid = valid && length >= 0 && length <= batch->max_tokens;
    run->start[b] = valid ? (int32_t)start : 0;
    run->n[b] = valid && length > batch->cls_row ? (int32_t)(length - batch->cls_row) : 0;
    atomic_store_explicit(&run->flags[b], valid ? 0 : TAILCUT_FLAG_INVALID, memory_order_relaxed);
    run->cum[b] = sum;
    sum += run->n[b];
  }
  run->cum[batch->segments] = sum;
}

const char *tc_token_row(const tc_run *run, int32_t b, int64_t r) {
  const tailcut_batch *batch = &run->call->batch;
  const tailcut_tokens *tokens = &run->call->tokens;
  const int64_t row = r + batch->cls_row;
  const int64_t element = batch->cu_seqlens != NULL
                              ? (run->start[b] + row) * tokens->row_stride
                              : b * tokens->segment_stride + row * tokens->row_stride;
  return (const char *)tokens->data + element * tc_dtype_size(tokens->dtype);
}
