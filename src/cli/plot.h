/* SPDX-License-Identifier: Apache-2.0 */
/* plot: a score curve with its cut, as text and as SVG. */
#ifndef TAILCUT_CLI_PLOT_H_
#define TAILCUT_CLI_PLOT_H_

#include "cli.h"

typedef struct cli_curve {
  const float *scores; /* in rank order: falling, or rising where the lowest are kept */
  int64_t n;           /* scores that are not NaN */
  int64_t candidates;  /* n and the NaN, which rank last */
  int64_t kept;
  int64_t head;       /* of them, the best-ranked ones: all without a spread */
  int64_t *from_tail; /* ranks of the others, ascending */
  double spread;
  int32_t segment;
  const char *detector;
  double low, high; /* least and greatest finite score; equal when flat */
  /* What the rule used: up to two levels, each over the ranks from..to, or the chord. */
  struct {
    double value;
    int64_t from, to;
    const char *name;
  } level[2];
  int levels;
  bool chord;
} cli_curve;

void cli_plot_text(FILE *file, const cli_curve *curve);
/* Writing errors show in ferror(file). */
void cli_plot_svg(FILE *file, const cli_curve *curve);

#endif /* TAILCUT_CLI_PLOT_H_ */
