/* SPDX-License-Identifier: Apache-2.0 */
/* calls: the table of calls, and the arguments of one of them. */
#include "call_parts.h"

#define SCORE TAILCUT_CALL_SCORE
#define DIRECTION TAILCUT_CALL_MEAN_DIRECTION
#define CUT TAILCUT_CALL_CUT
#define COMPACT TAILCUT_CALL_COMPACT
#define RELEVANCE TAILCUT_CALL_RELEVANCE
#define PRUNE TAILCUT_CALL_PRUNE_VISUAL
#define SEQUENCE TAILCUT_CALL_PRUNE_SEQUENCE
#define ROW TAILCUT_REFERENCE_ROW
#define MEAN TAILCUT_REFERENCE_MEAN

/* Launches: a part is itself, prune_visual score, cut, compact; before them resolve, unless a
 * kernel can tell where each segment is (uniform batches; few segments), and the mean direction,
 * which relevance begins with, of 1,024 segments at most; behind a cut of groups in more than 1,024
 * segments their lists are joined; PACKED kept are compacted; arrays that turn, that long segments
 * have, or beyond the 128th in launches of their own. Merging is novelty, unless that has scored,
 * the plan and the rows, before which lists from outside are tidied; all other arrays are compacted
 * behind. */
#define NOVELTY .source = TAILCUT_REFERENCE_NOVELTY, .window = 64

const tt_call_row tt_call_rows[] = {
    {"score", SCORE, TT_UNIFORM, 4, 40, 48, 2, .replays = 50},
    {"score lengths row", SCORE, TT_LENGTHS, 5, 40, 264, 2, .source = ROW},
    {"score ragged f32", SCORE, TT_RAGGED, 5, 40, 40, 2, .dtype = TAILCUT_F32},
    {"score ragged mean", SCORE, TT_RAGGED, 5, 70, 48, 2, .source = MEAN},
    {"direction", DIRECTION, TT_UNIFORM, 3, 70, 48, 1, .replays = 50},
    {"direction lengths bf16", DIRECTION, TT_LENGTHS, 5, 70, 40, 1, .dtype = TAILCUT_BF16},
    {"direction ragged", DIRECTION, TT_RAGGED, 6, 130, 24, 1, .replays = 50},
    {"direction ragged long", DIRECTION, TT_RAGGED, 3, 4200, 8, 1, .replays = 10},
    {"cut", CUT, TT_UNIFORM, 4, 90, 0, 1, .replays = 50},
    {"cut bare", CUT, TT_UNIFORM, 4, 90, 0, 1, .bare = 1},
    {"cut lengths chord", CUT, TT_LENGTHS, 6, 90, 0, 1, .detector = TAILCUT_CHORD, .spread = 0.4},
    {"cut ragged gap packed", CUT, TT_RAGGED, 6, 90, 0, 2, .detector = TAILCUT_GAP, .packed = 1},
    {"cut long", CUT, TT_UNIFORM, 1, 8300, 0, 1, .bare = 1, .replays = 6},
    {"cut long lengths", CUT, TT_LENGTHS, 3, 8700, 0, 1, .replays = 8},
    {"cut long ragged mass", CUT, TT_RAGGED, 4, 8500, 0, 1, .detector = TAILCUT_MASS, .bare = 1,
     .replays = 8},
    {"cut long groups gap", CUT, TT_LENGTHS, 1, 8900, 0, 3, .detector = TAILCUT_GAP, .groups = 2,
     .replays = 4},
    {"cut long groups", CUT, TT_LENGTHS, 3, 8700, 0, 2, .groups = 3, .replays = 4},
    {"cut groups", CUT, TT_RAGGED, 7, 90, 0, 2, .groups = 40, .replays = 50},
    {"cut groups of 1100 segments", CUT, TT_RAGGED, 1100, 4, 0, 3, .groups = 1500, .replays = 1},
    {"compact", COMPACT, TT_UNIFORM, 4, 40, 48, 1, .rows = TT_CALL_TOKENS | TT_CALL_SMALL},
    {"compact lengths packed", COMPACT, TT_LENGTHS, 5, 40, 24, 1, .packed = 1,
     .rows = TT_CALL_APART | TT_CALL_WIDE | TT_CALL_POSITIONS | TT_CALL_TAIL},
    {"compact ragged slots", COMPACT, TT_RAGGED, 5, 40, 24, 1,
     .rows = TT_CALL_TOKENS | TT_CALL_SLOTS | TT_CALL_WIDE | TT_CALL_TAIL},
    {"compact 40 ragged", COMPACT, TT_RAGGED, 40, 30, 8, 2,
     .rows = TT_CALL_WIDE | TT_CALL_WIDE_TAIL},
    {"prune bare", PRUNE, TT_UNIFORM, 3, 40, 48, 2, .chain = 3, .bare = 1, .rows = TT_CALL_TOKENS},
    {"prune row", PRUNE, TT_UNIFORM, 3, 41, 264, 3, .source = ROW,
     .rows = TT_CALL_TOKENS | TT_CALL_SMALL | TT_CALL_POSITIONS},
    {"prune lengths", PRUNE, TT_LENGTHS, 5, 40, 48, 3,
     .rows = TT_CALL_TOKENS | TT_CALL_WIDE | TT_CALL_SMALL},
    {"prune lengths row bf16", PRUNE, TT_LENGTHS, 5, 40, 48, 2, .chain = 3, .dtype = TAILCUT_BF16,
     .source = ROW, .bare = 1, .rows = TT_CALL_TOKENS},
    {"prune ragged packed", PRUNE, TT_RAGGED, 5, 40, 48, 3, .packed = 1, .rows = TT_CALL_APART},
    {"prune ragged row f32", PRUNE, TT_RAGGED, 5, 40, 40, 3, .dtype = TAILCUT_F32, .source = ROW,
     .bare = 1, .rows = TT_CALL_APART},
    {"prune ragged slots", PRUNE, TT_RAGGED, 5, 40, 48, 3, .spread = 0.5, .detector = TAILCUT_CHORD,
     .rows = TT_CALL_TOKENS | TT_CALL_SLOTS},
    {"prune mean", PRUNE, TT_UNIFORM, 3, 70, 48, 4, .chain = 4, .source = MEAN, .bare = 1,
     .rows = TT_CALL_TOKENS | TT_CALL_SMALL},
    {"prune lengths mean", PRUNE, TT_LENGTHS, 5, 70, 48, 4, .source = MEAN, .rows = TT_CALL_TOKENS},
    {"prune ragged mean", PRUNE, TT_RAGGED, 40, 70, 24, 4, .source = MEAN, .rows = TT_CALL_TOKENS,
     .bare = 1},
    {"prune ragged mean packed", PRUNE, TT_RAGGED, 5, 70, 24, 4, .source = MEAN, .packed = 1,
     .rows = TT_CALL_APART | TT_CALL_WIDE},
    {"prune behind CLS", PRUNE, TT_UNIFORM, 4, 40, 48, 2, .chain = 3, .gap = 1, .bare = 1,
     .rows = TT_CALL_TOKENS},
    {"prune one packed", PRUNE, TT_LENGTHS, 1, 40, 48, 3, .packed = 1,
     .rows = TT_CALL_APART | TT_CALL_POSITIONS},
    {"prune ragged packed tail", PRUNE, TT_RAGGED, 40, 40, 24, 2, .chain = 4, .bare = 1,
     .rows = TT_CALL_TAIL | TT_CALL_TOKENS},
    {"prune one packed tail", PRUNE, TT_LENGTHS, 1, 40, 24, 3, .bare = 1, .rows = TT_CALL_TAIL},
    {"prune wide packed tail", PRUNE, TT_RAGGED, 5, 40, 24, 3, .bare = 1,
     .rows = TT_CALL_TAIL | TT_CALL_WIDE_TAIL},
    {"prune packed tail", PRUNE, TT_LENGTHS, 4, 40, 24, 3, .bare = 1,
     .rows = TT_CALL_APART | TT_CALL_TAIL},
    {"prune without rows", PRUNE, TT_RAGGED, 5, 40, 24, 2, .detector = TAILCUT_IQR},
    {"prune 1100 segments", PRUNE, TT_RAGGED, 1100, 4, 8, 4, .rows = TT_CALL_APART, .bare = 1,
     .replays = 5},
    {"prune long", PRUNE, TT_LENGTHS, 1, 8600, 8, 3, .bare = 1, .rows = TT_CALL_TOKENS,
     .replays = 6},
    {"prune long, more rows", PRUNE, TT_LENGTHS, 2, 8400, 256, 3, .bare = 1,
     .rows = TT_CALL_TOKENS | TT_CALL_SMALL | TT_CALL_POSITIONS | TT_CALL_SLOTS, .replays = 3},
    {"prune batch", PRUNE, TT_UNIFORM, 18, 40, 48, 1, .chain = 3, .bare = 1, .rows = TT_CALL_TOKENS,
     .replays = 30},
    {"prune batch row, more rows", PRUNE, TT_LENGTHS, 20, 70, 264, 2, .chain = 3, .source = ROW,
     .bare = 1, .rows = TT_CALL_TOKENS | TT_CALL_SMALL | TT_CALL_POSITIONS, .replays = 30},
    {"prune batch ragged, packed kept", PRUNE, TT_RAGGED, 17, 40, 48, 2, .chain = 3,
     .dtype = TAILCUT_BF16, .packed = 1, .bare = 1, .detector = TAILCUT_IQR, .rows = TT_CALL_TOKENS,
     .replays = 30},
    {"relevance", RELEVANCE, TT_UNIFORM, 3, 70, 48, 2, .replays = 50},
    {"relevance lengths f32", RELEVANCE, TT_LENGTHS, 5, 70, 40, 2, .dtype = TAILCUT_F32},
    {"relevance ragged bf16", RELEVANCE, TT_RAGGED, 40, 70, 264, 2, .dtype = TAILCUT_BF16},
    {"relevance of any rows", RELEVANCE, TT_RAGGED, 6, 40, 27, 2, .replays = 50},
    {"relevance bare", RELEVANCE, TT_RAGGED, 5, 70, 48, 2, .bare = 1},
    {"relevance 1100 segments", RELEVANCE, TT_RAGGED, 1100, 4, 8, 5, .replays = 1},
    {"sequence", SEQUENCE, TT_UNIFORM, 1, 150, 48, 4, .bare = 1, .rows = TT_CALL_TOKENS,
     .layers = 2, .texts = 40},
    {"sequence ragged", SEQUENCE, TT_RAGGED, 5, 130, 48, 4, .rows = TT_CALL_TOKENS | TT_CALL_PLANES,
     .layers = 1},
    {"sequence lengths f32", SEQUENCE, TT_LENGTHS, 4, 70, 40, 4, .dtype = TAILCUT_F32,
     .rows = TT_CALL_TOKENS | TT_CALL_POSITIONS | TT_CALL_SLOTS},
    {"sequence long rows", SEQUENCE, TT_RAGGED, 2, 40, 1024, 4, .dtype = TAILCUT_BF16,
     .rows = TT_CALL_TOKENS | TT_CALL_POSITIONS, .texts = 9, .replays = 10},
    {"sequence 40 packed", SEQUENCE, TT_RAGGED, 40, 60, 24, 4, .packed = 1,
     .rows = TT_CALL_APART | TT_CALL_WIDE | TT_CALL_TAIL},
    {"sequence groups", SEQUENCE, TT_RAGGED, 5, 90, 48, 4, .rows = TT_CALL_TOKENS, .groups = 17},
    {"sequence groups lengths gap", SEQUENCE, TT_LENGTHS, 5, 90, 24, 4, .detector = TAILCUT_GAP,
     .rows = TT_CALL_TOKENS | TT_CALL_SLOTS, .groups = 12},
    {"sequence 70 layers", SEQUENCE, TT_RAGGED, 1, 90, 24, 5, .bare = 1,
     .rows = TT_CALL_TOKENS | TT_CALL_PLANES, .layers = 70, .replays = 10},
    {"sequence, keys turn", SEQUENCE, TT_UNIFORM, 1, 150, 48, 5, .bare = 1,
     .rows = TT_CALL_TOKENS | TT_CALL_POSITIONS, .layers = 3, .turns = 1, .texts = 40},
    {"sequence ragged, keys turn", SEQUENCE, TT_RAGGED, 5, 130, 48, 5,
     .rows = TT_CALL_TOKENS | TT_CALL_PLANES, .layers = 70, .turns = 1, .replays = 20},
    {"sequence long", SEQUENCE, TT_RAGGED, 1, 8600, 8, 4, .bare = 1, .rows = TT_CALL_TOKENS,
     .replays = 6},
    {"sequence long, positions", SEQUENCE, TT_UNIFORM, 1, 8300, 320, 4, .bare = 1,
     .rows = TT_CALL_TOKENS | TT_CALL_POSITIONS | TT_CALL_WIDE | TT_CALL_PLANES, .layers = 1,
     .texts = 50, .replays = 3},
    {"sequence long, keys turn", SEQUENCE, TT_UNIFORM, 1, 8300, 256, 5, .bare = 1,
     .rows = TT_CALL_TOKENS | TT_CALL_POSITIONS, .layers = 1, .turns = 1, .texts = 40,
     .replays = 3},
    {"relevance max", RELEVANCE, TT_LENGTHS, 4, 70, 48, 4, .policy = TAILCUT_MAX_COSINE},
    {"relevance attention", RELEVANCE, TT_UNIFORM, 3, 70, 48, 4, .policy = TAILCUT_ATTENTION},
    {"sequence max ragged", SEQUENCE, TT_RAGGED, 5, 90, 48, 6, .policy = TAILCUT_MAX_COSINE,
     .rows = TT_CALL_TOKENS | TT_CALL_PLANES, .layers = 1},
    {"sequence max groups", SEQUENCE, TT_LENGTHS, 4, 90, 40, 6, .policy = TAILCUT_MAX_COSINE,
     .dtype = TAILCUT_F32, .rows = TT_CALL_TOKENS, .groups = 11},
    {"sequence attention ragged", SEQUENCE, TT_RAGGED, 5, 90, 48, 6, .policy = TAILCUT_ATTENTION,
     .rows = TT_CALL_TOKENS | TT_CALL_PLANES, .layers = 1},
    {"sequence attention groups", SEQUENCE, TT_RAGGED, 4, 90, 48, 6, .policy = TAILCUT_ATTENTION,
     .dtype = TAILCUT_BF16, .rows = TT_CALL_TOKENS, .groups = 9},
    {"prune groups", PRUNE, TT_UNIFORM, 3, 70, 48, 4, .rows = TT_CALL_TOKENS, .groups = 8},
    {"score novelty", SCORE, TT_RAGGED, 5, 150, 48, 2, NOVELTY, .replays = 20},
    {"score novelty groups f32", SCORE, TT_LENGTHS, 4, 290, 27, 2, .dtype = TAILCUT_F32,
     .groups = 9, .source = TAILCUT_REFERENCE_NOVELTY, .window = 256, .replays = 10},
    {"score novelty wide", SCORE, TT_RAGGED, 3, 70, 4099, 2, .dtype = TAILCUT_BF16, NOVELTY,
     .replays = 5},
    {"score novelty wide groups", SCORE, TT_LENGTHS, 2, 90, 8200, 2, .groups = 5, NOVELTY,
     .replays = 5},
    {"prune novelty", PRUNE, TT_UNIFORM, 3, 130, 48, 2, .chain = 3, NOVELTY, .bare = 1,
     .rows = TT_CALL_TOKENS, .replays = 10},
    {"prune novelty 1100 segments", PRUNE, TT_RAGGED, 1100, 4, 8, 5, NOVELTY, .rows = TT_CALL_APART,
     .bare = 1, .replays = 2},
    {"merge", TAILCUT_CALL_MERGE, TT_UNIFORM, 3, 130, 48, 5, .merges = 64,
     .rows = TT_CALL_TOKENS | TT_CALL_SMALL, .replays = 10},
    {"merge ragged packed", TAILCUT_CALL_MERGE, TT_RAGGED, 5, 150, 40, 5, .dtype = TAILCUT_F32,
     .packed = 1, .merges = 128, .rows = TT_CALL_APART | TT_CALL_WIDE | TT_CALL_TAIL,
     .replays = 10},
    {"merge groups", TAILCUT_CALL_MERGE, TT_LENGTHS, 4, 290, 27, 5, .merges = 256, .groups = 9,
     .rows = TT_CALL_TOKENS | TT_CALL_WIDE, .replays = 10},
    {"prune novelty merge", PRUNE, TT_UNIFORM, 3, 130, 48, 4, NOVELTY, .bare = 1, .merges = 64,
     .rows = TT_CALL_TOKENS, .replays = 10},
    {"prune merge ragged bf16", PRUNE, TT_RAGGED, 5, 150, 264, 6, .dtype = TAILCUT_BF16,
     .merges = 128, .rows = TT_CALL_TOKENS | TT_CALL_WIDE | TT_CALL_SLOTS, .replays = 10},
    {"layer 640x4096", SEQUENCE, TT_UNIFORM, 1, 640, 4096, 4, .bare = 1, .rows = TT_CALL_TOKENS,
     .layers = 2, .texts = 64, .replays = -1},
    {"clip 576x1024", PRUNE, TT_UNIFORM, 1, 576, 1024, 3, .bare = 1, .rows = TT_CALL_TOKENS,
     .replays = -1},
    {"clip 576x1024 merge", PRUNE, TT_UNIFORM, 1, 576, 1024, 4, NOVELTY, .bare = 1, .merges = 64,
     .rows = TT_CALL_TOKENS, .replays = -1},
    {"clip 4x576x1024 merge", PRUNE, TT_UNIFORM, 4, 576, 1024, 4, NOVELTY, .bare = 1, .merges = 64,
     .rows = TT_CALL_TOKENS, .replays = -1},
    {"clip 576x1024 novelty", PRUNE, TT_UNIFORM, 1, 576, 1024, 3, NOVELTY, .bare = 1,
     .rows = TT_CALL_TOKENS, .replays = -1},
    {"clip 512x1024 novelty 128", SCORE, TT_UNIFORM, 1, 512, 1024, 2, .bare = 1,
     .source = TAILCUT_REFERENCE_NOVELTY, .window = 128, .replays = -1},
    {"clip 256x1024 novelty 256", SCORE, TT_UNIFORM, 1, 256, 1024, 2, .bare = 1,
     .source = TAILCUT_REFERENCE_NOVELTY, .window = 256, .replays = -1},
    {"clip 128x4096 novelty", SCORE, TT_UNIFORM, 1, 128, 4096, 2, .bare = 1, NOVELTY,
     .replays = -1},
    {"clip 128x8192 novelty", SCORE, TT_UNIFORM, 1, 128, 8192, 2, .bare = 1, NOVELTY,
     .dtype = TAILCUT_BF16, .replays = -1},
    {"clip 128x2048 novelty 128", SCORE, TT_UNIFORM, 1, 128, 2048, 2, .bare = 1,
     .source = TAILCUT_REFERENCE_NOVELTY, .window = 128, .dtype = TAILCUT_F32, .replays = -1},
    {"clip 128x4099 novelty", SCORE, TT_UNIFORM, 1, 128, 4099, 2, .bare = 1, NOVELTY,
     .replays = -1},
};
const int tt_call_row_count = sizeof tt_call_rows / sizeof tt_call_rows[0];

int32_t tt_call_launches(const tt_call_row *row, int form) {
  return form != TT_FORM_DEVICE && row->chain ? row->chain : row->launches;
}

tailcut_batch tt_call_batch(const tt_call *c, int side) {
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  batch.segments = c->row->segments;
  batch.max_tokens = c->row->max_tokens;
  batch.total_tokens = c->total;
  batch.prefix_rows = c->row->source == ROW;
  if (c->row->layout == TT_LENGTHS) batch.lengths = c->buffers[SHAPE].side[side];
  if (c->row->layout == TT_RAGGED) batch.cu_seqlens = c->buffers[SHAPE].side[side];
  batch.group_cu_seqlens = c->buffers[GROUPS].side[side];
  batch.groups = c->row->groups;
  return batch;
}

tailcut_rows tt_call_array(const tt_call *c, int i, int side) {
  tailcut_rows r = c->rows[i];
  r.dst = c->buffers[c->in_place[i] == 2 ? MATRIX : ARRAYS + 2 * i + 1].side[side];
  r.src = c->in_place[i] == 0   ? c->buffers[ARRAYS + 2 * i].side[side]
          : c->in_place[i] == 3 ? c->buffers[MATRIX].side[side]
                                : r.dst;
  if (c->in_place[i] == 2 && c->row->gap) {
    r.dst = (char *)r.dst + gap_of(c);
    r.src = r.dst;
    r.src_segment_stride = r.dst_segment_stride = pitch_of(c);
  }
  if (c->row->turns && i >= c->first_layer && (i - c->first_layer) % 2 == 0) {
    r.rotation = &c->rotations[side];
  }
  if (r.part_bytes == 20) r.src_slots = r.dst_slots = c->buffers[SLOTS].side[side];
  return r;
}

tailcut_limits tt_call_limits(const tt_call_row *row) {
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = row->segments;
  limits.max_tokens = row->max_tokens;
  limits.total_tokens = (int64_t)row->segments * row->max_tokens;
  limits.groups = row->groups;
  limits.window = row->merges ? row->merges : row->window;
  if (row->policy == TAILCUT_ATTENTION) limits.q_heads = Q_HEADS, limits.head_dim = HEAD_DIM;
  limits.dim = row->kind == CUT || row->kind == COMPACT ? 0 : row->dim;
  return limits;
}

/* The call, or the part of it that is of this kind. */
tailcut_status tt_call_on(const tt_call *c, tailcut_handle handle, int32_t kind, int side,
                          tt_workspace w, void *stream) {
  const tt_call_row *row = c->row;
  const tailcut_batch batch = tt_call_batch(c, side);
  tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  tailcut_relevance_options options = TAILCUT_RELEVANCE_OPTIONS_INITIALIZER;
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
  tailcut_merge_options merge = TAILCUT_MERGE_OPTIONS_INITIALIZER;
  tailcut_rows rows[MOST_ROWS];
  void *at[BUFFERS];
  for (int i = 0; i < BUFFERS; i++) at[i] = c->buffers[i].side[side];
  for (int i = 0; i < c->num_rows; i++) rows[i] = tt_call_array(c, i, side);
  const int32_t placement = row->packed ? TAILCUT_PACKED : TAILCUT_LOCAL;
  tokens.data = (char *)at[MATRIX] + gap_of(c);
  if (row->gap) tokens.segment_stride = pitch_of(c) / size_of(c);
  tokens.dim = row->dim;
  tokens.dtype = dtype_of(row);
  if (row->source) reference.source = row->source;
  reference.data = row->gap ? at[MATRIX] : at[VECTOR];
  if (row->gap) reference.segment_stride = tokens.segment_stride;
  if (row->window) reference.data = NULL, reference.window = row->window;
  if (row->detector) rule.detector = row->detector;
  rule.spread = row->spread;
  s.counts = at[COUNTS], s.kept = at[KEPT], s.kept_placement = placement;
  s.new_cu_seqlens = at[NEW_CU], s.flags = at[OUT_FLAGS];
  s.curve = at[CURVE], s.ranks = at[RANKS], s.host_counts = at[HOST_COUNTS];
  s.scores = kind == PRUNE || kind == SEQUENCE ? at[SCORES] : NULL;
  s.mask = at[MASK], s.group_counts = at[GROUP_COUNTS];
  merge.window = row->merges, merge.sizes_in = at[SIZES_IN];
  merge.sizes_out = at[SIZES], merge.joins_out = at[JOINS];
  if (row->merges && kind == PRUNE) s.merge = &merge;
  if (row->policy) options.policy = row->policy;
  if (row->policy) rule.scale = TAILCUT_SCALE_UNIT;
  if (row->policy == TAILCUT_ATTENTION) {
    rule.scale = TAILCUT_SCALE_AUTO;
    options.dtype = dtype_of(row), options.causal = 1;
    options.q = at[QUERIES], options.k = at[KEYS];
    options.q_heads = Q_HEADS, options.k_heads = K_HEADS, options.head_dim = HEAD_DIM;
  }
  switch (kind) {
    case SCORE:
      return tailcut_score(handle, &batch, &tokens, &reference, at[SCORES], at[FLAGS], w.data,
                           w.size, stream);
    case DIRECTION:
      return tailcut_mean_direction(handle, &batch, &tokens, at[ROLES], at[DIRECTIONS], w.data,
                                    w.size, stream);
    case CUT:
      return tailcut_cut(handle, &batch, at[SCORES], at[ROLES], at[FLAGS], &rule, &s, w.data,
                         w.size, stream);
    case RELEVANCE:
      return tailcut_relevance(handle, &batch, &tokens, at[ROLES], &options, at[SCORES], at[FLAGS],
                               w.data, w.size, stream);
    case SEQUENCE:
      return tailcut_prune_sequence(handle, &batch, &tokens, at[ROLES], &options, &rule, &s, rows,
                                    c->num_rows, w.data, w.size, stream);
    case COMPACT:
      return tailcut_compact(handle, &batch, at[KEPT], placement, at[COUNTS], at[NEW_CU], rows,
                             c->num_rows, w.data, w.size, stream);
    case TAILCUT_CALL_MERGE:
      return tailcut_merge(handle, &batch, &tokens, at[KEPT], placement, at[COUNTS], at[NEW_CU],
                           &merge, rows, c->num_rows, w.data, w.size, stream);
    default:
      return tailcut_prune_visual(handle, &batch, &tokens, &reference, &rule, &s, rows, c->num_rows,
                                  w.data, w.size, stream);
  }
}

tailcut_status tt_call_run(const tt_call *c, tailcut_handle handle, tt_workspace w, void *stream) {
  return tt_call_on(c, handle, c->row->kind, DEVICE, w, stream);
}
