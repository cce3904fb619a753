/* SPDX-License-Identifier: Apache-2.0 */
/* call_fill: new contents of a call: its shape and groups, damaged ones among them, roles, kept
 * lists, slots and numbers. */
#include <stdlib.h>
#include <string.h>

#include "call_parts.h"
#include "problem.h"
#include "reference.h"

/* Lengths: zero, full and invalid ones among them. Offsets: in three of four fills with damage. */
static void fill_shape(tt_call *c, tt_random *random) {
  int32_t *shape = c->buffers[SHAPE].side[HOST];
  const int32_t most = c->row->max_tokens, segments = c->row->segments;
  int32_t at = tt_below(random, 3);
  for (int32_t b = 0; b < segments; b++) {
    const int roll = tt_below(random, 8);
    int32_t n = roll == 0 ? 0 : roll < 3 ? most : tt_below(random, most + 1);
    if (c->row->layout == TT_LENGTHS) {
      if (roll == 3) n = -tt_below(random, 100);
      if (roll == 4) n = most + 1 + tt_below(random, 100);
      shape[b] = n;
    } else {
      if (n > c->total - at) n = (int32_t)c->total - at;
      shape[b] = at;
      at += n;
    }
  }
  if (c->row->layout == TT_LENGTHS) return;
  shape[segments] = at;
  int32_t *one = &shape[tt_below(random, segments + 1)];
  const int roll = tt_below(random, 4);
  if (roll == 1) *one = -1 - tt_below(random, 9);
  if (roll == 2) *one = (int32_t)c->total + 1 + tt_below(random, 9);
  if (roll == 3) *one += most;
}

static int ascending(const void *a, const void *b) {
  const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
  return (x > y) - (x < y);
}

/* All boundaries of segments and some rows between; in one of four fills a damaged one. */
static void fill_groups(tt_call *c, tt_random *random) {
  const int32_t groups = c->row->groups, segments = c->row->segments;
  int32_t *offsets = c->buffers[GROUPS].side[HOST];
  const int32_t *shape = c->buffers[SHAPE].side[HOST];
  for (int32_t g = 0; g <= groups; g++) {
    offsets[g] = g > segments                  ? tt_below(random, (int32_t)c->total)
                 : c->row->layout == TT_RAGGED ? shape[g]
                                               : g * c->row->max_tokens;
  }
  qsort(offsets, (size_t)groups + 1, sizeof *offsets, ascending);
  if (tt_below(random, 4) == 0) offsets[tt_below(random, groups + 1)] += 1 + tt_below(random, 9);
}

/* Candidates and the text behind them, or any roles anywhere: few are absent or neither. */
static void fill_roles(tt_call *c, tt_random *random) {
  uint8_t *roles = c->buffers[ROLES].side[HOST];
  const int32_t most = c->row->max_tokens, images = most - c->row->texts;
  const int32_t share = tt_below(random, 6); /* 0: no query row */
  for (size_t i = 0; i < c->buffers[ROLES].bytes; i++) {
    const int roll = tt_below(random, 12);
    const int text = c->row->texts > 0 ? (int32_t)(i % (size_t)most) >= images
                                       : roll < 2 * share && tt_below(random, 2);
    roles[i] = (uint8_t)(text ? TAILCUT_ROLE_QUERY : TAILCUT_ROLE_CANDIDATE);
    if (roll == 11 && c->row->texts == 0) roles[i] = (uint8_t)tt_below(random, 8);
  }
}

/* Counts and kept lists as a caller might have them: mostly sound. */
static void fill_kept(tt_call *c, tt_random *random) {
  const tailcut_batch batch = tt_call_batch(c, HOST);
  int32_t *counts = c->buffers[COUNTS].side[HOST], *kept = c->buffers[KEPT].side[HOST];
  int32_t *cu = c->buffers[NEW_CU].side[HOST];
  cu[0] = 0;
  for (int32_t b = 0; b < batch.segments; b++) {
    const ref_segment s = ref_segment_of(&batch, b);
    const int roll = tt_below(random, 12), share = tt_below(random, 5);
    int32_t k = 0, *list = kept + (c->row->packed ? cu[b] : s.start);
    for (int32_t i = 0; i < s.n; i++) {
      if (share == 4 || tt_below(random, 4) < share) list[k++] = i;
    }
    if (roll == 1 && k > 2) list[k / 2] += s.n; /* not to be followed */
    counts[b] = roll == 0 ? (b % 2 ? -k : s.n + 1) : k;
    cu[b + 1] = cu[b] + (roll == 0 ? 0 : k);
  }
}

static void fill_slots(tt_call *c, tt_random *random) {
  int32_t *slots = c->buffers[SLOTS].side[HOST];
  const int32_t n = (int32_t)c->total, turn = tt_below(random, n);
  for (int32_t i = 0; i < n; i++) {
    slots[i] = tt_below(random, 8) == 0 ? -1 : (n - 1 - i + turn) % n;
  }
}

void tt_call_fill(tt_call *c, tt_random *random) {
  const tt_call_row *row = c->row;
  const int32_t dtype = dtype_of(row);
  for (int i = 0; i < BUFFERS; i++) {
    if (c->buffers[i].side[HOST]) memset(c->buffers[i].side[HOST], TT_POISON, c->buffers[i].bytes);
  }
  if (row->layout != TT_UNIFORM) fill_shape(c, random);
  if (c->buffers[MATRIX].bytes) {
    unsigned spikes = tt_below(random, 4) ? TT_TIES : TT_PLAIN;
    /* What a NaN of a direction looks like is not specified. */
    if (row->kind != TAILCUT_CALL_MEAN_DIRECTION && row->source != TAILCUT_REFERENCE_MEAN)
      spikes |= TT_NOT_FINITE | TT_ZERO_ROWS;
    /* One row of text that is not finite is enough for everything to be kept. */
    const int sequence = row->kind == TAILCUT_CALL_PRUNE_SEQUENCE;
    if (row->dim >= 1024 || (sequence && row->max_tokens > 8192)) spikes = TT_PLAIN;
    tt_tokens(random, c->buffers[MATRIX].side[HOST], dtype, c->total + row->gap * row->segments,
              row->dim, row->dim, spikes);
  }
  for (int32_t i = 0; row->turns && i < ROTARY_DIM / 2; i++) {
    ((float *)c->buffers[FREQUENCIES].side[HOST])[i] = 1.0f / (float)(1 + 3 * i);
  }
  for (int32_t i = 0; c->buffers[VECTOR].bytes && i < row->dim; i++) {
    const float v = tt_get(c->buffers[MATRIX].side[HOST], dtype, (size_t)i);
    const float base = v - v == 0.0f ? v : 0.0f;
    tt_put(c->buffers[VECTOR].side[HOST], dtype, (size_t)i, base + (float)tt_normal(random));
  }
  for (int id = QUERIES; id <= KEYS; id++) {
    for (size_t i = 0; i < c->buffers[id].bytes / (size_t)size_of(c); i++) {
      tt_put(c->buffers[id].side[HOST], dtype, i, (float)tt_normal(random));
    }
  }
  uint8_t *roles = c->buffers[ROLES].side[HOST];
  for (size_t i = 0; i < c->buffers[ROLES].bytes; i++) roles[i] = (uint8_t)tt_below(random, 8);
  if (row->kind == TAILCUT_CALL_RELEVANCE || row->kind == TAILCUT_CALL_PRUNE_SEQUENCE)
    fill_roles(c, random);
  if (row->groups > 0) fill_groups(c, random);
  if (row->kind == TAILCUT_CALL_CUT) {
    const tt_curve kind = tt_below(random, 4) ? TT_COSINES : (tt_curve)tt_below(random, TT_CURVES);
    tt_curve_scores(random, kind, c->buffers[SCORES].side[HOST], c->total);
    int32_t *flags = c->buffers[FLAGS].side[HOST];
    for (int32_t b = 0; b < row->segments; b++) {
      flags[b] = tt_below(random, 8) ? 0 : 1 << tt_below(random, 4);
    }
  }
  if (row->kind == TAILCUT_CALL_COMPACT || row->kind == TAILCUT_CALL_MERGE) fill_kept(c, random);
  int32_t *sizes = c->buffers[SIZES_IN].side[HOST];
  for (int64_t i = 0; sizes != NULL && i < c->total; i++) sizes[i] = tt_below(random, 9);
  if (c->buffers[SLOTS].bytes) fill_slots(c, random);
  for (int i = ARRAYS; i < BUFFERS; i++) {
    uint8_t *bytes = c->buffers[i].side[HOST];
    for (size_t n = 0; n < c->buffers[i].bytes; n++) bytes[n] = (uint8_t)tt_next(random);
  }
  for (int i = 0; i < BUFFERS; i++) {
    buffer *b = &c->buffers[i];
    if (b->side[DEVICE] == NULL) continue;
    if (i == HOST_COUNTS) {
      memcpy(b->side[DEVICE], b->side[HOST], b->bytes);
    } else {
      c->backend->memory->upload(b->side[DEVICE], b->side[HOST], b->bytes);
    }
  }
  c->backend->memory->sync(); /* other streams may go on from here */
}
