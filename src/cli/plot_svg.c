/* SPDX-License-Identifier: Apache-2.0 */
/* plot_svg: the curve as a picture: axes, head and tail, the cut, and what the rule looked at. */
#include <math.h>

#include "plot.h"

#define WIDTH 760.0
#define HEIGHT 440.0
#define LEFT 76.0
#define RIGHT 24.0
#define TOP 58.0
#define BOTTOM 58.0
#define MOST_POINTS 1500

typedef struct frame {
  const cli_curve *curve;
  double low, high; /* of the y axis */
} frame;

static double x_of(const frame *f, double rank) {
  const double last = f->curve->n > 1 ? (double)(f->curve->n - 1) : 1.0;
  return LEFT + rank / last * (WIDTH - LEFT - RIGHT);
}

static double y_of(const frame *f, double score) {
  const double s = score > f->high ? f->high : score < f->low ? f->low : score;
  return TOP + (f->high - s) / (f->high - f->low) * (HEIGHT - TOP - BOTTOM);
}

/* 1, 2 or 5 times a power of ten, about a sixth of the span. */
static double nice_step(double span) {
  const double raw = span / 6.0, unit = pow(10.0, floor(log10(raw)));
  const double share = raw / unit;
  return unit * (share < 1.5 ? 1.0 : share < 3.5 ? 2.0 : share < 7.5 ? 5.0 : 10.0);
}

static void axes(FILE *file, const frame *f) {
  const double bottom = HEIGHT - BOTTOM, right = WIDTH - RIGHT;
  const double step = nice_step(f->high - f->low);
  const double first = ceil(f->low / step);
  fputs("<g stroke=\"#e3e7ec\">\n", file);
  for (int i = 0; i < 16 && (first + i) * step <= f->high; i++)
    fprintf(file, "<path d=\"M%.1f %.1fH%.1f\"/>\n", LEFT, y_of(f, (first + i) * step), right);
  fputs("</g>\n<g fill=\"#57606a\" font-size=\"12\">\n", file);
  for (int i = 0; i < 16 && (first + i) * step <= f->high; i++)
    fprintf(file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n", LEFT - 8,
            y_of(f, (first + i) * step) + 4, first + i == 0 ? 0.0 : (first + i) * step);
  const int64_t last = f->curve->n - 1;
  double rank_step = last > 6 ? nice_step((double)last) : 1.0;
  if (rank_step < 1.0) rank_step = 1.0;
  for (int i = 0; i < 16 && i * rank_step <= (double)last; i++)
    fprintf(file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%.0f</text>\n",
            x_of(f, i * rank_step), bottom + 18, i * rank_step);
  fprintf(file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">rank</text>\n",
          0.5 * (LEFT + right), bottom + 40);
  fprintf(file,
          "<text transform=\"translate(20 %.1f) rotate(-90)\" text-anchor=\"middle\">score</text>\n"
          "</g>\n",
          0.5 * (TOP + bottom));
  fprintf(file, "<path d=\"M%.1f %.1fV%.1fH%.1f\" fill=\"none\" stroke=\"#8c959f\"/>\n", LEFT, TOP,
          bottom, right);
}

/* The points of ranks from..to; at most MOST_POINTS of them, both ends included. */
static void points(FILE *file, const frame *f, int64_t from, int64_t to) {
  const int64_t span = to - from, steps = span < MOST_POINTS ? span : MOST_POINTS;
  for (int64_t i = 0; i <= steps; i++) {
    const int64_t r = steps > 0 ? from + span * i / steps : from;
    fprintf(file, "%s%.1f %.1f", i ? " " : "", x_of(f, (double)r), y_of(f, f->curve->scores[r]));
  }
}

static void line_part(FILE *file, const frame *f, int64_t from, int64_t to, const char *color) {
  const double bottom = HEIGHT - BOTTOM;
  if (to < from) return;
  fprintf(file, "<polygon fill=\"%s\" fill-opacity=\"0.14\" points=\"%.1f %.1f ", color,
          x_of(f, (double)from), bottom);
  points(file, f, from, to);
  fprintf(file, " %.1f %.1f\"/>\n", x_of(f, (double)to), bottom);
  fprintf(file,
          "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" stroke-linejoin=\"round\" "
          "points=\"",
          color);
  points(file, f, from, to);
  fputs("\"/>\n", file);
}

static void rule_marks(FILE *file, const frame *f) {
  const cli_curve *c = f->curve;
  const char *style = "stroke=\"#bc6c00\" stroke-width=\"1.5\" stroke-dasharray=\"6 4\"";
  if (c->chord) {
    fprintf(file, "<path d=\"M%.1f %.1fL%.1f %.1f\" fill=\"none\" %s/>\n", x_of(f, 0),
            y_of(f, c->scores[0]), x_of(f, (double)(c->n - 1)), y_of(f, c->scores[c->n - 1]),
            style);
  }
  for (int i = 0; i < c->levels; i++) {
    const double y = y_of(f, c->level[i].value);
    const double right = x_of(f, (double)c->level[i].to);
    fprintf(file, "<path d=\"M%.1f %.1fH%.1f\" fill=\"none\" %s/>\n",
            x_of(f, (double)c->level[i].from), y, right, style);
    fprintf(file,
            /* With a white rim, as the curve may pass behind it. */
            "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\" font-size=\"12\" fill=\"#8a5000\" "
            "stroke=\"#ffffff\" stroke-width=\"3\" stroke-opacity=\"0.8\" "
            "stroke-linejoin=\"round\" paint-order=\"stroke\">%s %.4g</text>\n",
            right > LEFT + 130 ? right - 4 : LEFT + 130, y > TOP + 16 ? y - 6 : y + 16,
            c->level[i].name, c->level[i].value);
  }
}

static void cut_mark(FILE *file, const frame *f) {
  const cli_curve *c = f->curve;
  if (c->kept < 1 || c->kept >= c->n) return;
  const double x = x_of(f, (double)c->kept - 0.5);
  const bool left = x > 0.72 * WIDTH;
  fprintf(file, "<path d=\"M%.1f %.1fV%.1f\" stroke=\"#cf222e\" stroke-width=\"1.5\"/>\n", x, TOP,
          HEIGHT - BOTTOM);
  fprintf(file,
          "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" font-size=\"13\" font-weight=\"600\" "
          "fill=\"#cf222e\">k = %lld, score %.4g</text>\n",
          left ? x - 6 : x + 6, TOP + 14, left ? "end" : "start", (long long)c->kept,
          (double)c->scores[c->kept - 1]);
}

void cli_plot_svg(FILE *file, const cli_curve *curve) {
  const double margin = curve->high > curve->low ? 0.05 * (curve->high - curve->low)
                                                 : 0.5 * fmax(fabs(curve->high), 1e-3);
  const frame f = {curve, curve->low - margin, curve->high + margin};
  fprintf(file,
          "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" "
          "height=\"%.0f\" font-family=\"system-ui, 'Helvetica Neue', Arial, sans-serif\">\n",
          WIDTH, HEIGHT, WIDTH, HEIGHT);
  fprintf(file, "<rect width=\"%.0f\" height=\"%.0f\" fill=\"#ffffff\"/>\n", WIDTH, HEIGHT);
  fprintf(file,
          "<text x=\"%.1f\" y=\"28\" font-size=\"16\" font-weight=\"600\" fill=\"#1f2328\">"
          "Segment %d, %s: %lld of %lld tokens kept (%.1f%%)</text>\n",
          LEFT, (int)curve->segment, curve->detector, (long long)curve->kept,
          (long long)curve->candidates,
          curve->candidates > 0 ? 100.0 * (double)curve->kept / (double)curve->candidates : 0.0);
  if (curve->n > 0) {
    const int64_t head = curve->kept < curve->n ? curve->kept : curve->n;
    axes(file, &f);
    line_part(file, &f, head > 0 ? head - 1 : 0, curve->n - 1, "#8c959f");
    line_part(file, &f, 0, head - 1, "#0969da");
    rule_marks(file, &f);
    cut_mark(file, &f);
  } else {
    fprintf(file,
            "<text x=\"%.1f\" y=\"%.1f\" font-size=\"14\" text-anchor=\"middle\" "
            "fill=\"#57606a\">no scores</text>\n",
            0.5 * WIDTH, 0.5 * HEIGHT);
  }
  fputs("</svg>\n", file);
}
