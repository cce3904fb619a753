/* SPDX-License-Identifier: Apache-2.0 */
/* npy: NumPy's array files, versions 1 to 3.
 *
 * Nothing in a file is trusted: the header is parsed by a grammar of its own (npy_header.c), and
 * memory is taken for what is there, not for what the header claims (input.c). What the library
 * does not take as it lies is converted and said (convert.c). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "convert.h"
#include "input.h"
#include "npy_header.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the tailcut command reads little-endian files into memory as they are"
#endif

#define NPY_MAX_HEADER 1048576

static const struct {
  cli_type type;
  const char *code, *name;
  size_t size;
} npy_types[] = {
    {CLI_F16, "f2", "float16", 2}, {CLI_F32, "f4", "float32", 4}, {CLI_F64, "f8", "float64", 8},
    {CLI_U8, "u1", "uint8", 1},    {CLI_U16, "u2", "uint16", 2},  {CLI_U32, "u4", "uint32", 4},
    {CLI_U64, "u8", "uint64", 8},  {CLI_I8, "i1", "int8", 1},     {CLI_I16, "i2", "int16", 2},
    {CLI_I32, "i4", "int32", 4},   {CLI_I64, "i8", "int64", 8},   {CLI_BOOL, "b1", "bool", 1},
    {CLI_BOOL, "?", "bool", 1},    {CLI_V2, "V2", "V2", 2},
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

/* ------------------------------------------------------------------------------------ read -- */

/* Type and byte order of a descr like "<f4"; CLI_NO_TYPE for one that is not in the table. */
static cli_type type_of(const char *descr, bool *swapped) {
  const char *code = descr;
  if (*code == '<' || *code == '>' || *code == '=' || *code == '|') code++;
  for (int i = 0; i < NPY_TYPES; i++) {
    if (strcmp(code, npy_types[i].code) != 0) continue;
    *swapped = *descr == '>' && npy_types[i].size > 1;
    return npy_types[i].type;
  }
  return CLI_NO_TYPE;
}

static int truncated(const cli_input *in) {
  return cli_fail(CLI_FAILED, "%s: the file is truncated", in->name);
}

static int read_header(cli_input *in, const char *path, cli_npy_header *header) {
  unsigned char start[512];
  size_t got;
  int status = cli_input_read(in, start, 8, &got);
  if (status != CLI_OK) return status;
  if (got < 8 || memcmp(start, "\x93NUMPY", 6) != 0) {
    size_t more = 0;
    if (got == 8) status = cli_input_read(in, start + 8, sizeof start - 8, &more);
    return status != CLI_OK ? status : cli_foreign(path, in->name, start, got + more);
  }
  const int major = start[6];
  if (major < 1 || major > 3 || start[7] != 0)
    return cli_fail(CLI_FAILED, "%s: .npy version %d.%d is not supported", in->name, major,
                    start[7]);
  const size_t length_bytes = major == 1 ? 2 : 4;
  status = cli_input_read(in, start + 8, length_bytes, &got);
  if (status != CLI_OK) return status;
  if (got < length_bytes) return truncated(in);
  uint32_t length = (uint32_t)start[8] | (uint32_t)start[9] << 8;
  if (major > 1) length |= (uint32_t)start[10] << 16 | (uint32_t)start[11] << 24;
  if (in->left >= 0 && in->left < (int64_t)length) return truncated(in);
  if (length > NPY_MAX_HEADER)
    return cli_fail(CLI_FAILED, "%s: its header of %u bytes is too long", in->name, length);

  void *text;
  status = cli_input_take(in, length, &text, &got);
  if (status != CLI_OK) return status;
  if (got < length)
    status = truncated(in);
  else if (!cli_npy_header_parse(text, length, header))
    status = cli_fail(CLI_FAILED, "%s: %s", in->name, header->reason);
  free(text);
  return status;
}

static int wrong_size(const cli_input *in, const cli_array *a, int64_t present, bool more) {
  char shape[CLI_SHAPE_TEXT];
  return cli_fail(CLI_FAILED, "%s: has %s%lld bytes of data, but %s %s needs %lld", in->name,
                  more ? "more than " : "", (long long)present, cli_type_name(a->type),
                  cli_shape_text(a, shape), (long long)a->bytes);
}

static int read_data(cli_input *in, cli_array *a) {
  char one;
  size_t got;
  if (in->left >= 0 && in->left != (int64_t)a->bytes) return wrong_size(in, a, in->left, false);
  int status = cli_input_take(in, a->bytes, &a->data, &got);
  if (status != CLI_OK) return status;
  if (got < a->bytes) return wrong_size(in, a, (int64_t)got, false);
  status = cli_input_read(in, &one, 1, &got);
  return status == CLI_OK && got > 0 ? wrong_size(in, a, (int64_t)a->bytes, true) : status;
}

static int read_open(cli_input *in, const char *path, cli_use use, const char *what,
                     cli_array *array) {
  cli_npy_header header;
  int status = read_header(in, path, &header);
  if (status != CLI_OK) return status;
  bool swapped = false;
  array->type = type_of(header.descr, &swapped);
  array->dims = header.dims;
  memcpy(array->shape, header.shape, sizeof array->shape);
  status = cli_convertible(in->name, use, what, array->type, header.descr);
  if (status != CLI_OK) return status;
  char shape[CLI_SHAPE_TEXT];
  if (!measure(array))
    return cli_fail(CLI_FAILED, "%s: its shape %s is too large", in->name,
                    cli_shape_text(array, shape));
  status = read_data(in, array);
  if (status == CLI_OK) status = cli_convert(in->name, use, what, array, swapped, header.fortran);
  if (status == CLI_OK && !measure(array))
    status = cli_fail(CLI_FAILED, "%s: its shape %s is too large", in->name,
                      cli_shape_text(array, shape));
  return status;
}

int cli_npy_read(const char *path, cli_use use, const char *what, cli_array *array) {
  cli_input in;
  memset(array, 0, sizeof *array);
  int status = cli_input_open(path, &in);
  if (status != CLI_OK) return status;
  status = read_open(&in, path, use, what, array);
  cli_input_close(&in);
  if (status != CLI_OK) cli_array_free(array);
  return status;
}

/* ----------------------------------------------------------------------------------- write -- */

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
  const char *slash = strrchr(path, '/');
  char phase[64];
  snprintf(phase, sizeof phase, "writing %.40s", slash != NULL ? slash + 1 : path);
  cli_progress_bytes(phase, (int64_t)array.bytes);
  bool good = fwrite(start, 1, sizeof start, file) == sizeof start &&
              fwrite(header, 1, (size_t)used, file) == (size_t)used;
  for (size_t at = 0; at < array.bytes && good;) { /* in pieces, for the progress */
    const size_t piece = array.bytes - at < (size_t)8 << 20 ? array.bytes - at : (size_t)8 << 20;
    good = fwrite((const char *)data + at, 1, piece, file) == piece;
    at += piece;
    cli_progress_step((int64_t)at);
  }
  return good ? CLI_OK : cli_fail(CLI_FAILED, "%s: %s", path, strerror(errno));
}
