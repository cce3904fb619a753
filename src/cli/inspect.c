/* SPDX-License-Identifier: Apache-2.0 */
/* inspect: one segment's sorted curve with its cut, printed and drawn. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plot.h"

static double mean_of(const float *scores, int64_t from, int64_t to) {
  double sum = 0;
  for (int64_t r = from; r < to; r++) sum += (double)scores[r];
  return sum / (double)(to - from);
}

static void add_level(cli_curve *curve, double value, int64_t from, int64_t to, const char *name) {
  if (!isfinite(value)) return;
  curve->level[curve->levels].value = value;
  curve->level[curve->levels].from = from;
  curve->level[curve->levels].to = to;
  curve->level[curve->levels++].name = name;
}

/* What the rule looked at, close enough to draw (the rule itself counts in integers). */
static void add_marks(cli_curve *curve, const tailcut_rule *rule) {
  const int64_t n = curve->n, k = curve->kept;
  if (n < 2) return;
  if (rule->detector == TAILCUT_OTSU && k > 0 && k < n) {
    add_level(curve, mean_of(curve->scores, 0, k), 0, k - 1, "mean of the head");
    add_level(curve, mean_of(curve->scores, k, n), k, n - 1, "mean of the tail");
  } else if (rule->detector == TAILCUT_CHORD) {
    curve->chord = true;
  } else if (rule->detector == TAILCUT_MEAN) {
    const double m = mean_of(curve->scores, 0, n);
    double v = 0;
    for (int64_t r = 0; r < n; r++) {
      const double d = (double)curve->scores[r] - m;
      v += d * d;
    }
    /* Where the lowest are kept the rule sees every score negated. */
    const double sign = curve->scores[0] < curve->scores[n - 1] ? -1.0 : 1.0;
    add_level(curve, m + sign * rule->lambda * sqrt(v / (double)n), 0, n - 1, "level");
  } else if (rule->detector == TAILCUT_THRESHOLD) {
    add_level(curve, (double)rule->tau, 0, n - 1, "tau");
  }
}

static void measure(cli_curve *curve) {
  while (curve->n < curve->candidates && !isnan(curve->scores[curve->n])) curve->n++;
  bool any = false;
  for (int64_t r = 0; r < curve->n; r++) {
    const double s = (double)curve->scores[r];
    if (!isfinite(s)) continue;
    if (!any || s > curve->high) curve->high = s;
    if (!any || s < curve->low) curve->low = s;
    any = true;
  }
}

/* Which ranks a spread takes, as METHOD.md has it. */
static int find_kept_ranks(cli_curve *curve, double spread) {
  const int64_t k = curve->kept, t = (int64_t)(spread * (double)k), h = k - t;
  const int64_t m = (curve->n > k ? curve->n : k) - h;
  curve->spread = spread;
  curve->head = h;
  if (t == 0) return CLI_OK;
  curve->from_tail = malloc((size_t)t * sizeof *curve->from_tail);
  if (curve->from_tail == NULL) return cli_fail(CLI_FAILED, "--spread: out of memory");
  for (int64_t i = 0; i < t; i++) curve->from_tail[i] = h + (2 * i + 1) * m / (2 * t);
  return CLI_OK;
}

static int draw(const cli_options *options, const cli_curve *curve) {
  cli_outputs outputs = {.count = 0};
  FILE *file = NULL;
  int status = CLI_OK;
  if (options->out != NULL) status = cli_outputs_open(&outputs, options->out, &file);
  if (status == CLI_OK) cli_notes_print();
  if (status == CLI_OK && file != NULL) {
    cli_plot_svg(file, curve);
    if (ferror(file)) status = cli_fail(CLI_FAILED, "%s: %s", options->out, strerror(errno));
  }
  if (status == CLI_OK && file != stdout) {
    cli_plot_text(stdout, curve);
    status = cli_flush_stdout();
  }
  if (status == CLI_OK) status = cli_outputs_commit(&outputs);
  cli_outputs_discard(&outputs);
  return status;
}

static int draw_segment(const cli_job *job, int32_t b) {
  cli_curve curve = {.scores = (const float *)job->d_curve.host + job->starts[b],
                     .candidates = cli_job_candidates(job, b),
                     .kept = ((const int32_t *)job->d_counts.host)[b],
                     .segment = b,
                     .detector = tailcut_detector_name(job->rule.detector)};
  measure(&curve);
  int status = find_kept_ranks(&curve, job->rule.spread);
  add_marks(&curve, &job->rule);
  if (status == CLI_OK) status = draw(job->options, &curve);
  free(curve.from_tail);
  return status;
}

int cli_inspect(const cli_options *options) {
  cli_job job;
  int status =
      options->tokens != NULL ? cli_prune_load(&job, options) : cli_cut_load(&job, options);
  const int32_t b = options->segment;
  if (status == CLI_OK && b >= job.batch.segments)
    status = cli_fail(CLI_FAILED, "--segment: %d, but %s has %d segments", (int)b, job.main_path,
                      (int)job.batch.segments);
  if (status == CLI_OK) status = cli_job_prepare(&job, false, true);
  if (status == CLI_OK) status = cli_job_run(&job);
  if (status == CLI_OK) status = draw_segment(&job, b);
  if (status == CLI_OK) cli_warn_flags(&job);
  cli_job_free(&job);
  return status;
}
