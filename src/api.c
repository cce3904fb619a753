/* SPDX-License-Identifier: Apache-2.0 */
/* api: the run calls. Each checks everything on the host into a tc_call, then hands that to the
 * backend. */
#include "check.h"

static tailcut_status begin(tailcut_handle handle, const tailcut_batch *batch, tc_call *call) {
  if (handle == NULL) return tc_fail(TAILCUT_ERROR_NULL, "handle is NULL");
  return tc_check_batch(batch, &call->batch);
}

static tailcut_status no_prefix(const tailcut_batch *batch, const char *why) {
  if (batch->prefix_rows == 0) return TAILCUT_OK;
  return tc_fail(TAILCUT_ERROR_CONFLICT, "batch->prefix_rows is %d; expected 0 %s",
                 (int)batch->prefix_rows, why);
}

static tailcut_status check_workspace(tailcut_handle handle, int32_t kind, const tc_call *call) {
  const tailcut_limits limits = tc_call_limits(call);
  const size_t need = handle->backend->workspace_size(handle, kind, &limits);
  if (need == 0) return TAILCUT_OK;
  if (call->workspace == NULL) {
    return tc_fail(TAILCUT_ERROR_WORKSPACE, "workspace is NULL; expected %zu bytes", need);
  }
  if ((uintptr_t)call->workspace % TAILCUT_WORKSPACE_ALIGNMENT != 0) {
    return tc_fail(TAILCUT_ERROR_WORKSPACE, "workspace is %p; expected a multiple of %d",
                   call->workspace, TAILCUT_WORKSPACE_ALIGNMENT);
  }
  if (call->workspace_size < need) {
    return tc_fail(TAILCUT_ERROR_WORKSPACE, "workspace_size is %zu; expected at least %zu",
                   call->workspace_size, need);
  }
  return TAILCUT_OK;
}

static tailcut_status no_merge(const tailcut_selection *selection) {
  if (selection->merge == NULL) return TAILCUT_OK;
  return tc_fail(TAILCUT_ERROR_CONFLICT,
                 "selection->merge is given; expected NULL but in tailcut_prune_visual");
}

/* The end of every run call: `status` is what its checks said. */
static tailcut_status finish(tailcut_handle handle, int32_t kind, tailcut_status status,
                             tc_call *call, void *workspace, size_t workspace_size, void *stream) {
  static const char *const names[] = {"",        "score",     "mean_direction", "cut",
                                      "compact", "relevance", "prune_visual",   "prune_sequence",
                                      "merge"};
  call->workspace = workspace;
  call->workspace_size = workspace_size;
  call->stream = stream;
  if (status == TAILCUT_OK) status = check_workspace(handle, kind, call);
  if (status == TAILCUT_OK && handle->debug_slots) status = tc_debug_check_slots(handle, call);
  if (status == TAILCUT_OK) {
    tc_log(handle, TC_LOG_DEBUG, "%s: %d segments, %d tokens at most, %lld in all, dim %d",
           names[kind], (int)call->batch.segments, (int)call->batch.max_tokens,
           (long long)call->batch.total_tokens, (int)call->tokens.dim);
    status = handle->backend->run[kind](handle, call);
  }
  if (status != TAILCUT_OK) {
    tc_log(handle, TC_LOG_ERROR, "%s: %s", tailcut_status_string(status), tailcut_last_error());
  }
  return status;
}

static tailcut_status check_score(tailcut_handle handle, const tailcut_batch *batch,
                                  const tailcut_tokens *tokens, const tailcut_reference *reference,
                                  tc_call *c) {
  TC_TRY(begin(handle, batch, c));
  TC_TRY(tc_check_tokens(tokens, &c->batch, &c->tokens));
  TC_TRY(tc_check_reference(reference, &c->batch, &c->tokens, &c->reference));
  TC_TRY(tc_check_array(c->out_scores, 4, c->batch.total_tokens, "scores"));
  return tc_check_pointer(c->out_flags, 4, "flags");
}

TAILCUT_API tailcut_status tailcut_score(tailcut_handle handle, const tailcut_batch *batch,
                                         const tailcut_tokens *tokens,
                                         const tailcut_reference *reference, float *scores,
                                         int32_t *flags, void *workspace, size_t workspace_size,
                                         void *stream) {
  tc_call c = {.out_scores = scores, .out_flags = flags};
  tc_clear_error();
  const tailcut_status status = check_score(handle, batch, tokens, reference, &c);
  return finish(handle, TAILCUT_CALL_SCORE, status, &c, workspace, workspace_size, stream);
}

static tailcut_status check_direction(tailcut_handle handle, const tailcut_batch *batch,
                                      const tailcut_tokens *tokens, tc_call *c) {
  TC_TRY(begin(handle, batch, c));
  TC_TRY(tc_check_tokens(tokens, &c->batch, &c->tokens));
  if (c->roles != NULL) TC_TRY(no_prefix(&c->batch, "with roles"));
  return tc_check_array(c->direction, 4, c->batch.segments, "direction");
}

TAILCUT_API tailcut_status tailcut_mean_direction(tailcut_handle handle, const tailcut_batch *batch,
                                                  const tailcut_tokens *tokens,
                                                  const uint8_t *roles, float *direction,
                                                  void *workspace, size_t workspace_size,
                                                  void *stream) {
  tc_call c = {.roles = roles, .direction = direction};
  tc_clear_error();
  const tailcut_status status = check_direction(handle, batch, tokens, &c);
  return finish(handle, TAILCUT_CALL_MEAN_DIRECTION, status, &c, workspace, workspace_size, stream);
}

static tailcut_status check_cut(tailcut_handle handle, const tailcut_batch *batch,
                                const tailcut_rule *rule, const tailcut_selection *selection,
                                tc_call *c) {
  TC_TRY(begin(handle, batch, c));
  TC_TRY(tc_check_array(c->in_scores, 4, c->batch.total_tokens, "scores"));
  if (c->roles != NULL) TC_TRY(no_prefix(&c->batch, "with roles"));
  TC_TRY(tc_check_pointer(c->input_flags, 4, "input_flags"));
  TC_TRY(tc_check_rule(rule, &c->rule));
  TC_TRY(tc_check_selection(selection, &c->batch, &c->selection));
  if (c->selection.scores != NULL) {
    return tc_fail(TAILCUT_ERROR_CONFLICT, "selection->scores is given; expected NULL in a cut");
  }
  TC_TRY(no_merge(&c->selection));
  if (c->rule.scale == TAILCUT_SCALE_DEFAULT) c->rule.scale = TAILCUT_SCALE_AUTO;
  return TAILCUT_OK;
}

TAILCUT_API tailcut_status tailcut_cut(tailcut_handle handle, const tailcut_batch *batch,
                                       const float *scores, const uint8_t *roles,
                                       const int32_t *input_flags, const tailcut_rule *rule,
                                       const tailcut_selection *selection, void *workspace,
                                       size_t workspace_size, void *stream) {
  tc_call c = {.in_scores = scores, .roles = roles, .input_flags = input_flags};
  tc_clear_error();
  const tailcut_status status = check_cut(handle, batch, rule, selection, &c);
  return finish(handle, TAILCUT_CALL_CUT, status, &c, workspace, workspace_size, stream);
}

/* What compact and merge are given alike. */
static tc_call call_on_lists(const int32_t *kept, int32_t kept_placement, const int32_t *counts,
                             const int32_t *new_cu_seqlens) {
  const tc_call c = {.kept = kept,
                     .kept_placement = kept_placement,
                     .counts = counts,
                     .new_cu_seqlens = new_cu_seqlens};
  return c;
}

/* What they check alike, behind the batch. */
static tailcut_status check_lists(const tailcut_rows *rows, int32_t num_rows, tc_call *c) {
  TC_TRY(tc_check_array(c->kept, 4, c->batch.total_tokens, "kept"));
  if (c->kept_placement != TAILCUT_LOCAL && c->kept_placement != TAILCUT_PACKED) {
    return tc_fail(TAILCUT_ERROR_ENUM, "kept_placement is %d; expected LOCAL (1) or PACKED (2)",
                   (int)c->kept_placement);
  }
  TC_TRY(tc_check_array(c->counts, 4, c->batch.segments, "counts"));
  TC_TRY(tc_check_pointer(c->new_cu_seqlens, 4, "new_cu_seqlens"));
  TC_TRY(tc_check_rows(c, rows, num_rows));
  int packed = c->kept_placement == TAILCUT_PACKED;
  for (int32_t i = 0; i < num_rows; i++) packed |= tc_rows_at(c, i).placement == TAILCUT_PACKED;
  if (packed && c->new_cu_seqlens == NULL) {
    return tc_fail(TAILCUT_ERROR_NULL, "new_cu_seqlens is NULL; expected with PACKED placement");
  }
  return TAILCUT_OK;
}

static tailcut_status check_compact(tailcut_handle handle, const tailcut_batch *batch,
                                    const tailcut_rows *rows, int32_t num_rows, tc_call *c) {
  TC_TRY(begin(handle, batch, c));
  return check_lists(rows, num_rows, c);
}

TAILCUT_API tailcut_status tailcut_compact(tailcut_handle handle, const tailcut_batch *batch,
                                           const int32_t *kept, int32_t kept_placement,
                                           const int32_t *counts, const int32_t *new_cu_seqlens,
                                           const tailcut_rows *rows, int32_t num_rows,
                                           void *workspace, size_t workspace_size, void *stream) {
  tc_call c = call_on_lists(kept, kept_placement, counts, new_cu_seqlens);
  tc_clear_error();
  const tailcut_status status = check_compact(handle, batch, rows, num_rows, &c);
  return finish(handle, TAILCUT_CALL_COMPACT, status, &c, workspace, workspace_size, stream);
}

static tailcut_status check_merge(tailcut_handle handle, const tailcut_batch *batch,
                                  const tailcut_tokens *tokens,
                                  const tailcut_merge_options *options, const tailcut_rows *rows,
                                  int32_t num_rows, tc_call *c) {
  TC_TRY(begin(handle, batch, c));
  TC_TRY(tc_check_tokens(tokens, &c->batch, &c->tokens));
  TC_TRY(tc_check_merge("options", options, &c->tokens, NULL, &c->merge));
  return check_lists(rows, num_rows, c);
}

TAILCUT_API tailcut_status tailcut_merge(tailcut_handle handle, const tailcut_batch *batch,
                                         const tailcut_tokens *tokens, const int32_t *kept,
                                         int32_t kept_placement, const int32_t *counts,
                                         const int32_t *new_cu_seqlens,
                                         const tailcut_merge_options *options,
                                         const tailcut_rows *rows, int32_t num_rows,
                                         void *workspace, size_t workspace_size, void *stream) {
  tc_call c = call_on_lists(kept, kept_placement, counts, new_cu_seqlens);
  tc_clear_error();
  const tailcut_status status = check_merge(handle, batch, tokens, options, rows, num_rows, &c);
  return finish(handle, TAILCUT_CALL_MERGE, status, &c, workspace, workspace_size, stream);
}

static tailcut_status check_prune_visual(tailcut_handle handle, const tailcut_batch *batch,
                                         const tailcut_tokens *tokens,
                                         const tailcut_reference *reference,
                                         const tailcut_rule *rule,
                                         const tailcut_selection *selection,
                                         const tailcut_rows *rows, int32_t num_rows, tc_call *c) {
  TC_TRY(begin(handle, batch, c));
  TC_TRY(tc_check_tokens(tokens, &c->batch, &c->tokens));
  TC_TRY(tc_check_reference(reference, &c->batch, &c->tokens, &c->reference));
  TC_TRY(tc_check_rule(rule, &c->rule));
  TC_TRY(tc_check_selection(selection, &c->batch, &c->selection));
  if (c->rule.scale == TAILCUT_SCALE_DEFAULT) c->rule.scale = TAILCUT_SCALE_UNIT;
  if (c->selection.merge != NULL) {
    TC_TRY(tc_check_merge("selection->merge", c->selection.merge, &c->tokens, &c->reference,
                          &c->merge));
  }
  return tc_check_rows(c, rows, num_rows);
}

TAILCUT_API tailcut_status tailcut_prune_visual(
    tailcut_handle handle, const tailcut_batch *batch, const tailcut_tokens *tokens,
    const tailcut_reference *reference, const tailcut_rule *rule,
    const tailcut_selection *selection, const tailcut_rows *rows, int32_t num_rows, void *workspace,
    size_t workspace_size, void *stream) {
  tc_call c = {0};
  tc_clear_error();
  const tailcut_status status =
      check_prune_visual(handle, batch, tokens, reference, rule, selection, rows, num_rows, &c);
  return finish(handle, TAILCUT_CALL_PRUNE_VISUAL, status, &c, workspace, workspace_size, stream);
}

/* What relevance and prune_sequence check alike. */
static tailcut_status check_sequence(tailcut_handle handle, const tailcut_batch *batch,
                                     const tailcut_tokens *tokens,
                                     const tailcut_relevance_options *options, tc_call *c) {
  TC_TRY(begin(handle, batch, c));
  TC_TRY(no_prefix(&c->batch, "for a sequence (roles say it all)"));
  TC_TRY(tc_check_options(options, &c->batch, &c->options));
  if (tokens != NULL || c->options.policy != TAILCUT_ATTENTION) {
    TC_TRY(tc_check_tokens(tokens, &c->batch, &c->tokens));
  }
  return tc_check_array(c->roles, 1, c->batch.total_tokens, "roles");
}

static tailcut_status check_relevance(tailcut_handle handle, const tailcut_batch *batch,
                                      const tailcut_tokens *tokens,
                                      const tailcut_relevance_options *options, tc_call *c) {
  TC_TRY(check_sequence(handle, batch, tokens, options, c));
  TC_TRY(tc_check_array(c->out_scores, 4, c->batch.total_tokens, "scores"));
  return tc_check_pointer(c->out_flags, 4, "flags");
}

TAILCUT_API tailcut_status tailcut_relevance(tailcut_handle handle, const tailcut_batch *batch,
                                             const tailcut_tokens *tokens, const uint8_t *roles,
                                             const tailcut_relevance_options *options,
                                             float *scores, int32_t *flags, void *workspace,
                                             size_t workspace_size, void *stream) {
  tc_call c = {.roles = roles, .out_scores = scores, .out_flags = flags};
  tc_clear_error();
  const tailcut_status status = check_relevance(handle, batch, tokens, options, &c);
  return finish(handle, TAILCUT_CALL_RELEVANCE, status, &c, workspace, workspace_size, stream);
}

static tailcut_status check_prune_sequence(tailcut_handle handle, const tailcut_batch *batch,
                                           const tailcut_tokens *tokens,
                                           const tailcut_relevance_options *options,
                                           const tailcut_rule *rule,
                                           const tailcut_selection *selection,
                                           const tailcut_rows *rows, int32_t num_rows, tc_call *c) {
  TC_TRY(check_sequence(handle, batch, tokens, options, c));
  TC_TRY(tc_check_rule(rule, &c->rule));
  TC_TRY(tc_check_selection(selection, &c->batch, &c->selection));
  if (c->rule.scale == TAILCUT_SCALE_DEFAULT) {
    c->rule.scale =
        c->options.policy == TAILCUT_ATTENTION ? TAILCUT_SCALE_AUTO : TAILCUT_SCALE_UNIT;
  }
  TC_TRY(no_merge(&c->selection));
  return tc_check_rows(c, rows, num_rows);
}

TAILCUT_API tailcut_status tailcut_prune_sequence(
    tailcut_handle handle, const tailcut_batch *batch, const tailcut_tokens *tokens,
    const uint8_t *roles, const tailcut_relevance_options *options, const tailcut_rule *rule,
    const tailcut_selection *selection, const tailcut_rows *rows, int32_t num_rows, void *workspace,
    size_t workspace_size, void *stream) {
  tc_call c = {.roles = roles};
  tc_clear_error();
  const tailcut_status status =
      check_prune_sequence(handle, batch, tokens, options, rule, selection, rows, num_rows, &c);
  return finish(handle, TAILCUT_CALL_PRUNE_SEQUENCE, status, &c, workspace, workspace_size, stream);
}
