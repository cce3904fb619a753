/* SPDX-License-Identifier: Apache-2.0 */
/* question: uploads it, makes the call, compares. */
#include "question.h"

#include <string.h>

tt_question tt_ask(int32_t rows) {
  static const tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  tt_question q = {.rows = rows, .dim = 2, .source = TAILCUT_REFERENCE_MEAN, .rule = rule};
  return q;
}

static tailcut_status call(const tt_question *q, tailcut_handle handle, const tailcut_batch *batch,
                           const float *input, const uint8_t *roles, const tailcut_rule *rule,
                           tailcut_selection *s, tt_workspace w) {
  tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  if (q->scores != NULL) {
    return tailcut_cut(handle, batch, input, roles, NULL, rule, s, w.data, w.size, NULL);
  }
  tokens.data = input, tokens.dtype = TAILCUT_F32, tokens.dim = q->dim;
  reference.source = q->source, reference.lag = q->lag;
  return tailcut_prune_visual(handle, batch, &tokens, &reference, rule, s, NULL, 0, w.data, w.size,
                              NULL);
}

tt_answer tt_solve(const tt_backend *backend, tailcut_handle handle, const tt_question *q) {
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  tailcut_rule rule = q->rule;
  const size_t rows = (size_t)q->rows, cells = 4 * rows, groups = (size_t)q->groups;
  tt_answer a;
  memset(&a, 0, sizeof a);
  batch.segments = limits.segments = 1;
  batch.max_tokens = limits.max_tokens = q->rows;
  batch.prefix_rows = q->prefix;
  batch.groups = limits.groups = q->groups;
  if (q->offsets != NULL) {
    batch.group_cu_seqlens = tt_upload(backend, q->offsets, 4 * groups + 4, TT_TIGHT);
    s.group_counts = tt_upload(backend, NULL, 4 * groups, TT_TIGHT);
  }
  if (q->group_k != NULL) {
    rule.group_k = tt_upload(backend, q->group_k, 4 * (q->offsets ? groups : 1), TT_TIGHT);
  }
  limits.dim = q->tokens != NULL ? q->dim : 0;
  const size_t bytes = q->tokens != NULL ? cells * (size_t)q->dim : cells;
  float *input = tt_upload(backend, q->tokens ? q->tokens : q->scores, bytes, TT_TIGHT);
  uint8_t *roles = q->roles ? tt_upload(backend, q->roles, rows, TT_TIGHT) : NULL;
  s.counts = tt_upload(backend, NULL, 4, TT_TIGHT);
  s.flags = tt_upload(backend, NULL, 4, TT_TIGHT);
  s.kept = tt_upload(backend, NULL, cells, TT_TIGHT);
  s.ranks = tt_upload(backend, NULL, cells, TT_TIGHT);
  s.curve = tt_upload(backend, NULL, cells, TT_TIGHT);
  if (q->tokens != NULL) s.scores = tt_upload(backend, NULL, cells, TT_TIGHT);
  const int masked = (q->options & TT_OPTION_MASK) || !(backend->refuses & TT_OPTION_MASK);
  if (masked) s.mask = tt_upload(backend, NULL, rows, TT_TIGHT);
  tt_workspace w = tt_workspace_new(
      backend, handle, q->tokens ? TAILCUT_CALL_PRUNE_VISUAL : TAILCUT_CALL_CUT, &limits);
  const tailcut_status status = call(q, handle, &batch, input, roles, &rule, &s, w);
  a.refused = (q->options & backend->refuses) != 0;
  cr_assert_eq(status, a.refused ? TAILCUT_ERROR_UNSUPPORTED : TAILCUT_OK, "%s: %s %s",
               backend->name, tailcut_status_string(status), tailcut_last_error());
  tt_download(backend, &a.count, s.counts, 4);
  tt_download(backend, &a.flags, s.flags, 4);
  tt_download(backend, a.kept, s.kept, cells);
  tt_download(backend, a.ranks, s.ranks, cells);
  tt_download(backend, a.curve, s.curve, cells);
  if (s.scores != NULL) tt_download(backend, a.scores, s.scores, cells);
  if (s.mask != NULL) tt_download(backend, a.mask, s.mask, rows);
  if (s.group_counts != NULL) tt_download(backend, a.group_counts, s.group_counts, 4 * groups);
  if (a.refused) {
    cr_assert(a.count == TT_POISONED && a.flags == TT_POISONED && a.kept[0] == TT_POISONED &&
                  a.ranks[0] == TT_POISONED,
              "%s wrote something", backend->name);
  }
  void *all[] = {(void *)(uintptr_t)batch.group_cu_seqlens,
                 (void *)(uintptr_t)rule.group_k,
                 s.group_counts,
                 input,
                 roles,
                 s.counts,
                 s.flags,
                 s.kept,
                 s.ranks,
                 s.curve,
                 s.scores,
                 s.mask,
                 w.data};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) tt_free(backend, all[i]);
  return a;
}

void tt_expect(const char *name, const tt_question *q, int32_t count, const int32_t *kept,
               int32_t flags, const uint8_t *mask) {
  int backends_left;
  const tt_backend *backend = tt_backends(&backends_left);
  for (; backends_left > 0; backends_left--, backend++) {
    tailcut_handle handle = tt_create(backend);
    const tt_answer a = tt_solve(backend, handle, q);
    tailcut_destroy(handle);
    if (a.refused) continue;
    cr_assert_eq(a.count, count, "%s on %s: %d kept, expected %d", name, backend->name, a.count,
                 count);
    cr_assert_eq(a.flags, flags, "%s on %s: flags %d, expected %d", name, backend->name, a.flags,
                 flags);
    for (int32_t j = 0; j < count; j++) {
      cr_assert_eq(a.kept[j], kept[j], "%s on %s: kept[%d] is %d, expected %d", name, backend->name,
                   j, a.kept[j], kept[j]);
    }
    if (mask == NULL || (backend->refuses & TT_OPTION_MASK)) continue;
    cr_assert_arr_eq(a.mask, mask, (size_t)q->rows, "%s on %s", name, backend->name);
  }
}
