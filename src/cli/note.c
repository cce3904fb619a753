/* SPDX-License-Identifier: Apache-2.0 */
/* note: what a run has to say on stderr besides its result.
 *
 * Notes wait until everything has been read and opened: a command that fails says one line, which
 * is why it failed. */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#define MOST 32

static char *notes[MOST];
static int num_notes;

void cli_note(const char *format, ...) {
  char line[8192];
  va_list args;
  va_start(args, format);
  vsnprintf(line, sizeof line, format, args);
  va_end(args);
  cli_clean_line(line);
  char *copy = num_notes < MOST ? strdup(line) : NULL;
  if (copy != NULL) notes[num_notes++] = copy;
}

void cli_notes_print(void) {
  cli_progress_end();
  for (int i = 0; i < num_notes; i++) {
    fprintf(stderr, "tailcut: %s\n", notes[i]);
    free(notes[i]);
  }
  num_notes = 0;
}
