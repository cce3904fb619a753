/* SPDX-License-Identifier: Apache-2.0 */
/* fused_plan: whether and how a prune_visual goes in one launch. Host arithmetic alone.
 *
 * An image's rows are spread over the blocks of one cluster, about three to a warp, and held in
 * shared memory. Other row arrays ride along while their bytes per token are no more than the
 * scored row's and the memory suffices; the rest is one launch more (compact). */
#include <string.h>

#include "fused.h"

#define TC_ALIGN(x) (((x) + 15) & ~(int64_t)15)
#define TC_BLOCK_TOKENS 36 /* 3 for each of 12 warps: what one SM loads and scores at its best */

/* The widest access, at most 16 bytes, that divides all of `bits` (addresses and strides or'ed). */
static int32_t width_of(uint64_t bits) {
  int32_t width = 16;
  while (bits % (uint64_t)width != 0) width /= 2;
  return width;
}

size_t tc_fused_shared(const tc_fused_plan *p) {
  const size_t n = (size_t)(p->segments.max_tokens - p->segments.prefix_rows);
  /* slots; reference; key and q; rank; q in rank order. The kernel carves in this order. */
  return (size_t)p->block_tokens * (size_t)p->slot_bytes + (size_t)p->reference_floats * 4 +
         ((n + 1) & ~(size_t)1) * (8 + 4 + 4);
}

/* Bytes of shared memory beside tc_fused_shared's: the kernel's own variables. */
#define TC_FUSED_STATIC 1024

/* The smallest cluster whose blocks hold the image comfortably, else the largest that holds it. */
static int place(tc_fused_plan *p, const tc_cuda *device) {
  const int32_t n = p->segments.max_tokens - p->segments.prefix_rows;
  for (p->cluster = 1;; p->cluster *= 2) {
    p->block_tokens = (n + p->cluster - 1) / p->cluster;
    const int fits = tc_fused_shared(p) + TC_FUSED_STATIC <= (size_t)device->smem_block;
    if (fits && p->block_tokens <= TC_BLOCK_TOKENS) break;
    if (p->cluster * 2 > device->cluster_max || p->cluster * 2 > TC_FUSED_CLUSTER) {
      if (!fits) return 0;
      break;
    }
  }
  p->warp_tokens = (p->block_tokens + TC_FUSED_WARPS - 1) / TC_FUSED_WARPS;
  /* Three rows a warp, where that fills at least eight warps. */
  if (p->warp_tokens < 3 && p->block_tokens >= 24) p->warp_tokens = 3;
  p->warps = (p->block_tokens + p->warp_tokens - 1) / p->warp_tokens;
  p->block_tokens = p->warps * p->warp_tokens;
  return tc_fused_shared(p) + TC_FUSED_STATIC <= (size_t)device->smem_block;
}

static tc_fused_array describe(const tailcut_rows *r) {
  tc_fused_array a;
  memset(&a, 0, sizeof a);
  a.src = r->src, a.dst = r->dst;
  a.src_row = r->src_row_stride, a.dst_row = r->dst_row_stride;
  a.src_segment = r->src_segment_stride, a.dst_segment = r->dst_segment_stride;
  a.src_part = r->src_part_stride, a.dst_part = r->dst_part_stride;
  a.part_bytes = (int32_t)r->part_bytes, a.parts = r->parts;
  a.packed = r->placement == TAILCUT_PACKED, a.flags = r->flags;
  a.src_slots = r->src_slots, a.dst_slots = r->dst_slots;
  a.slot_bytes = r->slot_bytes, a.page_rows = r->page_rows, a.page_stride = r->page_stride;
  a.dst_rows = r->dst_rows;
  const uint64_t pages = r->page_rows > 0 ? (uint64_t)r->page_stride : 0;
  a.src_width = width_of((uint64_t)(uintptr_t)a.src | (uint64_t)a.src_row | pages |
                         (uint64_t)a.src_segment | (a.parts > 1 ? (uint64_t)a.src_part : 0));
  a.dst_width = width_of((uint64_t)(uintptr_t)a.dst | (uint64_t)a.dst_row | pages |
                         (uint64_t)a.dst_segment | (a.parts > 1 ? (uint64_t)a.dst_part : 0));
  return a;
}

/* Memory that each segment has its share of: segment b's lies in [base + b*stride, + span). Stride 0:
 * in [base, base + span), nobody knows where. */
typedef struct tc_region {
  uint64_t base;
  int64_t stride, span;
} tc_region;

/* Whether what one segment writes may be what another one reads. A call is its parts one after the
 * other: everything is read before anything is written. In one launch that holds for a segment by
 * itself, not for what an earlier one overwrites. */
static int reaches(tc_region write, tc_region read, int32_t segments) {
  const uint64_t write_end = write.base + (uint64_t)(write.stride * (segments - 1) + write.span);
  const uint64_t read_end = read.base + (uint64_t)(read.stride * (segments - 1) + read.span);
  if (segments == 1 || write_end <= read.base || read_end <= write.base) return 0;
  if (write.stride == 0 || write.stride != read.stride) return 1;
  const int64_t offset = (int64_t)(read.base - write.base);
  return offset + read.span > write.stride || offset < write.span - write.stride;
}

/* `most`: rows that are used, of the batch where flat, else of a segment. */
static tc_region rows_region(const char *base, const tailcut_batch *batch, int flat, int64_t most,
                             int64_t row, int64_t segment, int64_t bytes) {
  const int64_t all = flat ? batch->total_tokens : batch->max_tokens;
  const int64_t rows = most < all ? most : all;
  const tc_region region = {(uint64_t)(uintptr_t)base, flat ? 0 : segment,
                            rows > 0 ? (rows - 1) * row + bytes : 0};
  return region;
}

/* Whether an array's rows may be written while other segments are still being scored. How far slots
 * reach is unknown here, and the caller's to answer for (tailcut.h); where they count from is not. */
static int may_ride(const tc_fused_array *a, const tc_fused_array *scored, const tc_call *call) {
  const tailcut_batch *batch = &call->batch;
  const int ragged = batch->cu_seqlens != NULL, slots = a->dst_slots != NULL;
  const int64_t bytes = (a->parts - 1) * a->dst_part + a->part_bytes;
  const tc_region base = {(uint64_t)(uintptr_t)a->dst, 0, bytes};
  const int64_t most = ragged && !a->packed ? INT64_MAX : a->dst_rows; /* results never pass it */
  const tc_region write = slots ? base
                                : rows_region(a->dst, batch, ragged || a->packed, most, a->dst_row,
                                              a->dst_segment, bytes);
  const tc_region tokens = rows_region(scored->src, batch, ragged, INT64_MAX, scored->src_row,
                                       scored->src_segment, scored->part_bytes);
  const int in_place = !slots && !a->packed && a->dst == scored->src &&
                       a->dst_row == scored->src_row &&
                       (ragged || a->dst_segment == scored->src_segment);
  if (!in_place && reaches(write, tokens, batch->segments)) return 0;
  if (call->reference.source != TAILCUT_REFERENCE_GIVEN) return 1;
  const int64_t size = tc_dtype_size(call->reference.dtype);
  const tc_region reference = {(uint64_t)(uintptr_t)call->reference.data,
                               call->reference.segment_stride * size, call->tokens.dim * size};
  return !reaches(write, reference, batch->segments);
}

/* The scored rows as an array that is only loaded. */
static tc_fused_array scored_rows(const tailcut_tokens *t, int32_t ragged) {
  const int64_t size = tc_dtype_size(t->dtype);
  tailcut_rows r = TAILCUT_ROWS_INITIALIZER;
  r.src = t->data, r.dst = NULL;
  r.part_bytes = t->dim * size;
  r.src_row_stride = t->row_stride * size;
  r.src_segment_stride = ragged ? 0 : t->segment_stride * size;
  tc_fused_array a = describe(&r);
  a.load_bytes = a.part_bytes;
  return a;
}

int tc_fused_make(tc_fused_plan *p, const tc_cuda *device, const tc_call *call,
                  const tc_segments *segments, uint64_t *rides) {
  const int ragged = segments->cu_seqlens != NULL;
  const int64_t n = segments->max_tokens - segments->prefix_rows;
  memset(p, 0, sizeof *p);
  *rides = 0;
  if (!device->fuses || device->capability < 90 || device->cluster_max < 2) return 0;
  if (n < 1 || n > TC_FUSED_TOKENS) return 0;
  if ((int64_t)call->tokens.dim * 4 + 1024 > device->smem_block) return 0;
  p->segments = *segments;
  p->tokens = call->tokens;
  p->rule = call->rule;
  p->reference_floats = (call->tokens.dim + 255) & ~255;
  p->arrays[0] = scored_rows(&call->tokens, ragged);
  p->num_arrays = 1;
  int64_t scored = p->arrays[0].part_bytes, beside = 0;
  for (int32_t i = 0; i < call->num_rows; i++) {
    const tailcut_rows r = tc_rows_at(call, i);
    tc_fused_array a = describe(&r);
    const int slots = r.src_slots != NULL || r.dst_slots != NULL;
    const int whole_tail = (r.flags & TAILCUT_ROWS_ZERO_TAIL) != 0 && a.packed;
    const int loads = (r.flags & TAILCUT_ROWS_RENUMBER) == 0;
    const int is_scored = loads && !slots && r.parts == 1 && a.src == p->arrays[0].src &&
                          a.src_row == p->arrays[0].src_row &&
                          (ragged || a.src_segment == p->arrays[0].src_segment);
    /* Where a packed tail ends, each image works out from all lengths. */
    if (whole_tail && segments->segments > TC_CHUNK_SEGMENTS) continue;
    if (i >= 64 || p->num_arrays == TC_FUSED_ARRAYS + 1) continue;
    if (!may_ride(&a, &p->arrays[0], call)) continue;
    if (is_scored) {
      if (a.part_bytes > p->arrays[0].load_bytes) p->arrays[0].load_bytes = a.part_bytes;
    } else if (loads) {
      if (r.part_bytes * r.parts > scored - beside) continue;
      a.slot_part = (int32_t)TC_ALIGN(a.part_bytes);
      beside += r.part_bytes * r.parts;
      a.load_bytes = a.part_bytes;
      a.slot = -1; /* placed below */
    }
    p->zeroes |= (r.flags & TAILCUT_ROWS_ZERO_TAIL) != 0;
    p->packed_tail |= whole_tail;
    *rides |= (uint64_t)1 << i;
    p->arrays[p->num_arrays++] = a;
  }
  int64_t slot = TC_ALIGN(p->arrays[0].load_bytes);
  for (int32_t i = 1; i < p->num_arrays; i++) {
    if (p->arrays[i].slot != -1) continue;
    p->arrays[i].slot = (int32_t)slot;
    slot += (int64_t)p->arrays[i].slot_part * p->arrays[i].parts;
  }
  if (slot > device->smem_block) return 0;
  p->slot_bytes = (int32_t)slot;
  return place(p, device);
}
