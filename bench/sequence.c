/* SPDX-License-Identifier: Apache-2.0 */
/* sequence: see sequence.h. Bytes counted: every hidden row once, for its score; then each row of
 * any array that moves, read and written, but hidden rows only written, as they have been read. */
#include "sequence.h"

#include <string.h>

enum { BLOCK = 16, MOST_ARRAYS = 2 + 2 * BENCH_MOST_LAYERS };

static size_t take(size_t *used, size_t bytes) {
  const size_t at = *used;
  *used += (bytes + 255) / 256 * 256;
  return at;
}

void bench_sequence_lay_out(bench_sequence *s, const bench_case *c) {
  size_t used = 0;
  *s = (bench_sequence){.c = c, .rows = c->tokens + c->text};
  s->total = (int64_t)c->segments * s->rows;
  s->pages = (int64_t)c->segments * ((s->rows + BLOCK - 1) / BLOCK);
  const size_t size = (size_t)bench_dtype_size(c->dtype), total = (size_t)s->total;
  const size_t kv_row = 2 * (size_t)c->kv_heads * BENCH_HEAD * size;
  s->hidden_bytes = total * (size_t)c->dim * size;
  s->kv_bytes = (c->paged ? (size_t)s->pages * BLOCK : total) * kv_row;
  s->hidden = take(&used, s->hidden_bytes);
  s->positions = take(&used, 3 * 8 * total);
  s->roles = take(&used, total);
  s->table = take(&used, c->paged ? 8 * total : 0);
  s->kv = take(&used, (size_t)c->layers * s->kv_bytes);
  s->inputs = used;
  s->counts = take(&used, 4 * (size_t)c->segments);
  s->kept = take(&used, 4 * total);
  s->cu = take(&used, 4 * ((size_t)c->segments + 1));
  s->scores = take(&used, 4 * total);
  s->bytes = used;
}

tailcut_limits bench_sequence_limits(const bench_sequence *s) {
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = s->c->segments;
  limits.max_tokens = s->rows;
  limits.dim = s->c->dim;
  return limits;
}

void bench_sequence_fill(const bench_sequence *s, char *inputs) {
  const size_t size = (size_t)bench_dtype_size(s->c->dtype);
  int64_t *positions = (int64_t *)(void *)(inputs + s->positions);
  int64_t *table = (int64_t *)(void *)(inputs + s->table);
  bench_fill_tokens(inputs + s->hidden, s->c->dtype, s->total, s->c->dim);
  for (int32_t l = 0; l < s->c->layers; l++) {
    const int64_t elements = (int64_t)(s->kv_bytes / size);
    bench_fill_tokens(inputs + s->kv + (size_t)l * s->kv_bytes, s->c->dtype, elements / BENCH_HEAD,
                      BENCH_HEAD);
  }
  for (int64_t i = 0; i < 3 * s->total; i++) positions[i] = i;
  for (int64_t i = 0; i < s->total; i++) {
    const int64_t b = i / s->rows, r = i % s->rows;
    inputs[(int64_t)s->roles + i] = r < s->c->tokens ? TAILCUT_ROLE_CANDIDATE : TAILCUT_ROLE_QUERY;
    const int64_t page = b * ((s->rows + BLOCK - 1) / BLOCK) + r / BLOCK;
    if (s->c->paged) table[i] = (s->pages - 1 - page) * BLOCK + r % BLOCK; /* the last first */
  }
}

/* The row arrays of a slot; how many. */
static int32_t arrays_of(const bench_sequence *s, char *slot, tailcut_rows *rows) {
  static const tailcut_rows defaults = TAILCUT_ROWS_INITIALIZER;
  const bench_case *c = s->c;
  const int64_t size = bench_dtype_size(c->dtype), heads = c->kv_heads;
  int32_t n = 2;
  rows[0] = rows[1] = defaults;
  rows[0].src = rows[0].dst = slot + s->hidden, rows[0].part_bytes = c->dim * size;
  rows[1].src = rows[1].dst = slot + s->positions;
  rows[1].part_bytes = rows[1].src_row_stride = rows[1].dst_row_stride = 8, rows[1].parts = 3;
  rows[1].src_part_stride = rows[1].dst_part_stride = 8 * s->total;
  rows[1].src_segment_stride = rows[1].dst_segment_stride = 8 * (int64_t)s->rows;
  for (int32_t l = 0; l < c->layers; l++) {
    char *layer = slot + s->kv + (size_t)l * s->kv_bytes;
    for (int v = 0; v < (c->paged ? 1 : 2); v++, n++) {
      tailcut_rows *r = &rows[n];
      *r = defaults;
      r->src = r->dst = layer + (size_t)v * s->kv_bytes / 2;
      r->part_bytes = heads * BENCH_HEAD * size;
      if (!c->paged) continue;
      r->part_bytes = r->src_row_stride = r->dst_row_stride = 2 * BENCH_HEAD * size;
      r->parts = c->kv_heads;
      r->src_part_stride = r->dst_part_stride = BLOCK * r->part_bytes;
      r->page_rows = BLOCK, r->page_stride = heads * BLOCK * r->part_bytes;
      r->src_slots = r->dst_slots = slot + s->table, r->slot_bytes = 8;
    }
  }
  return n;
}

/* ------------------------------------------------------------------------------------ calls -- */

typedef struct call {
  tailcut_batch batch;
  tailcut_tokens tokens;
  tailcut_rule rule;
  tailcut_selection selection;
  const uint8_t *roles;
  tailcut_rows rows[MOST_ARRAYS];
  int32_t num_rows;
} call;

static void make_call(const bench_sequence *s, char *slot, call *made) {
  made->batch = (tailcut_batch)TAILCUT_BATCH_INITIALIZER;
  made->batch.segments = s->c->segments, made->batch.max_tokens = s->rows;
  made->tokens = (tailcut_tokens)TAILCUT_TOKENS_INITIALIZER;
  made->tokens.data = slot + s->hidden;
  made->tokens.dtype = s->c->dtype, made->tokens.dim = s->c->dim;
  made->rule = (tailcut_rule)TAILCUT_RULE_INITIALIZER;
  made->rule.detector = TAILCUT_TOPK, made->rule.k = s->c->tokens / 4 > 0 ? s->c->tokens / 4 : 1;
  made->selection = (tailcut_selection)TAILCUT_SELECTION_INITIALIZER;
  made->selection.counts = (int32_t *)(void *)(slot + s->counts);
  made->selection.kept = (int32_t *)(void *)(slot + s->kept);
  made->selection.new_cu_seqlens = (int32_t *)(void *)(slot + s->cu);
  made->roles = (const uint8_t *)(slot + s->roles);
  made->num_rows = arrays_of(s, slot, made->rows);
}

int bench_sequence_call(const bench_sequence *s, const bench_room *room, char *slot) {
  call c;
  make_call(s, slot, &c);
  return bench_done(tailcut_prune_sequence(room->handle, &c.batch, &c.tokens, c.roles, NULL,
                                           &c.rule, &c.selection, c.rows, c.num_rows,
                                           room->workspace, room->bytes, room->stream));
}

int bench_sequence_parts(const bench_sequence *s, const bench_room *room, char *slot) {
  call c;
  float *scores = (float *)(void *)(slot + s->scores);
  make_call(s, slot, &c);
  c.rule.scale = TAILCUT_SCALE_UNIT;
  tailcut_status status = tailcut_relevance(room->handle, &c.batch, &c.tokens, c.roles, NULL,
                                            scores, NULL, room->workspace, room->bytes, NULL);
  if (status == TAILCUT_OK) {
    status = tailcut_cut(room->handle, &c.batch, scores, c.roles, NULL, &c.rule, &c.selection,
                         room->workspace, room->bytes, NULL);
  }
  if (status == TAILCUT_OK) {
    status =
        tailcut_compact(room->handle, &c.batch, c.selection.kept, TAILCUT_LOCAL, c.selection.counts,
                        NULL, c.rows, c.num_rows, room->workspace, room->bytes, NULL);
  }
  return bench_done(status);
}

/* ----------------------------------------------------------------------------------- results -- */

/* Row r of sequence b, from the array's base. */
static int64_t row_at(const bench_sequence *s, const tailcut_rows *r, const char *slot, int32_t b,
                      int64_t row) {
  const int64_t number = (int64_t)b * s->rows + row;
  const int64_t stride = r->src_row_stride > 0 ? r->src_row_stride : r->part_bytes;
  if (r->src_slots == NULL) return number * stride;
  const int64_t place = ((const int64_t *)(const void *)(slot + s->table))[number];
  return place / BLOCK * r->page_stride + place % BLOCK * stride;
}

const char *bench_sequence_differs(const bench_sequence *s, const char *actual,
                                   const char *expected) {
  const int32_t *counts = (const int32_t *)(const void *)(expected + s->counts);
  const size_t segments = (size_t)s->c->segments;
  tailcut_rows rows[MOST_ARRAYS];
  if (memcmp(actual + s->counts, expected + s->counts, 4 * segments) != 0) return "wrong counts";
  if (memcmp(actual + s->cu, expected + s->cu, 4 * (segments + 1)) != 0) return "wrong offsets";
  const int32_t n = arrays_of(s, (char *)(uintptr_t)actual, rows);
  for (int32_t b = 0; b < s->c->segments; b++) {
    const size_t list = s->kept + 4 * (size_t)b * (size_t)s->rows;
    if (memcmp(actual + list, expected + list, 4 * (size_t)counts[b]) != 0)
      return "wrong rows kept";
    for (int32_t i = 0; i < n; i++) {
      const ptrdiff_t base = (const char *)rows[i].src - actual;
      for (int32_t j = 0; j < counts[b]; j++) {
        for (int32_t p = 0; p < rows[i].parts; p++) {
          const ptrdiff_t at =
              base + row_at(s, &rows[i], expected, b, j) + p * rows[i].src_part_stride;
          if (memcmp(actual + at, expected + at, (size_t)rows[i].part_bytes) != 0)
            return i == 0 ? "wrong hidden states" : i == 1 ? "wrong positions" : "wrong K or V";
        }
      }
    }
  }
  return NULL;
}

int64_t bench_sequence_kept(const bench_sequence *s, const char *expected) {
  return ((const int32_t *)(const void *)(expected + s->cu))[s->c->segments];
}

double bench_sequence_bytes(const bench_sequence *s, const char *expected) {
  const int32_t *counts = (const int32_t *)(const void *)(expected + s->counts);
  const int32_t *kept = (const int32_t *)(const void *)(expected + s->kept);
  const double size = (double)bench_dtype_size(s->c->dtype), hidden = size * s->c->dim;
  const double others = 24 + size * 2 * s->c->kv_heads * BENCH_HEAD * s->c->layers;
  double moved = 0;
  for (int32_t b = 0; b < s->c->segments; b++) {
    for (int32_t j = 0; j < counts[b]; j++) moved += kept[(int64_t)b * s->rows + j] != j;
  }
  return (double)s->total * hidden + moved * (hidden + 2 * others);
}
