/* SPDX-License-Identifier: Apache-2.0 */
/* prune: the table of cases (tests/common/cases.c) on every backend: the parts and the fused call,
 * each against the reference, so parts equal the fused call and every backend equals every other;
 * then batch invariance: a segment gives the same bits alone and in any batch. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "problem.h"
#include "runner.h"

static void run_kind(unsigned kind, int least) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  if (kind == TT_SEQUENCE && !backends[0].has_sequence) least = 0; /* the runner says so */
  const tt_outcome o = tt_run_cases(kind, 0, backends, count);
  cr_assert_eq(o.failures, 0, "%d of %d runs differ from the reference", o.failures, o.runs);
  cr_assert_geq(o.cases, least, "only %d cases were run", o.cases);
}

Test(prune, visual) { run_kind(TT_VISUAL, 60); }
Test(prune, cut) { run_kind(TT_CUT, 30); }
Test(prune, sequence) { run_kind(TT_SEQUENCE, 10); }

Test(prune, names_of_cases_are_unique) {
  for (int i = 0; i < tt_case_count; i++) {
    for (int j = 0; j < i; j++) {
      cr_assert(strcmp(tt_cases[i].name, tt_cases[j].name) != 0, "%s twice", tt_cases[i].name);
    }
  }
}

/* One segment's results. */
typedef struct result {
  int32_t count, flags;
  int32_t kept[64];
  float scores[64];
} result;

enum { DIM = 72, MOST = 64, SEGMENTS = 9 };

/* Prunes `segments` segments that stand one after the other in `tokens`, ragged by cu. */
static void prune(const tt_backend *backend, const uint16_t *tokens, const int32_t *cu,
                  int32_t segments, int32_t source, result *out) {
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tailcut_tokens t = TAILCUT_TOKENS_INITIALIZER;
  tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  const size_t rows = (size_t)cu[segments], n = (size_t)segments;
  tailcut_handle handle = tt_create(backend);
  batch.segments = limits.segments = segments;
  batch.max_tokens = limits.max_tokens = MOST;
  batch.total_tokens = limits.total_tokens = cu[segments];
  batch.cls_row = source == TAILCUT_REFERENCE_ROW;
  batch.cu_seqlens = tt_upload(backend, cu, 4 * (n + 1), 0);
  t.data = tt_upload(backend, tokens, rows * DIM * 2, 0);
  t.dim = limits.dim = DIM;
  reference.source = source;
  rule.spread = 0.25;
  s.counts = tt_upload(backend, NULL, 4 * n, 0);
  s.flags = tt_upload(backend, NULL, 4 * n, 0);
  s.kept = tt_upload(backend, NULL, 4 * rows, 0);
  s.scores = tt_upload(backend, NULL, 4 * rows, 0);
  tt_workspace w = tt_workspace_new(backend, handle, TAILCUT_CALL_PRUNE_VISUAL, &limits);
  cr_assert_eq(tailcut_prune_visual(handle, &batch, &t, &reference, &rule, &s, NULL, 0, w.data,
                                    w.size, NULL),
               TAILCUT_OK, "%s", tailcut_last_error());
  int32_t *numbers = tt_host(4 * (2 * n + rows));
  float *scores = tt_host(4 * rows);
  tt_download(backend, numbers, s.counts, 4 * n);
  tt_download(backend, numbers + n, s.flags, 4 * n);
  tt_download(backend, numbers + 2 * n, s.kept, 4 * rows);
  tt_download(backend, scores, s.scores, 4 * rows);
  for (size_t b = 0; b < n; b++) {
    const int32_t candidates = cu[b + 1] - cu[b] - batch.cls_row;
    memset(&out[b], 0, sizeof out[b]);
    out[b].count = numbers[b];
    out[b].flags = numbers[n + b];
    for (int32_t j = 0; j < numbers[b]; j++) out[b].kept[j] = numbers[2 * n + (size_t)(cu[b] + j)];
    for (int32_t i = 0; i < candidates; i++) out[b].scores[i] = scores[cu[b] + i];
  }
  tt_free(backend, (void *)(uintptr_t)batch.cu_seqlens);
  tt_free(backend, (void *)(uintptr_t)t.data);
  tt_free(backend, s.counts);
  tt_free(backend, s.flags);
  tt_free(backend, s.kept);
  tt_free(backend, s.scores);
  tt_workspace_free(backend, w);
  tailcut_destroy(handle);
  free(numbers);
  free(scores);
}

static void batch_invariance(int32_t source) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  tt_random random = {77};
  int32_t cu[SEGMENTS + 1] = {0}, lengths[SEGMENTS];
  result alone[SEGMENTS], together[SEGMENTS], turned[SEGMENTS];
  for (int b = 0; b < SEGMENTS; b++) {
    lengths[b] = b == 4 ? 2 : 8 + tt_below(&random, MOST - 8);
    cu[b + 1] = cu[b] + lengths[b];
  }
  uint16_t *tokens = tt_host((size_t)cu[SEGMENTS] * DIM * 2);
  uint16_t *reversed = tt_host((size_t)cu[SEGMENTS] * DIM * 2);
  tt_tokens(&random, tokens, TAILCUT_F16, cu[SEGMENTS], DIM, DIM, TT_TIES);
  int32_t turned_cu[SEGMENTS + 1] = {0};
  for (int b = 0; b < SEGMENTS; b++) { /* the segments in reverse order */
    const int from = SEGMENTS - 1 - b;
    turned_cu[b + 1] = turned_cu[b] + lengths[from];
    memcpy(reversed + turned_cu[b] * DIM, tokens + cu[from] * DIM, (size_t)lengths[from] * DIM * 2);
  }
  for (int i = 0; i < count; i++) {
    prune(&backends[i], tokens, cu, SEGMENTS, source, together);
    prune(&backends[i], reversed, turned_cu, SEGMENTS, source, turned);
    for (int b = 0; b < SEGMENTS; b++) {
      const int32_t own[2] = {0, lengths[b]};
      prune(&backends[i], tokens + cu[b] * DIM, own, 1, source, &alone[b]);
      cr_assert_arr_eq(&alone[b], &together[b], sizeof alone[b], "segment %d on %s", b,
                       backends[i].name);
      cr_assert_arr_eq(&alone[b], &turned[SEGMENTS - 1 - b], sizeof alone[b],
                       "segment %d at another position on %s", b, backends[i].name);
    }
  }
  free(tokens);
  free(reversed);
}

Test(prune, a_segment_is_the_same_in_any_batch) {
  batch_invariance(TAILCUT_REFERENCE_ROW);
  batch_invariance(TAILCUT_REFERENCE_MEAN);
}
