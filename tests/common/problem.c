/* SPDX-License-Identifier: Apache-2.0 */
/* problem: makes a case's inputs from its row number and asks the reference for its outputs. */
#include "problem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "reference.h"

static int32_t or_default(int32_t value, int32_t fallback) { return value ? value : fallback; }

void tt_block_new(tt_block *block, size_t bytes) {
  block->bytes = bytes;
  block->data = tt_host(bytes);
  memset(block->data, TT_POISON, bytes);
}

/* An output: the reference writes into `want`, which starts as what stands there before. */
static void *output(tt_block *block, size_t bytes) {
  tt_block_new(block, bytes);
  block->want = tt_host(bytes);
  memset(block->want, TT_POISON, bytes);
  return block->want;
}

static void free_block(tt_block *block) {
  free(block->data);
  free(block->want);
  free(block->open);
}

void tt_curve_scores(tt_random *random, tt_curve kind, float *scores, int64_t n) {
  const double rate = 2.0 + 6.0 * tt_uniform(random);
  for (int64_t i = 0; i < n; i++) {
    const double x = tt_normal(random), u = tt_uniform(random);
    const int roll = tt_below(random, 8);
    switch (kind) {
      case TT_COSINES:
        scores[i] = (float)(0.9 * exp(-rate * u) - 0.05);
        break;
      case TT_STEP:
        scores[i] = (float)((roll < 3 ? 0.7 : 0.1) + 0.02 * x);
        break;
      case TT_FEW_VALUES:
        scores[i] = (float)(roll - 3) * 0.125f;
        break;
      case TT_FLAT:
        scores[i] = -0.37f;
        break;
      case TT_NAN_ALL:
        scores[i] = roll & 1 ? NAN : -NAN;
        break;
      case TT_NAN_BUT_TWO:
        scores[i] = i % (n / 2 + 1) == 1 ? (float)x : NAN;
        break;
      case TT_LARGE:
        scores[i] = (float)x * (roll < 2 ? 1e38f : 1e30f);
        break;
      case TT_SMALL:
        scores[i] = (float)(x * 0x1p-138);
        break;
      case TT_ZEROS:
        scores[i] = roll < 3 ? 0.0f : roll < 6 ? -0.0f : (float)x;
        break;
      case TT_RISING:
        scores[i] = (float)i - 20.0f;
        break;
      case TT_NAN_RUNS:
        scores[i] = i / 16 % 2 ? NAN : (float)x;
        break;
      default:
        scores[i] = (float)x;
        break;
    }
    if (kind == TT_NAN_SOME && roll == 0) scores[i] = NAN;
    if (kind == TT_INFINITE && roll < 2) scores[i] = roll ? INFINITY : -INFINITY;
  }
}

/* Lengths or offsets: a full segment, an empty one and a single token are among them. */
static void make_shape(tt_problem *p, tt_random *random) {
  const tt_case *c = p->row;
  const int32_t segments = p->batch.segments, most = p->batch.max_tokens;
  if (c->layout == TT_UNIFORM) return;
  tt_block_new(&p->shape, 4 * (size_t)(segments + (c->layout == TT_RAGGED)));
  int32_t *shape = (int32_t *)(void *)p->shape.data, at = 0;
  for (int32_t b = 0; b < segments; b++) {
    int32_t rows = tt_below(random, most + 1);
    if (b == 0) rows = most;
    if (b == 1) rows = 0;
    if (b == 3) rows = 1;
    shape[b] = c->layout == TT_RAGGED ? at : rows;
    at += rows;
  }
  if (c->layout == TT_RAGGED) shape[segments] = at;
  if (c->shape != NULL) memcpy(shape, c->shape, p->shape.bytes);
  if (c->layout == TT_LENGTHS) {
    p->batch.lengths = shape;
  } else {
    p->batch.cu_seqlens = shape;
    p->batch.total_tokens = c->total ? c->total : shape[segments];
  }
}

static void make_tokens(tt_problem *p, tt_random *random) {
  const tt_case *c = p->row;
  tailcut_tokens *t = &p->tokens;
  t->dtype = or_default(c->dtype, TAILCUT_F16);
  t->dim = or_default(c->dim, 48);
  t->row_stride = c->row_extra ? t->dim + c->row_extra : 0;
  const int64_t stride = t->dim + c->row_extra;
  if (c->layout != TT_RAGGED && c->segment_extra) {
    t->segment_stride = (p->batch.max_tokens + c->segment_extra) * stride;
  }
  const int64_t rows = p->total + (int64_t)p->batch.segments * c->segment_extra;
  tt_block_new(&p->matrix, (size_t)(rows * stride) * tt_size(t->dtype));
  tt_tokens(random, p->matrix.data, t->dtype, rows, t->dim, stride, c->spikes);
  t->data = p->matrix.data;
}

static void make_reference(tt_problem *p, tt_random *random) {
  const tt_case *c = p->row;
  tailcut_reference *r = &p->reference;
  r->source = or_default(c->source, TAILCUT_REFERENCE_GIVEN);
  r->lag = c->lag;
  r->window = c->novelty;
  if (r->source != TAILCUT_REFERENCE_GIVEN) return;
  const int32_t dtype = c->reference_f32 ? TAILCUT_F32 : p->tokens.dtype;
  const int32_t dim = p->tokens.dim, stride = c->reference_each ? dim + 3 : 0;
  const int32_t vectors = c->reference_each ? p->batch.segments : 1;
  r->dtype = c->reference_f32 ? TAILCUT_F32 : 0;
  r->segment_stride = stride;
  tt_block_new(&p->vector, (size_t)(vectors * (dim + 3)) * tt_size(dtype));
  for (int32_t i = 0; i < vectors * (dim + 3); i++) {
    /* Near the first row, so that some cosines are high. */
    const int64_t rows = p->total > 0 && i % (dim + 3) < dim;
    const float base = rows ? tt_get(p->tokens.data, p->tokens.dtype, (size_t)(i % (dim + 3))) : 0;
    float v = (float)((isfinite(base) ? (double)base : 0.0) + tt_normal(random));
    if (c->zero_reference && i < dim) v = 0.0f;
    tt_put(p->vector.data, dtype, (size_t)i, v);
  }
  r->data = p->vector.data;
}

static void make_roles(tt_problem *p, tt_random *random) {
  tt_block_new(&p->roles, (size_t)p->total);
  for (int64_t i = 0; i < p->total; i++) {
    const int roll = tt_below(random, 16);
    int role = roll < 10 ? 1 : roll < 13 ? 2 : roll < 14 ? 3 : roll < 15 ? 0 : 0xF8 | 1;
    if (tt_below(random, 6) == 0) role |= TAILCUT_ROLE_ABSENT;
    if (p->row->roles == 2) role &= ~TAILCUT_ROLE_QUERY;
    if (p->row->roles == 3) role &= ~TAILCUT_ROLE_CANDIDATE;
    p->roles.data[i] = (uint8_t)role;
  }
}

static void make_scores(tt_problem *p, tt_random *random) {
  float *scores;
  tt_block_new(&p->in_scores, 4 * (size_t)p->total);
  scores = (float *)(void *)p->in_scores.data;
  /* Candidates of a segment make one curve each. */
  for (int32_t b = 0; b < p->batch.segments; b++) {
    const ref_segment s = ref_segment_of(&p->batch, b);
    tt_curve_scores(random, p->row->curve, scores + s.start, s.n);
  }
  if (!p->row->input_flags) return;
  tt_block_new(&p->in_flags, 4 * (size_t)p->batch.segments);
  for (int32_t b = 0; b < p->batch.segments; b++) {
    const int32_t flag = tt_below(random, 32);
    memcpy(p->in_flags.data + 4 * b, &flag, 4);
  }
}

/* Runs the reference up to the cut. */
static void expect(tt_problem *p) {
  const tt_case *c = p->row;
  const size_t rows = 4 * (size_t)p->total, segments = (size_t)p->batch.segments;
  tailcut_selection want = TAILCUT_SELECTION_INITIALIZER;
  const float *scores = (const float *)(void *)p->in_scores.data;
  const int32_t *flags = (const int32_t *)(void *)p->in_flags.data;
  const uint8_t *roles = p->roles.data;
  if (c->kind != TT_CUT) {
    float *s = output(&p->scores, rows);
    int32_t *f = output(&p->score_flags, 4 * segments);
    if (c->kind == TT_VISUAL) ref_score(&p->batch, &p->tokens, &p->reference, s, f);
    if (c->kind == TT_SEQUENCE) ref_relevance(&p->batch, &p->tokens, roles, s, f);
    if (c->kind == TT_SEQUENCE || c->source == TAILCUT_REFERENCE_MEAN) {
      ref_mean_direction(&p->batch, &p->tokens, roles,
                         output(&p->direction, 4 * segments * (size_t)p->tokens.dim));
    }
    scores = s;
    flags = f;
  }
  want.counts = output(&p->counts, 4 * segments);
  want.kept = output(&p->kept, rows);
  want.kept_placement = c->packed ? TAILCUT_PACKED : TAILCUT_LOCAL;
  want.new_cu_seqlens = output(&p->new_cu, 4 * segments + 4);
  want.flags = output(&p->flags, 4 * segments);
  want.curve = output(&p->curve, rows);
  want.ranks = output(&p->ranks, rows);
  want.host_counts = output(&p->host_counts, 4 * segments);
  want.mask = output(&p->mask, (size_t)p->total);
  if (c->groups) want.group_counts = output(&p->group_counts, 4 * (size_t)p->batch.groups);
  ref_cut(&p->batch, scores, roles, flags, &p->rule, p->auto_scale, &want);
}

/* Sizes, some of them no sizes, and what merging plans with them. */
static void expect_merge(tt_problem *p, tt_random *random) {
  const tt_case *c = p->row;
  static const tailcut_merge_options defaults = TAILCUT_MERGE_OPTIONS_INITIALIZER;
  tailcut_merge_options options;
  p->merge = defaults;
  p->merge.power = c->merge == 1 ? TAILCUT_MERGE_MEAN : TAILCUT_MERGE_COS4;
  p->merge.window = c->merge_window;
  if (c->sizes) {
    tt_block_new(&p->sizes_in, 4 * (size_t)p->total);
    for (int64_t i = 0; i < p->total; i++) {
      const int roll = tt_below(random, 30);
      const int32_t size = roll == 0   ? -5
                           : roll == 1 ? 0
                           : roll == 2 ? INT32_MAX - tt_below(random, 99)
                                       : 1 + tt_below(random, 40);
      memcpy(p->sizes_in.data + 4 * i, &size, 4);
    }
    p->merge.sizes_in = (const int32_t *)(const void *)p->sizes_in.data;
  }
  options = p->merge;
  options.window = c->merge_window ? c->merge_window : c->novelty;
  options.sizes_out = output(&p->sizes_out, 4 * (size_t)p->total);
  options.joins_out = output(&p->joins_out, 4 * (size_t)p->total);
  ref_plan_merge(&p->batch, &p->tokens, &options, (const int32_t *)(const void *)p->kept.want,
                 c->packed ? TAILCUT_PACKED : TAILCUT_LOCAL,
                 (const int32_t *)(const void *)p->counts.want,
                 (const int32_t *)(const void *)p->new_cu.want, &p->plan);
}

tt_problem *tt_problem_new(const tt_case *c) {
  static const tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  static const tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  static const tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  tt_random random = {1};
  tt_problem *p = tt_host(sizeof *p);
  for (const char *s = c->name; *s != '\0'; s++) random.state = random.state * 131 + (uint8_t)*s;
  p->row = c;
  p->batch = batch;
  p->tokens = tokens;
  p->reference = reference;
  p->batch.segments = c->segments < 0 ? 0 : or_default(c->segments, 3);
  p->batch.max_tokens = c->max_tokens < 0 ? 0 : or_default(c->max_tokens, 37);
  p->batch.prefix_rows = c->prefix_rows;
  make_shape(p, &random);
  p->total = ref_total(&p->batch);
  tt_make_groups(p, &random);
  if (c->kind != TT_CUT) make_tokens(p, &random);
  if (c->kind == TT_VISUAL) make_reference(p, &random);
  if (c->kind == TT_SEQUENCE || c->roles) make_roles(p, &random);
  if (c->kind == TT_CUT) make_scores(p, &random);
  p->rule = tt_rule_of(c);
  tt_make_group_k(p, &random);
  p->auto_scale = c->scale == TAILCUT_SCALE_AUTO || (c->kind == TT_CUT && c->scale == 0);
  expect(p);
  if (c->merge) expect_merge(p, &random);
  const int rows = c->rows ? c->rows : TT_ROWS_TOKENS | TT_ROWS_PACKED;
  for (int bit = 0; bit < TT_ARRAY_KINDS; bit++) {
    if (rows & 1 << bit) tt_add_array(p, &random, 1 << bit);
  }
  return p;
}

void tt_problem_free(tt_problem *p) {
  tt_block *const blocks[] = {
      &p->shape,  &p->matrix,       &p->vector,   &p->roles,       &p->in_scores,     &p->in_flags,
      &p->scores, &p->score_flags,  &p->counts,   &p->kept,        &p->direction,     &p->new_cu,
      &p->flags,  &p->curve,        &p->ranks,    &p->host_counts, &p->group_offsets, &p->group_k,
      &p->mask,   &p->group_counts, &p->sizes_in, &p->sizes_out,   &p->joins_out};
  for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) free_block(blocks[i]);
  ref_plan_free(&p->plan);
  for (int i = 0; i < p->array_count; i++) {
    free_block(&p->arrays[i].src);
    free_block(&p->arrays[i].dst);
    free_block(&p->arrays[i].src_slots);
    free_block(&p->arrays[i].dst_slots);
    free_block(&p->arrays[i].fused);
    free_block(&p->arrays[i].base);
    free_block(&p->arrays[i].positions);
    free_block(&p->arrays[i].new_base);
    free_block(&p->arrays[i].angles);
  }
  free(p);
}

unsigned tt_options_of(const tt_problem *p, int32_t call) {
  const int fused = call == TAILCUT_CALL_PRUNE_VISUAL || call == TAILCUT_CALL_PRUNE_SEQUENCE;
  unsigned options = p->batch.group_cu_seqlens != NULL ? TT_OPTION_GROUPS : 0;
  if ((call == TAILCUT_CALL_SCORE || fused) && p->reference.source == TAILCUT_REFERENCE_LAG) {
    options |= TT_OPTION_LAG;
  }
  if ((call == TAILCUT_CALL_SCORE || fused) && p->reference.source == TAILCUT_REFERENCE_NOVELTY) {
    options |= TT_OPTION_NOVELTY;
  }
  if (p->row->merge && (call == TAILCUT_CALL_MERGE || fused)) options |= TT_OPTION_MERGE;
  if (call == TAILCUT_CALL_CUT || fused) {
    if (p->rule.order == TAILCUT_LOW) options |= TT_OPTION_LOW;
    if (p->rule.group_k != NULL) options |= TT_OPTION_GROUP_K;
    if (p->row->mask) options |= TT_OPTION_MASK;
  }
  for (int i = 0;
       i < p->array_count && (call == TAILCUT_CALL_COMPACT || call == TAILCUT_CALL_MERGE || fused);
       i++) {
    if (p->arrays[i].base.data != NULL) options |= TT_OPTION_BASE;
    if (p->arrays[i].rotation.struct_size != 0) options |= TT_OPTION_ROTATION;
  }
  return options;
}
