/* SPDX-License-Identifier: Apache-2.0 */
/*
 * busy: the whole prune of one image while other programs want the cores.
 *
 * Threads that wait for each other wait for what else runs there. As many busy loops as cores are
 * started (processes, which end with this one); single calls are timed, in turns without and with
 * the loops, on one thread and on all cores. A median says what most calls cost; the upper
 * quantiles, how often and how long the system stopped one of the threads at work.
 */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

enum { MOST_LOOPS = 256, TURNS = 6, MOST_CALLS = 400000 };

typedef struct times {
  double *us;
  int calls;
} times;

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double quantile(const times *t, double share) {
  return t->us[(int)(share * (t->calls - 1))];
}

static int time_calls(const bench_row *row, double us, times *t) {
  const double until = bench_now_us() + us;
  double start = bench_now_us();
  while (start < until && t->calls < MOST_CALLS) {
    if (row->call(row->of) != 0) return CLI_FAILED;
    const double end = bench_now_us();
    t->us[t->calls++] = end - start;
    start = end;
  }
  return CLI_OK;
}

static void rest(long milliseconds) {
  const struct timespec pause = {0, milliseconds * 1000000};
  nanosleep(&pause, NULL);
}

static void start_loops(pid_t *loop, int loops) {
  for (int i = 0; i < loops; i++) {
    loop[i] = fork();
    if (loop[i] == 0) {
      alarm(30); /* at the latest */
      for (volatile unsigned n = 0;; n++) {
      }
    }
  }
  rest(50); /* until they have spread over the cores */
}

static void stop_loops(const pid_t *loop, int loops) {
  for (int i = 0; i < loops; i++) {
    if (loop[i] <= 0) continue;
    kill(loop[i], SIGKILL);
    waitpid(loop[i], NULL, 0);
  }
}

static int measure(const bench_row *row, int loops, double turn_us, times *idle, times *busy) {
  pid_t loop[MOST_LOOPS];
  int status = CLI_OK;
  idle->calls = busy->calls = 0;
  for (int turn = 0; turn < TURNS && status == CLI_OK; turn++) {
    rest(20);
    status = time_calls(row, turn_us, idle);
    if (status != CLI_OK) break;
    start_loops(loop, loops);
    status = time_calls(row, turn_us, busy);
    stop_loops(loop, loops);
  }
  if (status != CLI_OK) return status;
  qsort(idle->us, (size_t)idle->calls, sizeof *idle->us, by_value);
  qsort(busy->us, (size_t)busy->calls, sizeof *busy->us, by_value);
  return CLI_OK;
}

static int one_case(const bench_case *c, int32_t threads, bool quick, times *idle, times *busy) {
  bench_scene scene = {.what = c, .threads = threads};
  int status = bench_suite_cpu.open(&scene);
  for (int r = 0; r < scene.rows && status == CLI_OK; r++) {
    const bench_row *row = &scene.row[r];
    if (strcmp(row->name, "prune_visual packed") != 0) continue;
    int loops = tc_team_cores() < MOST_LOOPS ? tc_team_cores() : MOST_LOOPS;
    status = measure(row, loops, quick ? 1e5 : 5e5, idle, busy);
    if (status != CLI_OK) break;
    const double before = quantile(idle, 0.5), beside = quantile(busy, 0.5);
    printf("| %-5s | %7d | %5d | %8.1f | %8.1f | %5.1f | %8.1f | %8.1f | %7d |\n",
           bench_dtype_name(c->dtype), (int)row->threads, loops, before, beside, beside / before,
           quantile(busy, 0.9), quantile(busy, 0.99), busy->calls);
    fflush(stdout);
  }
  bench_suite_cpu.close(&scene);
  return status;
}

int bench_busy(int32_t threads, bool quick) {
  times idle = {malloc(sizeof(double) * MOST_CALLS), 0};
  times busy = {malloc(sizeof(double) * MOST_CALLS), 0};
  int status = CLI_OK;
  if (idle.us == NULL || busy.us == NULL) status = cli_fail(CLI_FAILED, "no memory for the times");
  printf(
      "%s\n\nprune_visual, 1 x 576 x 1024, packed: us of a call; 90%% and 99%%: of those beside "
      "the "
      "loops\n\n"
      "| dtype | threads | loops |     idle |     busy | ratio |      90%% |      99%% |   calls "
      "|\n"
      "|-------|--------:|------:|---------:|---------:|------:|---------:|---------:|--------:|\n",
      tailcut_build_info());
  for (int i = 0; i < bench_case_count && status == CLI_OK; i++) {
    const bench_case *c = &bench_cases[i];
    if (strcmp(c->step, "prune_visual") == 0 && c->segments == 1 && c->tokens == 576) {
      status = one_case(c, threads, quick, &idle, &busy);
    }
  }
  free(idle.us), free(busy.us);
  return status;
}
