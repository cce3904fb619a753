/* SPDX-License-Identifier: Apache-2.0 */
/* tailcut_bench: times every step, after checking what it computes. This file: the command line. */
#include <errno.h>
#include <string.h>

#include "bench.h"

/* A device is a line here and a file beside this one. */
static const bench_suite *const suites[] = {&bench_suite_cpu};

typedef struct options {
  const char *json, *filter;
  bool quick;
} options;

static void usage(FILE *file) {
  fputs(
      "usage: tailcut_bench [--quick] [--filter NAME] [--json FILE]\n"
      "\n"
      "Checks, then times the steps of the library. Rows of one size are timed in interleaved\n"
      "rounds; the median is printed.\n"
      "\n"
      "  --filter NAME  only cases whose name contains NAME; names are like score/64x576x1024/f16\n"
      "  --quick        fewer sizes, shorter\n"
      "  --json FILE    the results as JSON, too\n"
      "  --list         print the names of the cases and stop\n"
      "  --help         this text\n"
      "\n"
      "Columns: time, the median of one call; noise, (75% - 25% quantile) / (1.349 median); GB/s, "
      "of\n"
      "the bytes that a call must read and write; %read, those as a share of plain_sum's, a "
      "vector\n"
      "sum of as many bytes on as many threads in the same run. In-place rows are restored\n"
      "between calls, outside the time. TAILCUT_SIMD lowers the SIMD level.\n"
      "Exit status: 0; 1 when a check or a call failed; 2 for wrong usage.\n",
      file);
}

static int wrong(const char *what, const char *word) {
  fprintf(stderr, "tailcut_bench: %s %s (see --help)\n", what, word);
  return BENCH_USAGE;
}

static int list(void) {
  for (int i = 0; i < bench_case_count; i++) {
    char name[96];
    bench_case_name(&bench_cases[i], name, sizeof name);
    puts(name);
  }
  return BENCH_OK;
}

static bool chosen(const options *o, const bench_case *c) {
  char name[96];
  bench_case_name(c, name, sizeof name);
  return o->filter != NULL ? strstr(name, o->filter) != NULL : !o->quick || c->quick;
}

static int run_suite(const bench_suite *suite, const options *o, bench_report *report) {
  for (int i = 0; i < bench_case_count; i++) {
    bench_scene scene = {.what = &bench_cases[i]};
    if (!chosen(o, scene.what)) continue;
    int status = suite->open(&scene);
    if (status == BENCH_OK && scene.rows > 0) status = bench_measure(suite, &scene, o->quick);
    if (status == BENCH_OK) bench_report_scene(report, suite->device, &scene);
    suite->close(&scene);
    if (status != BENCH_OK) return status;
  }
  return BENCH_OK;
}

static int run(const options *o) {
  int status = BENCH_OK, cases = 0;
  for (int i = 0; i < bench_case_count; i++) cases += chosen(o, &bench_cases[i]);
  if (cases == 0) return wrong("no case's name contains", o->filter);
  FILE *json = NULL;
  if (o->json != NULL && (json = fopen(o->json, "w")) == NULL) {
    fprintf(stderr, "tailcut_bench: %s: %s\n", o->json, strerror(errno));
    return BENCH_FAILED;
  }
  bench_report report;
  bench_report_open(&report, json);
  for (size_t i = 0; i < sizeof suites / sizeof suites[0] && status == BENCH_OK; i++) {
    const char *why = "";
    if (suites[i]->available == NULL || suites[i]->available(&why)) {
      status = run_suite(suites[i], o, &report);
    } else {
      printf("%s: not timed, %s\n", suites[i]->device, why);
    }
  }
  bench_report_close(&report);
  if (json != NULL && (fclose(json) != 0) && status == BENCH_OK) {
    fprintf(stderr, "tailcut_bench: %s: %s\n", o->json, strerror(errno));
    status = BENCH_FAILED;
  }
  return status;
}

int main(int argc, char **argv) {
  options o = {NULL, NULL, false};
  for (int i = 1; i < argc; i++) {
    const char *word = argv[i];
    const char **value = strcmp(word, "--json") == 0     ? &o.json
                         : strcmp(word, "--filter") == 0 ? &o.filter
                                                         : NULL;
    if (value != NULL) {
      if (i + 1 == argc || argv[i + 1][0] == '\0') return wrong("a value is missing after", word);
      *value = argv[++i];
    } else if (strcmp(word, "--quick") == 0) {
      o.quick = true;
    } else if (strcmp(word, "--list") == 0) {
      return list();
    } else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
      usage(stdout);
      return BENCH_OK;
    } else {
      return wrong("unknown option", word);
    }
  }
  return run(&o);
}
