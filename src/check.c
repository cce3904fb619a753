/* SPDX-License-Identifier: Apache-2.0 */
/* check: see check.h; and the structs' defaults for languages without macros. */
#include "check.h"

#include <string.h>

tailcut_status tc_check_struct_size(const char *name, size_t size, size_t least, size_t most) {
  /* No header's struct ends inside a pointer, so a copy never cuts one in two. */
  if (size >= least && size <= most && size % sizeof(void *) == 0) return TAILCUT_OK;
  if (size == 0) {
    return tc_fail(TAILCUT_ERROR_STRUCT_SIZE, "%s is not set; start from the struct's INITIALIZER",
                   name);
  }
  if (least == most) {
    return tc_fail(TAILCUT_ERROR_STRUCT_SIZE,
                   "%s is %zu; this library knows %zu: header and library differ", name, size,
                   most);
  }
  return tc_fail(TAILCUT_ERROR_STRUCT_SIZE,
                 "%s is %zu; this library knows %zu to %zu in steps of %zu: header and library "
                 "differ",
                 name, size, least, most, sizeof(void *));
}

tailcut_status tc_import(void *out, size_t out_size, size_t min_size, const void *in,
                         const char *name) {
  char field[64];
  size_t size;
  if (in == NULL) return tc_fail(TAILCUT_ERROR_NULL, "%s is NULL; expected a struct", name);
  memcpy(&size, in, sizeof size);
  snprintf(field, sizeof field, "%s->struct_size", name);
  TC_TRY(tc_check_struct_size(field, size, min_size, out_size));
  memcpy(out, in, size);
  memcpy(out, &out_size, sizeof out_size);
  return TAILCUT_OK;
}

tailcut_status tc_check_int(const char *name, int64_t value, int64_t lo, int64_t hi) {
  if (value >= lo && value <= hi) return TAILCUT_OK;
  if (lo == hi) {
    return tc_fail(TAILCUT_ERROR_RANGE, "%s is %lld; expected %lld", name, (long long)value,
                   (long long)lo);
  }
  return tc_fail(TAILCUT_ERROR_RANGE, "%s is %lld; expected %lld to %lld", name, (long long)value,
                 (long long)lo, (long long)hi);
}

tailcut_status tc_check_enum(const char *name, int64_t value, int64_t lo, int64_t hi) {
  if (value >= lo && value <= hi) return TAILCUT_OK;
  if (value == 0) {
    return tc_fail(TAILCUT_ERROR_ENUM, "%s is not set; expected %lld to %lld", name, (long long)lo,
                   (long long)hi);
  }
  return tc_fail(TAILCUT_ERROR_ENUM, "%s is %lld; expected %lld to %lld", name, (long long)value,
                 (long long)lo, (long long)hi);
}

tailcut_status tc_check_double(const char *name, double value, double lo, double hi) {
  if (value >= lo && value <= hi) return TAILCUT_OK;
  return tc_fail(TAILCUT_ERROR_RANGE, "%s is %g; expected %g to %g", name, value, lo, hi);
}

tailcut_status tc_check_pointer(const void *pointer, size_t alignment, const char *name) {
  if (pointer != NULL && (uintptr_t)pointer % alignment != 0) {
    return tc_fail(TAILCUT_ERROR_ALIGNMENT, "%s is %p; expected a multiple of %zu", name,
                   (void *)(uintptr_t)pointer, alignment);
  }
  return TAILCUT_OK;
}

tailcut_status tc_check_array(const void *pointer, size_t size, int64_t elements,
                              const char *name) {
  if (pointer == NULL && elements > 0) {
    return tc_fail(TAILCUT_ERROR_NULL, "%s is NULL; expected %lld elements", name,
                   (long long)elements);
  }
  return tc_check_pointer(pointer, size, name);
}

tailcut_status tc_check_stride(const char *name, int64_t *stride, int64_t fallback, int64_t least,
                               int64_t count) {
  int64_t reach;
  if (*stride == 0) *stride = fallback;
  if (*stride < least) {
    return tc_fail(TAILCUT_ERROR_RANGE, "%s is %lld; expected 0 or at least %lld", name,
                   (long long)*stride, (long long)least);
  }
  if (__builtin_mul_overflow(*stride, count > 0 ? count : 1, &reach) || reach > INT64_MAX / 8) {
    return tc_fail(TAILCUT_ERROR_RANGE, "%s is %lld; too large for %lld of them", name,
                   (long long)*stride, (long long)count);
  }
  return TAILCUT_OK;
}

/* ------------------------------------------------------------------------------ the defaults -- */

static tailcut_status init(void *out, size_t size, const void *defaults, size_t known,
                           size_t min_size, const char *name) {
  char argument[64];
  tc_clear_error();
  if (out == NULL) return tc_fail(TAILCUT_ERROR_NULL, "%s is NULL; expected a struct", name);
  snprintf(argument, sizeof argument, "struct_size of %s", name);
  TC_TRY(tc_check_struct_size(argument, size, min_size, known));
  memcpy(out, defaults, size);
  memcpy(out, &size, sizeof size);
  return TAILCUT_OK;
}

#define TC_INIT(struct_name, initializer)                                                        \
  TAILCUT_API tailcut_status tailcut_##struct_name##_init(tailcut_##struct_name *struct_name,    \
                                                          size_t struct_size) {                  \
    static const tailcut_##struct_name defaults = initializer;                                   \
    return init(struct_name, struct_size, &defaults, sizeof defaults, TC_MIN_SIZE_##struct_name, \
                #struct_name);                                                                   \
  }
TC_INIT(batch, TAILCUT_BATCH_INITIALIZER)
TC_INIT(tokens, TAILCUT_TOKENS_INITIALIZER)
TC_INIT(reference, TAILCUT_REFERENCE_INITIALIZER)
TC_INIT(rule, TAILCUT_RULE_INITIALIZER)
TC_INIT(selection, TAILCUT_SELECTION_INITIALIZER)
TC_INIT(merge_options, TAILCUT_MERGE_OPTIONS_INITIALIZER)
TC_INIT(rotation, TAILCUT_ROTATION_INITIALIZER)
TC_INIT(rows, TAILCUT_ROWS_INITIALIZER)
TC_INIT(relevance_options, TAILCUT_RELEVANCE_OPTIONS_INITIALIZER)
TC_INIT(limits, TAILCUT_LIMITS_INITIALIZER)

TAILCUT_API tailcut_status tailcut_config_init(tailcut_config *config, size_t struct_size,
                                               int32_t version) {
  tailcut_config defaults = TAILCUT_CONFIG_INITIALIZER;
  defaults.version = version;
  return init(config, struct_size, &defaults, sizeof defaults, TC_MIN_SIZE_config, "config");
}
