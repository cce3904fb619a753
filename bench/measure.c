/* SPDX-License-Identifier: Apache-2.0 */
/*
 * measure: interleaved rounds and medians.
 *
 * In each round every row of the scene takes one sample (several calls when they are short), in an
 * order that rotates from round to round: what else the machine does then falls on all rows alike.
 * Shares of a yardstick are the median of the rounds' ratios, so they hold also when the machine's
 * speed drifts. Noise is the quartiles' distance over 1.349 times the median: the relative standard
 * deviation of a normal distribution, unmoved by a few samples that were interrupted.
 */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#include <stdlib.h>
#include <time.h>

#include "bench.h"

enum { MOST_ROUNDS = 401, LEAST_ROUNDS = 11 };

double bench_now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1e6 * (double)now.tv_sec + 1e-3 * (double)now.tv_nsec;
}

static int time_wall(const bench_row *row, int calls, double *us) {
  double sum = 0;
  for (int i = 0; i < calls; i++) {
    if (row->reset != NULL && row->reset(row->of) != 0) return CLI_FAILED;
    const double start = bench_now_us();
    if (row->call(row->of) != 0) return CLI_FAILED;
    sum += bench_now_us() - start;
  }
  *us = sum / calls;
  return CLI_OK;
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Sorts. */
static double quantile(double *values, int n, double share) {
  qsort(values, (size_t)n, sizeof *values, by_value);
  const double at = share * (n - 1);
  const int i = (int)at;
  return i + 1 < n ? values[i] + (at - i) * (values[i + 1] - values[i]) : values[i];
}

static void summarise(bench_scene *scene, double (*us)[MOST_ROUNDS], int rounds) {
  double sorted[MOST_ROUNDS];
  for (int r = 0; r < scene->rows; r++) {
    bench_row *row = &scene->row[r];
    const double bytes = row->bytes;
    if (row->yardstick >= 0) {
      for (int i = 0; i < rounds; i++) {
        sorted[i] = bytes / us[r][i] / (scene->row[row->yardstick].bytes / us[row->yardstick][i]);
      }
      row->share = quantile(sorted, rounds, 0.5);
    }
    for (int i = 0; i < rounds; i++) sorted[i] = us[r][i];
    row->us = quantile(sorted, rounds, 0.5);
    row->least_us = sorted[0];
    row->noise =
        (quantile(sorted, rounds, 0.75) - quantile(sorted, rounds, 0.25)) / (1.349 * row->us);
    row->samples = rounds;
    row->gbs = 1e-3 * bytes / row->us;
  }
}

double bench_budget_us(const bench_scene *scene, bool quick) {
  return (quick ? 0.25e6 : 2.5e6) * scene->rows / 4;
}

int bench_measure(const bench_suite *suite, bench_scene *scene, double budget_us) {
  static double us[BENCH_MOST_ROWS][MOST_ROUNDS];
  int (*const timed)(const bench_row *, int, double *) = suite->time ? suite->time : time_wall;
  const double sample_us = 400;
  int status = CLI_OK;
  for (int r = 0; r < scene->rows; r++) { /* warm up, and find how many calls make a sample */
    bench_row *row = &scene->row[r];
    double first = 0;
    for (int i = 0; i < (scene->brief ? 1 : 3) && status == CLI_OK; i++) {
      status = timed(row, 1, &first);
    }
    if (status != CLI_OK) return status;
    row->calls_per_sample = row->calls_fixed > 0 ? row->calls_fixed
                            : first < sample_us  ? (int)(sample_us / (first + 0.1)) + 1
                                                 : 1;
  }
  const double start = bench_now_us();
  const int most = scene->brief ? 1 : MOST_ROUNDS;
  int rounds = 0;
  while (rounds < most && (rounds < LEAST_ROUNDS || bench_now_us() - start < budget_us)) {
    for (int i = 0; i < scene->rows; i++) {
      const int r = (i + rounds) % scene->rows;
      status = timed(&scene->row[r], scene->row[r].calls_per_sample, &us[r][rounds]);
      if (status != CLI_OK) return status;
    }
    rounds++;
  }
  summarise(scene, us, rounds);
  return CLI_OK;
}
