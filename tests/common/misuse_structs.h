/* SPDX-License-Identifier: Apache-2.0 */
/* misuse_structs: what test_misuse.c hands to a call: random structs, most of them sound, and how
 * fields of them are spoiled. */
#ifndef TAILCUT_TESTS_MISUSE_STRUCTS_H_
#define TAILCUT_TESTS_MISUSE_STRUCTS_H_

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <tailcut.h>

#include "backends.h"
#include "data.h"
#include "struct_fields.h"

enum { MOST_PIECES = 80, ARRAYS = 2, CAP = 1 << 22 };

/* Memory of a call, with what was in it. */
typedef struct piece {
  void *data;
  uint8_t *was;
  size_t bytes;
  int written; /* a successful call may write it */
} piece;

typedef struct world {
  const tt_backend *backend;
  tailcut_handle handle;
  tt_random random;
  int32_t kind, num_rows, kept_placement;
  int huge;  /* an array cannot be had */
  int alias; /* pointers lead into other arrays */
  tailcut_batch batch;
  tailcut_tokens tokens;
  tailcut_reference reference;
  tailcut_rule rule;
  tailcut_selection selection;
  tailcut_merge_options merge_options;
  tailcut_relevance_options relevance_options;
  tailcut_rotation rotation[ARRAYS];
  tailcut_rows rows[ARRAYS];
  const float *scores;
  float *direction;
  const uint8_t *roles;
  int32_t *flags;
  const int32_t *input_flags, *kept, *counts, *new_cu;
  void *workspace, *wall; /* wall: cannot be touched */
  size_t workspace_size;
  piece pieces[MOST_PIECES];
  int used;
  void *passed[16]; /* the structs as the call gets them */
  int passes;
} world;

#define BELOW(n) tt_below(&w->random, n)
#define ONE_IN(n) (tt_below(&w->random, n) == 0)

/* ------------------------------------------------------------------------------------ fields -- */

typedef enum type { I32, I64, F32, F64, POINTER } type;
/* clang-format off */
#define TYPE_OF(x) \
  _Generic((x), int32_t: I32, int64_t: I64, size_t: I64, float: F32, double: F64, default: POINTER)
/* clang-format on */
typedef struct field {
  size_t offset;
  type type;
} field;

static const struct {
  char name[20];
  field field;
} fields[] = {
#define F(s, f, at, version) {#s, {at, TYPE_OF(((tailcut_##s *)0)->f)}},
    TT_FIELDS(F)
#undef F
};
enum { FIELDS = sizeof fields / sizeof fields[0] };

static void *struct_of(world *w, const char *name, int i) {
#define IS(s, pointer) \
  if (strcmp(name, #s) == 0) return pointer
  IS(batch, &w->batch);
  IS(tokens, &w->tokens);
  IS(reference, &w->reference);
  IS(rule, &w->rule);
  IS(selection, &w->selection);
  IS(merge_options, &w->merge_options);
  IS(relevance_options, &w->relevance_options);
  IS(rotation, &w->rotation[i]);
  IS(rows, &w->rows[i]);
#undef IS
  return NULL;
}

static void spoil_number(world *w) {
  /* clang-format off */
  static const int32_t narrow[] = {0, 1, -1, 2, 3, 4, 5, 8, 9, 63, 64, 65, 100, 128, 130, 200, 256,
    257, 512, 1024, 131072, 1 << 20, 1048577, 1 << 30, INT32_MAX, INT32_MIN, INT32_MIN + 1};
  static const int64_t wide[] = {0, 1, -1, 2, 3, 4, 7, 8, -8, 16, 40, 64, 128, 1 << 20, 1LL << 31,
    1LL << 32, 1LL << 40, 1LL << 61, 1LL << 62, INT64_MAX / 16, INT64_MAX / 8, INT64_MAX / 2,
    INT64_MAX, INT64_MIN};
  /* clang-format on */
  static const double real[] = {0,       -0.0, 1,    0.5,      2,    -1,        1e-300,
                                1.00001, NAN,  1e40, INFINITY, 1e-9, -INFINITY, 0.999};
  const int at = BELOW(FIELDS);
  const field f = fields[at].field;
  char *s = struct_of(w, fields[at].name, BELOW(ARRAYS));
  if (s == NULL || f.type == POINTER || f.offset == 0) return;
  s += f.offset;
  const int64_t i64 = ONE_IN(3) ? BELOW(300) : wide[BELOW((int)(sizeof wide / sizeof wide[0]))];
  const int32_t i32 =
      ONE_IN(3) ? BELOW(12) : narrow[BELOW((int)(sizeof narrow / sizeof narrow[0]))];
  const double f64 = real[BELOW((int)(sizeof real / sizeof real[0]))];
  const float f32 = (float)f64;
  if (f.type == I32) memcpy(s, &i32, 4);
  if (f.type == I64) memcpy(s, &i64, 8);
  if (f.type == F32) memcpy(s, &f32, 4);
  if (f.type == F64) memcpy(s, &f64, 8);
}

/* A struct of an older header, whose missing fields are defaults, or one of no header. */
static void spoil_size(world *w) {
  static const struct {
    char name[20];
    size_t most;
    union {
      size_t struct_size;
#define S(s, initializer, old, now) tailcut_##s s;
      TT_STRUCTS(S)
#undef S
    } defaults;
  } structs[] = {
#define S(s, initializer, old, now) {#s, now, {.s = initializer}},
      TT_STRUCTS(S)
#undef S
  };
  const int at = BELOW((int)(sizeof structs / sizeof structs[0]));
  const size_t most = structs[at].most;
  const size_t sizes[] = {most - 8, most - 16, most - 24, most / 16 * 8, most - 32, 0,
                          1,        most - 4,  most + 8,  SIZE_MAX,      most * 2,  8};
  const size_t size = sizes[BELOW(12)];
  for (int i = 0; i < ARRAYS; i++) {
    char *s = struct_of(w, structs[at].name, i);
    if (s == NULL || (i > 0 && ONE_IN(9))) return;
    if (size >= 8 && size < most) {
      memcpy(s + size, (const char *)&structs[at].defaults + size, most - size);
    }
    memcpy(s, &size, sizeof size);
  }
}

/* Another pointer into nothing, beside its alignment, or into another array that is long enough. */
static void spoil_pointer(world *w) {
  const int at = BELOW(FIELDS);
  char *s = struct_of(w, fields[at].name, BELOW(ARRAYS)), *p;
  if (s == NULL || fields[at].field.type != POINTER || w->used == 0) return;
  const piece *own = NULL, *other = &w->pieces[BELOW(w->used)];
  s += fields[at].field.offset;
  memcpy(&p, s, sizeof p);
  for (int i = 0; i < w->used && own == NULL; i++) {
    if (w->pieces[i].data == (void *)p) own = &w->pieces[i];
  }
  if (p == NULL || own == NULL) return; /* not used, or no array */
  if (ONE_IN(5)) {
    p = NULL;
  } else if (other->bytes >= own->bytes) {
    const size_t more = other->bytes - own->bytes;
    p = (char *)other->data + (more > 0 && ONE_IN(4) ? 1 : more / 4 * (size_t)BELOW(5));
    w->alias = 1;
  }
  memcpy(s, &p, sizeof p);
}

/* ------------------------------------------------------------------------------- the structs -- */

static void choose_batch(world *w) {
  tailcut_batch_init(&w->batch, sizeof w->batch);
  tailcut_batch *b = &w->batch;
  b->segments = BELOW(5);
  b->max_tokens = BELOW(ONE_IN(4) ? 200 : 30);
  if (w->kind != TAILCUT_CALL_RELEVANCE && w->kind != TAILCUT_CALL_PRUNE_SEQUENCE && ONE_IN(3)) {
    b->prefix_rows = BELOW(4);
  }
  const int layout = BELOW(3);
  if (layout == 1) b->lengths = w->wall;
  if (layout == 2) b->cu_seqlens = w->wall, b->total_tokens = BELOW(90);
  if (ONE_IN(3)) b->group_cu_seqlens = w->wall, b->groups = 1 + BELOW(9);
}

static void choose_values(world *w) {
  tailcut_tokens_init(&w->tokens, sizeof w->tokens);
  tailcut_reference_init(&w->reference, sizeof w->reference);
  tailcut_merge_options_init(&w->merge_options, sizeof w->merge_options);
  tailcut_relevance_options_init(&w->relevance_options, sizeof w->relevance_options);
  w->tokens.dtype = 1 + BELOW(3);
  w->tokens.dim = 1 + BELOW(20);
  if (ONE_IN(2)) w->tokens.row_stride = w->tokens.dim + BELOW(3);
  if (ONE_IN(4)) w->tokens.segment_stride = BELOW(200);
  tailcut_reference *r = &w->reference;
  r->source = 1 + BELOW(5);
  if (r->source == TAILCUT_REFERENCE_LAG) r->lag = 1 + BELOW(9);
  if (r->source == TAILCUT_REFERENCE_ROW && w->batch.prefix_rows == 0) {
    w->batch.prefix_rows = w->kind == TAILCUT_CALL_SCORE || w->kind == TAILCUT_CALL_PRUNE_VISUAL;
  }
  if (r->source == TAILCUT_REFERENCE_NOVELTY) r->window = (64 << BELOW(3)) * BELOW(2);
  if (r->source == TAILCUT_REFERENCE_GIVEN && ONE_IN(2)) r->segment_stride = w->tokens.dim;
  tailcut_merge_options *m = &w->merge_options;
  m->power = ONE_IN(2) ? TAILCUT_MERGE_MEAN : TAILCUT_MERGE_COS4;
  if (r->source != TAILCUT_REFERENCE_NOVELTY) m->window = (64 << BELOW(3)) * BELOW(2);
  tailcut_relevance_options *o = &w->relevance_options;
  o->policy = 1 + BELOW(3);
  o->dtype = 1 + BELOW(3), o->head_dim = 1 + BELOW(9);
  o->k_heads = 1 + BELOW(3), o->q_heads = o->k_heads * (1 + BELOW(3));
  o->causal = BELOW(2), o->last_query = BELOW(2);
  o->head_reduction = 1 + BELOW(2), o->query_reduction = 1 + BELOW(2);
  if (o->policy == TAILCUT_ATTENTION && ONE_IN(2)) o->lse = w->wall;
}

static void choose_rule(world *w) {
  tailcut_rule *r = &w->rule;
  tailcut_rule_init(r, sizeof *r);
  r->detector = 1 + BELOW(10);
  r->k = 1 + BELOW(20), r->ratio = BELOW(11) * 0.1, r->percent = BELOW(101);
  r->rounding = 1 + BELOW(6), r->tau = 0.1f, r->order = 1 + BELOW(2);
  r->min_keep = BELOW(3), r->round_to = 1 + BELOW(4);
  if (ONE_IN(3)) r->max_keep = r->min_keep + BELOW(9);
  if (ONE_IN(3)) r->spread = 0.5;
  if (r->detector == TAILCUT_TOPK && ONE_IN(2)) r->group_k = w->wall;
}

static void choose_array(world *w, int i, int merges) {
  tailcut_rows *r = &w->rows[i];
  tailcut_rotation *t = &w->rotation[i];
  tailcut_rows_init(r, sizeof *r);
  tailcut_rotation_init(t, sizeof *t);
  r->part_bytes = 4 * (1 + BELOW(6)), r->parts = ONE_IN(3) ? 1 + BELOW(3) : 1;
  r->placement = 1 + BELOW(2);
  r->flags = ONE_IN(3) ? TAILCUT_ROWS_ZERO_TAIL : 0;
  r->slot_bytes = ONE_IN(2) ? 4 : 8;
  if (ONE_IN(3)) r->src_slots = w->wall;
  if (ONE_IN(3)) r->dst_slots = w->wall;
  if (ONE_IN(2)) {
    r->page_rows = 1 + BELOW(5), r->page_stride = r->page_rows * r->part_bytes * r->parts;
  }
  if (ONE_IN(3)) r->dst_rows = 1 + BELOW(40);
  const int what = BELOW(4);
  if (what == 0 && merges) {
    r->flags |= TAILCUT_ROWS_MERGE, r->dtype = 1 + BELOW(3), r->parts = 1;
  } else if (what == 1) {
    r->flags |= TAILCUT_ROWS_RENUMBER, r->part_bytes = ONE_IN(2) ? 4 : 8;
    if (ONE_IN(2)) r->renumber_base = w->wall;
  } else if (what == 2) {
    r->rotation = t;
    t->dtype = 1 + BELOW(3), t->rotary_dim = ONE_IN(2) ? 2 : (int32_t)r->part_bytes / 4 / 2 * 2;
    if (t->rotary_dim == 0) t->rotary_dim = 2, r->part_bytes = 8;
    t->position_bytes = ONE_IN(2) ? 4 : 8, t->pairing = 1 + BELOW(2);
    if (ONE_IN(2)) t->positions = w->wall;
    if (ONE_IN(2)) t->new_base = w->wall;
    if (ONE_IN(2)) t->inv_freq = w->wall;
    if (t->inv_freq == NULL) t->cos_sin = w->wall, t->table_rows = 1 + BELOW(9);
  }
}

#endif /* TAILCUT_TESTS_MISUSE_STRUCTS_H_ */
