/* SPDX-License-Identifier: Apache-2.0 */
/* plot_text: the curve in 72 x 16 characters; '#' is the head, '.' the tail, '|' the cut. */
#include <math.h>

#include "plot.h"

#define WIDTH 72
#define HEIGHT 16

/* The line (0 is the top) that a score falls on. */
static int line_of(const cli_curve *curve, double score) {
  const double span = curve->high - curve->low;
  if (!(score < curve->high)) return 0; /* +inf too */
  if (!(score > curve->low)) return HEIGHT - 1;
  return (int)((curve->high - score) / span * (HEIGHT - 1) + 0.5);
}

void cli_plot_text(FILE *file, const cli_curve *curve) {
  fprintf(file, "segment %d: k = %lld of N = %lld (%.1f%%), %s", (int)curve->segment,
          (long long)curve->kept, (long long)curve->candidates,
          curve->candidates > 0 ? 100.0 * (double)curve->kept / (double)curve->candidates : 0.0,
          curve->detector);
  if (curve->kept > 0 && curve->kept <= curve->n)
    fprintf(file, ", score at the cut %.6g", (double)curve->scores[curve->kept - 1]);
  fputc('\n', file);
  if (curve->n == 0) return;

  char picture[HEIGHT][WIDTH + 1];
  const int64_t n = curve->n;
  const int columns = n < WIDTH ? (int)n : WIDTH;
  for (int y = 0; y < HEIGHT; y++) {
    for (int x = 0; x < WIDTH; x++) picture[y][x] = ' ';
    picture[y][WIDTH] = '\0';
  }
  for (int x = 0; x < columns; x++) {
    const int64_t first = n * x / columns, last = n * (x + 1) / columns - 1;
    const bool cut_here = curve->kept > first && curve->kept <= last + 1 && curve->kept < n;
    const int top = line_of(curve, curve->scores[first]);
    const int bottom = line_of(curve, curve->scores[last]);
    if (cut_here)
      for (int y = 0; y < HEIGHT; y++) picture[y][x] = '|';
    for (int y = top; y <= bottom; y++) picture[y][x] = first < curve->kept ? '#' : '.';
  }
  for (int y = 0; y < HEIGHT; y++) {
    const double value = curve->high - (curve->high - curve->low) * y / (HEIGHT - 1);
    int end = WIDTH;
    while (end > 0 && picture[y][end - 1] == ' ') end--;
    picture[y][end] = '\0';
    if (y % 5 == 0)
      fprintf(file, "%10.3g |%s\n", value, picture[y]);
    else
      fprintf(file, "%10s |%s\n", "", picture[y]);
  }
  fprintf(file, "%10s +", "");
  for (int x = 0; x < columns; x++) fputc('-', file);
  fprintf(file, "\n%10s  1%*lld  rank\n", "", columns > 1 ? columns - 1 : 1, (long long)n);
  for (int i = 0; i < curve->levels; i++)
    fprintf(file, "%s %.6g\n", curve->level[i].name, curve->level[i].value);
}
