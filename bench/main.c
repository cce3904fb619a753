/* SPDX-License-Identifier: Apache-2.0 */
/* tailcut_bench: times every step, after checking what it computes. This file: the command line. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

/* A device is a line here and a file beside this one. */
static const bench_suite *const suites[] = {
    &bench_suite_cpu,
#if defined(TAILCUT_HAVE_CUDA)
    &bench_suite_cuda,
#endif
};

typedef struct options {
  const char *device, *json, *filter;
  bool quick, list, busy;
} options;

static void usage(FILE *file) {
  fputs(
      "usage: tailcut_bench [--device cpu|cuda[:I]] [--quick] [--filter NAME] [--json FILE] "
      "[--busy]\n"
      "\n"
      "Checks, then times the steps of the library. Rows of one size are timed in interleaved\n"
      "rounds; the median is printed.\n"
      "\n"
      "  --device DEV   cpu (default), cuda or cuda:I\n"
      "  --filter NAME  only cases whose name contains NAME; names are like score/64x576x1024/f16\n"
      "  --quick        fewer sizes, shorter\n"
      "  --json FILE    the results as JSON, too\n"
      "  --busy         instead: one image while other programs want the CPU's cores\n"
      "  --list         print the names of the cases and stop\n"
      "  --help         this text\n"
      "\n"
      "Columns, CPU: time, the median of one call; noise, (75% - 25% quantile) / (1.349 median); "
      "GB/s, "
      "of\n"
      "the bytes that a call must read and write; %read, those as a share of plain_sum's, a "
      "vector\n"
      "sum of as many bytes on as many threads in the same run. In-place rows are restored\n"
      "between calls, outside the time. TAILCUT_SIMD lowers the SIMD level.\n"
      "Columns, CUDA: us, one node of a CUDA graph of that many calls, median of the replays; "
      "L2 hot:\n"
      "the same buffers again, cold: every call its own, flushed before; -empty, without the time "
      "of an\n"
      "empty node; GB/s, of the bytes that a call must move; %copy, those as a share of a large "
      "copy's.\n"
      "Both of these are timed in the same rounds. AMBIGUOUS: noise above 5%.\n"
      "Exit status: 0; 1 when a check or a call failed; 2 for wrong usage.\n",
      file);
}

static int wrong(const char *what, const char *word) {
  fprintf(stderr, "tailcut_bench: %s %s (see --help)\n", what, word);
  return BENCH_USAGE;
}

static bool chosen(const options *o, const bench_case *c) {
  char name[96];
  bench_case_name(c, name, sizeof name);
  return o->filter != NULL ? strstr(name, o->filter) != NULL : !o->quick || c->quick;
}

static int list(const bench_suite *suite, const options *o) {
  int count = 0;
  const bench_case *cases = suite->cases(o->quick, &count);
  for (int i = 0; i < count; i++) {
    char name[96];
    bench_case_name(&cases[i], name, sizeof name);
    if (chosen(o, &cases[i])) puts(name);
  }
  return BENCH_OK;
}

static int run_case(const bench_suite *suite, const bench_case *c, bool quick,
                    bench_report *report) {
  bench_scene scene = {.what = c};
  int status = suite->open(&scene);
  if (status == BENCH_OK && scene.rows > 0) status = bench_measure(suite, &scene, quick);
  if (status == BENCH_OK && suite->check != NULL) status = suite->check(&scene);
  if (status == BENCH_OK) suite->format->scene(report, suite->device, &scene);
  suite->close(&scene);
  return status;
}

static int run_cases(const bench_suite *suite, const options *o) {
  int status = BENCH_OK, count = 0, some = 0;
  const bench_case *cases = suite->cases(o->quick, &count);
  for (int i = 0; i < count; i++) some += chosen(o, &cases[i]);
  if (some == 0) return wrong("no case's name contains", o->filter);
  bench_report report = {NULL, 0};
  if (o->json != NULL && (report.json = fopen(o->json, "w")) == NULL) {
    fprintf(stderr, "tailcut_bench: %s: %s\n", o->json, strerror(errno));
    return BENCH_FAILED;
  }
  suite->format->open(&report);
  for (int i = 0; i < count && status == BENCH_OK; i++) {
    if (chosen(o, &cases[i])) status = run_case(suite, &cases[i], o->quick, &report);
  }
  suite->format->close(&report);
  if (report.json != NULL && fclose(report.json) != 0 && status == BENCH_OK) {
    fprintf(stderr, "tailcut_bench: %s: %s\n", o->json, strerror(errno));
    status = BENCH_FAILED;
  }
  return status;
}

/* DEVICE or DEVICE:INDEX. */
static const bench_suite *find_suite(const char *word, int *index) {
  *index = 0;
  for (size_t i = 0; i < sizeof suites / sizeof suites[0]; i++) {
    const size_t length = strlen(suites[i]->device);
    if (strncmp(word, suites[i]->device, length) != 0) continue;
    if (word[length] == '\0') return suites[i];
    if (word[length] != ':' || suites[i]->start == NULL) continue;
    char *end = NULL;
    const long value = strtol(word + length + 1, &end, 10);
    if (word[length + 1] < '0' || word[length + 1] > '9' || *end != '\0' || value > 9999) continue;
    *index = (int)value;
    return suites[i];
  }
  return NULL;
}

static int run(const options *o) {
  int index = 0, status = BENCH_OK;
  const bench_suite *suite = find_suite(o->device, &index);
  if (suite == NULL) return wrong("--device: not a device of this build:", o->device);
  if (o->busy) {
    return suite == &bench_suite_cpu ? bench_busy(o->quick)
                                     : wrong("--busy is the CPU's, not for", o->device);
  }
  if (o->list) return list(suite, o);
  if (suite->start != NULL) status = suite->start(index);
  if (status == BENCH_OK) status = run_cases(suite, o);
  if (suite->stop != NULL) suite->stop();
  return status;
}

int main(int argc, char **argv) {
  options o = {"cpu", NULL, NULL, false, false, false};
  for (int i = 1; i < argc; i++) {
    const char *word = argv[i];
    const char **value = strcmp(word, "--json") == 0     ? &o.json
                         : strcmp(word, "--device") == 0 ? &o.device
                         : strcmp(word, "--filter") == 0 ? &o.filter
                                                         : NULL;
    if (value != NULL) {
      if (i + 1 == argc || argv[i + 1][0] == '\0') return wrong("a value is missing after", word);
      *value = argv[++i];
    } else if (strcmp(word, "--quick") == 0) {
      o.quick = true;
    } else if (strcmp(word, "--busy") == 0) {
      o.busy = true;
    } else if (strcmp(word, "--list") == 0) {
      o.list = true;
    } else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
      usage(stdout);
      return BENCH_OK;
    } else {
      return wrong("unknown option", word);
    }
  }
  return run(&o);
}
