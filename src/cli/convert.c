/* SPDX-License-Identifier: Apache-2.0 */
/* convert: arrays of other types, byte orders and memory orders, as the library takes them.
 *
 * Only what loses nothing, or rounds as numpy's astype does: floats to float32, whole numbers to
 * int32 or uint8 where every one fits. Each conversion is noted once per file. */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#include "convert.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BIT(type) (1u << (type))
#define WHOLE                                                                              \
  (BIT(CLI_I8) | BIT(CLI_I16) | BIT(CLI_I32) | BIT(CLI_I64) | BIT(CLI_U8) | BIT(CLI_U16) | \
   BIT(CLI_U32) | BIT(CLI_U64))

/* What uint16 holds may be bfloat16: no number is made of it unasked. */
#define NUMBERS (BIT(CLI_F64) | (WHOLE & ~BIT(CLI_U16)) | BIT(CLI_BOOL))

/* By cli_use. */
static const struct {
  unsigned as_is, converted;
  cli_type to; /* what `converted` becomes; V2 stays what it is, under the name uint16 */
  const char *wanted, *remedy;
} uses[] = {
    [CLI_FEATURES] = {BIT(CLI_F16) | BIT(CLI_F32) | BIT(CLI_U16), NUMBERS | BIT(CLI_V2), CLI_F32,
                      "float16, float32, bfloat16 as V2 or uint16, or what becomes float32",
                      ".astype(np.float32)"},
    [CLI_SCORES] = {BIT(CLI_F32), NUMBERS | BIT(CLI_F16), CLI_F32,
                    "float32, or what becomes it (not uint16)", ".astype(np.float32)"},
    [CLI_NUMBERS] = {BIT(CLI_I32), WHOLE, CLI_I32, "int32 or another type of whole numbers",
                     ".astype(np.int32)"},
    [CLI_ROLES] = {BIT(CLI_U8), WHOLE | BIT(CLI_BOOL), CLI_U8,
                   "uint8, bool or another type of whole numbers", ".astype(np.uint8)"},
};

int cli_convertible(const char *name, cli_use use, const char *what, cli_type type,
                    const char *descr) {
  if (type != CLI_NO_TYPE && ((uses[use].as_is | uses[use].converted) & BIT(type))) return CLI_OK;
  const char *found = type != CLI_NO_TYPE ? cli_type_name(type) : descr;
  const char *remedy = uses[use].remedy;
  if (use == CLI_NUMBERS && type == CLI_BOOL) remedy = "np.flatnonzero(x).astype(np.int32)";
  return cli_fail(CLI_FAILED, "%s: is %s, but %s must be %s; remedy: %s", name, found, what,
                  uses[use].wanted, remedy);
}

/* ------------------------------------------------------------------------ order of the bytes -- */

static void swap_bytes(cli_array *a) {
  const size_t size = cli_type_size(a->type);
  unsigned char *p = a->data;
  for (int64_t i = 0; i < a->count; i++, p += size)
    for (size_t j = 0; j < size / 2; j++) {
      const unsigned char byte = p[j];
      p[j] = p[size - 1 - j];
      p[size - 1 - j] = byte;
    }
}

/* Fortran order differs from C order where two dimensions are longer than 1. */
static bool orders_differ(const cli_array *a) {
  int longer = 0;
  for (int i = 0; i < a->dims; i++) longer += a->shape[i] > 1;
  return a->count > 0 && longer > 1;
}

static int to_c_order(const char *name, cli_array *a) {
  const size_t size = cli_type_size(a->type);
  int64_t stride[CLI_MAX_DIMS], index[CLI_MAX_DIMS] = {0}, from = 0;
  void *made = NULL;
  if (posix_memalign(&made, 64, a->bytes) != 0)
    return cli_fail(CLI_FAILED, "%s: out of memory for %zu bytes", name, a->bytes);
  for (int i = 0; i < a->dims; i++) stride[i] = i ? stride[i - 1] * a->shape[i - 1] : 1;
  char *to = made;
  for (int64_t n = 0; n < a->count; n++, to += size) {
    memcpy(to, (const char *)a->data + (size_t)from * size, size);
    for (int i = a->dims - 1; i >= 0; i--) { /* the next index in C order */
      from += stride[i];
      if (++index[i] < a->shape[i]) break;
      from -= stride[i] * a->shape[i];
      index[i] = 0;
    }
  }
  free(a->data);
  a->data = made;
  return CLI_OK;
}

/* ------------------------------------------------------------------------------------ values -- */

static float half_to_float(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000) << 16, mantissa = half & 0x3FF;
  const uint32_t exponent = half >> 10 & 31;
  float value;
  if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24, exact */
    value = (float)mantissa * 0x1p-24f;
    return sign ? -value : value;
  }
  const uint32_t bits =
      sign | (exponent == 31 ? 0x7F800000u : (exponent + 112) << 23) | mantissa << 13;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* Element i of whole numbers; false where int64 cannot hold it. */
static bool whole_at(const cli_array *a, int64_t i, int64_t *value) {
  const char *at = (const char *)a->data + (size_t)i * cli_type_size(a->type);
  union {
    int8_t i8;
    int16_t i16;
    int32_t i32;
    int64_t i64;
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
  } v;
  memcpy(&v, at, cli_type_size(a->type));
  switch (a->type) {
    case CLI_I8:
      return *value = v.i8, true;
    case CLI_I16:
      return *value = v.i16, true;
    case CLI_I32:
      return *value = v.i32, true;
    case CLI_I64:
      return *value = v.i64, true;
    case CLI_U16:
      return *value = v.u16, true;
    case CLI_U32:
      return *value = v.u32, true;
    case CLI_U64:
      return *value = (int64_t)v.u64, v.u64 <= INT64_MAX;
    case CLI_BOOL:
      return *value = v.u8 != 0, true;
    default:
      return *value = v.u8, true;
  }
}

/* To float32, rounded once. Returns how many finite numbers became infinite. */
static int64_t to_floats(cli_array *a, float *to) {
  int64_t lost = 0;
  for (int64_t i = 0; i < a->count; i++) {
    if (a->type == CLI_F16) {
      uint16_t half;
      memcpy(&half, (const char *)a->data + 2 * i, sizeof half);
      to[i] = half_to_float(half);
      continue;
    }
    if (a->type != CLI_F64) {
      int64_t whole;
      to[i] = whole_at(a, i, &whole) ? (float)whole : (float)(uint64_t)whole;
      continue;
    }
    double value;
    memcpy(&value, (const char *)a->data + 8 * i, sizeof value);
    /* 0x1.ffffffp127 is the first that rounds up to infinity. */
    const float single = value >= 0x1.ffffffp127    ? (float)HUGE_VAL
                         : value <= -0x1.ffffffp127 ? (float)-HUGE_VAL
                                                    : (float)value;
    lost += isfinite(value) && !isfinite(single);
    to[i] = single;
  }
  return lost;
}

static int to_whole(const char *name, cli_array *a, cli_type type, const char *what, void *to) {
  const int64_t low = type == CLI_I32 ? INT32_MIN : 0, high = type == CLI_I32 ? INT32_MAX : 255;
  for (int64_t i = 0; i < a->count; i++) {
    int64_t value;
    const bool fits = whole_at(a, i, &value);
    if (!fits || value < low || value > high) {
      char text[32];
      snprintf(text, sizeof text, fits ? "%lld" : "%llu", (long long)value);
      return cli_fail(CLI_FAILED, "%s: element %lld is %s, but %s must fit %s", name, (long long)i,
                      text, what, cli_type_name(type));
    }
    if (type == CLI_I32)
      ((int32_t *)to)[i] = (int32_t)value;
    else
      ((uint8_t *)to)[i] = (uint8_t)value;
  }
  return CLI_OK;
}

/* Makes the values those of uses[use].to. */
static int change_type(const char *name, cli_use use, const char *what, cli_array *a,
                       int64_t *lost) {
  const cli_type to = uses[use].to;
  const size_t bytes = (size_t)a->count * cli_type_size(to);
  void *made = NULL;
  if (posix_memalign(&made, 64, bytes ? bytes : 64) != 0)
    return cli_fail(CLI_FAILED, "%s: out of memory for %zu bytes", name, bytes);
  int status = CLI_OK;
  if (to == CLI_F32)
    *lost = to_floats(a, made);
  else
    status = to_whole(name, a, to, what, made);
  if (status != CLI_OK) {
    free(made);
    return status;
  }
  free(a->data);
  a->data = made;
  a->type = to;
  return CLI_OK;
}

int cli_convert(const char *name, cli_use use, const char *what, cli_array *a, bool swapped,
                bool fortran) {
  const cli_type found = a->type;
  const bool reorder = fortran && orders_differ(a);
  int64_t lost = 0;
  int status = CLI_OK;
  if (swapped) swap_bytes(a);
  if (reorder) status = to_c_order(name, a);
  if (status != CLI_OK) return status;
  if (found == CLI_V2) {
    a->type = CLI_U16;
    a->bf16 = true;
  } else if (!(uses[use].as_is & BIT(found))) {
    status = change_type(name, use, what, a, &lost);
    if (status != CLI_OK) return status;
  }
  if (a->type == found && !swapped && !reorder) return CLI_OK;
  char more[64] = "";
  if (lost > 0) snprintf(more, sizeof more, "; %lld became infinite", (long long)lost);
  cli_note("%s: %s%s%s %s %s%s", name, swapped ? "big-endian " : "", cli_type_name(found),
           reorder ? " in Fortran order" : "", found == CLI_V2 ? "read as" : "converted to",
           found == CLI_V2      ? "bfloat16"
           : a->type != found   ? cli_type_name(a->type)
           : swapped && reorder ? "little-endian in C order"
           : swapped            ? "little-endian"
                                : "C order",
           more);
  return CLI_OK;
}
