/* SPDX-License-Identifier: Apache-2.0 */
/* suggest: the word that a slip of the hand may have meant. */
#include <string.h>

#include "options.h"

#define LONGEST 32

static int least(int a, int b) { return a < b ? a : b; }

/* Insertions, deletions, replacements and swaps of neighbours that make b of a; both are at most
 * LONGEST. Only the last three rows of the table are kept. */
static int edits(const char *a, size_t na, const char *b, size_t nb) {
  int rows[3][LONGEST + 1];
  int *before = rows[0], *above = rows[1], *row = rows[2];
  for (size_t j = 0; j <= nb; j++) above[j] = (int)j;
  for (size_t i = 1; i <= na; i++) {
    row[0] = (int)i;
    for (size_t j = 1; j <= nb; j++) {
      row[j] = least(above[j], row[j - 1]) + 1;
      row[j] = least(row[j], above[j - 1] + (a[i - 1] != b[j - 1]));
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = least(row[j], before[j - 2] + 1);
    }
    int *const free_row = before;
    before = above;
    above = row;
    row = free_row;
  }
  return above[nb];
}

/* Dashes in front are no part of the word: -kept is near to --kept. */
static size_t skip_dashes(const char **text, size_t length) {
  while (length > 0 && **text == '-') {
    (*text)++;
    length--;
  }
  return length;
}

void cli_nearest_offer(cli_nearest *nearest, const char *candidate) {
  const char *a = nearest->text, *b = candidate;
  const size_t na = skip_dashes(&a, nearest->length), nb = skip_dashes(&b, strlen(candidate));
  if (na == 0 || na > LONGEST || nb > LONGEST) return;
  const int allowed = na < 4 ? 1 : na < 8 ? 2 : 3;
  int distance = edits(a, na, b, nb);
  /* The beginning of a word is as near as a word may be far. */
  if (distance > allowed && na >= 2 && na < nb && memcmp(a, b, na) == 0) distance = allowed;
  if (distance > allowed || (size_t)distance >= na || (size_t)distance >= nb) return;
  if (nearest->found != NULL && distance >= nearest->distance) return;
  nearest->found = candidate;
  nearest->distance = distance;
}

const char *cli_nearest_hint(const cli_nearest *nearest, char text[CLI_HINT_TEXT]) {
  text[0] = '\0';
  if (nearest->found != NULL) snprintf(text, CLI_HINT_TEXT, "; did you mean '%s'?", nearest->found);
  return text;
}
