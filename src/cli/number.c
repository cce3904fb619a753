/* SPDX-License-Identifier: Apache-2.0 */
/* number: strict parsing of option values. The program stays in the C locale. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "cli.h"

static const char *skip_digits(const char *p) {
  while (*p >= '0' && *p <= '9') p++;
  return p;
}

/* [+-] digits [. digits] [eE [+-] digits], with a digit before or after the point. */
static bool is_decimal(const char *p) {
  if (*p == '+' || *p == '-') p++;
  const char *end = skip_digits(p);
  int64_t digits = end - p;
  if (*end == '.') {
    p = end + 1;
    end = skip_digits(p);
    digits += end - p;
  }
  if (digits == 0) return false;
  if (*end == 'e' || *end == 'E') {
    p = end + 1;
    if (*p == '+' || *p == '-') p++;
    end = skip_digits(p);
    if (end == p) return false;
  }
  return *end == '\0';
}

bool cli_parse_int(const char *text, int64_t *value) {
  const char *p = text;
  if (*p == '+' || *p == '-') p++;
  const char *end = skip_digits(p);
  if (end == p || *end != '\0') return false;
  errno = 0;
  *value = strtoll(text, NULL, 10); /* saturates: out of range is what the caller finds */
  return true;
}

bool cli_parse_double(const char *text, double *value) {
  if (!is_decimal(text)) return false;
  *value = strtod(text, NULL);
  return isfinite(*value) != 0;
}

bool cli_parse_float(const char *text, float *value) {
  if (!is_decimal(text)) return false;
  *value = strtof(text, NULL); /* rounded once, from the text */
  return isfinite(*value) != 0;
}
