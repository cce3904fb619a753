/* SPDX-License-Identifier: Apache-2.0 */
/* progress: a line on stderr for people who wait longer than two seconds; nothing for scripts. */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#include <time.h>
#include <unistd.h>

#include "cli.h"

double cli_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void cli_progress_start(cli_progress *progress) {
  progress->started = progress->shown = cli_now();
  progress->active = isatty(STDERR_FILENO) != 0;
  progress->visible = false;
}

void cli_progress_step(cli_progress *progress, int64_t done, int64_t of) {
  if (!progress->active) return;
  const double now = cli_now();
  if (now - progress->started < 2.0 || now - progress->shown < 0.25) return;
  fprintf(stderr, "\rtailcut: run %lld of %lld, %.0f s ", (long long)done, (long long)of,
          now - progress->started);
  fflush(stderr);
  progress->shown = now;
  progress->visible = true;
}

void cli_progress_end(cli_progress *progress) {
  if (progress->visible) fputs("\r\033[K", stderr);
  progress->visible = false;
}
