/* SPDX-License-Identifier: Apache-2.0 */
/* check: what the host checks of every struct and argument share. Each message names the argument,
 * its value and what was expected; nothing has been written when one fails. */
#ifndef TAILCUT_CHECK_H_
#define TAILCUT_CHECK_H_

#include "internal.h"
#include "overlap.h"

/* Leaves the calling function with the status of what failed. */
#define TC_TRY(call)                           \
  do {                                         \
    const tailcut_status status_ = (call);     \
    if (status_ != TAILCUT_OK) return status_; \
  } while (0)

/* The least size of each struct: that of its first version, which ends before the named field where
 * fields have been added since. (A field must not be added inside what was padding: callers of an
 * older header leave anything there. tests/test_structs.c.) */
#define TC_MIN_SIZE_batch offsetof(tailcut_batch, group_cu_seqlens)
#define TC_MIN_SIZE_tokens sizeof(tailcut_tokens)
#define TC_MIN_SIZE_reference offsetof(tailcut_reference, lag)
#define TC_MIN_SIZE_rule offsetof(tailcut_rule, group_k)
#define TC_MIN_SIZE_selection offsetof(tailcut_selection, mask)
#define TC_MIN_SIZE_rotation sizeof(tailcut_rotation)
#define TC_MIN_SIZE_rows offsetof(tailcut_rows, dst_rows)
#define TC_MIN_SIZE_relevance_options offsetof(tailcut_relevance_options, head_reduction)
#define TC_MIN_SIZE_merge_options sizeof(tailcut_merge_options)
#define TC_MIN_SIZE_limits offsetof(tailcut_limits, groups)
#define TC_MIN_SIZE_config sizeof(tailcut_config)

/* Copies a caller's struct of any known size over the defaults that *out holds. */
#define TC_IMPORT(out, in, struct_name, where) \
  tc_import(out, sizeof *(out), TC_MIN_SIZE_##struct_name, in, where)
tailcut_status tc_import(void *out, size_t out_size, size_t min_size, const void *in,
                         const char *where);

/* Whether `size` is one that a header up to this library's gives a struct; `name` is the argument
 * that says it. */
tailcut_status tc_check_struct_size(const char *name, size_t size, size_t least, size_t most);
tailcut_status tc_check_int(const char *name, int64_t value, int64_t lo, int64_t hi);
/* An enum, dtype or boolean. 0 is "not set" where it is no value. */
tailcut_status tc_check_enum(const char *name, int64_t value, int64_t lo, int64_t hi);
tailcut_status tc_check_double(const char *name, double value, double lo, double hi);
/* The alignment of an array that may be NULL. */
tailcut_status tc_check_pointer(const void *pointer, size_t alignment, const char *name);
/* A required array of `elements` numbers of `size` bytes. */
tailcut_status tc_check_array(const void *pointer, size_t size, int64_t elements, const char *name);
/* A stride that may be left 0, and must not overflow when multiplied by `count`. */
tailcut_status tc_check_stride(const char *name, int64_t *stride, int64_t fallback, int64_t least,
                               int64_t count);
/* validate_rotation.c: the rotation, where there is one, of entry i, whose destination is `dst`. */
tailcut_status tc_check_rotation(const tailcut_rows *r, int32_t i, const tailcut_batch *batch,
                                 const tc_side *dst);

#endif /* TAILCUT_CHECK_H_ */
