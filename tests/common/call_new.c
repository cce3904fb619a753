/* SPDX-License-Identifier: Apache-2.0 */
/* call_new: the memory of a call on both sides. */
#include <stdlib.h>

#include "call_parts.h"

/* asked: of the device too. The CPU backend is asked for everything: its kept list says which rows
 * are unspecified. */
static void add(tt_call *c, int id, size_t bytes, int asked) {
  buffer *b = &c->buffers[id];
  b->bytes = bytes;
  b->side[HOST] = tt_host(bytes);
  if (!asked) return;
  b->side[DEVICE] = id == HOST_COUNTS ? c->backend->memory->alloc_host(bytes)
                                      : tt_upload(c->backend, NULL, bytes, 0);
}

static tailcut_rows *next_rows(tt_call *c) {
  static const tailcut_rows defaults = TAILCUT_ROWS_INITIALIZER;
  tailcut_rows *r = &c->rows[c->num_rows++];
  *r = defaults;
  return r;
}

/* Keys turn from the positions that the call renumbers, where it does. */
static void make_rotations(tt_call *c) {
  static const tailcut_rotation defaults = TAILCUT_ROTATION_INITIALIZER;
  add(c, FREQUENCIES, ROTARY_DIM / 2 * sizeof(float), 1);
  for (int side = HOST; side <= DEVICE; side++) {
    tailcut_rotation *t = &c->rotations[side];
    *t = defaults;
    t->dtype = TAILCUT_F16, t->rotary_dim = ROTARY_DIM, t->rotary_offset = 2;
    t->inv_freq = c->buffers[FREQUENCIES].side[side];
    if (c->positions) t->positions = c->buffers[ARRAYS + 2 * c->positions - 1].side[side];
  }
}

/* K or V of a layer, in place: the rows of a token's heads side by side. */
static void add_layer(tt_call *c) {
  const int i = c->num_rows;
  tailcut_rows *r = next_rows(c);
  r->part_bytes = 32, r->parts = 2;
  c->in_place[i] = 1;
  add(c, ARRAYS + 2 * i + 1, (size_t)c->total * 64, 1);
}

static void add_rows(tt_call *c, unsigned kind) {
  const int i = c->num_rows;
  tailcut_rows *r = next_rows(c);
  const int64_t scored = (int64_t)c->row->dim * size_of(c);
  r->part_bytes = kind == TT_CALL_SMALL || kind == TT_CALL_TAIL       ? 8
                  : kind == TT_CALL_WIDE || kind == TT_CALL_WIDE_TAIL ? 2 * scored
                  : kind == TT_CALL_SLOTS                             ? 20
                  : kind == TT_CALL_POSITIONS                         ? 4
                  : kind == TT_CALL_PLANES                            ? 8
                                                                      : scored;
  const int tail = kind == TT_CALL_TAIL || kind == TT_CALL_WIDE_TAIL;
  if (kind == TT_CALL_APART || tail) r->placement = TAILCUT_PACKED;
  const int scored_too = kind == TT_CALL_TOKENS || kind == TT_CALL_APART || kind == TT_CALL_WIDE;
  if (c->row->merges && scored_too) r->flags = TAILCUT_ROWS_MERGE, r->dtype = dtype_of(c->row);
  if (kind == TT_CALL_SMALL || tail) r->flags = TAILCUT_ROWS_ZERO_TAIL;
  if (kind == TT_CALL_POSITIONS) r->flags = TAILCUT_ROWS_RENUMBER, c->positions = i + 1;
  if (kind == TT_CALL_PLANES) {
    r->parts = 3, r->src_row_stride = r->dst_row_stride = 8;
    r->src_part_stride = r->dst_part_stride = 8 * c->total;
  }
  const size_t bytes = (size_t)(c->total * r->part_bytes * r->parts);
  c->in_place[i] = kind == TT_CALL_TOKENS         ? 2
                   : kind == TT_CALL_APART        ? 3
                   : kind == TT_CALL_WIDE || tail ? 0
                                                  : 1;
  if (c->in_place[i] == 0) add(c, ARRAYS + 2 * i, bytes, 1);
  if (c->in_place[i] != 2) add(c, ARRAYS + 2 * i + 1, bytes, 1);
  if (kind == TT_CALL_SLOTS) add(c, SLOTS, 4 * (size_t)c->total, 1);
}

tt_call *tt_call_new(const tt_call_row *row, const tt_backend *backend) {
  tt_call *c = tt_host(sizeof *c);
  const size_t segments = 4 * (size_t)row->segments, full = !row->bare;
  c->row = row;
  c->backend = backend;
  c->total = (int64_t)row->segments * row->max_tokens;
  const size_t rows = 4 * (size_t)c->total;
  const int prunes =
      row->kind == TAILCUT_CALL_PRUNE_VISUAL || row->kind == TAILCUT_CALL_PRUNE_SEQUENCE;
  const int cuts = row->kind == TAILCUT_CALL_CUT || prunes;
  if (row->layout != TT_UNIFORM) add(c, SHAPE, segments + 4 * (row->layout == TT_RAGGED), 1);
  if (row->kind != TAILCUT_CALL_CUT) add(c, MATRIX, (size_t)(row->segments * pitch_of(c)), 1);
  if ((row->kind == TAILCUT_CALL_SCORE || row->kind == TAILCUT_CALL_PRUNE_VISUAL) &&
      row->source == 0 && !row->gap) {
    add(c, VECTOR, (size_t)(row->dim * size_of(c)), 1);
  }
  if ((row->kind == TAILCUT_CALL_MEAN_DIRECTION && row->layout == TT_RAGGED) ||
      row->kind == TAILCUT_CALL_RELEVANCE || row->kind == TAILCUT_CALL_PRUNE_SEQUENCE) {
    add(c, ROLES, (size_t)c->total, 1);
  }
  if (row->kind == TAILCUT_CALL_MEAN_DIRECTION) add(c, DIRECTIONS, segments * (size_t)row->dim, 1);
  if (row->policy == TAILCUT_ATTENTION) {
    add(c, QUERIES, (size_t)(c->total * Q_HEADS * HEAD_DIM * size_of(c)), 1);
    add(c, KEYS, (size_t)(c->total * K_HEADS * HEAD_DIM * size_of(c)), 1);
  }
  const int scores = row->kind == TAILCUT_CALL_SCORE || row->kind == TAILCUT_CALL_RELEVANCE;
  if (scores || row->kind == TAILCUT_CALL_CUT) add(c, SCORES, rows, 1);
  if (prunes) add(c, SCORES, rows, (int)full);
  if (scores || row->kind == TAILCUT_CALL_CUT)
    add(c, FLAGS, segments, row->kind != TAILCUT_CALL_RELEVANCE || full);
  if (row->kind == TAILCUT_CALL_PRUNE_SEQUENCE) add(c, FLAGS, segments, 0);
  const int lists = row->kind == TAILCUT_CALL_COMPACT || row->kind == TAILCUT_CALL_MERGE;
  if (cuts || lists) {
    add(c, COUNTS, segments, 1);
    add(c, KEPT, rows, full || lists || row->packed);
    add(c, NEW_CU, segments + 4, full || lists);
  }
  for (int id = SIZES_IN; row->merges && id <= JOINS; id++) add(c, id, rows, 1);
  for (int id = OUT_FLAGS; cuts && id <= HOST_COUNTS; id++) {
    add(c, id, id == CURVE || id == RANKS ? rows : segments, (int)full);
  }
  if (row->kind == TAILCUT_CALL_PRUNE_SEQUENCE) add(c, MASK, (size_t)c->total, (int)full);
  if (row->groups > 0) {
    add(c, GROUPS, 4 * (size_t)row->groups + 4, 1);
    add(c, GROUP_COUNTS, 4 * (size_t)row->groups, (int)full);
  }
  for (unsigned bit = 1; bit <= TT_CALL_PLANES; bit *= 2) {
    if (row->rows & bit) add_rows(c, bit);
  }
  c->first_layer = c->num_rows;
  for (int i = 0; i < 2 * row->layers; i++) add_layer(c);
  if (row->turns) make_rotations(c);
  static const tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  if (tailcut_create(&c->cpu, &config) != TAILCUT_OK) abort();
  static const tt_backend cpu = {.name = "cpu", .memory = &tt_memory_cpu};
  const tailcut_limits limits = tt_call_limits(row);
  int32_t largest = row->kind; /* one that serves the parts too */
  size_t most = 0, size;
  for (int32_t kind = TAILCUT_CALL_SCORE; kind <= TAILCUT_CALL_MERGE; kind++) {
    if (tailcut_workspace_size(c->cpu, kind, &limits, &size) != TAILCUT_OK) abort();
    if (size > most) most = size, largest = kind;
  }
  c->cpu_workspace = tt_workspace_new(&cpu, c->cpu, largest, &limits);
  return c;
}

void tt_call_free(tt_call *c) {
  for (int i = 0; i < BUFFERS; i++) {
    free(c->buffers[i].side[HOST]);
    if (i == HOST_COUNTS && c->buffers[i].side[DEVICE] != NULL) {
      c->backend->memory->release_host(c->buffers[i].side[DEVICE]);
    } else {
      tt_free(c->backend, c->buffers[i].side[DEVICE]);
    }
  }
  tt_memory_cpu.release(c->cpu_workspace.data);
  tailcut_destroy(c->cpu);
  free(c);
}
