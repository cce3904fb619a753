/* SPDX-License-Identifier: Apache-2.0 */
/* gpu_sample: as much of what the suites run on CUDA as fits in a time, in one process, because a
 * context costs seconds and Criterion starts one for every test. Rows of the table of cases,
 * calls as captured graphs, and random cases, each kind of them on every form of the backend,
 * equal the reference or the CPU backend in every byte. Needs no Criterion.
 *   gpu_sample [--seconds S] [--seed N] [--each N] [--small] [--bare] [--probe]
 *     --seconds S  no case is begun afterwards (50), but one of each kind has run
 *     --seed N     which cases, and the random ones (1)
 *     --each N     at most N cases of each kind
 *     --small      without the cases that are slow in a simulator or a sanitizer
 *     --bare       workspaces are not filled before the call: for initcheck
 *     --probe      no case: 0 where a device is there and all kernels are for it
 * Exit status 0: everything that ran was right, and something of each kind ran. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "captured.h"
#include "random_cases.h"
#include "runner.h"

enum { MOST_KINDS = 60, MOST_FORMS = 8, REPLAYS = 4, LONG = 4000, SMALL_ELEMENTS = 400000 };
enum { BATCH = 16 }; /* images from which a call is one launch, or more */

typedef struct options {
  double seconds;
  uint64_t seed;
  int each, small, probe;
} options;

typedef enum suite { TABLE, CALLS, RANDOM_RULES, RANDOM_OPTIONS, RANDOM_BATCHES } suite;

/* Cases that take turns with those of the other kinds. */
typedef struct kind {
  char name[48];
  suite suite;
  int form;  /* of the calls; the others run on all forms */
  int *list; /* of the table's rows, in the order in which they are run; NULL: random ones */
  int count, ran, failed;
  double seconds, longest;
} kind;

static options o = {50.0, 1, 0, 0, 0};
static kind kinds[MOST_KINDS];
static int kind_count;
static const tt_backend *forms;
static int form_count;
static tailcut_handle handles[MOST_FORMS];
static cudaStream_t stream;
static const char *volatile under_way = "the start";

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A time limit or an abort: says at which case. */
static void on_signal(int number) {
  static const char before[] = "\ngpu_sample: ended by a signal during: ";
  const char *name = under_way;
  ssize_t written = write(STDERR_FILENO, before, sizeof before - 1);
  written += write(STDERR_FILENO, name, strlen(name));
  written += write(STDERR_FILENO, "\n", 1);
  signal(number, SIG_DFL);
  raise(number);
  (void)written;
}

/* ----------------------------------------------------------------------------- what there is -- */

static kind *add_kind(const char *name, suite suite, int form) {
  kind *k = &kinds[kind_count++];
  if (kind_count > MOST_KINDS) abort();
  snprintf(k->name, sizeof k->name, "%s", name);
  k->suite = suite;
  k->form = form;
  if (suite >= RANDOM_RULES) k->count = 1 << 30;
  return k;
}

static void add_to(kind *k, int i) {
  k->list = realloc(k->list, sizeof *k->list * (size_t)(k->count + 1));
  if (k->list == NULL) abort();
  k->list[k->count++] = i;
}

static int is_small(int64_t segments, int64_t tokens, int64_t dim) {
  return tokens < LONG && segments * tokens * (dim > 0 ? dim : 1) <= SMALL_ELEMENTS;
}

/* The defaults of tt_case are problem.c's. */
static int case_is_small(const tt_case *c) {
  const int32_t dim = c->kind == TT_CUT ? 1 : c->dim ? c->dim : 48;
  return !c->heavy &&
         is_small(c->segments ? c->segments : 3, c->max_tokens ? c->max_tokens : 37, dim);
}

static void add_table(void) {
  kind *visual = add_kind("table, visual", TABLE, 0), *cut = add_kind("table, cut", TABLE, 0);
  kind *sequence = add_kind("table, sequence", TABLE, 0);
  kind *batches = add_kind("table, batches", TABLE, 0);
  kind *heavy = o.small ? NULL : add_kind("table, heavy", TABLE, 0);
  for (int i = 0; i < tt_case_count(); i++) {
    const tt_case *c = tt_case_at(i);
    if (o.small && !case_is_small(c)) continue;
    add_to(c->heavy                 ? heavy
           : c->kind == TT_CUT      ? cut
           : c->kind == TT_SEQUENCE ? sequence
           : c->segments >= BATCH   ? batches
                                    : visual,
           i);
  }
}

static void add_calls(void) {
  static const struct {
    int32_t call;
    const char *name;
  } calls[] = {{TAILCUT_CALL_SCORE, "score"},
               {TAILCUT_CALL_MEAN_DIRECTION, "mean_direction"},
               {TAILCUT_CALL_CUT, "cut"},
               {TAILCUT_CALL_COMPACT, "compact"},
               {TAILCUT_CALL_RELEVANCE, "relevance"},
               {TAILCUT_CALL_PRUNE_VISUAL, "prune_visual"},
               {TAILCUT_CALL_PRUNE_SEQUENCE, "prune_sequence"},
               {TAILCUT_CALL_MERGE, "merge"},
               {0, "long"}};
  char name[48];
  for (int form = 0; form < form_count; form++) {
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
      if (calls[i].call == 0 && o.small) continue;
      snprintf(name, sizeof name, "graphs, %s, %s", calls[i].name, forms[form].name);
      kind *k = add_kind(name, CALLS, form);
      for (int n = 0; n < tt_call_row_count; n++) {
        const tt_call_row *row = &tt_call_rows[n];
        const int small = is_small(row->segments, row->max_tokens, row->dim);
        if (o.small && !small) continue;
        const int is_long = row->max_tokens >= LONG;
        if (is_long ? calls[i].call == 0 : calls[i].call == row->kind) add_to(k, n);
      }
    }
  }
}

static void shuffle(kind *k, tt_random *random) {
  for (int i = k->list != NULL ? k->count - 1 : 0; i > 0; i--) {
    const int j = tt_below(random, i + 1), at = k->list[i];
    k->list[i] = k->list[j];
    k->list[j] = at;
  }
}

/* --------------------------------------------------------------------------------- one of it -- */

static int run_table(const kind *k) {
  const tt_case *c = tt_case_at(k->list[k->ran]);
  under_way = c->name;
  return tt_run_case(c, forms, handles, form_count);
}

static int run_random(const kind *k, tt_random *random) {
  static char name[80];
  tt_case c;
  if (k->suite == RANDOM_RULES) {
    const int rule = 1 + tt_below(random, TT_RULES);
    c = tt_random_cut(random, rule, (tt_curve)tt_below(random, TT_CURVES), 1 + tt_below(random, 2));
  } else {
    do {
      c = tt_random_case(random);
    } while (k->suite == RANDOM_BATCHES && c.kind != TT_VISUAL);
    if (k->suite == RANDOM_BATCHES) c.segments = BATCH + tt_below(random, 12);
  }
  snprintf(name, sizeof name, "%s, %d of seed %llu", k->name, k->ran, (unsigned long long)o.seed);
  under_way = c.name = name; /* and seeds the data */
  return tt_run_case(&c, forms, handles, form_count);
}

/* Captured once, replayed on changing contents, called once. */
static int run_call(const kind *k, tt_random *random) {
  const tt_call_row *row = &tt_call_rows[k->list[k->ran]];
  const tt_backend *form = &forms[k->form];
  const tailcut_limits limits = tt_call_limits(row);
  under_way = row->name;
  tt_workspace w = tt_workspace_new(form, handles[k->form], row->kind, &limits);
  TT_CUDA(cudaDeviceSynchronize());
  tt_captured c;
  int failed = tt_captured_new(&c, row, form, handles[k->form], w, random);
  for (int i = 0; i < REPLAYS && failed == 0; i++) {
    failed += tt_captured_replay(&c, stream, random);
  }
  if (failed == 0) failed += tt_captured_call(&c, stream, random);
  tt_captured_free(&c);
  tt_workspace_free(form, w);
  return failed;
}

static void run_next(kind *k) {
  const double start = now();
  tt_random random = {o.seed * 0x9E3779B97F4A7C15u + (uint64_t)(k - kinds) * 1000003u +
                      (uint64_t)k->ran};
  tt_next(&random);
  const int failed = k->suite == TABLE   ? run_table(k)
                     : k->suite == CALLS ? run_call(k, &random)
                                         : run_random(k, &random);
  const double took = now() - start;
  k->failed += failed != 0;
  k->ran++;
  k->seconds += took;
  if (took > k->longest) k->longest = took;
  fflush(stdout);
}

/* ------------------------------------------------------------------------------- in its turn -- */

/* The kind that has had the least time, of those that have something left and are likely to end in
 * time; one that has not run yet is. NULL: enough. */
static kind *next_kind(double left) {
  kind *best = NULL;
  for (int i = 0; i < kind_count; i++) {
    kind *k = &kinds[i];
    if (k->ran == k->count || (o.each > 0 && k->ran >= o.each)) continue;
    if (k->ran > 0 && k->longest > left) continue;
    if (best == NULL || k->seconds < best->seconds) best = k;
  }
  return best;
}

static int report(double seconds) {
  int ran = 0, of = 0, random = 0, failed = 0, missing = 0;
  printf("%-42s %6s %6s %8s %7s\n", "kind", "ran", "of", "seconds", "failed");
  for (int i = 0; i < kind_count; i++) {
    const kind *k = &kinds[i];
    char count[16] = "-";
    if (k->list != NULL) snprintf(count, sizeof count, "%d", k->count);
    printf("%-42s %6d %6s %8.2f %7d%s\n", k->name, k->ran, count, k->seconds, k->failed,
           k->ran == 0 ? "  NONE" : "");
    if (k->list != NULL) ran += k->ran, of += k->count;
    if (k->list == NULL) random += k->ran;
    failed += k->failed;
    missing += k->ran == 0;
  }
  printf("%d of %d cases and %d random ones on %d forms, seed %llu, in %.1f s: %d failed\n", ran,
         of, random, form_count, (unsigned long long)o.seed, seconds, failed);
  return failed == 0 && missing == 0 ? 0 : 1;
}

static double number(const char *option, const char *text) {
  char *end = NULL;
  errno = 0;
  const double value = text != NULL ? strtod(text, &end) : -1.0;
  if (end == NULL || end == text || *end != '\0' || errno != 0 || !(value >= 0.0 && value < 1e15)) {
    fprintf(stderr, "gpu_sample: %s: expected a number\n", option);
    exit(2);
  }
  return value;
}

static void parse(char **argv) {
  for (char **at = argv + 1; *at != NULL; at++) {
    if (strcmp(*at, "--small") == 0) {
      o.small = 1;
    } else if (strcmp(*at, "--bare") == 0) {
      tt_bare_workspaces = 1;
    } else if (strcmp(*at, "--probe") == 0) {
      o.probe = 1;
    } else if (strcmp(*at, "--seconds") == 0) {
      o.seconds = number(*at, at[1]), at++;
    } else if (strcmp(*at, "--seed") == 0) {
      o.seed = (uint64_t)number(*at, at[1]), at++;
    } else if (strcmp(*at, "--each") == 0) {
      o.each = (int)fmin(number(*at, at[1]), 1e9), at++;
    } else {
      fprintf(stderr, "gpu_sample: unknown option %s; the head of its source says what there is\n",
              *at);
      exit(2);
    }
  }
}

int main(int argc, char **argv) {
  const double start = now();
  (void)argc;
  parse(argv);
  signal(SIGTERM, on_signal);
  signal(SIGABRT, on_signal);
  setenv("TAILCUT_TEST_BACKENDS", "cuda", 0);
  forms = tt_backends(&form_count);
  if (form_count > MOST_FORMS || forms[0].device_kind != TAILCUT_DEVICE_CUDA) {
    fprintf(stderr, "gpu_sample: TAILCUT_TEST_BACKENDS names no form of CUDA\n");
    return 2;
  }
  for (int i = 0; i < form_count; i++) handles[i] = tt_create(&forms[i]);
  if (o.probe) return 0;
  TT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  add_table();
  add_calls();
  add_kind("random, rules", RANDOM_RULES, 0);
  add_kind("random, options", RANDOM_OPTIONS, 0);
  add_kind("random, batches", RANDOM_BATCHES, 0);
  tt_random random = {o.seed};
  for (int i = 0; i < kind_count; i++) shuffle(&kinds[i], &random);
  kind *k;
  while ((k = next_kind(start + o.seconds - now())) != NULL) run_next(k);
  const int status = report(now() - start);
  TT_CUDA(cudaStreamDestroy(stream));
  for (int i = 0; i < form_count; i++) tailcut_destroy(handles[i]);
  for (int i = 0; i < kind_count; i++) free(kinds[i].list);
  return status;
}
