/* SPDX-License-Identifier: Apache-2.0 */
/* api: the run calls. Each checks everything on the host, then hands one tc_call to the backend. */
#include "internal.h"

#define TC_TRY(call)                                           \
  do {                                                         \
    const tailcut_status status_ = (call);                     \
    if (status_ != TAILCUT_OK) return finish(handle, status_); \
  } while (0)

static tailcut_status finish(tailcut_handle handle, tailcut_status status) {
  if (status != TAILCUT_OK) {
    tc_log(handle, TC_LOG_ERROR, "%s: %s", tailcut_status_string(status), tailcut_last_error());
  }
  return status;
}

static tailcut_status check_handle(tailcut_handle handle) {
  tc_clear_error();
  return handle == NULL ? tc_fail(TAILCUT_ERROR_NULL, "handle is NULL") : TAILCUT_OK;
}

/* A required array of `elements` numbers of `size` bytes. */
static tailcut_status check_array(const void *pointer, size_t size, int64_t elements,
                                  const char *name) {
  if (pointer == NULL && elements > 0) return tc_fail(TAILCUT_ERROR_NULL, "%s is NULL", name);
  return tc_check_pointer(pointer, size, name);
}

static tailcut_status no_cls_row(const tailcut_batch *batch, const char *why) {
  if (batch->cls_row == 0) return TAILCUT_OK;
  return tc_fail(TAILCUT_ERROR_CONFLICT, "batch->cls_row is 1; expected 0 %s", why);
}

static tailcut_status dispatch(tailcut_handle handle, int32_t kind, tc_call *call, void *workspace,
                               size_t workspace_size, void *stream) {
  static const char *const names[] = {"",        "score",     "mean_direction", "cut",
                                      "compact", "relevance", "prune_visual",   "prune_sequence"};
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = call->batch.segments;
  limits.max_tokens = call->batch.max_tokens;
  limits.total_tokens = call->batch.total_tokens;
  limits.dim = call->tokens.dim;
  if (call->options.policy == TAILCUT_ATTENTION) {
    limits.q_heads = call->options.q_heads;
    limits.head_dim = call->options.head_dim;
  }
  const size_t need = handle->backend->workspace_size(handle, kind, &limits);
  if (need > 0) {
    if (workspace == NULL) {
      return finish(
          handle, tc_fail(TAILCUT_ERROR_WORKSPACE, "workspace is NULL; expected %zu bytes", need));
    }
    if ((uintptr_t)workspace % TAILCUT_WORKSPACE_ALIGNMENT != 0) {
      return finish(handle,
                    tc_fail(TAILCUT_ERROR_WORKSPACE, "workspace is %p; expected a multiple of %d",
                            workspace, TAILCUT_WORKSPACE_ALIGNMENT));
    }
    if (workspace_size < need) {
      return finish(handle,
                    tc_fail(TAILCUT_ERROR_WORKSPACE, "workspace_size is %zu; expected at least %zu",
                            workspace_size, need));
    }
  }
  call->workspace = workspace;
  call->workspace_size = workspace_size;
  call->stream = stream;
  tc_log(handle, TC_LOG_DEBUG, "%s: %d segments, %d tokens at most, %lld in all, dim %d",
         names[kind], (int)limits.segments, (int)limits.max_tokens, (long long)limits.total_tokens,
         (int)limits.dim);
  return finish(handle, handle->backend->run[kind](handle, call));
}

TAILCUT_API tailcut_status tailcut_score(tailcut_handle handle, const tailcut_batch *batch,
                                         const tailcut_tokens *tokens,
                                         const tailcut_reference *reference, float *scores,
                                         int32_t *flags, void *workspace, size_t workspace_size,
                                         void *stream) {
  tc_call c = {0};
  TC_TRY(check_handle(handle));
  TC_TRY(tc_check_batch(batch, &c.batch));
  TC_TRY(tc_check_tokens(tokens, &c.batch, &c.tokens));
  TC_TRY(tc_check_reference(reference, &c.batch, &c.tokens, &c.reference));
  TC_TRY(check_array(scores, 4, c.batch.total_tokens, "scores"));
  TC_TRY(check_array(flags, 4, 0, "flags"));
  c.out_scores = scores;
  c.out_flags = flags;
  return dispatch(handle, TAILCUT_CALL_SCORE, &c, workspace, workspace_size, stream);
}

TAILCUT_API tailcut_status tailcut_mean_direction(tailcut_handle handle, const tailcut_batch *batch,
                                                  const tailcut_tokens *tokens,
                                                  const uint8_t *roles, float *direction,
                                                  void *workspace, size_t workspace_size,
                                                  void *stream) {
  tc_call c = {0};
  TC_TRY(check_handle(handle));
  TC_TRY(tc_check_batch(batch, &c.batch));
  TC_TRY(tc_check_tokens(tokens, &c.batch, &c.tokens));
  if (roles != NULL) TC_TRY(no_cls_row(&c.batch, "with roles"));
  TC_TRY(check_array(direction, 4, c.batch.segments, "direction"));
  c.roles = roles;
  c.direction = direction;
  return dispatch(handle, TAILCUT_CALL_MEAN_DIRECTION, &c, workspace, workspace_size, stream);
}

TAILCUT_API tailcut_status tailcut_cut(tailcut_handle handle, const tailcut_batch *batch,
                                       const float *scores, const uint8_t *roles,
                                       const int32_t *input_flags, const tailcut_rule *rule,
                                       const tailcut_selection *selection, void *workspace,
                                       size_t workspace_size, void *stream) {
  tc_call c = {0};
  TC_TRY(check_handle(handle));
  TC_TRY(tc_check_batch(batch, &c.batch));
  TC_TRY(check_array(scores, 4, c.batch.total_tokens, "scores"));
  if (roles != NULL) TC_TRY(no_cls_row(&c.batch, "with roles"));
  TC_TRY(check_array(input_flags, 4, 0, "input_flags"));
  TC_TRY(tc_check_rule(rule, &c.rule));
  TC_TRY(tc_check_selection(selection, &c.batch, &c.selection));
  if (c.selection.scores != NULL) {
    TC_TRY(tc_fail(TAILCUT_ERROR_CONFLICT, "selection->scores is given; expected NULL in a cut"));
  }
  if (c.rule.scale == TAILCUT_SCALE_DEFAULT) c.rule.scale = TAILCUT_SCALE_AUTO;
  c.in_scores = scores;
  c.roles = roles;
  c.input_flags = input_flags;
  return dispatch(handle, TAILCUT_CALL_CUT, &c, workspace, workspace_size, stream);
}

TAILCUT_API tailcut_status tailcut_compact(tailcut_handle handle, const tailcut_batch *batch,
                                           const int32_t *kept, int32_t kept_placement,
                                           const int32_t *counts, const int32_t *new_cu_seqlens,
                                           const tailcut_rows *rows, int32_t num_rows,
                                           void *workspace, size_t workspace_size, void *stream) {
  tc_call c = {0};
  TC_TRY(check_handle(handle));
  TC_TRY(tc_check_batch(batch, &c.batch));
  TC_TRY(check_array(kept, 4, c.batch.total_tokens, "kept"));
  if (kept_placement != TAILCUT_LOCAL && kept_placement != TAILCUT_PACKED) {
    TC_TRY(tc_fail(TAILCUT_ERROR_ENUM, "kept_placement is %d; expected LOCAL (1) or PACKED (2)",
                   (int)kept_placement));
  }
  TC_TRY(check_array(counts, 4, c.batch.segments, "counts"));
  TC_TRY(check_array(new_cu_seqlens, 4, 0, "new_cu_seqlens"));
  TC_TRY(tc_check_rows(rows, num_rows, &c.batch));
  int packed = kept_placement == TAILCUT_PACKED;
  for (int32_t i = 0; i < num_rows; i++) {
    packed |= tc_rows_at(rows, i, &c.batch).placement == TAILCUT_PACKED;
  }
  if (packed && new_cu_seqlens == NULL) {
    TC_TRY(tc_fail(TAILCUT_ERROR_NULL, "new_cu_seqlens is NULL; expected with PACKED placement"));
  }
  c.kept = kept;
  c.kept_placement = kept_placement;
  c.counts = counts;
  c.new_cu_seqlens = new_cu_seqlens;
  c.rows = rows;
  c.num_rows = num_rows;
  return dispatch(handle, TAILCUT_CALL_COMPACT, &c, workspace, workspace_size, stream);
}

TAILCUT_API tailcut_status tailcut_prune_visual(
    tailcut_handle handle, const tailcut_batch *batch, const tailcut_tokens *tokens,
    const tailcut_reference *reference, const tailcut_rule *rule,
    const tailcut_selection *selection, const tailcut_rows *rows, int32_t num_rows, void *workspace,
    size_t workspace_size, void *stream) {
  tc_call c = {0};
  TC_TRY(check_handle(handle));
  TC_TRY(tc_check_batch(batch, &c.batch));
  TC_TRY(tc_check_tokens(tokens, &c.batch, &c.tokens));
  TC_TRY(tc_check_reference(reference, &c.batch, &c.tokens, &c.reference));
  TC_TRY(tc_check_rule(rule, &c.rule));
  TC_TRY(tc_check_selection(selection, &c.batch, &c.selection));
  TC_TRY(tc_check_rows(rows, num_rows, &c.batch));
  if (c.rule.scale == TAILCUT_SCALE_DEFAULT) c.rule.scale = TAILCUT_SCALE_UNIT;
  c.rows = rows;
  c.num_rows = num_rows;
  return dispatch(handle, TAILCUT_CALL_PRUNE_VISUAL, &c, workspace, workspace_size, stream);
}

/* What relevance and prune_sequence check alike. */
static tailcut_status check_sequence(tc_call *c, const tailcut_batch *batch,
                                     const tailcut_tokens *tokens, const uint8_t *roles,
                                     const tailcut_relevance_options *options) {
  tailcut_status status = tc_check_batch(batch, &c->batch);
  if (status == TAILCUT_OK) status = no_cls_row(&c->batch, "for a sequence (roles say it all)");
  if (status == TAILCUT_OK) status = tc_check_options(options, &c->batch, &c->options);
  if (status == TAILCUT_OK && (tokens != NULL || c->options.policy != TAILCUT_ATTENTION)) {
    status = tc_check_tokens(tokens, &c->batch, &c->tokens);
  }
  if (status == TAILCUT_OK) status = check_array(roles, 1, c->batch.total_tokens, "roles");
  c->roles = roles;
  return status;
}

TAILCUT_API tailcut_status tailcut_relevance(tailcut_handle handle, const tailcut_batch *batch,
                                             const tailcut_tokens *tokens, const uint8_t *roles,
                                             const tailcut_relevance_options *options,
                                             float *scores, int32_t *flags, void *workspace,
                                             size_t workspace_size, void *stream) {
  tc_call c = {0};
  TC_TRY(check_handle(handle));
  TC_TRY(check_sequence(&c, batch, tokens, roles, options));
  TC_TRY(check_array(scores, 4, c.batch.total_tokens, "scores"));
  TC_TRY(check_array(flags, 4, 0, "flags"));
  c.out_scores = scores;
  c.out_flags = flags;
  return dispatch(handle, TAILCUT_CALL_RELEVANCE, &c, workspace, workspace_size, stream);
}

TAILCUT_API tailcut_status tailcut_prune_sequence(
    tailcut_handle handle, const tailcut_batch *batch, const tailcut_tokens *tokens,
    const uint8_t *roles, const tailcut_relevance_options *options, const tailcut_rule *rule,
    const tailcut_selection *selection, const tailcut_rows *rows, int32_t num_rows, void *workspace,
    size_t workspace_size, void *stream) {
  tc_call c = {0};
  TC_TRY(check_handle(handle));
  TC_TRY(check_sequence(&c, batch, tokens, roles, options));
  TC_TRY(tc_check_rule(rule, &c.rule));
  TC_TRY(tc_check_selection(selection, &c.batch, &c.selection));
  TC_TRY(tc_check_rows(rows, num_rows, &c.batch));
  if (c.rule.scale == TAILCUT_SCALE_DEFAULT) {
    c.rule.scale = c.options.policy == TAILCUT_ATTENTION ? TAILCUT_SCALE_AUTO : TAILCUT_SCALE_UNIT;
  }
  c.rows = rows;
  c.num_rows = num_rows;
  return dispatch(handle, TAILCUT_CALL_PRUNE_SEQUENCE, &c, workspace, workspace_size, stream);
}
