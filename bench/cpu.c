/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu: the CPU backend as a suite: its data, its checks and its rows.
 *
 * Every call writes into one block of outputs. The oracle's block is made by the parts, one after
 * the other, at the scalar level on one thread; each timed call must first give the same bytes, on
 * one thread and on all cores.
 */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "cpu/cpu.h"

enum { SCALAR = BENCH_SCALAR, ONE = BENCH_ONE, ALL = BENCH_ALL };
enum { QUERIES = 64, SYSTEM = 16 }; /* relevance: rows at the end and the start of a sequence */

typedef struct outputs {
  char *block; /* what follows lies in it */
  size_t small_bytes;
  float *scores, *direction;
  int32_t *kept, *counts, *cu, *flags;
  char *rows; /* token rows: the tokens themselves where compacted in place */
} outputs;

typedef struct world world;

typedef struct call {
  world *w;
  int handle;
  bool in_place;
  outputs *out;
} call;

struct world {
  const bench_case *c;
  int (*run)(const call *call);
  bool novelty, merges;
  int32_t threads;
  int64_t total;
  size_t row_bytes, token_bytes;
  char *tokens; /* never written by a call */
  float *scores_in;
  uint8_t *roles;
  bench_cpu cpu;
  tailcut_batch batch;
  outputs expected, actual;
  call calls[BENCH_MOST_ROWS];
};

static uint64_t sink; /* keeps the plain sum from being left out */

/* --------------------------------------------------------------------------- the timed calls -- */

static tailcut_tokens tokens_of(const call *c) {
  tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  tokens.data = c->in_place ? c->out->rows : c->w->tokens;
  tokens.dtype = c->w->c->dtype;
  tokens.dim = c->w->c->dim;
  return tokens;
}

static tailcut_reference reference_of(const call *c) {
  tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  reference.data = c->w->tokens;
  if (c->w->novelty) reference.source = TAILCUT_REFERENCE_NOVELTY, reference.data = NULL;
  return reference;
}

static const tailcut_merge_options merge_options = TAILCUT_MERGE_OPTIONS_INITIALIZER;

static tailcut_selection selection_of(const call *c) {
  tailcut_selection selection = TAILCUT_SELECTION_INITIALIZER;
  selection.counts = c->out->counts;
  selection.kept = c->out->kept;
  selection.new_cu_seqlens = c->out->cu;
  selection.flags = c->out->flags;
  return selection;
}

static tailcut_rows rows_of(const call *c) {
  tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  rows.src = c->in_place ? c->out->rows : c->w->tokens;
  rows.dst = c->out->rows;
  rows.part_bytes = (int64_t)c->w->row_bytes;
  rows.placement = c->in_place ? TAILCUT_LOCAL : TAILCUT_PACKED;
  if (c->w->merges) rows.flags = TAILCUT_ROWS_MERGE, rows.dtype = c->w->c->dtype;
  return rows;
}

#define ROOM(c) (c)->w->cpu.workspace[(c)->handle], (c)->w->cpu.bytes[(c)->handle], NULL

static int run_score(const call *c) {
  const tailcut_tokens tokens = tokens_of(c);
  const tailcut_reference reference = reference_of(c);
  return bench_done(tailcut_score(c->w->cpu.handle[c->handle], &c->w->batch, &tokens, &reference,
                                  c->out->scores, c->out->flags, ROOM(c)));
}

static int run_mean_direction(const call *c) {
  const tailcut_tokens tokens = tokens_of(c);
  return bench_done(tailcut_mean_direction(c->w->cpu.handle[c->handle], &c->w->batch, &tokens, NULL,
                                           c->out->direction, ROOM(c)));
}

static int run_cut(const call *c) {
  const tailcut_selection selection = selection_of(c);
  return bench_done(tailcut_cut(c->w->cpu.handle[c->handle], &c->w->batch, c->w->scores_in, NULL,
                                NULL, NULL, &selection, ROOM(c)));
}

/* The kept lists are the oracle's, which were made before. */
static int run_compact(const call *c) {
  const outputs *made = &c->w->expected;
  const tailcut_rows rows = rows_of(c);
  const tailcut_tokens tokens = tokens_of(c);
  if (c->w->merges) {
    return bench_done(tailcut_merge(c->w->cpu.handle[c->handle], &c->w->batch, &tokens, made->kept,
                                    TAILCUT_LOCAL, made->counts, made->cu, &merge_options, &rows, 1,
                                    ROOM(c)));
  }
  return bench_done(tailcut_compact(c->w->cpu.handle[c->handle], &c->w->batch, made->kept,
                                    TAILCUT_LOCAL, made->counts, made->cu, &rows, 1, ROOM(c)));
}

static int run_relevance(const call *c) {
  const tailcut_tokens tokens = tokens_of(c);
  return bench_done(tailcut_relevance(c->w->cpu.handle[c->handle], &c->w->batch, &tokens,
                                      c->w->roles, NULL, c->out->scores, c->out->flags, ROOM(c)));
}

static int run_prune_visual(const call *c) {
  const tailcut_tokens tokens = tokens_of(c);
  const tailcut_reference reference = reference_of(c);
  tailcut_selection selection = selection_of(c);
  const tailcut_rows rows = rows_of(c);
  if (c->w->merges) selection.merge = &merge_options;
  return bench_done(tailcut_prune_visual(c->w->cpu.handle[c->handle], &c->w->batch, &tokens,
                                         &reference, NULL, &selection, &rows, 1, ROOM(c)));
}

static int run_parts(const call *c) {
  const tailcut_selection selection = selection_of(c);
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  rule.scale = TAILCUT_SCALE_UNIT;
  int status = run_score(c);
  if (status == CLI_OK) {
    memcpy(c->w->scores_in, c->out->scores, sizeof(float) * (size_t)c->w->total);
    status = bench_done(tailcut_cut(c->w->cpu.handle[c->handle], &c->w->batch, c->w->scores_in,
                                    NULL, c->out->flags, &rule, &selection, ROOM(c)));
  }
  return status == CLI_OK ? run_compact(c) : status;
}

static int call_it(void *of) {
  const call *c = of;
  return c->w->run(c);
}

static int restore(void *of) {
  const call *c = of;
  memcpy(c->out->rows, c->w->tokens, c->w->token_bytes);
  return CLI_OK;
}

static int sum_it(void *of) {
  const call *c = of;
  const tc_cpu *cpu = c->w->cpu.handle[c->handle]->state; /* its threads do the sum, too */
  sink += bench_plain_sum(c->w->tokens, c->w->token_bytes, cpu->pool);
  return CLI_OK;
}

/* -------------------------------------------------------------------------------- the checks -- */

static void poison(const world *w, outputs *out) {
  memset(out->block, 0xA5, out->small_bytes);
  memset(out->rows, 0xA5, w->token_bytes);
}

/* Result rows past the last kept one are unspecified. */
static bool equal_rows(const world *w, const outputs *a, const outputs *b, bool in_place) {
  const outputs *made = &w->expected;
  for (int32_t s = 0; s < w->c->segments; s++) {
    const size_t bytes = (size_t)made->counts[s] * w->row_bytes;
    const size_t packed = (size_t)made->cu[s] * w->row_bytes;
    const size_t local = (size_t)s * (size_t)w->c->tokens * w->row_bytes;
    if (memcmp(a->rows + packed, b->rows + (in_place ? local : packed), bytes) != 0) return false;
  }
  return true;
}

/* Makes the oracle's outputs, then those of the timed calls, and compares. */
static int check(world *w, bool with_rows, bool compact_only) {
  call oracle = {w, SCALAR, false, &w->expected};
  poison(w, &w->expected);
  int status = with_rows ? run_parts(&oracle) : w->run(&oracle);
  for (int i = 0; i < (with_rows ? 4 : 2) && status == CLI_OK; i++) {
    call c = {w, i % 2 == 0 ? ONE : ALL, i >= 2, &w->actual};
    poison(w, &w->actual);
    if (c.in_place) restore(&c);
    status = w->run(&c);
    if (status != CLI_OK) break;
    const outputs *a = &w->expected, *b = &w->actual;
    if (with_rows && !equal_rows(w, a, b, c.in_place)) return bench_failed(w->c, "wrong rows");
    if (compact_only) continue;
    if (with_rows) memcpy(b->scores, a->scores, sizeof(float) * (size_t)w->total); /* not asked */
    if (memcmp(a->block, b->block, a->small_bytes) != 0)
      return bench_failed(w->c, "differs from scalar");
  }
  return status;
}

/* ------------------------------------------------------------------------------------ scenes -- */

static void make_outputs(const world *w, outputs *out) {
  const size_t total = (size_t)w->total, segments = (size_t)w->c->segments;
  const size_t words = 2 * total + segments * (size_t)w->c->dim + 3 * segments + 1;
  out->small_bytes = 4 * words;
  out->block = bench_allocate(out->small_bytes);
  out->scores = (float *)(void *)out->block;
  out->direction = out->scores + total;
  out->kept = (int32_t *)(void *)(out->direction + segments * (size_t)w->c->dim);
  out->counts = out->kept + total;
  out->cu = out->counts + segments;
  out->flags = out->cu + segments + 1;
  out->rows = bench_allocate(w->token_bytes);
}

static bench_row *add_row(bench_scene *scene, const char *name, int handle, bool in_place,
                          double bytes) {
  world *w = scene->data;
  call *c = &w->calls[scene->rows];
  bench_row *row = &scene->row[scene->rows++];
  *c = (call){w, handle, in_place, &w->actual};
  *row = (bench_row){.name = name,
                     .threads = handle == ALL ? w->threads : 1,
                     .bytes = bytes,
                     .call = call_it,
                     .reset = in_place ? restore : NULL,
                     .of = c,
                     .yardstick = -1};
  return row;
}

/* `name`, and `other` for the variant in place where there is one: each on one thread and on all
 * cores, with the plain sum first. */
static void add_rows(bench_scene *scene, const char *name, const char *other, double bytes) {
  world *w = scene->data;
  const int last = w->threads > 1 ? ALL : ONE;
  for (int h = ONE; h <= last; h++) {
    int yardstick = -1;
    if (w->c->dim > 0) {
      yardstick = scene->rows;
      add_row(scene, "plain_sum", h, false, (double)w->token_bytes)->call = sum_it;
    }
    add_row(scene, name, h, false, bytes)->yardstick = yardstick;
    if (other != NULL) add_row(scene, other, h, true, bytes)->yardstick = yardstick;
  }
}

static int open_cpu(bench_scene *scene) {
  static const struct {
    const char *name, *other; /* other: in place */
    int (*run)(const call *c);
    int32_t kind;
  } steps[] = {
      {"score", NULL, run_score, TAILCUT_CALL_SCORE},
      {"mean_direction", NULL, run_mean_direction, TAILCUT_CALL_MEAN_DIRECTION},
      {"cut", NULL, run_cut, TAILCUT_CALL_CUT},
      {"compact packed", "compact in place", run_compact, TAILCUT_CALL_COMPACT},
      {"relevance", NULL, run_relevance, TAILCUT_CALL_RELEVANCE},
      {"prune_visual packed", "prune_visual in place", run_prune_visual, TAILCUT_CALL_PRUNE_VISUAL},
      {"novelty", NULL, run_score, TAILCUT_CALL_SCORE},
      {"prune_novelty packed", "prune_novelty in place", run_prune_visual,
       TAILCUT_CALL_PRUNE_VISUAL},
      {"prune_merge packed", "prune_merge in place", run_prune_visual, TAILCUT_CALL_PRUNE_VISUAL},
  };
  const bench_case *c = scene->what;
  size_t s = 0;
  if (c->text > 0) return bench_cpu_sequence_open(scene);
  while (s < sizeof steps / sizeof steps[0] &&
         strncmp(steps[s].name, c->step, strlen(c->step)) != 0) {
    s++;
  }
  if (s == sizeof steps / sizeof steps[0]) return CLI_OK;
  world *w = calloc(1, sizeof *w);
  if (w == NULL) return CLI_FAILED;
  scene->data = w;
  w->c = c;
  w->run = steps[s].run;
  w->merges = strcmp(c->step, "prune_merge") == 0;
  w->novelty = w->merges || strstr(c->step, "novelty") != NULL;
  w->threads = scene->threads > 0 ? scene->threads : tc_team_cores();
  w->total = (int64_t)c->segments * c->tokens;
  w->row_bytes = (size_t)(c->dim * bench_dtype_size(c->dtype));
  w->token_bytes = (size_t)w->total * w->row_bytes;
  w->batch = (tailcut_batch)TAILCUT_BATCH_INITIALIZER;
  w->batch.segments = c->segments;
  w->batch.max_tokens = c->tokens;
  w->tokens = bench_allocate(w->token_bytes);
  w->scores_in = bench_allocate(sizeof(float) * (size_t)w->total);
  w->roles = bench_allocate((size_t)w->total);
  make_outputs(w, &w->expected);
  make_outputs(w, &w->actual);
  if (c->dim > 0) {
    bench_fill_tokens(w->tokens, c->dtype, w->total, c->dim);
  } else { /* scores are a row of features */
    bench_fill_tokens(w->scores_in, TAILCUT_F32, 1, w->total);
  }
  for (int64_t i = 0; i < w->total; i++) {
    const int64_t at = i % c->tokens;
    w->roles[i] = at < SYSTEM                ? 0
                  : at < c->tokens - QUERIES ? TAILCUT_ROLE_CANDIDATE
                                             : TAILCUT_ROLE_QUERY;
  }
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = c->segments, limits.max_tokens = c->tokens, limits.dim = c->dim;
  if (w->novelty) limits.window = 64; /* the default */
  /* The oracle calls the parts, too. */
  int status = bench_cpu_open(&w->cpu, &limits, TAILCUT_CALL_SCORE,
                              w->merges ? TAILCUT_CALL_MERGE : steps[s].kind, w->threads);
  if (status == CLI_OK) {
    status = check(w, steps[s].other != NULL, steps[s].kind == TAILCUT_CALL_COMPACT);
  }
  if (status != CLI_OK) return status;
  const double kept = (double)w->expected.cu[c->segments], total = (double)w->total;
  const double row = c->dim > 0 ? (double)w->row_bytes : sizeof(float);
  add_rows(scene, steps[s].name, steps[s].other,
           row * (steps[s].kind == TAILCUT_CALL_COMPACT        ? 2 * kept
                  : steps[s].kind == TAILCUT_CALL_PRUNE_VISUAL ? total + kept
                                                               : total));
  return CLI_OK;
}

static void close_cpu(bench_scene *scene) {
  world *w = scene->data;
  if (w == NULL) return;
  if (scene->what->text > 0) {
    bench_cpu_sequence_close(scene);
    return;
  }
  bench_cpu_close(&w->cpu);
  free(w->expected.block), free(w->expected.rows);
  free(w->actual.block), free(w->actual.rows);
  free(w->tokens), free(w->scores_in), free(w->roles);
  free(w);
}

static const bench_case *cases_cpu(bool quick, int *count) {
  (void)quick;
  *count = bench_case_count;
  return bench_cases;
}

const bench_suite bench_suite_cpu = {
    .device = "cpu",
    .format = &bench_format_cpu,
    .cases = cases_cpu,
    .open = open_cpu,
    .close = close_cpu,
};
