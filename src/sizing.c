/* SPDX-License-Identifier: Apache-2.0 */
/* sizing: what a server must know before any data exists: kept counts and workspaces. */
#include "curve.h"
#include "internal.h"
#include "mode.h"

/* RATIO rounds doubles: to nearest, as the cut does, whatever the caller's mode. */
static __attribute__((noinline)) int32_t ratio_count(const tailcut_rule *rule, int32_t n) {
  return tc_ratio_count(rule, n);
}

int32_t tc_kept_count(const tailcut_rule *rule, int32_t n) {
  int32_t k = n;
  if (rule->detector == TAILCUT_TOPK) k = rule->k;
  if (rule->detector == TAILCUT_RATIO) {
    tc_mode saved;
    tc_mode_enter(&saved);
    k = ratio_count(rule, n);
    tc_mode_leave(&saved);
  }
  return tc_clamp_count(rule, k, n);
}

TAILCUT_API int32_t tailcut_kept_count(const tailcut_rule *rule, int32_t n) {
  tailcut_rule r;
  tc_clear_error();
  if (tc_check_rule(rule, &r) != TAILCUT_OK) return -1;
  if (n < 0 || n > TAILCUT_MAX_SEGMENT_TOKENS) {
    tc_fail(TAILCUT_ERROR_RANGE, "n is %d; expected 0 to %d", (int)n, TAILCUT_MAX_SEGMENT_TOKENS);
    return -1;
  }
  return tc_kept_count(&r, n);
}

TAILCUT_API tailcut_status tailcut_workspace_size(tailcut_handle handle, int32_t call,
                                                  const tailcut_limits *limits, size_t *size) {
  tailcut_limits l;
  tc_clear_error();
  if (handle == NULL) return tc_fail(TAILCUT_ERROR_NULL, "handle is NULL");
  if (size == NULL) return tc_fail(TAILCUT_ERROR_NULL, "size is NULL");
  if (call < TAILCUT_CALL_SCORE || call > TC_LAST_CALL) {
    return tc_fail(TAILCUT_ERROR_ENUM, "call is %d; expected %d to %d", (int)call,
                   TAILCUT_CALL_SCORE, TC_LAST_CALL);
  }
  const tailcut_status status = tc_check_limits(limits, &l);
  if (status == TAILCUT_OK) *size = handle->backend->workspace_size(handle, call, &l);
  return status;
}

TAILCUT_API tailcut_status tailcut_workspace_init(tailcut_handle handle, void *workspace,
                                                  size_t workspace_size, void *stream) {
  tc_clear_error();
  if (handle == NULL) return tc_fail(TAILCUT_ERROR_NULL, "handle is NULL");
  if (workspace == NULL && workspace_size > 0) {
    return tc_fail(TAILCUT_ERROR_WORKSPACE, "workspace is NULL; expected %zu bytes",
                   workspace_size);
  }
  if ((uintptr_t)workspace % TAILCUT_WORKSPACE_ALIGNMENT != 0) {
    return tc_fail(TAILCUT_ERROR_WORKSPACE, "workspace is %p; expected a multiple of %d", workspace,
                   TAILCUT_WORKSPACE_ALIGNMENT);
  }
  return handle->backend->workspace_init(handle, workspace, workspace_size, stream);
}
