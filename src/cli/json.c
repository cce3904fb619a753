/* SPDX-License-Identifier: Apache-2.0 */
/* json: the few pieces of JSON that the command prints, and the times in them. */
#include <stdlib.h>

#include "cli.h"

void cli_json_int32s(FILE *file, const char *name, const int32_t *values, int64_t count) {
  fprintf(file, "\"%s\": [", name);
  for (int64_t i = 0; i < count; i++) fprintf(file, "%s%d", i ? ", " : "", (int)values[i]);
  fputc(']', file);
}

static int compare(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

void cli_times_summary(double *times, int32_t count, double *least, double *median) {
  qsort(times, (size_t)count, sizeof *times, compare);
  *least = times[0];
  *median = count % 2 ? times[count / 2] : 0.5 * (times[count / 2 - 1] + times[count / 2]);
}
