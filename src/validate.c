/* SPDX-License-Identifier: Apache-2.0 */
/* validate: the host checks of every struct but tailcut_rows. Each message names the argument, its
 * value and what was expected; nothing has been written when one fails. */
#include <math.h>
#include <string.h>

#include "internal.h"

tailcut_status tc_import(void *out, size_t out_size, size_t min_size, const void *in,
                         const char *name) {
  size_t size;
  if (in == NULL) return tc_fail(TAILCUT_ERROR_NULL, "%s is NULL", name);
  memcpy(&size, in, sizeof size);
  if (size < min_size || size > out_size) {
    return tc_fail(TAILCUT_ERROR_STRUCT_SIZE,
                   "%s->struct_size is %zu; expected %zu to %zu (set by its INITIALIZER)", name,
                   size, min_size, out_size);
  }
  memcpy(out, in, size);
  memcpy(out, &out_size, sizeof out_size);
  return TAILCUT_OK;
}
/* No field has been added since 0.1, so the smallest size is today's. */
#define TC_IMPORT(out, in, name) tc_import(out, sizeof *(out), sizeof *(out), in, name)
#define TC_TRY(call)                           \
  do {                                         \
    const tailcut_status status_ = (call);     \
    if (status_ != TAILCUT_OK) return status_; \
  } while (0)

static tailcut_status check_int(const char *name, int64_t value, int64_t lo, int64_t hi) {
  if (value >= lo && value <= hi) return TAILCUT_OK;
  return tc_fail(TAILCUT_ERROR_RANGE, "%s is %lld; expected %lld to %lld", name, (long long)value,
                 (long long)lo, (long long)hi);
}

static tailcut_status check_enum(const char *name, int64_t value, int64_t lo, int64_t hi) {
  if (value >= lo && value <= hi) return TAILCUT_OK;
  return tc_fail(TAILCUT_ERROR_ENUM, "%s is %lld; expected %lld to %lld", name, (long long)value,
                 (long long)lo, (long long)hi);
}

static tailcut_status check_share(const char *name, double value, double lo, double hi) {
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

/* A stride that may be left 0, and must not overflow when multiplied by `count`. */
static tailcut_status check_stride(const char *name, int64_t *stride, int64_t fallback,
                                   int64_t least, int64_t count) {
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

static tailcut_status check_extent(const char *what, int32_t segments, int32_t max_tokens,
                                   int32_t cls_row, int ragged, int64_t *total) {
  char name[64];
  const int64_t product = (int64_t)segments * max_tokens;
  snprintf(name, sizeof name, "%s->segments", what);
  TC_TRY(check_int(name, segments, 0, INT32_MAX - 1));
  snprintf(name, sizeof name, "%s->max_tokens", what);
  TC_TRY(check_int(name, max_tokens, 0, TAILCUT_MAX_SEGMENT_TOKENS + cls_row));
  snprintf(name, sizeof name, "%s->total_tokens", what);
  if (*total == 0) *total = product;
  if (!ragged && *total != product) {
    return tc_fail(TAILCUT_ERROR_CONFLICT,
                   "%s is %lld; expected 0 or segments * max_tokens = %lld for a uniform batch",
                   name, (long long)*total, (long long)product);
  }
  return check_int(name, *total, 0, INT32_MAX);
}

tailcut_status tc_check_batch(const tailcut_batch *in, tailcut_batch *out) {
  TC_TRY(TC_IMPORT(out, in, "batch"));
  TC_TRY(check_enum("batch->cls_row", out->cls_row, 0, 1));
  TC_TRY(check_extent("batch", out->segments, out->max_tokens, out->cls_row,
                      out->cu_seqlens != NULL, &out->total_tokens));
  TC_TRY(tc_check_pointer(out->cu_seqlens, 4, "batch->cu_seqlens"));
  TC_TRY(tc_check_pointer(out->lengths, 4, "batch->lengths"));
  if (out->cu_seqlens != NULL && out->lengths != NULL) {
    return tc_fail(TAILCUT_ERROR_CONFLICT,
                   "batch->lengths and batch->cu_seqlens are both given; expected one or neither");
  }
  return TAILCUT_OK;
}

tailcut_status tc_check_limits(const tailcut_limits *in, tailcut_limits *out) {
  TC_TRY(TC_IMPORT(out, in, "limits"));
  TC_TRY(check_extent("limits", out->segments, out->max_tokens, 1, 1, &out->total_tokens));
  TC_TRY(check_int("limits->dim", out->dim, 0, INT32_MAX));
  TC_TRY(check_int("limits->q_heads", out->q_heads, 0, INT32_MAX));
  return check_int("limits->head_dim", out->head_dim, 0, 1024);
}

tailcut_status tc_check_tokens(const tailcut_tokens *in, const tailcut_batch *batch,
                               tailcut_tokens *out) {
  TC_TRY(TC_IMPORT(out, in, "tokens"));
  TC_TRY(check_enum("tokens->dtype", out->dtype, TAILCUT_F16, TAILCUT_F32));
  TC_TRY(check_int("tokens->dim", out->dim, 1, INT32_MAX));
  if (out->data == NULL && batch->total_tokens > 0) {
    return tc_fail(TAILCUT_ERROR_NULL, "tokens->data is NULL; expected %lld rows",
                   (long long)batch->total_tokens);
  }
  TC_TRY(tc_check_pointer(out->data, (size_t)tc_dtype_size(out->dtype), "tokens->data"));
  TC_TRY(check_stride("tokens->row_stride", &out->row_stride, out->dim, out->dim,
                      batch->total_tokens));
  if (batch->cu_seqlens != NULL && out->segment_stride != 0) {
    return tc_fail(TAILCUT_ERROR_CONFLICT,
                   "tokens->segment_stride is %lld; expected 0 with batch->cu_seqlens",
                   (long long)out->segment_stride);
  }
  if (batch->cu_seqlens != NULL) return TAILCUT_OK; /* there is none, and it might overflow */
  return check_stride("tokens->segment_stride", &out->segment_stride,
                      out->row_stride * batch->max_tokens, 0, batch->segments);
}

tailcut_status tc_check_reference(const tailcut_reference *in, const tailcut_batch *batch,
                                  const tailcut_tokens *tokens, tailcut_reference *out) {
  TC_TRY(TC_IMPORT(out, in, "reference"));
  TC_TRY(check_enum("reference->source", out->source, TAILCUT_REFERENCE_GIVEN,
                    TAILCUT_REFERENCE_MEAN));
  if (out->source != TAILCUT_REFERENCE_GIVEN) {
    if (out->data != NULL) {
      return tc_fail(TAILCUT_ERROR_CONFLICT,
                     "reference->data is given; expected NULL with source ROW or MEAN");
    }
    if (out->source == TAILCUT_REFERENCE_ROW && batch->cls_row != 1) {
      return tc_fail(TAILCUT_ERROR_CONFLICT,
                     "batch->cls_row is 0; expected 1 with reference->source ROW");
    }
    out->dtype = out->source == TAILCUT_REFERENCE_ROW ? tokens->dtype : TAILCUT_F32;
    return TAILCUT_OK;
  }
  if (out->dtype == 0) out->dtype = tokens->dtype;
  if (out->dtype != tokens->dtype && out->dtype != TAILCUT_F32) {
    return tc_fail(TAILCUT_ERROR_ENUM,
                   "reference->dtype is %d; expected the tokens' (%d) or TAILCUT_F32", out->dtype,
                   tokens->dtype);
  }
  if (out->data == NULL && batch->segments > 0) {
    return tc_fail(TAILCUT_ERROR_NULL, "reference->data is NULL; expected a vector of %d elements",
                   tokens->dim);
  }
  TC_TRY(tc_check_pointer(out->data, (size_t)tc_dtype_size(out->dtype), "reference->data"));
  if (out->segment_stride != 0) {
    TC_TRY(check_stride("reference->segment_stride", &out->segment_stride, 0, tokens->dim,
                        batch->segments));
  }
  return TAILCUT_OK;
}

tailcut_status tc_check_rule(const tailcut_rule *in, tailcut_rule *out) {
  static const tailcut_rule defaults = TAILCUT_RULE_INITIALIZER;
  if (in == NULL) in = &defaults;
  TC_TRY(TC_IMPORT(out, in, "rule"));
  TC_TRY(check_enum("rule->detector", out->detector, TAILCUT_OTSU, TAILCUT_RATIO));
  TC_TRY(check_enum("rule->scale", out->scale, TAILCUT_SCALE_DEFAULT, TAILCUT_SCALE_AUTO));
  TC_TRY(check_enum("rule->rounding", out->rounding, TAILCUT_CEIL, TAILCUT_DROP_PERCENT));
  if (out->detector == TAILCUT_TOPK) TC_TRY(check_int("rule->k", out->k, 1, INT32_MAX));
  if (out->detector == TAILCUT_RATIO) {
    if (out->rounding == TAILCUT_DROP_PERCENT) {
      TC_TRY(check_int("rule->percent", out->percent, 0, 100));
    } else {
      TC_TRY(check_share("rule->ratio", out->ratio, 0.0, 1.0));
    }
  }
  if (out->detector == TAILCUT_THRESHOLD && !isfinite(out->tau)) {
    return tc_fail(TAILCUT_ERROR_RANGE, "rule->tau is %g; expected a finite number",
                   (double)out->tau);
  }
  TC_TRY(check_int("rule->window", out->window, 0, INT32_MAX));
  if (!isfinite(out->lambda)) {
    return tc_fail(TAILCUT_ERROR_RANGE, "rule->lambda is %g; expected a finite number",
                   out->lambda);
  }
  if (!(out->mass > 0.0 && out->mass <= 1.0)) {
    return tc_fail(TAILCUT_ERROR_RANGE, "rule->mass is %g; expected above 0, at most 1", out->mass);
  }
  TC_TRY(check_int("rule->min_keep", out->min_keep, 0, INT32_MAX));
  if (out->max_keep != -1 && out->max_keep < out->min_keep) {
    return tc_fail(TAILCUT_ERROR_RANGE, "rule->max_keep is %d; expected -1 or at least min_keep %d",
                   out->max_keep, out->min_keep);
  }
  TC_TRY(check_int("rule->round_to", out->round_to, 1, INT32_MAX));
  TC_TRY(check_share("rule->search_lo", out->search_lo, 0.0, 1.0));
  TC_TRY(check_share("rule->search_hi", out->search_hi, 0.0, 1.0));
  if (!(out->search_lo < out->search_hi)) {
    return tc_fail(TAILCUT_ERROR_RANGE, "rule->search_lo is %g; expected below search_hi %g",
                   out->search_lo, out->search_hi);
  }
  return check_share("rule->spread", out->spread, 0.0, 1.0);
}

tailcut_status tc_check_selection(const tailcut_selection *in, const tailcut_batch *batch,
                                  tailcut_selection *out) {
  TC_TRY(TC_IMPORT(out, in, "selection"));
  if (out->counts == NULL && batch->segments > 0) {
    return tc_fail(TAILCUT_ERROR_NULL, "selection->counts is NULL; expected int32 [%d]",
                   batch->segments);
  }
  TC_TRY(
      check_enum("selection->kept_placement", out->kept_placement, TAILCUT_LOCAL, TAILCUT_PACKED));
  TC_TRY(tc_check_pointer(out->counts, 4, "selection->counts"));
  TC_TRY(tc_check_pointer(out->kept, 4, "selection->kept"));
  TC_TRY(tc_check_pointer(out->new_cu_seqlens, 4, "selection->new_cu_seqlens"));
  TC_TRY(tc_check_pointer(out->flags, 4, "selection->flags"));
  TC_TRY(tc_check_pointer(out->scores, 4, "selection->scores"));
  TC_TRY(tc_check_pointer(out->curve, 4, "selection->curve"));
  TC_TRY(tc_check_pointer(out->ranks, 4, "selection->ranks"));
  return tc_check_pointer(out->host_counts, 4, "selection->host_counts");
}

static tailcut_status check_heads(const char *which, const void *data, int32_t heads,
                                  const tailcut_relevance_options *options,
                                  const tailcut_batch *batch, int64_t *row, int64_t *head,
                                  int64_t *segment) {
  char name[64];
  snprintf(name, sizeof name, "options->%s", which);
  if (data == NULL && batch->total_tokens > 0) {
    return tc_fail(TAILCUT_ERROR_NULL, "%s is NULL; expected with policy ATTENTION", name);
  }
  TC_TRY(tc_check_pointer(data, (size_t)tc_dtype_size(options->dtype), name));
  snprintf(name, sizeof name, "options->%s_head_stride", which);
  TC_TRY(check_stride(name, head, options->head_dim, options->head_dim, heads));
  snprintf(name, sizeof name, "options->%s_row_stride", which);
  TC_TRY(check_stride(name, row, (int64_t)heads * options->head_dim, options->head_dim,
                      batch->total_tokens));
  snprintf(name, sizeof name, "options->%s_segment_stride", which);
  if (batch->cu_seqlens != NULL && *segment != 0) {
    return tc_fail(TAILCUT_ERROR_CONFLICT, "%s is %lld; expected 0 with batch->cu_seqlens", name,
                   (long long)*segment);
  }
  if (batch->cu_seqlens != NULL) return TAILCUT_OK;
  return check_stride(name, segment, *row * batch->max_tokens, 0, batch->segments);
}

tailcut_status tc_check_options(const tailcut_relevance_options *in, const tailcut_batch *batch,
                                tailcut_relevance_options *out) {
  static const tailcut_relevance_options defaults = TAILCUT_RELEVANCE_OPTIONS_INITIALIZER;
  if (in == NULL) in = &defaults;
  TC_TRY(TC_IMPORT(out, in, "options"));
  TC_TRY(check_enum("options->policy", out->policy, TAILCUT_MEAN_COSINE, TAILCUT_ATTENTION));
  if (out->policy != TAILCUT_ATTENTION) return TAILCUT_OK;
  TC_TRY(check_enum("options->causal", out->causal, 0, 1));
  TC_TRY(check_enum("options->last_query", out->last_query, 0, 1));
  TC_TRY(check_enum("options->dtype", out->dtype, TAILCUT_F16, TAILCUT_F32));
  TC_TRY(check_int("options->head_dim", out->head_dim, 1, 1024));
  TC_TRY(check_int("options->k_heads", out->k_heads, 1, 65536));
  TC_TRY(check_int("options->q_heads", out->q_heads, 1, 65536));
  if (out->q_heads % out->k_heads != 0) {
    return tc_fail(TAILCUT_ERROR_CONFLICT,
                   "options->q_heads is %d; expected a multiple of k_heads %d", out->q_heads,
                   out->k_heads);
  }
  TC_TRY(check_heads("q", out->q, out->q_heads, out, batch, &out->q_row_stride, &out->q_head_stride,
                     &out->q_segment_stride));
  return check_heads("k", out->k, out->k_heads, out, batch, &out->k_row_stride, &out->k_head_stride,
                     &out->k_segment_stride);
}

tailcut_status tc_check_config(const tailcut_config *in, tailcut_config *out) {
  static const tailcut_config defaults = TAILCUT_CONFIG_INITIALIZER;
  if (in == NULL) in = &defaults;
  TC_TRY(TC_IMPORT(out, in, "config"));
  if (out->version / 100 != TAILCUT_VERSION / 100) { /* 0.x: every minor may break */
    return tc_fail(TAILCUT_ERROR_VERSION,
                   "config->version is %d; this library is %d: header and library differ",
                   out->version, TAILCUT_VERSION);
  }
  TC_TRY(
      check_enum("config->device_kind", out->device_kind, TAILCUT_DEVICE_CPU, TAILCUT_DEVICE_CUDA));
  TC_TRY(check_int("config->device_index", out->device_index, 0,
                   out->device_kind == TAILCUT_DEVICE_CPU ? 0 : INT32_MAX));
  return check_int("config->threads", out->threads, 0, 1024);
}
