/* SPDX-License-Identifier: Apache-2.0 */
/* reference_compact: compaction from the specification: every row of a segment is read before any
 * is written, byte by byte; keys that turn: reference_rotate.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "data.h"
#include "reference.h"

/* Where a row stands, or -1. `number`: its row number in the batch; `flat`: counted from the base
 * and not from its segment's start. */
static int64_t place(const tailcut_rows *a, const tailcut_batch *batch, int is_dst, int32_t b,
                     int64_t number, int64_t r, int flat) {
  const int64_t default_row = a->part_bytes * a->parts;
  int64_t row = is_dst ? a->dst_row_stride : a->src_row_stride;
  int64_t segment = is_dst ? a->dst_segment_stride : a->src_segment_stride;
  const void *slots = is_dst ? a->dst_slots : a->src_slots;
  if (row == 0) row = default_row;
  if (segment == 0) {
    segment = row * (is_dst && a->dst_rows ? a->dst_rows : (int64_t)batch->max_tokens);
  }
  if (slots == NULL) return flat || batch->cu_seqlens ? number * row : b * segment + r * row;
  const int64_t slot =
      a->slot_bytes == 8 ? ((const int64_t *)slots)[number] : ((const int32_t *)slots)[number];
  if (slot == -1) return -1;
  if (a->page_rows == 0) return slot * row;
  return slot / a->page_rows * a->page_stride + slot % a->page_rows * row;
}

enum { MOVE, ZERO, OPEN };

/* marks: of a row that is moved, what `open` gets. */
static void one_row(const tailcut_rows *a, char *dst, const char *row, const uint8_t *marks,
                    uint8_t *open, int what) {
  const int64_t stride = a->dst_part_stride ? a->dst_part_stride : a->part_bytes;
  for (int32_t part = 0; part < a->parts; part++) {
    const int64_t at = (dst - (char *)a->dst) + part * stride;
    for (int64_t i = 0; i < a->part_bytes; i++) {
      if (what == OPEN) open[at + i] = REF_OPEN;
      if (what == OPEN) continue;
      if (what == MOVE) open[at + i] = marks[part * a->part_bytes + i];
      ((char *)a->dst)[at + i] = what == MOVE ? row[part * a->part_bytes + i] : 0;
    }
  }
}

/* The new position of result row j of segment b. */
static void position(const tailcut_rows *a, int32_t b, int32_t j, char *row) {
  for (int32_t part = 0; part < a->parts; part++) {
    if (a->part_bytes == 8) {
      const int64_t *base = a->renumber_base;
      const uint64_t value = (base != NULL ? (uint64_t)base[b] : 0) + (uint64_t)j;
      memcpy(row + part * 8, &value, 8);
    } else {
      const int32_t *base = a->renumber_base;
      const uint32_t value = (base != NULL ? (uint32_t)base[b] : 0) + (uint32_t)j;
      memcpy(row + part * 4, &value, 4);
    }
  }
}

/* Turns the keys of a gathered row. */
static void turn(const tailcut_rows *a, int32_t b, int64_t number, int64_t r, int64_t j, char *row,
                 uint8_t *marks) {
  const tailcut_rotation *t = a->rotation;
  const int64_t size = (int64_t)tt_size(t->dtype), first = t->rotary_offset * size;
  long double values[1024];
  for (int32_t part = 0; part < a->parts; part++) {
    char *keys = row + part * a->part_bytes;
    if (!ref_turn(t, b, number, r, j, keys, values)) return;
    memset(marks + part * a->part_bytes + first, REF_OPEN + t->dtype,
           (size_t)(t->rotary_dim * size));
    for (int32_t d = 0; d < t->rotary_dim; d++) {
      tt_put(keys + first, t->dtype, (size_t)d, (float)values[d]);
    }
  }
}

/* Rows of the destination, of `all` that there might be. */
static int64_t room_of(const tailcut_rows *a, int64_t all) {
  const int64_t room = a->dst_rows == 0 ? all : a->dst_rows == REF_NO_ROOM ? 0 : a->dst_rows;
  return room < all ? room : all;
}

/* Result rows of a segment: none where they would not fit. first: 0, or where it begins if PACKED.
 * */
static int32_t rows_of(const tailcut_rows *a, const ref_segment *s, int32_t count, int64_t first) {
  if (count < 0 || count > s->n) return 0;
  return first + count > room_of(a, INT64_MAX) ? 0 : count;
}

/* Whether result row j has a source. */
static int is_followed(const int32_t *list, int32_t j, const ref_segment *s, const ref_plan *plan) {
  if (list[j] < j || list[j] >= s->n) return 0;
  if (plan != NULL) return plan->result[s->start + list[j]] == j;
  return j == 0 || list[j] > list[j - 1];
}

/* The mean of what joins candidate i, where that is more than itself: a column at a time. */
static void merge_row(const tailcut_batch *batch, const tailcut_rows *a, int32_t b,
                      const ref_segment *s, int32_t i, const ref_plan *plan, char *row) {
  const int64_t n = a->part_bytes / (int64_t)tt_size(a->dtype);
  for (int64_t d = 0; d < n; d++) {
    float sum = 0.0f, total = 0.0f;
    int members = 0;
    for (int32_t m = 0; m < s->n; m++) {
      if (plan->joins[s->start + m] != i) continue;
      const int64_t r = (int64_t)m + batch->prefix_rows;
      const int64_t from = place(a, batch, 0, b, s->start + r, r, 0);
      const float w = plan->weight[s->start + m];
      if (from < 0) continue;
      sum = fmaf(w, tt_get((const char *)a->src + from, a->dtype, (size_t)d), sum);
      total = total + w;
      members++;
    }
    const float mean = sum / total;
    if (members > 1) tt_put(row, a->dtype, (size_t)d, isnan(mean) ? NAN : mean);
  }
}

/* The results of segment b, each row read before any is written; a row of no source stays. */
static void one_segment(const tailcut_batch *batch, const tailcut_rows *a, int32_t b,
                        const ref_segment *s, const int32_t *list, int32_t k, int64_t new_cu,
                        uint8_t *open, const ref_plan *plan) {
  const int packed = a->placement == TAILCUT_PACKED;
  const int64_t width = a->part_bytes * a->parts;
  const int64_t src_part = a->src_part_stride ? a->src_part_stride : a->part_bytes;
  char *rows = tt_host((size_t)(k * width));
  uint8_t *have = tt_host((size_t)k), *marks = tt_host((size_t)(k * width));
  for (int32_t j = 0; j < k; j++) {
    have[j] = (a->flags & TAILCUT_ROWS_RENUMBER) != 0;
    if (have[j]) position(a, b, j, rows + j * width);
    if (have[j] || !is_followed(list, j, s, plan)) continue;
    const int64_t r = (int64_t)list[j] + batch->prefix_rows;
    const int64_t from = place(a, batch, 0, b, s->start + r, r, 0);
    if (from < 0) continue;
    for (int32_t part = 0; part < a->parts; part++) {
      memcpy(rows + j * width + part * a->part_bytes, (const char *)a->src + from + part * src_part,
             (size_t)a->part_bytes);
    }
    if (a->flags & TAILCUT_ROWS_MERGE) merge_row(batch, a, b, s, list[j], plan, rows + j * width);
    if (a->rotation) turn(a, b, s->start + r, r, j, rows + j * width, marks + j * width);
    have[j] = 1;
  }
  for (int32_t j = 0; j < k; j++) {
    const int64_t to = place(a, batch, 1, b, (packed ? new_cu : s->start) + j, j, packed);
    if (to < 0 || !have[j]) continue;
    one_row(a, (char *)a->dst + to, rows + j * width, marks + j * width, open, MOVE);
  }
  free(rows);
  free(marks);
  free(have);
}

void ref_compact(const tailcut_batch *batch, const int32_t *kept, int32_t kept_placement,
                 const int32_t *counts, const int32_t *new_cu, const tailcut_rows *a, uint8_t *open,
                 const ref_plan *plan) {
  const int packed = a->placement == TAILCUT_PACKED;
  const int tail = a->flags & TAILCUT_ROWS_ZERO_TAIL ? ZERO : OPEN;
  int64_t candidates = 0, behind = 0; /* the last result */
  for (int32_t b = 0; b < batch->segments; b++) {
    const ref_segment s = ref_segment_of(batch, b);
    const int32_t k = rows_of(a, &s, counts[b], packed ? new_cu[b] : 0);
    const int64_t first = packed ? new_cu[b] : s.start;
    const int32_t *list = kept + (kept_placement == TAILCUT_PACKED ? new_cu[b] : s.start);
    one_segment(batch, a, b, &s, list, k, first, open, plan);
    for (int64_t j = k; j < room_of(a, s.n) && !packed; j++) {
      const int64_t to = place(a, batch, 1, b, s.start + j, j, 0);
      if (to >= 0) one_row(a, (char *)a->dst + to, NULL, NULL, open, tail);
    }
    candidates += s.n;
    behind = packed ? new_cu[b + 1] : 0;
  }
  for (int64_t j = behind; j < room_of(a, candidates) && packed; j++) {
    const int64_t to = place(a, batch, 1, 0, j, j, 1);
    if (to >= 0) one_row(a, (char *)a->dst + to, NULL, NULL, open, tail);
  }
}
