/* SPDX-License-Identifier: Apache-2.0 */
/* misuse_arrays: the memory of a call of test_misuse.c, whatever its structs say: arrays of the
 * sizes that the header gives, lists that are sound or damaged. */
#ifndef TAILCUT_TESTS_MISUSE_ARRAYS_H_
#define TAILCUT_TESTS_MISUSE_ARRAYS_H_

#include <math.h>
#include <stdlib.h>

#include "misuse_structs.h"

/* ------------------------------------------------------------------------------------ memory -- */

/* `bytes` of device memory, poison where data is NULL; more than a test can have: the wall. */
static void *take(world *w, double bytes, const void *data, int written) {
  if (bytes > CAP) return w->huge = 1, w->wall;
  piece *p = &w->pieces[w->used++];
  cr_assert_lt(w->used, MOST_PIECES);
  p->bytes = bytes > 0 ? (size_t)bytes : 0;
  p->data = tt_upload(w->backend, data, p->bytes, TT_TIGHT);
  p->was = tt_host(p->bytes);
  tt_download(w->backend, p->was, p->data, p->bytes);
  p->written = written;
  return p->data;
}

/* Numbers that a device list must bear: small ones, and at times any. */
static void *take_numbers(world *w, double count, int size, int32_t most, int odd) {
  static const int64_t any[] = {-1,      0,         INT32_MIN, INT32_MAX,
                                1 << 30, INT64_MIN, INT64_MAX, 1 << 20};
  if (count * size > CAP) return w->huge = 1, w->wall;
  char *data = tt_host((size_t)(count > 0 ? count * size : 0) + 8);
  for (int64_t i = 0; i < count; i++) {
    const int64_t value = odd && ONE_IN(odd) ? any[BELOW(8)] : BELOW(most + 1);
    memcpy(data + i * size, &value, (size_t)size); /* little-endian */
  }
  void *p = take(w, count * size, data, 0);
  free(data);
  return p;
}

/* Offsets [count + 1] that ascend to `end`, or nearly. */
static void *take_offsets(world *w, double count, int32_t end, int each) {
  if (count * 4 > CAP) return w->huge = 1, w->wall;
  const int32_t n = count > 0 ? (int32_t)count : 0;
  int32_t *data = tt_host(4 * (size_t)n + 4);
  for (int32_t i = 1; i <= n; i++) {
    const int32_t even = (int32_t)((int64_t)end * i / n);
    const int32_t step = even > data[i - 1] ? even - data[i - 1] : 0;
    data[i] = each ? even : data[i - 1] + BELOW(2 * step + 1);
    if (data[i] > end || i == n) data[i] = end;
  }
  if (ONE_IN(4)) data[BELOW(n + 1)] = ONE_IN(2) ? BELOW(2 * end + 9) - 4 : INT32_MIN + BELOW(2);
  void *p = take(w, 4.0 * (n + 1), data, 0);
  free(data);
  return p;
}

/* Values of a dtype that fill `bytes`. */
static void *take_bytes(world *w, double bytes, int32_t type, int written) {
  if (bytes > CAP) return w->huge = 1, w->wall;
  const size_t n = bytes > 0 ? ((size_t)bytes + 3) / tt_size(type) : 0;
  const int odd = ONE_IN(2) ? 50 : 1 << 30;
  void *data = tt_host(n * tt_size(type));
  for (size_t i = 0; i < n; i++) {
    static const float any[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e30f, 1e-40f, -65504.0f};
    tt_put(data, type, i, ONE_IN(odd) ? any[BELOW(8)] : (float)BELOW(2001) * 0.001f - 1.0f);
  }
  void *p = take(w, bytes, data, written);
  free(data);
  return p;
}

static void *take_values(world *w, double elements, int32_t dtype) {
  const int32_t type = dtype >= 1 && dtype <= 3 ? dtype : TAILCUT_F32;
  return take_bytes(w, elements * (double)tt_size(type), type, 0);
}

/* ------------------------------------------------- arrays of the sizes that the header says -- */

typedef struct shape {
  double segments, most, rows, groups, candidates, kept, packed;
  int ragged;
} shape;

static double more(double count, double stride) { return count > 1 ? (count - 1) * stride : 0; }

static double or_else(int64_t stride, double fallback) {
  return stride != 0 ? (double)stride : fallback;
}

/* Elements of [rows of all segments, heads, dim] with these strides. */
static double matrix(const shape *s, double heads, double dim, int64_t row, int64_t head,
                     int64_t segment) {
  const double row_stride = or_else(row, heads * dim);
  if (s->rows <= 0) return 0;
  return more(s->ragged ? s->rows : s->most, row_stride) + more(heads, or_else(head, dim)) +
         more(s->ragged ? 1 : s->segments, or_else(segment, s->most * row_stride)) + dim;
}

/* A table of `count` slots, no two the same. */
static const void *take_slots(world *w, double count, int32_t bytes) {
  if (count * 8 > CAP) return w->huge = 1, w->wall;
  const int32_t n = count > 0 ? (int32_t)count : 0, size = bytes == 8 ? 8 : 4;
  char *data = tt_host((size_t)n * 8 + 8);
  const int64_t turn = n > 0 ? BELOW(n) : 0;
  for (int64_t i = 0; i < n; i++) {
    const int64_t slot = ONE_IN(9) ? -1 : (n - 1 - i + turn) % n;
    memcpy(data + i * size, &slot, (size_t)size);
  }
  const void *p = take(w, (double)n * size, data, 0);
  free(data);
  return p;
}

/* Bytes of one side of a row array; results: of each segment, or in all. */
static double side(const shape *s, const tailcut_rows *r, int dst, double rows, double segments) {
  const double row =
      or_else(dst ? r->dst_row_stride : r->src_row_stride, (double)r->part_bytes * r->parts);
  const double part = or_else(dst ? r->dst_part_stride : r->src_part_stride, (double)r->part_bytes);
  const double one = more(r->parts, part) + (double)r->part_bytes;
  const double slots = dst && r->placement == TAILCUT_PACKED ? rows : s->rows;
  if (rows <= 0 || segments <= 0 || s->rows <= 0) return 0;
  if ((dst ? r->dst_slots : r->src_slots) != NULL) {
    if (r->page_rows == 0) return more(slots, row) + one;
    const double page = r->page_rows < slots ? (double)r->page_rows : slots;
    return more(ceil(slots / (double)r->page_rows), (double)r->page_stride) + more(page, row) + one;
  }
  const double room = r->dst_rows != 0 && dst && r->dst != r->src ? (double)r->dst_rows : s->most;
  return more(rows, row) + one +
         more(segments, or_else(dst ? r->dst_segment_stride : r->src_segment_stride, room * row));
}

static void take_array(world *w, const shape *s, int i, int in_place, int fused) {
  tailcut_rows *r = &w->rows[i];
  const int packed = r->placement == TAILCUT_PACKED, renumber = r->flags & TAILCUT_ROWS_RENUMBER;
  const int by_rule = fused && w->roles == NULL && w->batch.group_cu_seqlens == NULL;
  double each = by_rule ? s->kept : s->candidates,
         all = by_rule ? s->kept * s->segments : s->packed;
  if (r->dst_rows != 0) each = all = (double)r->dst_rows;
  if (each > s->candidates) each = s->candidates;
  if (all > s->packed && r->dst_rows == 0) all = s->packed; /* damaged offsets reach all of it */
  r->src = r->dst = w->wall;
  if (in_place && !packed && !renumber) {
    r->dst_slots = r->src_slots, r->dst_row_stride = r->src_row_stride;
    r->dst_part_stride = r->src_part_stride, r->dst_segment_stride = r->src_segment_stride;
  } else {
    in_place = 0, r->src = NULL;
  }
  if (r->src_slots != NULL) r->src_slots = take_slots(w, s->rows, r->slot_bytes);
  if (in_place && r->dst_slots != NULL) r->dst_slots = r->src_slots;
  if (!in_place && r->dst_slots != NULL) {
    r->dst_slots = take_slots(w, packed ? all : s->rows, r->slot_bytes);
  }
  const double local = s->ragged ? s->rows - w->batch.prefix_rows : each;
  double bytes = side(s, r, 0, s->ragged ? s->rows : s->most, s->ragged ? 1 : s->segments);
  const void *src = renumber ? NULL : take_bytes(w, bytes, TAILCUT_F32, in_place);
  bytes = side(s, r, 1, packed ? all : local, packed || s->ragged ? 1 : s->segments);
  void *dst = in_place ? (void *)(uintptr_t)src : take(w, bytes, NULL, 1);
  r->src = src, r->dst = dst;
  if (r->renumber_base != NULL) {
    r->renumber_base = take_numbers(w, s->segments, r->part_bytes == 8 ? 8 : 4, 1000, 3);
  }
  if (r->rotation == NULL) return;
  tailcut_rotation *t = &w->rotation[i];
  const int size = t->position_bytes == 8 ? 8 : 4;
  if (t->positions != NULL) t->positions = take_numbers(w, s->rows, size, 12, 9);
  if (t->new_base != NULL) t->new_base = take_numbers(w, s->segments, size, 12, 9);
  if (t->inv_freq != NULL) t->inv_freq = take_values(w, t->rotary_dim / 2, TAILCUT_F32);
  if (t->cos_sin != NULL) {
    t->cos_sin = take_values(w, (double)t->table_rows * t->rotary_dim, TAILCUT_F32);
  }
}

static void take_lists(world *w, const shape *s) {
  tailcut_batch *b = &w->batch;
  const int32_t total = s->rows > 0 && s->rows < 1 << 20 ? (int32_t)s->rows : 0;
  if (b->cu_seqlens != NULL) b->cu_seqlens = take_offsets(w, s->segments, total, 0);
  if (b->lengths != NULL) {
    b->lengths = take_numbers(w, s->segments, 4, b->max_tokens > 0 ? b->max_tokens % 1024 : 0, 6);
  }
  if (b->group_cu_seqlens != NULL) {
    const int per_segment = ONE_IN(2) && b->cu_seqlens == NULL && b->groups == 9;
    if (per_segment) b->groups = b->segments;
    b->group_cu_seqlens =
        take_offsets(w, per_segment ? s->segments : s->groups, total, per_segment);
  }
}

static void take_selection(world *w, const shape *s) {
  tailcut_selection *q = &w->selection;
  const double rows = 4 * s->rows, each = 4 * s->segments;
  tailcut_selection_init(q, sizeof *q);
  q->kept_placement = 1 + BELOW(2);
  q->counts = take(w, each, NULL, 1);
  if (ONE_IN(2)) q->kept = take(w, rows, NULL, 1);
  if (ONE_IN(2)) q->new_cu_seqlens = take(w, each + 4, NULL, 1);
  if (ONE_IN(2)) q->flags = take(w, each, NULL, 1);
  if (ONE_IN(2) && w->kind != TAILCUT_CALL_CUT) q->scores = take(w, rows, NULL, 1);
  if (ONE_IN(2)) q->curve = take(w, rows, NULL, 1);
  if (ONE_IN(2)) q->ranks = take(w, rows, NULL, 1);
  if (ONE_IN(2)) q->host_counts = take(w, each, NULL, 1);
  if (ONE_IN(2)) q->mask = take(w, s->rows, NULL, 1);
  if (ONE_IN(2) && w->batch.group_cu_seqlens != NULL) {
    q->group_counts = take(w, 4 * s->groups, NULL, 1);
  }
  if (w->rule.group_k != NULL) {
    const double groups = w->batch.group_cu_seqlens != NULL ? s->groups : s->segments;
    w->rule.group_k = take_numbers(w, groups, 4, 20, 5);
  }
}

static void take_stage2(world *w, const shape *s) {
  tailcut_relevance_options *o = &w->relevance_options;
  const double lse_row = or_else(o->lse_row_stride, o->q_heads);
  if (o->policy != TAILCUT_ATTENTION) return;
  o->q = take_values(
      w, matrix(s, o->q_heads, o->head_dim, o->q_row_stride, o->q_head_stride, o->q_segment_stride),
      o->dtype);
  o->k = take_values(
      w, matrix(s, o->k_heads, o->head_dim, o->k_row_stride, o->k_head_stride, o->k_segment_stride),
      o->dtype);
  if (o->lse == NULL) return;
  const double elements =
      more(s->ragged ? s->rows : s->most, lse_row) + 1 +
      more(o->q_heads, or_else(o->lse_head_stride, 1)) +
      more(s->ragged ? 1 : s->segments, or_else(o->lse_segment_stride, s->most * lse_row));
  o->lse = take_values(w, s->rows > 0 ? elements : 0, TAILCUT_F32);
}

/* All that the call takes, for the structs as they are now. */
static void take_all(world *w, int merges) {
  const tailcut_batch *b = &w->batch;
  const double most = b->max_tokens, product = (double)b->segments * most;
  shape s = {b->segments,
             most,
             b->cu_seqlens != NULL && b->total_tokens != 0 ? (double)b->total_tokens : product,
             b->groups,
             0,
             0,
             0,
             b->cu_seqlens != NULL};
  const int fused = w->kind == TAILCUT_CALL_PRUNE_VISUAL || w->kind == TAILCUT_CALL_PRUNE_SEQUENCE;
  const int stage2 = w->kind == TAILCUT_CALL_RELEVANCE || w->kind == TAILCUT_CALL_PRUNE_SEQUENCE;
  const tailcut_tokens *t = &w->tokens;
  if (s.rows < 0) s.rows = 0;
  s.candidates = most > b->prefix_rows ? most - b->prefix_rows : 0;
  s.packed = s.candidates * s.segments;
  if (s.ragged && s.rows - b->prefix_rows < s.packed) s.packed = s.rows - b->prefix_rows;
  take_lists(w, &s);
  s.groups = b->groups;
  if (s.candidates >= 0 && s.candidates <= 1 << 20) {
    s.kept = tailcut_kept_count(&w->rule, (int32_t)s.candidates);
  }
  w->tokens.data =
      take_values(w, matrix(&s, 1, t->dim, t->row_stride, 0, t->segment_stride), t->dtype);
  if (w->reference.source == TAILCUT_REFERENCE_GIVEN && s.segments > 0) {
    tailcut_reference *r = &w->reference;
    r->data = take_values(w, more(s.segments, (double)r->segment_stride) + t->dim,
                          r->dtype != 0 ? r->dtype : t->dtype);
  }
  w->scores = take(w, 4 * s.rows, NULL, w->kind != TAILCUT_CALL_CUT);
  w->direction = take(w, 4 * s.segments * t->dim, NULL, 1);
  w->flags = take(w, 4 * s.segments, NULL, 1);
  w->input_flags = ONE_IN(2) ? NULL : take_numbers(w, s.segments, 4, 31, 9);
  w->roles = stage2 || (ONE_IN(3) && b->prefix_rows == 0) ? take_numbers(w, s.rows, 1, 7, 9) : NULL;
  w->counts = take_numbers(w, s.segments, 4, (int32_t)s.candidates % 64, 6);
  w->new_cu = take_offsets(w, s.segments, (int32_t)(s.packed > 0 ? s.packed : 0) % 4096, 0);
  w->kept = take_numbers(w, s.rows, 4, 3, 9);
  if (w->kept != w->wall && ONE_IN(3)) {
    int32_t *list = tt_host(4 * (size_t)s.rows + 4); /* ascending */
    for (int32_t i = 1; i < s.rows; i++) list[i] = list[i - 1] + (ONE_IN(3) ? 2 : !ONE_IN(50));
    w->kept = take(w, 4 * s.rows, list, 0);
    free(list);
  }
  if (!fused && w->kind != TAILCUT_CALL_CUT && w->kind != TAILCUT_CALL_MEAN_DIRECTION) {
    w->roles = stage2 ? w->roles : NULL;
  }
  if (w->kind == TAILCUT_CALL_PRUNE_VISUAL) w->roles = NULL;
  take_selection(w, &s);
  take_stage2(w, &s);
  for (int i = 0; i < ARRAYS; i++) take_array(w, &s, i, ONE_IN(2), fused);
  if (!merges) return;
  tailcut_merge_options *m = &w->merge_options;
  if (w->kind == TAILCUT_CALL_PRUNE_VISUAL) w->selection.merge = m;
  if (ONE_IN(2)) m->sizes_in = take_numbers(w, s.rows, 4, 9, 5);
  if (ONE_IN(2)) m->sizes_out = take(w, 4 * s.rows, NULL, 1);
  if (ONE_IN(2)) m->joins_out = take(w, 4 * s.rows, NULL, 1);
}

#endif /* TAILCUT_TESTS_MISUSE_ARRAYS_H_ */
