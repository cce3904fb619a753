/* SPDX-License-Identifier: Apache-2.0 */
/* npy_header: the Python dictionary at the start of a .npy file, by a small grammar of its own: the
 * three keys, in any order, no others, none twice. */
#include "npy_header.h"

#include <string.h>

typedef struct parser {
  const char *p, *end;
  bool has_descr, has_order, has_shape;
  cli_npy_header *header;
} parser;

static bool refuse(parser *h, const char *reason) {
  if (h->header->reason == NULL) h->header->reason = reason;
  return false;
}

static void skip_space(parser *h) {
  while (h->p < h->end && (*h->p == ' ' || *h->p == '\t' || *h->p == '\n' || *h->p == '\r')) h->p++;
}

static bool take(parser *h, char c) {
  skip_space(h);
  if (h->p == h->end || *h->p != c) return false;
  h->p++;
  return true;
}

/* A quoted string without escapes, into out[size]. */
static bool take_string(parser *h, char *out, size_t size) {
  skip_space(h);
  if (h->end - h->p >= 2 && h->p[0] == 'u' && (h->p[1] == '\'' || h->p[1] == '"')) h->p++;
  if (h->p == h->end || (*h->p != '\'' && *h->p != '"')) return false;
  const char quote = *h->p++;
  size_t used = 0;
  while (h->p < h->end && *h->p != quote) {
    const char c = *h->p++;
    if (c == '\\' || c < ' ' || c > '~' || used + 1 >= size) return false;
    out[used++] = c;
  }
  out[used] = '\0';
  return take(h, quote);
}

static bool take_word(parser *h, const char *word) {
  const size_t length = strlen(word);
  skip_space(h);
  if ((size_t)(h->end - h->p) < length || memcmp(h->p, word, length) != 0) return false;
  h->p += length;
  return true;
}

static bool take_dimension(parser *h, int64_t *value) {
  skip_space(h);
  const char *first = h->p;
  int64_t v = 0;
  for (; h->p < h->end && *h->p >= '0' && *h->p <= '9'; h->p++) {
    const int digit = *h->p - '0';
    if (v > (INT64_MAX - digit) / 10) return refuse(h, "its shape has a number beyond 63 bits");
    v = v * 10 + digit;
  }
  const ptrdiff_t digits = h->p - first;
  if (digits == 0 || (digits > 1 && *first == '0')) return refuse(h, "its shape is malformed");
  if (h->p < h->end && *h->p == 'L') h->p++; /* written by Python 2 */
  *value = v;
  return true;
}

static bool take_shape(parser *h) {
  cli_npy_header *a = h->header;
  a->dims = 0;
  if (!take(h, '(')) return refuse(h, "its shape is not a tuple");
  while (!take(h, ')')) {
    if (a->dims == CLI_MAX_DIMS) return refuse(h, "its shape has too many dimensions");
    if (!take_dimension(h, &a->shape[a->dims])) return false;
    a->dims++;
    if (take(h, ',')) continue;
    if (!take(h, ')') || a->dims == 1) return refuse(h, "its shape is malformed");
    break;
  }
  return true;
}

static bool take_entry(parser *h) {
  char key[32];
  if (!take_string(h, key, sizeof key) || !take(h, ':'))
    return refuse(h, "its header is malformed");
  if (strcmp(key, "descr") == 0 && !h->has_descr) {
    h->has_descr = true;
    skip_space(h);
    if (h->p < h->end && *h->p == '[')
      return refuse(h, "has a structured dtype; save one field of it: x['field']");
    return take_string(h, h->header->descr, sizeof h->header->descr) ||
           refuse(h, "its descr is malformed");
  }
  if (strcmp(key, "fortran_order") == 0 && !h->has_order) {
    h->has_order = true;
    h->header->fortran = take_word(h, "True");
    return h->header->fortran || take_word(h, "False") ||
           refuse(h, "its fortran_order is malformed");
  }
  if (strcmp(key, "shape") == 0 && !h->has_shape) {
    h->has_shape = true;
    return take_shape(h);
  }
  return refuse(h, "its header has an unknown or repeated key");
}

static bool take_dictionary(parser *h) {
  if (!take(h, '{')) return refuse(h, "its header is malformed");
  while (!take(h, '}')) {
    if (!take_entry(h)) return false;
    if (take(h, ',')) continue;
    if (!take(h, '}')) return refuse(h, "its header is malformed");
    break;
  }
  skip_space(h);
  if (h->p != h->end) return refuse(h, "its header has text behind the closing brace");
  if (!h->has_descr || !h->has_order || !h->has_shape)
    return refuse(h, "its header lacks descr, fortran_order or shape");
  return true;
}

bool cli_npy_header_parse(const char *text, size_t length, cli_npy_header *header) {
  parser h = {.p = text, .end = text + length, .header = header};
  memset(header, 0, sizeof *header);
  return take_dictionary(&h);
}
