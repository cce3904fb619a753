/* SPDX-License-Identifier: Apache-2.0 */
/* inspect: one segment's sorted curve with its cut, printed and drawn. */
#include <errno.h>
#include <math.h>
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
    add_level(curve, m + rule->lambda * sqrt(v / (double)n), 0, n - 1, "level");
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
    if (!any) curve->high = s;
    curve->low = s;
    any = true;
  }
}

static int draw(const cli_options *options, const cli_curve *curve) {
  cli_outputs outputs = {.count = 0};
  FILE *file = NULL;
  int status = CLI_OK;
  if (options->svg != NULL) status = cli_outputs_open(&outputs, options->svg, &file);
  if (status == CLI_OK && file != NULL) {
    cli_plot_svg(file, curve);
    if (ferror(file)) status = cli_fail(CLI_FAILED, "%s: %s", options->svg, strerror(errno));
  }
  if (status == CLI_OK) {
    cli_plot_text(stdout, curve);
    status = cli_flush_stdout();
  }
  if (status == CLI_OK) status = cli_outputs_commit(&outputs);
  cli_outputs_discard(&outputs);
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
  if (status == CLI_OK) {
    cli_curve curve = {.scores = (const float *)job.d_curve.host + job.starts[b],
                       .candidates = cli_job_candidates(&job, b),
                       .kept = ((const int32_t *)job.d_counts.host)[b],
                       .segment = b,
                       .detector = tailcut_detector_name(options->rule.detector)};
    measure(&curve);
    add_marks(&curve, &options->rule);
    status = draw(options, &curve);
    if (status == CLI_OK) cli_warn_flags(&job);
  }
  cli_job_free(&job);
  return status;
}
