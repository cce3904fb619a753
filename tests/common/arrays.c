/* SPDX-License-Identifier: Apache-2.0 */
/* arrays: the row arrays of a problem, one of each way to lay rows out, with what compaction must
 * leave in them. */
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "problem.h"
#include "reference.h"

static void random_bytes(tt_random *random, tt_block *block, size_t bytes) {
  tt_block_new(block, bytes);
  for (size_t i = 0; i < bytes; i++) block->data[i] = (uint8_t)tt_next(random);
}

/* A table of distinct slots for the batch's rows, some of them -1. */
static void make_slots(tt_problem *p, tt_random *random, tt_block *block, int32_t slot_bytes) {
  const int64_t n = p->total;
  tt_block_new(block, (size_t)(n * slot_bytes));
  int64_t *slots = tt_host(sizeof *slots * (size_t)n);
  for (int64_t i = 0; i < n; i++) slots[i] = i;
  for (int64_t i = n - 1; i > 0; i--) {
    const int64_t j = (int64_t)(tt_next(random) % (uint64_t)(i + 1)), s = slots[i];
    slots[i] = slots[j];
    slots[j] = s;
  }
  for (int64_t i = 0; i < n; i++) {
    const int64_t wide = tt_below(random, 8) == 0 ? -1 : slots[i];
    const int32_t narrow = (int32_t)wide;
    memcpy(block->data + i * slot_bytes, slot_bytes == 8 ? (void *)&wide : (void *)&narrow,
           (size_t)slot_bytes);
  }
  free(slots);
}

static void in_place(tt_random *random, tt_array *a, int64_t bytes) {
  a->in_place = 1;
  random_bytes(random, &a->dst, (size_t)bytes);
}

static void apart(tt_random *random, tt_array *a, int64_t src_bytes, int64_t dst_bytes) {
  random_bytes(random, &a->src, (size_t)src_bytes);
  tt_block_new(&a->dst, (size_t)dst_bytes);
}

static void lay_out(tt_problem *p, tt_random *random, tt_array *a, int kind) {
  const int64_t n = p->total, segments = p->batch.segments, most = p->batch.max_tokens;
  const int ragged = p->batch.cu_seqlens != NULL;
  tailcut_rows *r = &a->rows;
  switch (kind) {
    case TT_ROWS_TOKENS: {
      const int64_t size = (int64_t)tt_size(p->tokens.dtype);
      a->name = "tokens";
      a->is_tokens = a->in_place = 1;
      r->part_bytes = p->tokens.dim * size;
      r->src_row_stride = r->dst_row_stride = p->tokens.row_stride * size;
      r->src_segment_stride = r->dst_segment_stride = p->tokens.segment_stride * size;
      tt_block_new(&a->dst, p->matrix.bytes);
      memcpy(a->dst.data, p->matrix.data, p->matrix.bytes);
      break;
    }
    case TT_ROWS_PACKED:
      a->name = "packed";
      r->part_bytes = 24, r->dst_row_stride = 40;
      r->placement = TAILCUT_PACKED, r->flags = TAILCUT_ROWS_ZERO_TAIL;
      a->misalign = 4;
      apart(random, a, n * 24, n * 40);
      break;
    case TT_ROWS_MASK:
      a->name = "mask";
      r->part_bytes = 1, r->flags = TAILCUT_ROWS_ZERO_TAIL;
      apart(random, a, n, n);
      break;
    case TT_ROWS_PLANES:
      a->name = "planes";
      r->part_bytes = 8, r->parts = 3;
      r->src_part_stride = r->dst_part_stride = n * 8;
      r->src_row_stride = r->dst_row_stride = 8;
      in_place(random, a, 3 * n * 8);
      break;
    case TT_ROWS_HEADS:
      a->name = "heads";
      r->part_bytes = 12, r->parts = 2, r->flags = TAILCUT_ROWS_ZERO_TAIL;
      r->src_part_stride = r->dst_part_stride = (ragged ? n : most) * 12;
      r->src_row_stride = r->dst_row_stride = 12;
      if (!ragged) r->src_segment_stride = r->dst_segment_stride = 2 * most * 12;
      in_place(random, a, 2 * (ragged ? n : segments * most) * 12);
      break;
    case TT_ROWS_RENUMBER:
      a->name = "renumber";
      r->part_bytes = 4, r->flags = TAILCUT_ROWS_RENUMBER | TAILCUT_ROWS_ZERO_TAIL;
      in_place(random, a, n * 4);
      break;
    case TT_ROWS_RENUMBER64:
      a->name = "renumber64";
      r->part_bytes = 8, r->flags = TAILCUT_ROWS_RENUMBER, r->placement = TAILCUT_PACKED;
      in_place(random, a, n * 8);
      break;
    case TT_ROWS_PAGED:
      a->name = "paged";
      r->part_bytes = 20, r->page_rows = 4, r->page_stride = 4 * 20 + 16;
      make_slots(p, random, &a->src_slots, 4);
      in_place(random, a, (n / 4 + 1) * r->page_stride);
      break;
    case TT_ROWS_PAGED_OUT:
      a->name = "paged out";
      r->part_bytes = 10, r->parts = 2, r->slot_bytes = 8, r->page_rows = 16;
      r->page_stride = 16 * 32, r->dst_row_stride = 32, r->dst_part_stride = 12;
      r->placement = TAILCUT_PACKED, r->flags = TAILCUT_ROWS_ZERO_TAIL;
      make_slots(p, random, &a->dst_slots, 8);
      apart(random, a, n * 20, (n / 16 + 1) * r->page_stride);
      break;
    default:
      a->name = "wide";
      r->part_bytes = 4133;
      a->misalign = 3;
      in_place(random, a, n * 4133);
      break;
  }
}

void tt_add_array(tt_problem *p, tt_random *random, int kind) {
  static const tailcut_rows defaults = TAILCUT_ROWS_INITIALIZER;
  tt_array *a = &p->arrays[p->array_count];
  if (kind == TT_ROWS_TOKENS && p->matrix.data == NULL) return;
  p->array_count++;
  a->rows = defaults;
  lay_out(p, random, a, kind);
  a->dst.want = tt_host(a->dst.bytes);
  memcpy(a->dst.want, a->dst.data, a->dst.bytes);
  a->dst.open = tt_host(a->dst.bytes);
  a->rows.dst = a->dst.want;
  a->rows.src = a->in_place ? a->dst.want : a->src.data;
  a->rows.src_slots = a->src_slots.data;
  a->rows.dst_slots = kind == TT_ROWS_PAGED ? a->src_slots.data : a->dst_slots.data;
  ref_compact(&p->batch, (const int32_t *)(const void *)p->kept.want,
              p->row->packed ? TAILCUT_PACKED : TAILCUT_LOCAL,
              (const int32_t *)(const void *)p->counts.want,
              (const int32_t *)(const void *)p->new_cu.want, &a->rows, a->dst.open);
}
