/* SPDX-License-Identifier: Apache-2.0 */
/* validate: the host checks of every struct but tailcut_rule (rule.c) and tailcut_rows
 * (validate_rows.c). Each fills in what the caller left to default. */
#include <string.h>

#include "check.h"

static tailcut_status check_extent(const char *what, int32_t segments, int32_t max_tokens,
                                   int32_t prefix_rows, int ragged, int64_t *total) {
  char name[64];
  const int64_t product = (int64_t)segments * max_tokens;
  snprintf(name, sizeof name, "%s->segments", what);
  TC_TRY(tc_check_int(name, segments, 0, INT32_MAX - 1));
  snprintf(name, sizeof name, "%s->max_tokens", what);
  TC_TRY(tc_check_int(name, max_tokens, 0, (int64_t)TAILCUT_MAX_SEGMENT_TOKENS + prefix_rows));
  snprintf(name, sizeof name, "%s->total_tokens", what);
  if (*total == 0) *total = product;
  if (!ragged && *total != product) {
    return tc_fail(TAILCUT_ERROR_CONFLICT,
                   "%s is %lld; expected 0 or segments * max_tokens = %lld for a uniform batch",
                   name, (long long)*total, (long long)product);
  }
  return tc_check_int(name, *total, 0, INT32_MAX);
}

tailcut_status tc_check_batch(const tailcut_batch *in, tailcut_batch *out) {
  static const tailcut_batch defaults = TAILCUT_BATCH_INITIALIZER;
  *out = defaults;
  TC_TRY(TC_IMPORT(out, in, batch, "batch"));
  TC_TRY(tc_check_int("batch->prefix_rows", out->prefix_rows, 0, TAILCUT_MAX_SEGMENT_TOKENS));
  TC_TRY(check_extent("batch", out->segments, out->max_tokens, out->prefix_rows,
                      out->cu_seqlens != NULL, &out->total_tokens));
  TC_TRY(tc_check_pointer(out->cu_seqlens, 4, "batch->cu_seqlens"));
  TC_TRY(tc_check_pointer(out->lengths, 4, "batch->lengths"));
  if (out->cu_seqlens != NULL && out->lengths != NULL) {
    return tc_fail(TAILCUT_ERROR_CONFLICT,
                   "batch->lengths and batch->cu_seqlens are both given; expected one or neither");
  }
  TC_TRY(tc_check_int("batch->groups", out->groups, 0, INT32_MAX - 1));
  if (out->groups > 0 && out->group_cu_seqlens == NULL) {
    return tc_fail(TAILCUT_ERROR_NULL,
                   "batch->group_cu_seqlens is NULL; expected offsets with batch->groups %d",
                   (int)out->groups);
  }
  if (out->groups == 0 && out->group_cu_seqlens != NULL && out->total_tokens > 0) {
    return tc_fail(TAILCUT_ERROR_RANGE,
                   "batch->groups is not set; expected with batch->group_cu_seqlens");
  }
  return tc_check_pointer(out->group_cu_seqlens, 4, "batch->group_cu_seqlens");
}

tailcut_status tc_check_limits(const tailcut_limits *in, tailcut_limits *out) {
  static const tailcut_limits defaults = TAILCUT_LIMITS_INITIALIZER;
  *out = defaults;
  TC_TRY(TC_IMPORT(out, in, limits, "limits"));
  TC_TRY(check_extent("limits", out->segments, out->max_tokens, TAILCUT_MAX_SEGMENT_TOKENS, 1,
                      &out->total_tokens));
  TC_TRY(tc_check_int("limits->dim", out->dim, 0, INT32_MAX));
  TC_TRY(tc_check_int("limits->q_heads", out->q_heads, 0, INT32_MAX));
  TC_TRY(tc_check_int("limits->groups", out->groups, 0, INT32_MAX - 1));
  TC_TRY(tc_check_int("limits->window", out->window, 0, 256));
  return tc_check_int("limits->head_dim", out->head_dim, 0, 1024);
}

/* The stride of segments whose rows are `row` apart, a stride that is checked for all rows there
 * are: where there are none it may be any. */
static tailcut_status check_segment_stride(const char *name, int64_t *stride, int64_t row,
                                           const tailcut_batch *batch) {
  if (batch->cu_seqlens == NULL) {
    return tc_check_stride(name, stride, batch->total_tokens > 0 ? row * batch->max_tokens : 0, 0,
                           batch->segments);
  }
  if (*stride == 0) return TAILCUT_OK;
  return tc_fail(TAILCUT_ERROR_CONFLICT, "%s is %lld; expected 0 with batch->cu_seqlens", name,
                 (long long)*stride);
}

tailcut_status tc_check_tokens(const tailcut_tokens *in, const tailcut_batch *batch,
                               tailcut_tokens *out) {
  static const tailcut_tokens defaults = TAILCUT_TOKENS_INITIALIZER;
  *out = defaults;
  TC_TRY(TC_IMPORT(out, in, tokens, "tokens"));
  TC_TRY(tc_check_enum("tokens->dtype", out->dtype, TAILCUT_F16, TAILCUT_F32));
  if (out->dim == 0) return tc_fail(TAILCUT_ERROR_RANGE, "tokens->dim is not set");
  TC_TRY(tc_check_int("tokens->dim", out->dim, 1, INT32_MAX));
  if (out->data == NULL && batch->total_tokens > 0) {
    return tc_fail(TAILCUT_ERROR_NULL, "tokens->data is NULL; expected %lld rows",
                   (long long)batch->total_tokens);
  }
  TC_TRY(tc_check_pointer(out->data, (size_t)tc_dtype_size(out->dtype), "tokens->data"));
  TC_TRY(tc_check_stride("tokens->row_stride", &out->row_stride, out->dim, out->dim,
                         batch->total_tokens));
  return check_segment_stride("tokens->segment_stride", &out->segment_stride, out->row_stride,
                              batch);
}

static tailcut_status check_given(const tailcut_batch *batch, const tailcut_tokens *tokens,
                                  tailcut_reference *out) {
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
  if (out->segment_stride == 0) return TAILCUT_OK;
  return tc_check_stride("reference->segment_stride", &out->segment_stride, 0, tokens->dim,
                         batch->segments);
}

tailcut_status tc_check_window(const char *name, int32_t *window, int32_t fallback,
                               const tailcut_tokens *tokens) {
  if (*window == 0) *window = fallback;
  if (*window != 64 && *window != 128 && *window != 256) {
    return tc_fail(TAILCUT_ERROR_RANGE, "%s is %d; expected 64, 128 or 256", name, (int)*window);
  }
  return tc_check_int("tokens->dim", tokens->dim, 1, TAILCUT_MAX_NOVELTY_DIM);
}

tailcut_status tc_check_reference(const tailcut_reference *in, const tailcut_batch *batch,
                                  const tailcut_tokens *tokens, tailcut_reference *out) {
  static const tailcut_reference defaults = TAILCUT_REFERENCE_INITIALIZER;
  *out = defaults;
  TC_TRY(TC_IMPORT(out, in, reference, "reference"));
  TC_TRY(tc_check_enum("reference->source", out->source, TAILCUT_REFERENCE_GIVEN,
                       TAILCUT_REFERENCE_NOVELTY));
  if (out->source == TAILCUT_REFERENCE_LAG) {
    if (out->lag == 0) {
      return tc_fail(TAILCUT_ERROR_RANGE, "reference->lag is not set; expected with source LAG");
    }
    TC_TRY(tc_check_int("reference->lag", out->lag, 1, INT32_MAX));
  } else if (out->lag != 0) {
    return tc_fail(TAILCUT_ERROR_CONFLICT, "reference->lag is %d; expected 0 but with source LAG",
                   (int)out->lag);
  }
  if (out->source == TAILCUT_REFERENCE_NOVELTY) {
    TC_TRY(tc_check_window("reference->window", &out->window, 64, tokens));
  } else if (out->window != 0) {
    return tc_fail(TAILCUT_ERROR_CONFLICT,
                   "reference->window is %d; expected 0 but with source NOVELTY", (int)out->window);
  }
  if (out->source == TAILCUT_REFERENCE_GIVEN) return check_given(batch, tokens, out);
  if (out->data != NULL) {
    return tc_fail(TAILCUT_ERROR_CONFLICT,
                   "reference->data is given; expected NULL but with source GIVEN");
  }
  if (out->source == TAILCUT_REFERENCE_ROW && batch->prefix_rows < 1) {
    return tc_fail(TAILCUT_ERROR_CONFLICT,
                   "batch->prefix_rows is 0; expected 1 or more with reference->source ROW");
  }
  out->dtype = out->source == TAILCUT_REFERENCE_MEAN ? TAILCUT_F32 : tokens->dtype;
  return TAILCUT_OK;
}

tailcut_status tc_check_selection(const tailcut_selection *in, const tailcut_batch *batch,
                                  tailcut_selection *out) {
  static const tailcut_selection defaults = TAILCUT_SELECTION_INITIALIZER;
  *out = defaults;
  TC_TRY(TC_IMPORT(out, in, selection, "selection"));
  TC_TRY(tc_check_array(out->counts, 4, batch->segments, "selection->counts"));
  TC_TRY(tc_check_enum("selection->kept_placement", out->kept_placement, TAILCUT_LOCAL,
                       TAILCUT_PACKED));
  TC_TRY(tc_check_pointer(out->kept, 4, "selection->kept"));
  TC_TRY(tc_check_pointer(out->new_cu_seqlens, 4, "selection->new_cu_seqlens"));
  TC_TRY(tc_check_pointer(out->flags, 4, "selection->flags"));
  TC_TRY(tc_check_pointer(out->scores, 4, "selection->scores"));
  TC_TRY(tc_check_pointer(out->curve, 4, "selection->curve"));
  TC_TRY(tc_check_pointer(out->ranks, 4, "selection->ranks"));
  TC_TRY(tc_check_pointer(out->host_counts, 4, "selection->host_counts"));
  if (out->group_counts != NULL && batch->group_cu_seqlens == NULL) {
    return tc_fail(TAILCUT_ERROR_CONFLICT,
                   "selection->group_counts is given; expected NULL without "
                   "batch->group_cu_seqlens");
  }
  return tc_check_pointer(out->group_counts, 4, "selection->group_counts");
}

tailcut_status tc_check_merge(const char *name, const tailcut_merge_options *in,
                              const tailcut_tokens *tokens, const tailcut_reference *source,
                              tailcut_merge_options *out) {
  static const tailcut_merge_options defaults = TAILCUT_MERGE_OPTIONS_INITIALIZER;
  const int32_t scored = source != NULL ? source->window : 0;
  char field[64];
  *out = defaults;
  if (in != NULL) TC_TRY(TC_IMPORT(out, in, merge_options, name));
  if (out->power != TAILCUT_MERGE_MEAN && out->power != TAILCUT_MERGE_COS4) {
    return tc_fail(TAILCUT_ERROR_ENUM, "%s->power is %d; expected MEAN (0) or COS4 (4)", name,
                   (int)out->power);
  }
  snprintf(field, sizeof field, "%s->window", name);
  if (scored > 0 && out->window != 0 && out->window != scored) {
    return tc_fail(TAILCUT_ERROR_CONFLICT, "%s is %d; expected 0 or reference->window, %d", field,
                   (int)out->window, (int)scored);
  }
  TC_TRY(tc_check_window(field, &out->window, scored > 0 ? scored : 64, tokens));
  snprintf(field, sizeof field, "%s->sizes_in", name);
  TC_TRY(tc_check_pointer(out->sizes_in, 4, field));
  snprintf(field, sizeof field, "%s->sizes_out", name);
  TC_TRY(tc_check_pointer(out->sizes_out, 4, field));
  snprintf(field, sizeof field, "%s->joins_out", name);
  return tc_check_pointer(out->joins_out, 4, field);
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
  TC_TRY(tc_check_stride(name, head, options->head_dim, options->head_dim, heads));
  snprintf(name, sizeof name, "options->%s_row_stride", which);
  TC_TRY(tc_check_stride(name, row, (int64_t)heads * options->head_dim, options->head_dim,
                         batch->total_tokens));
  snprintf(name, sizeof name, "options->%s_segment_stride", which);
  return check_segment_stride(name, segment, *row, batch);
}

static tailcut_status check_lse(const tailcut_batch *batch, tailcut_relevance_options *out) {
  const int64_t given[] = {out->lse_row_stride, out->lse_head_stride, out->lse_segment_stride};
  static const char *const names[] = {"options->lse_row_stride", "options->lse_head_stride",
                                      "options->lse_segment_stride"};
  for (int i = 0; i < 3; i++) {
    if (given[i] == 0 || (out->lse != NULL && (i < 2 || batch->cu_seqlens == NULL))) continue;
    return tc_fail(TAILCUT_ERROR_CONFLICT, "%s is %lld; expected 0 %s", names[i],
                   (long long)given[i],
                   out->lse == NULL ? "without options->lse" : "with batch->cu_seqlens");
  }
  if (out->lse == NULL) return TAILCUT_OK;
  TC_TRY(tc_check_pointer(out->lse, 4, "options->lse"));
  TC_TRY(tc_check_stride(names[0], &out->lse_row_stride, out->q_heads, 1, batch->total_tokens));
  TC_TRY(tc_check_stride(names[1], &out->lse_head_stride, 1, 1, out->q_heads));
  if (batch->cu_seqlens != NULL) return TAILCUT_OK;
  if (given[2] == 0 && batch->segments > 1 && out->q_heads > 1 &&
      out->lse_head_stride * (out->q_heads - 1) >= out->lse_row_stride) {
    return tc_fail(TAILCUT_ERROR_RANGE,
                   "%s is not set; expected where the heads are %lld apart and the rows %lld",
                   names[2], (long long)out->lse_head_stride, (long long)out->lse_row_stride);
  }
  return check_segment_stride(names[2], &out->lse_segment_stride, out->lse_row_stride, batch);
}

static tailcut_status check_count(const char *name, int64_t value, int64_t most) {
  if (value == 0) {
    return tc_fail(TAILCUT_ERROR_RANGE, "%s is not set; expected with policy ATTENTION", name);
  }
  return tc_check_int(name, value, 1, most);
}

tailcut_status tc_check_options(const tailcut_relevance_options *in, const tailcut_batch *batch,
                                tailcut_relevance_options *out) {
  static const tailcut_relevance_options defaults = TAILCUT_RELEVANCE_OPTIONS_INITIALIZER;
  *out = defaults;
  if (in != NULL) TC_TRY(TC_IMPORT(out, in, relevance_options, "options"));
  TC_TRY(tc_check_enum("options->policy", out->policy, TAILCUT_MEAN_COSINE, TAILCUT_ATTENTION));
  if (out->policy != TAILCUT_ATTENTION) return TAILCUT_OK;
  TC_TRY(tc_check_enum("options->causal", out->causal, 0, 1));
  TC_TRY(tc_check_enum("options->last_query", out->last_query, 0, 1));
  TC_TRY(tc_check_enum("options->dtype", out->dtype, TAILCUT_F16, TAILCUT_F32));
  TC_TRY(check_count("options->head_dim", out->head_dim, 1024));
  TC_TRY(check_count("options->k_heads", out->k_heads, 65536));
  TC_TRY(check_count("options->q_heads", out->q_heads, 65536));
  if (out->q_heads % out->k_heads != 0) {
    return tc_fail(TAILCUT_ERROR_CONFLICT,
                   "options->q_heads is %d; expected a multiple of k_heads %d", out->q_heads,
                   out->k_heads);
  }
  TC_TRY(check_heads("q", out->q, out->q_heads, out, batch, &out->q_row_stride, &out->q_head_stride,
                     &out->q_segment_stride));
  TC_TRY(check_heads("k", out->k, out->k_heads, out, batch, &out->k_row_stride, &out->k_head_stride,
                     &out->k_segment_stride));
  TC_TRY(tc_check_enum("options->head_reduction", out->head_reduction, TAILCUT_REDUCE_MEAN,
                       TAILCUT_REDUCE_MAX));
  TC_TRY(tc_check_enum("options->query_reduction", out->query_reduction, TAILCUT_REDUCE_MEAN,
                       TAILCUT_REDUCE_MAX));
  return check_lse(batch, out);
}

tailcut_status tc_check_config(const tailcut_config *in, tailcut_config *out) {
  static const tailcut_config defaults = TAILCUT_CONFIG_INITIALIZER;
  /* The major version, and while that is 0 the minor one too: each of these may break. */
  const int32_t unit = TAILCUT_VERSION_MAJOR == 0 ? 100 : 10000;
  *out = defaults;
  TC_TRY(TC_IMPORT(out, in, config, "config"));
  if (out->version == 0) {
    return tc_fail(TAILCUT_ERROR_VERSION,
                   "config->version is not set; expected TAILCUT_VERSION of the header");
  }
  if (out->version / unit != TAILCUT_VERSION / unit) {
    return tc_fail(TAILCUT_ERROR_VERSION,
                   "config->version is %d; this library is %d: header and library differ",
                   out->version, TAILCUT_VERSION);
  }
  TC_TRY(tc_check_enum("config->device_kind", out->device_kind, TAILCUT_DEVICE_CPU,
                       TAILCUT_DEVICE_CUDA));
  TC_TRY(tc_check_int("config->device_index", out->device_index, 0,
                      out->device_kind == TAILCUT_DEVICE_CPU ? 0 : INT32_MAX));
  return tc_check_int("config->threads", out->threads, 0, 1024);
}
