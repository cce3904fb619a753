/* SPDX-License-Identifier: Apache-2.0 */
/* fused_plan: which batches go in one launch or in two, and which of their row arrays. Host
 * arithmetic alone. */
#include "cuda.h"
#include "overlap.h"

#define TC_FUSED_LEAST 16 /* images from which on one launch is faster than the chain */
#define TC_REST_LEAST 3   /* and cut and slabs in one kernel faster than in two */

/* Rows [0, rows) of every segment as bytes; ragged rows are numbered through. */
static tc_side side_of(const void *base, int64_t bytes, const tailcut_batch *batch, int64_t rows,
                       int64_t row, int64_t segment) {
  const int through = batch->cu_seqlens != NULL && rows > 1;
  tc_side side;
  side.base = (uintptr_t)base;
  side.part_bytes = bytes;
  side.dim[TC_PARTS].count = 1;
  side.dim[TC_PARTS].stride = 0;
  side.dim[TC_ROWS].count = through ? batch->total_tokens : rows;
  side.dim[TC_ROWS].stride = row;
  side.dim[TC_SEGMENTS].count = through ? 1 : batch->segments;
  side.dim[TC_SEGMENTS].stride = segment;
  return side;
}

/* Whether array r, moved image by image, leaves alone what is read of other images: their rows,
 * and a reference that is given. A call is its parts one after the other; in one launch that
 * holds for an image by itself only. */
static int is_safe(const tc_call *call, const tailcut_rows *r) {
  const tailcut_batch *batch = &call->batch;
  const int64_t size = tc_dtype_size(call->tokens.dtype), bytes = call->tokens.dim * size;
  const int64_t row = call->tokens.row_stride * size, segment = call->tokens.segment_stride * size;
  const int64_t inside = (int64_t)((uintptr_t)r->dst - (uintptr_t)call->tokens.data);
  const int own_rows = r->dst_row_stride == row && inside >= 0 && inside + r->part_bytes <= row &&
                       (batch->cu_seqlens != NULL || r->dst_segment_stride == segment);
  const tc_side written = side_of(r->dst, r->part_bytes, batch, batch->max_tokens,
                                  r->dst_row_stride, r->dst_segment_stride);
  const tc_side scored = side_of(call->tokens.data, bytes, batch, batch->max_tokens, row, segment);
  if (!own_rows && !tc_sides_apart(&written, &scored)) return 0;
  if (call->reference.source == TAILCUT_REFERENCE_ROW) return 1; /* one of the image's rows */
  const tc_side reference =
      side_of(call->reference.data, bytes, batch, 1, 0, call->reference.segment_stride * size);
  return tc_sides_apart(&written, &reference);
}

/* In place, rows of whole 16-byte units at aligned places. */
static int may_ride(const tc_call *call, const tailcut_rows *r) {
  uint64_t bits =
      (uint64_t)(uintptr_t)r->dst | (uint64_t)r->dst_row_stride | (uint64_t)r->part_bytes;
  if (call->batch.cu_seqlens == NULL) bits |= (uint64_t)r->dst_segment_stride;
  return r->placement == TAILCUT_LOCAL && r->src == r->dst && r->flags == 0 && r->parts == 1 &&
         r->src_slots == NULL && r->dst_slots == NULL && bits % 16 == 0;
}

static int scores_ride(const tc_call *call) {
  const tailcut_tokens *t = &call->tokens;
  const tailcut_reference *r = &call->reference;
  const int given = r->source == TAILCUT_REFERENCE_GIVEN && r->dtype == t->dtype;
  uint64_t bits =
      (uint64_t)(uintptr_t)t->data | (uint64_t)(t->row_stride * 2) | (uint64_t)t->dim * 2;
  if (call->batch.cu_seqlens == NULL) bits |= (uint64_t)(t->segment_stride * 2);
  if (given) bits |= (uint64_t)(uintptr_t)r->data | (uint64_t)(r->segment_stride * 2);
  return call->roles == NULL && t->dtype != TAILCUT_F32 &&
         (given || r->source == TAILCUT_REFERENCE_ROW) && bits % 16 == 0 && t->dim <= TC_FUSED_DIM;
}

tc_fusion tc_fused_takes(const tc_cuda *device, const tc_call *call, uint64_t *rides) {
  const tailcut_batch *batch = &call->batch;
  const tailcut_selection *selection = &call->selection;
  const int64_t most = (int64_t)batch->max_tokens - batch->prefix_rows;
  *rides = 0;
  if (!device->fuses || batch->segments < TC_REST_LEAST || batch->segments > TC_CHUNK_SEGMENTS ||
      most <= 0 || most > TC_FUSED_ROWS || batch->group_cu_seqlens != NULL) {
    return TC_FUSE_NOTHING;
  }
  if (call->rotations > 0) return TC_FUSE_NOTHING; /* those arrays go before all others */
  if (call->rule.spread > 0.0 || selection->curve != NULL || selection->ranks != NULL ||
      !tc_cuda_cuts_by_value(&call->rule)) {
    return TC_FUSE_NOTHING;
  }
  /* Tiles are dealt to every image as to the longest. */
  const int dense = batch->cu_seqlens == NULL || batch->total_tokens >= batch->segments * most / 2;
  const int all = batch->segments >= TC_FUSED_LEAST && dense && scores_ride(call);
  if (batch->segments >= TC_FUSED_LEAST && !all) return TC_FUSE_NOTHING;
  int32_t riding = 0;
  for (int32_t i = 0; i < call->num_rows && i < 64 && riding < TC_FUSED_ARRAYS; i++) {
    const tailcut_rows r = tc_rows_at(call, i);
    if (!may_ride(call, &r) || (all && !is_safe(call, &r))) continue;
    *rides |= (uint64_t)1 << i;
    riding++;
  }
  return riding == 0 ? TC_FUSE_NOTHING : all ? TC_FUSE_ALL : TC_FUSE_REST;
}
