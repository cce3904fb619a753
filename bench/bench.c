/* SPDX-License-Identifier: Apache-2.0 */
/* bench: the command `tailcut bench`, which times every step after checking what it computes. */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#include "bench.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

enum { MOST_STEPS = 12 };

/* A device is a line here and a file beside this one. */
static const struct {
  int32_t kind;
  const bench_suite *suite;
} suites[] = {
    {TAILCUT_DEVICE_CPU, &bench_suite_cpu},
#if defined(TAILCUT_HAVE_CUDA)
    {TAILCUT_DEVICE_CUDA, &bench_suite_cuda},
#endif
};

/* What is run: the suite's list, or its steps at the sizes that the options name. */
typedef struct selection {
  const bench_case *cases;
  int count;
  bool all; /* no matter whether a case is for --quick */
  bench_case sized[CLI_MAX_BATCHES * MOST_STEPS];
} selection;

static bool chosen(const cli_options *o, const selection *s, const bench_case *c) {
  char name[96];
  bench_case_name(c, name, sizeof name);
  return o->filter != NULL ? strstr(name, o->filter) != NULL : s->all || !o->quick || c->quick;
}

/* ------------------------------------------------------------------------ sizes of one's own -- */

static bool knows(const selection *s, int from, const char *step) {
  for (int i = from; i < s->count; i++)
    if (strcmp(s->sized[i].step, step) == 0) return true;
  return false;
}

static int add_sizes(selection *s, const cli_options *o, int32_t segments, const bench_case *listed,
                     int count) {
  const int32_t tokens = o->tokens_per_image > 0 ? o->tokens_per_image : 576;
  const int32_t dim = o->dim > 0 ? o->dim : 1024;
  const int32_t dtype = o->dtype != 0 ? o->dtype : TAILCUT_F16;
  const int64_t rows = (int64_t)segments * tokens;
  const double bytes = (double)rows * dim * (double)bench_dtype_size(dtype);
  const double memory = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
  if (rows > INT32_MAX || 3 * bytes > 0.8 * memory) /* tokens, what is expected, what comes out */
    return cli_fail(CLI_FAILED, "--batch: %d images of these tokens do not fit into memory",
                    (int)segments);
  const int from = s->count;
  for (int i = 0; i < count && s->count - from < MOST_STEPS; i++) {
    if (knows(s, from, listed[i].step)) continue;
    s->sized[s->count] = listed[i];
    bench_case *c = &s->sized[s->count++];
    c->segments = segments, c->tokens = tokens;
    if (c->dim > 0) c->dim = dim, c->dtype = dtype;
  }
  return CLI_OK;
}

static int select_cases(selection *s, const bench_suite *suite, const cli_options *o) {
  static const int32_t usual[] = {1, 8, 64};
  s->cases = suite->cases(o->quick, &s->count);
  if (o->tokens_per_image == 0 && o->dim == 0 && o->dtype == 0 && o->num_batches == 0)
    return CLI_OK;
  const bench_case *listed = s->cases;
  const int listed_count = s->count;
  const int32_t *batches = o->num_batches > 0 ? o->batches : usual;
  const int batch_count = o->num_batches > 0 ? o->num_batches : (int)(sizeof usual / sizeof *usual);
  s->cases = s->sized, s->count = 0, s->all = true;
  for (int i = 0; i < batch_count; i++) {
    const int status = add_sizes(s, o, batches[i], listed, listed_count);
    if (status != CLI_OK) return status;
  }
  return CLI_OK;
}

/* ----------------------------------------------------------------------------------- running -- */

/* With `end` (--seconds) what is left until then is shared out among the cases to come: one that
 * takes long to prepare is timed the less. */
static int run_case(const bench_suite *suite, const bench_case *c, const cli_options *o,
                    bench_report *report, double end, int to_come) {
  bench_scene scene = {.what = c, .threads = o->threads};
  const double start = bench_now_us();
  int status = suite->open(&scene);
  double budget = bench_budget_us(&scene, o->quick);
  if (end > 0) budget = fmin(budget, (end - start) / to_come - (bench_now_us() - start));
  if (status == CLI_OK && scene.rows > 0) status = bench_measure(suite, &scene, budget);
  if (status == CLI_OK && suite->check != NULL) status = suite->check(&scene);
  if (status == CLI_OK) suite->format->scene(report, suite->device, &scene);
  suite->close(&scene);
  return status;
}

/* A case that fails does not take the others' results with it. */
static int run_cases(const bench_suite *suite, const cli_options *o, const selection *s,
                     double end) {
  bench_report report = {NULL, 0};
  cli_outputs outputs = {0};
  int status = CLI_OK, to_come = 0, begun = 0, left_out = 0;
  if (o->json_file != NULL) status = cli_outputs_open(&outputs, o->json_file, &report.json);
  if (status != CLI_OK) return status;
  suite->format->open(&report);
  for (int i = 0; i < s->count; i++) to_come += chosen(o, s, &s->cases[i]);
  for (int i = 0; i < s->count; i++) {
    if (!chosen(o, s, &s->cases[i])) continue;
    if (end > 0 && begun > 0 && bench_now_us() > end) {
      left_out++;
    } else {
      const int one = run_case(suite, &s->cases[i], o, &report, end, to_come);
      if (status == CLI_OK) status = one;
      begun++;
    }
    to_come--;
  }
  if (left_out > 0)
    fprintf(stderr, "tailcut: bench: --seconds: the last %d cases are left out\n", left_out);
  if (report.rows > 0 || status == CLI_OK) {
    suite->format->close(&report);
    const int written = cli_outputs_commit(&outputs);
    if (status == CLI_OK) status = written;
  }
  cli_outputs_discard(&outputs);
  return status;
}

static int run(const bench_suite *suite, const cli_options *o) {
  static selection s;
  const double end = o->seconds > 0 ? bench_now_us() + 1e6 * o->seconds : 0;
  int status = CLI_OK, some = 0;
  if (o->busy) {
    return suite == &bench_suite_cpu
               ? bench_busy(o->threads, o->quick)
               : cli_fail(CLI_USAGE, "--busy: it is the CPU's cores that are kept busy");
  }
  if (suite->start != NULL) status = suite->start(o->device_index);
  if (status == CLI_OK) status = select_cases(&s, suite, o);
  if (status != CLI_OK) return status;
  for (int i = 0; i < s.count; i++) some += chosen(o, &s, &s.cases[i]);
  if (some == 0)
    return cli_fail(CLI_USAGE, "--filter: no case's name contains '%.200s'", o->filter);
  return run_cases(suite, o, &s, end);
}

int cli_bench(const cli_options *options) {
  for (size_t i = 0; i < sizeof suites / sizeof suites[0]; i++) {
    if (suites[i].kind != options->device_kind) continue;
    const int status = run(suites[i].suite, options);
    if (suites[i].suite->stop != NULL) suites[i].suite->stop();
    return status == CLI_OK ? cli_flush_stdout() : status;
  }
  return cli_fail(CLI_FAILED, "--device: this build has no benchmark of that device");
}
