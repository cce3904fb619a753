/* SPDX-License-Identifier: Apache-2.0 */
/* plot_svg: the curve as a picture: axes, head and tail, the cut, and what the rule looked at.
 *
 * All text stands outside the axes, above, below or to the right: the curve, whatever its shape,
 * never crosses it. */
#include <math.h>

#include "plot.h"

#define WIDTH 840.0
#define HEIGHT 460.0
#define LEFT 76.0
#define RIGHT 150.0 /* the names of the levels */
#define TOP 80.0
#define BOTTOM 62.0
#define MOST_POINTS 1500
#define LEAST_BAND 8.0 /* the region of NaN, however few */

#define HEAD_COLOR "#0969da"
#define TAIL_COLOR "#8c959f"
#define CUT_COLOR "#cf222e"
#define LEVEL_COLOR "#8a5000"

typedef struct frame {
  const cli_curve *curve;
  double low, high;     /* of the y axis */
  double right, bottom; /* of the axes */
  double curve_right;   /* where the ranks that are no NaN end */
  double rank_width;
} frame;

static frame make_frame(const cli_curve *c) {
  const double margin =
      c->high > c->low ? 0.05 * (c->high - c->low) : 0.5 * fmax(fabs(c->high), 1e-3);
  frame f = {c, c->low - margin, c->high + margin, WIDTH - RIGHT, HEIGHT - BOTTOM, 0, 0};
  f.curve_right = f.right;
  if (c->n < c->candidates) {
    const double share = (double)(c->candidates - c->n) / (double)c->candidates;
    f.curve_right -= fmax(LEAST_BAND, share * (f.right - LEFT));
  }
  if (c->n == 0) f.curve_right = LEFT;
  f.rank_width = (f.curve_right - LEFT) / (c->n > 1 ? (double)(c->n - 1) : 1.0);
  return f;
}

static double x_of(const frame *f, double rank) { return LEFT + rank * f->rank_width; }

static double y_of(const frame *f, double score) {
  const double s = score > f->high ? f->high : score < f->low ? f->low : score;
  return TOP + (f->high - s) / (f->high - f->low) * (f->bottom - TOP);
}

/* 1, 2 or 5 times a power of ten, about a sixth of the span. */
static double nice_step(double span) {
  const double raw = span / 6.0, unit = pow(10.0, floor(log10(raw)));
  const double share = raw / unit;
  return unit * (share < 1.5 ? 1.0 : share < 3.5 ? 2.0 : share < 7.5 ? 5.0 : 10.0);
}

static void axes(FILE *file, const frame *f) {
  const double step = nice_step(f->high - f->low);
  const double first = ceil(f->low / step);
  fputs("<g stroke=\"#e3e7ec\">\n", file);
  for (int i = 0; i < 16 && (first + i) * step <= f->high; i++)
    fprintf(file, "<path d=\"M%.1f %.1fH%.1f\"/>\n", LEFT, y_of(f, (first + i) * step), f->right);
  fputs("</g>\n<g fill=\"#57606a\" font-size=\"12\">\n", file);
  for (int i = 0; i < 16 && (first + i) * step <= f->high; i++)
    fprintf(file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n", LEFT - 8,
            y_of(f, (first + i) * step) + 4, first + i == 0 ? 0.0 : (first + i) * step);
  const int64_t last = f->curve->n - 1;
  double rank_step = last > 6 ? nice_step((double)last) : 1.0;
  if (rank_step < 1.0) rank_step = 1.0;
  for (int i = 0; i < 16 && i * rank_step <= (double)last; i++)
    fprintf(file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%.0f</text>\n",
            x_of(f, i * rank_step), f->bottom + 18, i * rank_step);
  fprintf(file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">rank</text>\n",
          0.5 * (LEFT + f->right), f->bottom + 40);
  fprintf(file,
          "<text transform=\"translate(20 %.1f) rotate(-90)\" text-anchor=\"middle\">score</text>\n"
          "</g>\n",
          0.5 * (TOP + f->bottom));
  fprintf(file, "<path d=\"M%.1f %.1fV%.1fH%.1f\" fill=\"none\" stroke=\"#8c959f\"/>\n", LEFT, TOP,
          f->bottom, f->right);
}

/* The ranks of NaN, at the right end of the axis. */
static void nan_band(FILE *file, const frame *f) {
  const int64_t count = f->curve->candidates - f->curve->n;
  if (count == 0) return;
  fprintf(file,
          "<rect class=\"nan\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" "
          "fill=\"#fff1e5\" stroke=\"#bc4c00\" stroke-dasharray=\"2 3\"/>\n",
          f->curve_right, TOP, f->right - f->curve_right, f->bottom - TOP);
  fprintf(file,
          "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\" font-size=\"12\" fill=\"#bc4c00\">"
          "%lld NaN</text>\n",
          f->right, f->bottom + 40, (long long)count);
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
  if (to < from) return;
  fprintf(file, "<polygon fill=\"%s\" fill-opacity=\"0.14\" points=\"%.1f %.1f ", color,
          x_of(f, (double)from), f->bottom);
  points(file, f, from, to);
  fprintf(file, " %.1f %.1f\"/>\n", x_of(f, (double)to), f->bottom);
  fprintf(file,
          "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" stroke-linejoin=\"round\" "
          "points=\"",
          color);
  points(file, f, from, to);
  fputs("\"/>\n", file);
}

/* Where the name of level i stands: at its height, the two names clear of each other. */
static double label_y(const frame *f, int i) {
  const cli_curve *c = f->curve;
  double y = y_of(f, c->level[i].value);
  if (c->levels == 2) {
    const double a = y_of(f, c->level[0].value), b = y_of(f, c->level[1].value);
    const double push = 0.5 * (34.0 - fabs(a - b));
    if (push > 0) y += ((i == 0) == (a <= b)) ? -push : push;
  }
  return y;
}

static void rule_marks(FILE *file, const frame *f) {
  const cli_curve *c = f->curve;
  const char *style = "fill=\"none\" stroke=\"#bc6c00\" stroke-width=\"1.5\"";
  if (c->chord) {
    fprintf(file, "<path d=\"M%.1f %.1fL%.1f %.1f\" %s stroke-dasharray=\"6 4\"/>\n", x_of(f, 0),
            y_of(f, c->scores[0]), x_of(f, (double)(c->n - 1)), y_of(f, c->scores[c->n - 1]),
            style);
  }
  for (int i = 0; i < c->levels; i++) {
    const double y = y_of(f, c->level[i].value), name_y = label_y(f, i);
    const double end = x_of(f, (double)c->level[i].to);
    fprintf(file, "<path d=\"M%.1f %.1fH%.1f\" %s stroke-dasharray=\"6 4\"/>\n",
            x_of(f, (double)c->level[i].from), y, end, style);
    fprintf(file,
            "<path d=\"M%.1f %.1fH%.1fL%.1f %.1f\" %s stroke-dasharray=\"1 4\" "
            "stroke-opacity=\"0.7\"/>\n",
            end, y, f->right, f->right + 10, name_y, style);
    fprintf(file,
            "<text x=\"%.1f\" y=\"%.1f\" font-size=\"12\" fill=\"" LEVEL_COLOR
            "\">%s</text>\n"
            "<text x=\"%.1f\" y=\"%.1f\" font-size=\"12\" fill=\"" LEVEL_COLOR "\">%.4g</text>\n",
            f->right + 14, name_y - 3, c->level[i].name, f->right + 14, name_y + 12,
            c->level[i].value);
  }
}

static void cut_mark(FILE *file, const frame *f) {
  const cli_curve *c = f->curve;
  if (c->head < 1 || c->head >= c->n) return;
  const double x = x_of(f, (double)c->head - 0.5);
  const bool left = x > 0.5 * (LEFT + f->right);
  fprintf(file, "<path d=\"M%.1f %.1fV%.1f\" stroke=\"" CUT_COLOR "\" stroke-width=\"1.5\"/>\n", x,
          TOP - 20, f->bottom);
  fprintf(file,
          "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" font-size=\"13\" font-weight=\"600\" "
          "fill=\"" CUT_COLOR "\">%s = %lld, score %.4g</text>\n",
          left ? x - 6 : x + 6, TOP - 9, left ? "end" : "start",
          c->from_tail != NULL ? "head" : "k", (long long)c->head, (double)c->scores[c->head - 1]);
}

/* The kept ranks of the tail, on the curve and on the axis; one for those in the same place. */
static void tail_marks(FILE *file, const frame *f) {
  const cli_curve *c = f->curve;
  double before = -1;
  if (c->from_tail == NULL) return;
  fputs("<g class=\"from-tail\" fill=\"" HEAD_COLOR "\" stroke=\"" HEAD_COLOR "\">\n", file);
  for (int64_t i = 0; i < c->kept - c->head && c->from_tail[i] < c->n; i++) {
    const int64_t r = c->from_tail[i];
    const double x = x_of(f, (double)r);
    if (x - before < 0.5) continue;
    before = x;
    fprintf(file, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.2\"/><path d=\"M%.1f %.1fv-7\"/>\n", x,
            y_of(f, c->scores[r]), x, f->bottom);
  }
  fputs("</g>\n", file);
}

static void titles(FILE *file, const cli_curve *c) {
  const double share = c->candidates > 0 ? 100.0 * (double)c->kept / (double)c->candidates : 0.0;
  fprintf(file,
          "<text x=\"%.1f\" y=\"28\" font-size=\"16\" font-weight=\"600\" fill=\"#1f2328\">"
          "Segment %d, %s: %lld of %lld tokens kept (%.1f%%)</text>\n",
          LEFT, (int)c->segment, c->detector, (long long)c->kept, (long long)c->candidates, share);
  if (c->from_tail != NULL)
    fprintf(file,
            "<text x=\"%.1f\" y=\"48\" font-size=\"13\" fill=\"#57606a\">"
            "spread %.4g: the %lld best and %lld of the tail (dots)</text>\n",
            LEFT, c->spread, (long long)c->head, (long long)(c->kept - c->head));
}

void cli_plot_svg(FILE *file, const cli_curve *curve) {
  const frame f = make_frame(curve);
  fprintf(file,
          "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" "
          "height=\"%.0f\" font-family=\"system-ui, 'Helvetica Neue', Arial, sans-serif\">\n",
          WIDTH, HEIGHT, WIDTH, HEIGHT);
  fprintf(file, "<rect width=\"%.0f\" height=\"%.0f\" fill=\"#ffffff\"/>\n", WIDTH, HEIGHT);
  titles(file, curve);
  nan_band(file, &f);
  if (curve->n > 0) {
    const int64_t head = curve->head < curve->n ? curve->head : curve->n;
    axes(file, &f);
    line_part(file, &f, head > 0 ? head - 1 : 0, curve->n - 1, TAIL_COLOR);
    line_part(file, &f, 0, head - 1, HEAD_COLOR);
    rule_marks(file, &f);
    cut_mark(file, &f);
    tail_marks(file, &f);
  } else {
    fprintf(file,
            "<text x=\"%.1f\" y=\"%.1f\" font-size=\"14\" text-anchor=\"middle\" "
            "fill=\"#57606a\">%s</text>\n",
            0.5 * (LEFT + f.right), 0.5 * HEIGHT,
            curve->candidates > 0 ? "no score is a number" : "no scores");
  }
  fputs("</svg>\n", file);
}
