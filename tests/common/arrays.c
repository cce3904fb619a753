/* SPDX-License-Identifier: Apache-2.0 */
/* arrays: the row arrays of a problem, one of each way to lay rows out, with what compaction must
 * leave in them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "problem.h"
#include "reference.h"

static void random_bytes(tt_random *random, tt_block *block, size_t bytes) {
  tt_block_new(block, bytes);
  for (size_t i = 0; i < bytes; i++) block->data[i] = (uint8_t)tt_next(random);
}

/* A table of n distinct slots, some of them -1. */
static void make_slots(tt_random *random, tt_block *block, int64_t n, int32_t slot_bytes) {
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

/* What the segments keep: the most of one, and all together. At least 1: 0 is no number of rows. */
static int64_t most_kept(const tt_problem *p) {
  int32_t most = 1;
  for (int32_t b = 0; b < p->batch.segments; b++) {
    const int32_t k = ((const int32_t *)(const void *)p->counts.want)[b];
    most = k > most ? k : most;
  }
  return most;
}

static int64_t all_kept(const tt_problem *p) {
  const int32_t all = ((const int32_t *)(const void *)p->new_cu.want)[p->batch.segments];
  return all > 0 ? all : 1;
}

/* First positions; sums with some of them wrap. */
static void make_base(tt_problem *p, tt_random *random, tt_array *a) {
  const int64_t size = a->rows.part_bytes;
  tt_block_new(&a->base, (size_t)(p->batch.segments * size));
  for (int32_t b = 0; b < p->batch.segments; b++) {
    const int64_t wide = b % 3 ? tt_below(random, 5000) - 9 : INT64_MAX - tt_below(random, 4);
    const int32_t narrow = b % 3 ? (int32_t)wide : INT32_MAX - tt_below(random, 4);
    memcpy(a->base.data + b * size, size == 8 ? (const void *)&wide : (const void *)&narrow,
           (size_t)size);
  }
}

/* Arrays whose destination is no larger than it must be, or not even that. */
static void lay_out_small(tt_problem *p, tt_random *random, tt_array *a, int kind) {
  const int64_t n = p->total, segments = p->batch.segments, most = most_kept(p);
  const int ragged = p->batch.cu_seqlens != NULL;
  tailcut_rows *r = &a->rows;
  switch (kind) {
    case TT_ROWS_FITS:
      a->name = "fits";
      r->part_bytes = 12, r->parts = 2, r->dst_rows = most, r->flags = TAILCUT_ROWS_ZERO_TAIL;
      r->dst_row_stride = 12;
      r->dst_part_stride = (ragged ? n : most) * 12;
      if (!ragged) r->dst_segment_stride = 2 * most * 12;
      apart(random, a, n * 24, 2 * (ragged ? n : segments * most) * 12);
      break;
    case TT_ROWS_SMALL:
      a->name = "small";
      r->part_bytes = 6, r->dst_rows = (most + 1) / 2, r->flags = TAILCUT_ROWS_ZERO_TAIL;
      apart(random, a, n * 6, (ragged ? n : segments * r->dst_rows) * 6);
      break;
    case TT_ROWS_SMALL_PACKED:
      a->name = "small packed";
      r->part_bytes = 10, r->dst_row_stride = 16, r->page_rows = 4, r->page_stride = 4 * 16 + 8;
      r->placement = TAILCUT_PACKED, r->flags = TAILCUT_ROWS_ZERO_TAIL;
      r->dst_rows = (2 * all_kept(p) + 2) / 3;
      make_slots(random, &a->dst_slots, r->dst_rows, 4);
      apart(random, a, n * 10, (r->dst_rows / 4 + 1) * r->page_stride);
      break;
    case TT_ROWS_BASE:
      a->name = "renumber from a base";
      r->part_bytes = 4, r->flags = TAILCUT_ROWS_RENUMBER | TAILCUT_ROWS_ZERO_TAIL;
      in_place(random, a, n * 4);
      make_base(p, random, a);
      break;
    default:
      a->name = "renumber64 from a base";
      r->part_bytes = 8, r->parts = 3, r->dst_rows = all_kept(p), r->flags = TAILCUT_ROWS_RENUMBER;
      r->placement = TAILCUT_PACKED, r->dst_row_stride = 8, r->dst_part_stride = r->dst_rows * 8;
      in_place(random, a, 3 * r->dst_rows * 8);
      make_base(p, random, a);
      break;
  }
}

/* Values of a dtype, now and then one that is not finite. */
static void random_values(tt_random *random, const tt_block *block, int32_t dtype) {
  for (size_t i = 0; i < block->bytes / tt_size(dtype); i++) {
    const int roll = tt_below(random, 600);
    tt_put(block->data, dtype, i,
           roll == 0   ? NAN
           : roll == 1 ? INFINITY
           : roll == 2 ? 60000.0f
           : roll == 3 ? 0x1p-24f
                       : (float)tt_normal(random));
  }
}

/* Arrays that are merged. */
static void lay_out_merged(tt_problem *p, tt_random *random, tt_array *a, int kind) {
  const int64_t n = p->total;
  tailcut_rows *r = &a->rows;
  r->flags = TAILCUT_ROWS_MERGE;
  if (kind == TT_ROWS_MERGED) {
    a->name = "merged";
    r->dtype = TAILCUT_BF16, r->part_bytes = 46, r->dst_row_stride = 50;
    r->placement = TAILCUT_PACKED, r->flags |= TAILCUT_ROWS_ZERO_TAIL;
    apart(random, a, n * 46, n * 50);
    random_values(random, &a->src, r->dtype);
  } else if (kind == TT_ROWS_MERGED_IN) {
    a->name = "merged in place";
    a->misalign = 1;
    r->dtype = TAILCUT_F32, r->part_bytes = 1204, r->flags |= TAILCUT_ROWS_ZERO_TAIL;
    in_place(random, a, n * 1204);
    random_values(random, &a->dst, r->dtype);
  } else {
    a->name = "merged in pages";
    r->dtype = TAILCUT_F16, r->part_bytes = 18, r->page_rows = 4, r->page_stride = 4 * 18 + 16;
    make_slots(random, &a->src_slots, n, 4);
    in_place(random, a, (n / 4 + 1) * r->page_stride);
    random_values(random, &a->dst, r->dtype);
  }
}

static void make_frequencies(tt_array *a, int32_t rotary_dim) {
  a->rotation.rotary_dim = rotary_dim;
  tt_block_new(&a->angles, (size_t)rotary_dim * 2);
  float *frequencies = (float *)(void *)a->angles.data;
  for (int32_t i = 0; i < rotary_dim / 2; i++) {
    frequencies[i] = (float)pow(10000.0, -2.0 * i / rotary_dim);
  }
  a->rotation.inv_freq = frequencies;
}

/* Scaled, as YaRN's tables are. */
static void make_table(tt_array *a, int32_t rotary_dim, int32_t table_rows) {
  a->rotation.rotary_dim = rotary_dim;
  a->rotation.table_rows = table_rows;
  tt_block_new(&a->angles, (size_t)(table_rows * rotary_dim) * 4);
  float *table = (float *)(void *)a->angles.data;
  for (int32_t i = 0; i < table_rows * rotary_dim; i++) {
    const int32_t row = i / rotary_dim, d = i % rotary_dim, half = rotary_dim / 2;
    const double angle = row * pow(500.0, -2.0 * (d % half) / rotary_dim);
    table[i] = (float)(1.25 * (d < half ? cos(angle) : sin(angle)));
  }
  a->rotation.cos_sin = table;
}

/* Keys that turn. */
static void lay_out_keys(tt_problem *p, tt_random *random, tt_array *a, int kind) {
  static const tailcut_rotation defaults = TAILCUT_ROTATION_INITIALIZER;
  const int64_t n = p->total, segments = p->batch.segments, most = p->batch.max_tokens;
  const int ragged = p->batch.cu_seqlens != NULL;
  tailcut_rows *r = &a->rows;
  tailcut_rotation *t = &a->rotation;
  *t = defaults;
  switch (kind) {
    case TT_ROWS_KEYS:
      a->name = "keys";
      r->part_bytes = 32, r->parts = 2;
      r->src_part_stride = r->dst_part_stride = (ragged ? n : most) * 32;
      r->src_row_stride = r->dst_row_stride = 32;
      if (!ragged) r->src_segment_stride = r->dst_segment_stride = 2 * most * 32;
      in_place(random, a, 2 * (ragged ? n : segments * most) * 32);
      t->dtype = TAILCUT_F16, t->rotary_offset = 2;
      make_frequencies(a, 12);
      a->positions_in = p->array_count - 1; /* the one before this */
      t->positions = p->arrays[a->positions_in - 1].dst.data;
      break;
    case TT_ROWS_KEYS_PAGED:
      a->name = "keys in pages";
      r->part_bytes = 32, r->parts = 3, r->page_rows = 4, r->page_stride = 4 * 96 + 16;
      make_slots(random, &a->src_slots, n, 4);
      in_place(random, a, (n / 4 + 1) * r->page_stride);
      t->dtype = TAILCUT_BF16, t->pairing = TAILCUT_ROPE_INTERLEAVED, t->position_bytes = 8;
      make_frequencies(a, 8);
      tt_block_new(&a->new_base, (size_t)segments * 8);
      for (int64_t b = 0; b < segments; b++) {
        const int64_t base = b % 3 ? (int64_t)(tt_next(random) >> 8) : -b;
        memcpy(a->new_base.data + 8 * b, &base, 8);
      }
      t->new_base = a->new_base.data;
      break;
    default:
      a->name = "keys by a table";
      r->part_bytes = 28, r->parts = 2, r->dst_row_stride = 64, r->dst_part_stride = 32;
      r->placement = TAILCUT_PACKED, r->flags = TAILCUT_ROWS_ZERO_TAIL;
      apart(random, a, n * 56, n * 64);
      t->dtype = TAILCUT_F32, t->rotary_offset = 1;
      make_table(a, 6, 40);
      tt_block_new(&a->positions, (size_t)n * 4);
      for (int64_t i = 0; i < n; i++) {
        const int32_t position = tt_below(random, 48) - 4;
        memcpy(a->positions.data + 4 * i, &position, 4);
      }
      tt_block_new(&a->new_base, (size_t)segments * 4);
      for (int64_t b = 0; b < segments; b++) {
        const int32_t base = tt_below(random, 20) - 3;
        memcpy(a->new_base.data + 4 * b, &base, 4);
      }
      t->positions = a->positions.data;
      t->new_base = a->new_base.data;
      break;
  }
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
      if (p->row->merge) r->flags = TAILCUT_ROWS_MERGE, r->dtype = p->tokens.dtype;
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
      make_slots(random, &a->src_slots, n, 4);
      in_place(random, a, (n / 4 + 1) * r->page_stride);
      break;
    case TT_ROWS_PAGED_OUT:
      a->name = "paged out";
      r->part_bytes = 10, r->parts = 2, r->slot_bytes = 8, r->page_rows = 16;
      r->page_stride = 16 * 32, r->dst_row_stride = 32, r->dst_part_stride = 12;
      r->placement = TAILCUT_PACKED, r->flags = TAILCUT_ROWS_ZERO_TAIL;
      make_slots(random, &a->dst_slots, n, 8);
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

/* The array as a fused call sees it: where nothing is said, a destination that is not the source
 * has room for what the rule can keep of segments that are one group each. */
static tailcut_rows as_fused(const tt_problem *p, const tt_array *a) {
  const int32_t most = p->batch.max_tokens, prefix = p->batch.prefix_rows;
  tailcut_rows r = a->rows;
  if (a->in_place) return r;
  if (r.dst_rows != 0 || p->roles.data != NULL || p->batch.group_cu_seqlens != NULL) return r;
  const int64_t row = r.dst_row_stride ? r.dst_row_stride : r.part_bytes * r.parts;
  const int64_t kept = ref_kept_count(&p->rule, most > prefix ? most - prefix : 0);
  if (r.dst_segment_stride == 0) r.dst_segment_stride = most * row; /* dst_rows was not set */
  r.dst_rows = r.placement == TAILCUT_PACKED ? kept * p->batch.segments : kept;
  if (r.dst_rows == 0) r.dst_rows = REF_NO_ROOM;
  return r;
}

/* What compaction leaves in dst: in block->want, with block->open. */
static void expect(const tt_problem *p, const tt_array *a, const tailcut_rows *rows,
                   tt_block *block) {
  tailcut_rows r = *rows;
  block->bytes = a->dst.bytes;
  block->want = tt_host(block->bytes);
  block->open = tt_host(block->bytes);
  memcpy(block->want, a->dst.data, block->bytes);
  r.dst = block->want;
  r.src = a->in_place ? block->want : a->src.data;
  ref_compact(&p->batch, (const int32_t *)(const void *)p->kept.want,
              p->row->packed ? TAILCUT_PACKED : TAILCUT_LOCAL,
              (const int32_t *)(const void *)p->counts.want,
              (const int32_t *)(const void *)p->new_cu.want, &r, block->open,
              p->row->merge ? &p->plan : NULL);
}

/* Positions of the rows of TT_ROWS_KEYS: an array before it that is compacted too. */
static void add_positions(tt_problem *p, tt_random *random, tt_array *a) {
  static const tailcut_rows defaults = TAILCUT_ROWS_INITIALIZER;
  p->array_count++;
  a->name = "positions of keys";
  a->rows = defaults;
  a->rows.part_bytes = 4;
  a->in_place = 1;
  tt_block_new(&a->dst, (size_t)p->total * 4);
  for (int64_t i = 0; i < p->total; i++) {
    const int32_t position = (int32_t)i % 50 + tt_below(random, 5) - 2;
    memcpy(a->dst.data + 4 * i, &position, 4);
  }
  expect(p, a, &a->rows, &a->dst);
  expect(p, a, &a->rows, &a->fused);
}

void tt_add_array(tt_problem *p, tt_random *random, int kind) {
  static const tailcut_rows defaults = TAILCUT_ROWS_INITIALIZER;
  tt_array *a = &p->arrays[p->array_count];
  if (kind == TT_ROWS_TOKENS && p->matrix.data == NULL) return;
  if (kind == TT_ROWS_KEYS) add_positions(p, random, a++);
  p->array_count++;
  a->rows = defaults;
  if (kind >= TT_ROWS_MERGED) {
    lay_out_merged(p, random, a, kind);
  } else if (kind >= TT_ROWS_KEYS) {
    lay_out_keys(p, random, a, kind);
  } else if (kind >= TT_ROWS_FITS) {
    lay_out_small(p, random, a, kind);
  } else {
    lay_out(p, random, a, kind);
  }
  a->rows.src_slots = a->src_slots.data;
  a->rows.dst_slots =
      kind == TT_ROWS_PAGED || kind == TT_ROWS_KEYS_PAGED || kind == TT_ROWS_MERGED_PAGED
          ? a->src_slots.data
          : a->dst_slots.data;
  a->rows.renumber_base = a->base.data;
  if (a->rotation.struct_size != 0) a->rows.rotation = &a->rotation;
  const tailcut_rows fused = as_fused(p, a);
  expect(p, a, &a->rows, &a->dst);
  expect(p, a, &fused, &a->fused);
}
