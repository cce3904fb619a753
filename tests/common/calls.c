/* SPDX-License-Identifier: Apache-2.0 */
/* calls: the table of calls, and what makes one of them. */
#include "calls.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "problem.h"
#include "reference.h"

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
 * which relevance begins with; behind a cut of groups their lists are joined; PACKED kept are
 * compacted; arrays that turn, that long segments have, or beyond the 128th in launches of their
 * own. */
const tt_call_row tt_call_rows[] = {
    {"score", SCORE, TT_UNIFORM, 4, 40, 48, 2, .replays = 50},
    {"score lengths row", SCORE, TT_LENGTHS, 5, 40, 264, 2, .source = ROW},
    {"score ragged f32", SCORE, TT_RAGGED, 5, 40, 40, 2, .dtype = TAILCUT_F32},
    {"score ragged mean", SCORE, TT_RAGGED, 5, 70, 48, 3, .source = MEAN},
    {"direction", DIRECTION, TT_UNIFORM, 3, 70, 48, 1, .replays = 50},
    {"direction lengths bf16", DIRECTION, TT_LENGTHS, 5, 70, 40, 1, .dtype = TAILCUT_BF16},
    {"direction ragged", DIRECTION, TT_RAGGED, 6, 130, 24, 1, .replays = 50},
    {"direction ragged long", DIRECTION, TT_RAGGED, 3, 4200, 8, 2, .replays = 10},
    {"cut", CUT, TT_UNIFORM, 4, 90, 0, 1, .replays = 50},
    {"cut bare", CUT, TT_UNIFORM, 4, 90, 0, 1, .bare = 1},
    {"cut lengths chord", CUT, TT_LENGTHS, 6, 90, 0, 1, .detector = TAILCUT_CHORD, .spread = 0.4},
    {"cut ragged gap packed", CUT, TT_RAGGED, 6, 90, 0, 2, .detector = TAILCUT_GAP, .packed = 1},
    {"cut long", CUT, TT_UNIFORM, 1, 8300, 0, 6, .bare = 1, .replays = 6},
    {"cut long lengths", CUT, TT_LENGTHS, 3, 8700, 0, 14, .replays = 8},
    {"cut long ragged mass", CUT, TT_RAGGED, 4, 8500, 0, 14, .detector = TAILCUT_MASS, .bare = 1,
     .replays = 8},
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
    {"prune ragged mean", PRUNE, TT_RAGGED, 40, 70, 24, 5, .source = MEAN, .rows = TT_CALL_TOKENS,
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
    {"prune long", PRUNE, TT_LENGTHS, 1, 8600, 8, 7, .bare = 1, .rows = TT_CALL_TOKENS,
     .replays = 6},
    {"prune batch", PRUNE, TT_UNIFORM, 18, 40, 48, 1, .chain = 3, .bare = 1, .rows = TT_CALL_TOKENS,
     .replays = 30},
    {"prune batch row, more rows", PRUNE, TT_LENGTHS, 20, 70, 264, 2, .chain = 3, .source = ROW,
     .bare = 1, .rows = TT_CALL_TOKENS | TT_CALL_SMALL | TT_CALL_POSITIONS, .replays = 30},
    {"prune batch ragged, packed kept", PRUNE, TT_RAGGED, 17, 40, 48, 2, .chain = 3,
     .dtype = TAILCUT_BF16, .packed = 1, .bare = 1, .detector = TAILCUT_IQR, .rows = TT_CALL_TOKENS,
     .replays = 30},
    {"relevance", RELEVANCE, TT_UNIFORM, 3, 70, 48, 3, .replays = 50},
    {"relevance lengths f32", RELEVANCE, TT_LENGTHS, 5, 70, 40, 3, .dtype = TAILCUT_F32},
    {"relevance ragged bf16", RELEVANCE, TT_RAGGED, 40, 70, 264, 3, .dtype = TAILCUT_BF16},
    {"relevance of any rows", RELEVANCE, TT_RAGGED, 6, 40, 27, 3, .replays = 50},
    {"relevance bare", RELEVANCE, TT_RAGGED, 5, 70, 48, 2, .bare = 1},
    {"sequence", SEQUENCE, TT_UNIFORM, 1, 150, 48, 4, .bare = 1, .rows = TT_CALL_TOKENS,
     .layers = 2, .texts = 40},
    {"sequence ragged", SEQUENCE, TT_RAGGED, 5, 130, 48, 4, .rows = TT_CALL_TOKENS | TT_CALL_PLANES,
     .layers = 1},
    {"sequence lengths f32", SEQUENCE, TT_LENGTHS, 4, 70, 40, 4, .dtype = TAILCUT_F32,
     .rows = TT_CALL_TOKENS | TT_CALL_POSITIONS | TT_CALL_SLOTS},
    {"sequence long rows", SEQUENCE, TT_RAGGED, 2, 40, 1024, 4, .dtype = TAILCUT_BF16,
     .rows = TT_CALL_TOKENS | TT_CALL_POSITIONS, .texts = 9, .replays = 10},
    {"sequence 40 packed", SEQUENCE, TT_RAGGED, 40, 60, 24, 5, .packed = 1,
     .rows = TT_CALL_APART | TT_CALL_WIDE | TT_CALL_TAIL},
    {"sequence groups", SEQUENCE, TT_RAGGED, 5, 90, 48, 6, .rows = TT_CALL_TOKENS, .groups = 17},
    {"sequence groups lengths gap", SEQUENCE, TT_LENGTHS, 5, 90, 24, 6, .detector = TAILCUT_GAP,
     .rows = TT_CALL_TOKENS | TT_CALL_SLOTS, .groups = 12},
    {"sequence 70 layers", SEQUENCE, TT_RAGGED, 1, 90, 24, 5, .bare = 1,
     .rows = TT_CALL_TOKENS | TT_CALL_PLANES, .layers = 70, .replays = 10},
    {"sequence, keys turn", SEQUENCE, TT_UNIFORM, 1, 150, 48, 5, .bare = 1,
     .rows = TT_CALL_TOKENS | TT_CALL_POSITIONS, .layers = 3, .turns = 1, .texts = 40},
    {"sequence ragged, keys turn", SEQUENCE, TT_RAGGED, 5, 130, 48, 5,
     .rows = TT_CALL_TOKENS | TT_CALL_PLANES, .layers = 70, .turns = 1, .replays = 20},
    {"sequence long", SEQUENCE, TT_RAGGED, 1, 8600, 8, 9, .bare = 1, .rows = TT_CALL_TOKENS,
     .replays = 6},
    {"relevance max", RELEVANCE, TT_LENGTHS, 4, 70, 48, 4, .policy = TAILCUT_MAX_COSINE},
    {"relevance attention", RELEVANCE, TT_UNIFORM, 3, 70, 48, 4, .policy = TAILCUT_ATTENTION},
    {"sequence max ragged", SEQUENCE, TT_RAGGED, 5, 90, 48, 6, .policy = TAILCUT_MAX_COSINE,
     .rows = TT_CALL_TOKENS | TT_CALL_PLANES, .layers = 1},
    {"sequence max groups", SEQUENCE, TT_LENGTHS, 4, 90, 40, 7, .policy = TAILCUT_MAX_COSINE,
     .dtype = TAILCUT_F32, .rows = TT_CALL_TOKENS, .groups = 11},
    {"sequence attention ragged", SEQUENCE, TT_RAGGED, 5, 90, 48, 6, .policy = TAILCUT_ATTENTION,
     .rows = TT_CALL_TOKENS | TT_CALL_PLANES, .layers = 1},
    {"sequence attention groups", SEQUENCE, TT_RAGGED, 4, 90, 48, 7, .policy = TAILCUT_ATTENTION,
     .dtype = TAILCUT_BF16, .rows = TT_CALL_TOKENS, .groups = 9},
    {"prune groups", PRUNE, TT_UNIFORM, 3, 70, 48, 5, .rows = TT_CALL_TOKENS, .groups = 8},
    {"layer 640x4096", SEQUENCE, TT_UNIFORM, 1, 640, 4096, 4, .bare = 1, .rows = TT_CALL_TOKENS,
     .layers = 2, .texts = 64, .replays = -1},
    {"clip 576x1024", PRUNE, TT_UNIFORM, 1, 576, 1024, 3, .bare = 1, .rows = TT_CALL_TOKENS,
     .replays = -1},
};
const int tt_call_row_count = sizeof tt_call_rows / sizeof tt_call_rows[0];

int32_t tt_call_launches(const tt_call_row *row, int form) {
  return form != TT_FORM_DEVICE && row->chain ? row->chain : row->launches;
}

/* The arrays of a call. */
enum {
  SHAPE,
  MATRIX,
  VECTOR,
  QUERIES,
  KEYS,
  ROLES,
  SCORES,
  FLAGS,
  DIRECTIONS,
  COUNTS,
  KEPT,
  NEW_CU,
  OUT_FLAGS,
  CURVE,
  RANKS,
  HOST_COUNTS,
  MASK,
  GROUP_COUNTS,
  GROUPS,
  SLOTS,
  FREQUENCIES,
  ARRAYS /* two for each row array: source and destination */
};
enum {
  MOST_LAYERS = 70,
  MOST_ROWS = 9 + 2 * MOST_LAYERS,
  BUFFERS = ARRAYS + 2 * MOST_ROWS,
  HOST = 0,
  DEVICE = 1
};

static const char *const names[] = {
    "shape",  "tokens", "reference",  "q",           "k",    "roles",
    "scores", "flags",  "direction",  "counts",      "kept", "new_cu_seqlens",
    "flags",  "curve",  "ranks",      "host_counts", "mask", "group_counts",
    "groups", "slots",  "frequencies"};

typedef struct buffer {
  void *side[2]; /* host, device; NULL: no such argument */
  size_t bytes;
} buffer;

struct tt_call {
  const tt_call_row *row;
  const tt_backend *backend;
  tailcut_handle cpu;
  tt_workspace cpu_workspace;
  buffer buffers[BUFFERS];
  tailcut_rows rows[MOST_ROWS]; /* without pointers */
  int in_place[MOST_ROWS];      /* 1: its own memory; 2: the matrix; 3: from the matrix */
  int32_t num_rows;
  int64_t total;
  int failed; /* the device's scores are far from the CPU's */
  int first_layer;
  int positions;                 /* 1 + the array of renumbered positions; 0: there is none */
  tailcut_rotation rotations[2]; /* host, device: of keys that turn */
};

enum { Q_HEADS = 4, K_HEADS = 2, HEAD_DIM = 16 };

static int32_t dtype_of(const tt_call_row *row) { return row->dtype ? row->dtype : TAILCUT_F16; }
static int32_t size_of(const tt_call *c) { return (int32_t)tt_size(dtype_of(c->row)); }

/* Bytes before the first segment's rows, and from segment to segment, of the scored matrix. */
static int64_t gap_of(const tt_call *c) { return c->row->gap * c->row->dim * size_of(c); }
static int64_t pitch_of(const tt_call *c) {
  return (int64_t)(c->row->max_tokens + c->row->gap) * c->row->dim * size_of(c);
}

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

enum { ROTARY_DIM = 12 };

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
  const int prunes = row->kind == PRUNE || row->kind == SEQUENCE;
  const int cuts = row->kind == CUT || prunes;
  if (row->layout != TT_UNIFORM) add(c, SHAPE, segments + 4 * (row->layout == TT_RAGGED), 1);
  if (row->kind != CUT) add(c, MATRIX, (size_t)(row->segments * pitch_of(c)), 1);
  if ((row->kind == SCORE || row->kind == PRUNE) && row->source == 0 && !row->gap) {
    add(c, VECTOR, (size_t)(row->dim * size_of(c)), 1);
  }
  if ((row->kind == DIRECTION && row->layout == TT_RAGGED) || row->kind == RELEVANCE ||
      row->kind == SEQUENCE) {
    add(c, ROLES, (size_t)c->total, 1);
  }
  if (row->kind == DIRECTION) add(c, DIRECTIONS, segments * (size_t)row->dim, 1);
  if (row->policy == TAILCUT_ATTENTION) {
    add(c, QUERIES, (size_t)(c->total * Q_HEADS * HEAD_DIM * size_of(c)), 1);
    add(c, KEYS, (size_t)(c->total * K_HEADS * HEAD_DIM * size_of(c)), 1);
  }
  const int scores = row->kind == SCORE || row->kind == RELEVANCE;
  if (scores || row->kind == CUT) add(c, SCORES, rows, 1);
  if (prunes) add(c, SCORES, rows, (int)full);
  if (scores || row->kind == CUT) add(c, FLAGS, segments, row->kind != RELEVANCE || full);
  if (row->kind == SEQUENCE) add(c, FLAGS, segments, 0);
  if (cuts || row->kind == COMPACT) {
    add(c, COUNTS, segments, 1);
    add(c, KEPT, rows, full || row->kind == COMPACT || row->packed);
    add(c, NEW_CU, segments + 4, full || row->kind == COMPACT);
  }
  for (int id = OUT_FLAGS; cuts && id <= HOST_COUNTS; id++) {
    add(c, id, id == CURVE || id == RANKS ? rows : segments, (int)full);
  }
  if (row->kind == SEQUENCE) add(c, MASK, (size_t)c->total, (int)full);
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
  for (int32_t kind = SCORE; kind <= SEQUENCE; kind++) {
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

/* ---------------------------------------------------------------------------------- the call -- */

static tailcut_batch batch_of(const tt_call *c, int side) {
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

static tailcut_rows rows_of(const tt_call *c, int i, int side) {
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
  if (row->policy == TAILCUT_ATTENTION) limits.q_heads = Q_HEADS, limits.head_dim = HEAD_DIM;
  limits.dim = row->kind == CUT || row->kind == COMPACT ? 0 : row->dim;
  return limits;
}

/* The call, or the part of it that is of this kind. */
static tailcut_status call_on(const tt_call *c, tailcut_handle handle, int32_t kind, int side,
                              tt_workspace w, void *stream) {
  const tt_call_row *row = c->row;
  const tailcut_batch batch = batch_of(c, side);
  tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  tailcut_relevance_options options = TAILCUT_RELEVANCE_OPTIONS_INITIALIZER;
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
  tailcut_rows rows[MOST_ROWS];
  void *at[BUFFERS];
  for (int i = 0; i < BUFFERS; i++) at[i] = c->buffers[i].side[side];
  for (int i = 0; i < c->num_rows; i++) rows[i] = rows_of(c, i, side);
  const int32_t placement = row->packed ? TAILCUT_PACKED : TAILCUT_LOCAL;
  tokens.data = (char *)at[MATRIX] + gap_of(c);
  if (row->gap) tokens.segment_stride = pitch_of(c) / size_of(c);
  tokens.dim = row->dim;
  tokens.dtype = dtype_of(row);
  if (row->source) reference.source = row->source;
  reference.data = row->gap ? at[MATRIX] : at[VECTOR];
  if (row->gap) reference.segment_stride = tokens.segment_stride;
  if (row->detector) rule.detector = row->detector;
  rule.spread = row->spread;
  s.counts = at[COUNTS], s.kept = at[KEPT], s.kept_placement = placement;
  s.new_cu_seqlens = at[NEW_CU], s.flags = at[OUT_FLAGS];
  s.curve = at[CURVE], s.ranks = at[RANKS], s.host_counts = at[HOST_COUNTS];
  s.scores = kind == PRUNE || kind == SEQUENCE ? at[SCORES] : NULL;
  s.mask = at[MASK], s.group_counts = at[GROUP_COUNTS];
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
    default:
      return tailcut_prune_visual(handle, &batch, &tokens, &reference, &rule, &s, rows, c->num_rows,
                                  w.data, w.size, stream);
  }
}

tailcut_status tt_call_run(const tt_call *c, tailcut_handle handle, tt_workspace w, void *stream) {
  return call_on(c, handle, c->row->kind, DEVICE, w, stream);
}

static void expect_on_cpu(tt_call *c, int32_t kind) {
  if (call_on(c, c->cpu, kind, HOST, c->cpu_workspace, NULL) == TAILCUT_OK) return;
  fprintf(stderr, "%s on the CPU: %s\n", c->row->name, tailcut_last_error());
  abort();
}

/* Takes the device's scores where they are near the CPU's. */
static void take_scores(tt_call *c) {
  const buffer *b = &c->buffers[SCORES];
  float *want = b->side[HOST], *got = tt_host(b->bytes);
  const double tol = dtype_of(c->row) == TAILCUT_F32 ? 2e-5 : 4e-3; /* both may be off */
  tt_download(c->backend, got, b->side[DEVICE], b->bytes);
  for (int64_t i = 0; i < c->total; i++) {
    const double size = fmax(fabs((double)want[i]), 0x1p-7);
    const double scale = c->row->policy == TAILCUT_ATTENTION ? size : 1.0;
    if (memcmp(&got[i], &want[i], 4) == 0) continue;
    if (fabs((double)got[i] - (double)want[i]) <= tol * scale) continue;
    if (c->failed++ == 0) {
      printf("FAILED %s on %s: score %d is %g, expected %g\n", c->row->name, c->backend->name,
             (int)i, (double)got[i], (double)want[i]);
    }
  }
  memcpy(want, got, b->bytes);
  free(got);
}

void tt_call_expect(tt_call *c) {
  c->failed = 0;
  if (!c->row->policy) {
    expect_on_cpu(c, c->row->kind);
    return;
  }
  expect_on_cpu(c, RELEVANCE);
  take_scores(c);
  if (c->row->kind == RELEVANCE) return;
  expect_on_cpu(c, CUT);
  expect_on_cpu(c, COMPACT);
}

/* ------------------------------------------------------------------------------ new contents -- */

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
  const tailcut_batch batch = batch_of(c, HOST);
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
    if (row->kind != DIRECTION && row->source != MEAN) spikes |= TT_NOT_FINITE | TT_ZERO_ROWS;
    if (row->dim >= 1024) spikes = TT_PLAIN;
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
  if (row->kind == RELEVANCE || row->kind == SEQUENCE) fill_roles(c, random);
  if (row->groups > 0) fill_groups(c, random);
  if (row->kind == CUT) {
    const tt_curve kind = tt_below(random, 4) ? TT_COSINES : (tt_curve)tt_below(random, TT_CURVES);
    tt_curve_scores(random, kind, c->buffers[SCORES].side[HOST], c->total);
    int32_t *flags = c->buffers[FLAGS].side[HOST];
    for (int32_t b = 0; b < row->segments; b++) {
      flags[b] = tt_below(random, 8) ? 0 : 1 << tt_below(random, 4);
    }
  }
  if (row->kind == COMPACT) fill_kept(c, random);
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

/* --------------------------------------------------------------------------------- comparing -- */

/* Which bytes of a row array's destination are unspecified. */
static uint8_t *open_bytes(const tt_call *c, int i, size_t bytes) {
  const tailcut_batch batch = batch_of(c, HOST);
  tailcut_rows r = rows_of(c, i, HOST);
  uint8_t *open = tt_host(bytes), *scratch = tt_host(bytes);
  const int64_t gap = c->in_place[i] == 2 ? gap_of(c) : 0;
  if (r.src == r.dst) r.src = scratch + gap;
  r.dst = scratch + gap;
  r.rotation = NULL; /* keys that turn are no more open than others */
  ref_compact(&batch, c->buffers[KEPT].side[HOST], c->row->packed ? TAILCUT_PACKED : TAILCUT_LOCAL,
              c->buffers[COUNTS].side[HOST], c->buffers[NEW_CU].side[HOST], &r, open + gap, NULL);
  free(scratch);
  return open;
}

int tt_call_compare(tt_call *c) {
  int differ = c->failed;
  for (int id = 0; id < BUFFERS; id++) {
    const buffer *b = &c->buffers[id];
    if (b->side[DEVICE] == NULL) continue;
    uint8_t *got = tt_host(b->bytes), *open = NULL;
    const uint8_t *want = b->side[HOST];
    if (id == HOST_COUNTS) {
      memcpy(got, b->side[DEVICE], b->bytes);
    } else {
      tt_download(c->backend, got, b->side[DEVICE], b->bytes);
    }
    const int same = memcmp(got, want, b->bytes) == 0;
    for (int i = 0; !same && i < c->num_rows; i++) {
      if (id == (c->in_place[i] == 2 ? MATRIX : ARRAYS + 2 * i + 1)) {
        open = open_bytes(c, i, b->bytes);
      }
    }
    for (size_t i = 0; !same && i < b->bytes; i++) {
      if (got[i] == want[i] || (open != NULL && open[i])) continue;
      printf("FAILED %s on %s: %s%s differs at byte %zu of %zu: %02x, expected %02x\n",
             c->row->name, c->backend->name, id < ARRAYS ? names[id] : "row array ",
             id < ARRAYS ? "" : (const char[]){(char)('0' + (id - ARRAYS) / 2), '\0'}, i, b->bytes,
             got[i], want[i]);
      differ++;
      break;
    }
    free(got);
    free(open);
  }
  return differ;
}

int64_t tt_call_moved(const tt_call *c, int64_t *kept) {
  const tailcut_batch batch = batch_of(c, HOST);
  const int32_t *counts = c->buffers[COUNTS].side[HOST], *list = c->buffers[KEPT].side[HOST];
  int64_t moved = 0;
  *kept = 0;
  for (int32_t b = 0; counts != NULL && b < batch.segments; b++) {
    const ref_segment s = ref_segment_of(&batch, b);
    for (int32_t j = 0; j < counts[b]; j++) moved += list[s.start + j] + batch.prefix_rows != j;
    *kept += counts[b];
  }
  return moved;
}
