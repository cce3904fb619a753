/* SPDX-License-Identifier: Apache-2.0 */
/* plot_text: the curve in 72 x 16 characters; '#' is the head, '.' the tail, '|' the cut, ':' the
 * ranks of NaN, '^' below the axis a kept rank of the tail. All other text stands around it. */
#include <math.h>
#include <string.h>

#include "plot.h"

#define WIDTH 72
#define HEIGHT 16
#define MOST_RANKS 12 /* that are listed */

/* Columns 0..numbers-1 share the ranks 0..n-1, the others those of NaN. */
typedef struct grid {
  const cli_curve *curve;
  int numbers, columns;
  char picture[HEIGHT][WIDTH + 1];
  char below[WIDTH + 1];
} grid;

/* The line (0 is the top) that a score falls on. */
static int line_of(const cli_curve *curve, double score) {
  const double span = curve->high - curve->low;
  if (!(score < curve->high)) return 0; /* +inf too */
  if (!(score > curve->low)) return HEIGHT - 1;
  return (int)((curve->high - score) / span * (HEIGHT - 1) + 0.5);
}

static void lay_out(grid *g, const cli_curve *c) {
  const int64_t nans = c->candidates - c->n;
  g->curve = c;
  g->columns = c->candidates < WIDTH ? (int)c->candidates : WIDTH;
  const int64_t share = (g->columns * nans + c->candidates - 1) / c->candidates;
  g->numbers = g->columns - (int)share; /* at least one column of NaN where there are any */
  if (c->n > 0 && g->numbers == 0) g->numbers = 1;
  for (int y = 0; y < HEIGHT; y++) {
    memset(g->picture[y], ' ', WIDTH);
    g->picture[y][WIDTH] = '\0';
    for (int x = g->numbers; x < g->columns; x++) g->picture[y][x] = ':';
  }
  memset(g->below, ' ', WIDTH);
  g->below[WIDTH] = '\0';
}

static void draw_column(grid *g, int x) {
  const cli_curve *c = g->curve;
  const int64_t first = c->n * x / g->numbers, last = c->n * (x + 1) / g->numbers - 1;
  const int a = line_of(c, c->scores[first]), b = line_of(c, c->scores[last]);
  if (c->head > first && c->head <= last + 1 && c->head < c->n)
    for (int y = 0; y < HEIGHT; y++) g->picture[y][x] = '|';
  for (int y = a < b ? a : b; y <= (a < b ? b : a); y++)
    g->picture[y][x] = first < c->head ? '#' : '.';
}

static void mark_tail(grid *g) {
  const cli_curve *c = g->curve;
  const int64_t nans = c->candidates - c->n;
  for (int64_t i = 0; i < c->kept - c->head; i++) {
    const int64_t r = c->from_tail[i];
    const int64_t x = r < c->n ? ((r + 1) * g->numbers - 1) / c->n
                               : g->numbers + (r - c->n) * (g->columns - g->numbers) / nans;
    g->below[x] = '^';
  }
}

static void print_line(FILE *file, const char *left, char edge, char *text) {
  size_t end = strlen(text);
  while (end > 0 && text[end - 1] == ' ') end--;
  fprintf(file, "%10s %c%.*s\n", left, edge, (int)end, text);
}

static void print_grid(FILE *file, grid *g) {
  const cli_curve *c = g->curve;
  for (int x = 0; x < g->numbers; x++) draw_column(g, x);
  for (int y = 0; y < HEIGHT; y++) {
    const double value = c->high - (c->high - c->low) * y / (HEIGHT - 1);
    char left[32] = "";
    if (y % 5 == 0 && c->n > 0) snprintf(left, sizeof left, "%.3g", value);
    print_line(file, left, '|', g->picture[y]);
  }
  fprintf(file, "%10s +", "");
  for (int x = 0; x < g->columns; x++) fputc('-', file);
  fputc('\n', file);
  if (c->from_tail != NULL) {
    mark_tail(g);
    print_line(file, "", ' ', g->below);
  }
  fprintf(file, "%10s  0%*lld  rank\n", "", g->columns > 1 ? g->columns - 1 : 1,
          (long long)(c->candidates - 1));
}

static void print_spread(FILE *file, const cli_curve *c) {
  const int64_t count = c->kept - c->head;
  fprintf(file, "spread %.6g: the %lld best and %lld of the tail, ranks", c->spread,
          (long long)c->head, (long long)count);
  for (int64_t i = 0; i < count; i++) {
    if (i == MOST_RANKS - 1 && count > MOST_RANKS) {
      fputs(" ...", file);
      i = count - 1;
    }
    fprintf(file, " %lld", (long long)c->from_tail[i]);
  }
  fputc('\n', file);
}

void cli_plot_text(FILE *file, const cli_curve *c) {
  fprintf(file, "segment %d: k = %lld of N = %lld (%.1f%%), %s", (int)c->segment,
          (long long)c->kept, (long long)c->candidates,
          c->candidates > 0 ? 100.0 * (double)c->kept / (double)c->candidates : 0.0, c->detector);
  if (c->head > 0 && c->head <= c->n)
    fprintf(file, ", score at the cut %.6g", (double)c->scores[c->head - 1]);
  fputc('\n', file);
  if (c->candidates == 0) return;
  grid g;
  lay_out(&g, c);
  print_grid(file, &g);
  for (int i = 0; i < c->levels; i++)
    fprintf(file, "%s %.6g\n", c->level[i].name, c->level[i].value);
  if (c->from_tail != NULL) print_spread(file, c);
  if (c->n < c->candidates)
    fprintf(file, "NaN: %lld of %lld scores, ranks %lld..%lld (':')\n",
            (long long)(c->candidates - c->n), (long long)c->candidates, (long long)c->n,
            (long long)(c->candidates - 1));
}
