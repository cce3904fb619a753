/* SPDX-License-Identifier: Apache-2.0 */
/* npy: NumPy's array files, versions 1 to 3.
 *
 * Nothing in a file is trusted: the header is parsed by a small grammar of its own (the three keys,
 * any order, no others, none twice), and sizes are compared with the file's size before memory is
 * taken. Little-endian and C order only. */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the tailcut command reads little-endian files into memory as they are"
#endif

#define NPY_MAX_HEADER 1048576

static const struct {
  cli_type type;
  const char *code, *name;
  size_t size;
} npy_types[] = {
    {CLI_F16, "f2", "float16", 2}, {CLI_F32, "f4", "float32", 4}, {CLI_U16, "u2", "uint16", 2},
    {CLI_U8, "u1", "uint8", 1},    {CLI_I32, "i4", "int32", 4},
};
#define NPY_TYPES ((int)(sizeof npy_types / sizeof npy_types[0]))

size_t cli_type_size(cli_type type) {
  for (int i = 0; i < NPY_TYPES; i++)
    if (npy_types[i].type == type) return npy_types[i].size;
  return 0;
}

const char *cli_type_name(cli_type type) {
  for (int i = 0; i < NPY_TYPES; i++)
    if (npy_types[i].type == type) return npy_types[i].name;
  return "unknown";
}

const char *cli_shape_text(const cli_array *array, char *text) {
  size_t used = 0;
  text[used++] = '[';
  for (int i = 0; i < array->dims; i++)
    used += (size_t)snprintf(text + used, CLI_SHAPE_TEXT - used, "%s%lld", i ? ", " : "",
                             (long long)array->shape[i]);
  text[used++] = ']';
  text[used] = '\0';
  return text;
}

void cli_array_free(cli_array *array) {
  free(array->data);
  memset(array, 0, sizeof *array);
}

/* ------------------------------------------------------------------------------ the header -- */

typedef struct npy_header {
  const char *p, *end;
  const char *reason; /* set by the first thing that does not fit */
  char descr[32];
  bool has_descr, has_order, has_shape, fortran;
  cli_array *array;
} npy_header;

static bool refuse(npy_header *h, const char *reason) {
  if (h->reason == NULL) h->reason = reason;
  return false;
}

static void skip_space(npy_header *h) {
  while (h->p < h->end && (*h->p == ' ' || *h->p == '\t' || *h->p == '\n' || *h->p == '\r')) h->p++;
}

static bool take(npy_header *h, char c) {
  skip_space(h);
  if (h->p == h->end || *h->p != c) return false;
  h->p++;
  return true;
}

/* A quoted string without escapes, into out[size]. */
static bool take_string(npy_header *h, char *out, size_t size) {
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

static bool take_word(npy_header *h, const char *word) {
  const size_t length = strlen(word);
  skip_space(h);
  if ((size_t)(h->end - h->p) < length || memcmp(h->p, word, length) != 0) return false;
  h->p += length;
  return true;
}

static bool take_dimension(npy_header *h, int64_t *value) {
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

static bool take_shape(npy_header *h) {
  cli_array *a = h->array;
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

static bool take_entry(npy_header *h) {
  char key[32];
  if (!take_string(h, key, sizeof key) || !take(h, ':'))
    return refuse(h, "its header is malformed");
  if (strcmp(key, "descr") == 0 && !h->has_descr) {
    h->has_descr = true;
    skip_space(h);
    if (h->p < h->end && *h->p == '[') return refuse(h, "structured dtypes are not supported");
    return take_string(h, h->descr, sizeof h->descr) || refuse(h, "its descr is malformed");
  }
  if (strcmp(key, "fortran_order") == 0 && !h->has_order) {
    h->has_order = true;
    h->fortran = take_word(h, "True");
    return h->fortran || take_word(h, "False") || refuse(h, "its fortran_order is malformed");
  }
  if (strcmp(key, "shape") == 0 && !h->has_shape) {
    h->has_shape = true;
    return take_shape(h);
  }
  return refuse(h, "its header has an unknown or repeated key");
}

static bool parse_descr(npy_header *h) {
  const char *code = h->descr;
  const char order = *code;
  if (order == '<' || order == '>' || order == '=' || order == '|') code++;
  for (int i = 0; i < NPY_TYPES; i++) {
    if (strcmp(code, npy_types[i].code) != 0) continue;
    if (order == '>' && npy_types[i].size > 1) return refuse(h, "big-endian data is not supported");
    h->array->type = npy_types[i].type;
    return true;
  }
  return refuse(h, "its dtype is none of float16, float32, uint16, uint8, int32");
}

static bool parse_header(npy_header *h) {
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
  if (!parse_descr(h)) return false;
  if (h->fortran && h->array->dims > 1) return refuse(h, "Fortran order is not supported");
  return true;
}

/* count and bytes from shape and type. */
static bool measure(cli_array *a) {
  const int64_t size = (int64_t)cli_type_size(a->type);
  int64_t count = 1, bytes;
  for (int i = 0; i < a->dims; i++)
    if (a->shape[i] == 0) count = 0;
  for (int i = 0; i < a->dims && count != 0; i++) {
    if (count > INT64_MAX / a->shape[i]) return false;
    count *= a->shape[i];
  }
  if (count > INT64_MAX / size) return false;
  bytes = count * size;
  if ((uint64_t)bytes > SIZE_MAX / 2) return false;
  a->count = count;
  a->bytes = (size_t)bytes;
  return true;
}

/* -------------------------------------------------------------------------------- the file -- */

/* 1: all bytes; 0: the file ended; -1: errno. */
static int read_all(int fd, void *data, size_t bytes) {
  char *p = data;
  while (bytes > 0) {
    const ssize_t got = read(fd, p, bytes < 1u << 30 ? bytes : 1u << 30);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return (int)got;
    p += got;
    bytes -= (size_t)got;
  }
  return 1;
}

static int read_failed(const char *path, int result) {
  return cli_fail(CLI_FAILED, "%s: %s", path,
                  result < 0 ? strerror(errno) : "the file is truncated");
}

static int read_open(int fd, const char *path, cli_array *array) {
  struct stat info;
  unsigned char start[12];
  if (fstat(fd, &info) != 0) return cli_fail(CLI_FAILED, "%s: %s", path, strerror(errno));
  if (!S_ISREG(info.st_mode)) return cli_fail(CLI_FAILED, "%s: not a regular file", path);
  int result = read_all(fd, start, 8);
  if (result < 0) return read_failed(path, result);
  if (result == 0 || memcmp(start, "\x93NUMPY", 6) != 0)
    return cli_fail(CLI_FAILED, "%s: not a .npy file", path);
  const int major = start[6];
  if (major < 1 || major > 3 || start[7] != 0)
    return cli_fail(CLI_FAILED, "%s: .npy version %d.%d is not supported", path, major, start[7]);
  const size_t length_bytes = major == 1 ? 2 : 4;
  result = read_all(fd, start + 8, length_bytes);
  if (result <= 0) return read_failed(path, result);
  uint32_t length = (uint32_t)start[8] | (uint32_t)start[9] << 8;
  if (major > 1) length |= (uint32_t)start[10] << 16 | (uint32_t)start[11] << 24;
  const int64_t data_at = 8 + (int64_t)length_bytes + length;
  if (data_at > info.st_size) return read_failed(path, 0);
  if (length > NPY_MAX_HEADER)
    return cli_fail(CLI_FAILED, "%s: its header of %u bytes is too long", path, length);

  char *text = malloc((size_t)length + 1);
  if (text == NULL) return cli_fail(CLI_FAILED, "%s: out of memory", path);
  npy_header header = {.p = text, .end = text + length, .array = array};
  result = read_all(fd, text, length);
  const bool good = result > 0 && parse_header(&header);
  free(text);
  if (result <= 0) return read_failed(path, result);
  if (!good) return cli_fail(CLI_FAILED, "%s: %s", path, header.reason);

  char shape[CLI_SHAPE_TEXT];
  if (!measure(array))
    return cli_fail(CLI_FAILED, "%s: its shape %s is too large", path,
                    cli_shape_text(array, shape));
  const int64_t present = (int64_t)info.st_size - data_at;
  if (present != (int64_t)array->bytes)
    return cli_fail(CLI_FAILED, "%s: has %lld bytes of data, but %s %s needs %lld", path,
                    (long long)present, cli_type_name(array->type), cli_shape_text(array, shape),
                    (long long)array->bytes);
  void *data = NULL;
  if (posix_memalign(&data, 64, array->bytes ? array->bytes : 64) != 0)
    return cli_fail(CLI_FAILED, "%s: out of memory for %zu bytes", path, array->bytes);
  result = read_all(fd, data, array->bytes);
  if (result <= 0) {
    const int code = read_failed(path, result);
    free(data);
    return code;
  }
  array->data = data;
  return CLI_OK;
}

int cli_npy_read(const char *path, cli_array *array) {
  memset(array, 0, sizeof *array);
  const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
  if (fd < 0) return cli_fail(CLI_FAILED, "%s: %s", path, strerror(errno));
  const int status = read_open(fd, path, array);
  close(fd);
  return status;
}

int cli_npy_write(FILE *file, const char *path, cli_type type, const int64_t *shape, int dims,
                  const void *data) {
  cli_array array = {.type = type, .dims = dims};
  const char *code = "";
  char header[256];
  for (int i = 0; i < dims; i++) array.shape[i] = shape[i];
  for (int i = 0; i < NPY_TYPES; i++)
    if (npy_types[i].type == type) code = npy_types[i].code;
  if (!measure(&array)) return cli_fail(CLI_FAILED, "%s: the result is too large", path);
  int used = snprintf(header, sizeof header, "{'descr': '%s%s', 'fortran_order': False, 'shape': (",
                      cli_type_size(type) > 1 ? "<" : "|", code);
  for (int i = 0; i < dims; i++)
    used += snprintf(header + used, sizeof header - (size_t)used, "%s%lld%s", i ? " " : "",
                     (long long)shape[i], i + 1 < dims || dims == 1 ? "," : "");
  used += snprintf(header + used, sizeof header - (size_t)used, "), }");
  while ((10 + used + 1) % 64 != 0) header[used++] = ' ';
  header[used++] = '\n';
  const unsigned char start[10] = {
      0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)(used & 255), (unsigned char)(used >> 8)};
  if (fwrite(start, 1, sizeof start, file) != sizeof start ||
      fwrite(header, 1, (size_t)used, file) != (size_t)used ||
      (array.bytes > 0 && fwrite(data, 1, array.bytes, file) != array.bytes))
    return cli_fail(CLI_FAILED, "%s: %s", path, strerror(errno));
  return CLI_OK;
}
