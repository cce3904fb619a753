/* SPDX-License-Identifier: Apache-2.0 */
/* sizing: tailcut_kept_count against the roundings written out, over ratios and clamps; workspace
 * sizes grow with every limit, their exact size suffices (guards around it) and one byte less is
 * refused. That no call writes outside its workspace is also checked by every other suite: their
 * workspaces have exact sizes and guards. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "data.h"
#include "reference.h"

/* Ratios as servers write them: what matters is that 0.1 * 10 and its like are not one too many. */
Test(sizing, kept_count_of_known_ratios) {
  static const struct {
    int32_t rounding, n;
    double ratio;
    int32_t k;
  } known[] = {
      {TAILCUT_CEIL, 10, 0.1, 1},
      {TAILCUT_CEIL, 576, 0.25, 144},
      {TAILCUT_CEIL, 577, 0.25, 145},
      {TAILCUT_CEIL, 100, 0.07, 7}, /* 7.000000000000001 */
      {TAILCUT_CEIL, 100, 0.29, 29},
      {TAILCUT_CEIL, 10, 0.0, 0},
      {TAILCUT_CEIL, 1, 1e-12, 0},
      {TAILCUT_CEIL, 10, 1.0, 10},
      {TAILCUT_FLOOR, 577, 0.25, 144},
      {TAILCUT_FLOOR, 100, 0.29, 28}, /* 28.999999999999996 */
      {TAILCUT_FLOOR, 10, 1.0, 10},
      {TAILCUT_NEAREST, 10, 0.25, 2}, /* 2.5 to even */
      {TAILCUT_NEAREST, 10, 0.35, 4},
      {TAILCUT_NEAREST, 10, 0.24, 2},
      {TAILCUT_NEAREST, 6, 0.25, 2},
      {TAILCUT_DROP_CEIL, 577, 0.75, 144},
      {TAILCUT_DROP_CEIL, 100, 0.07, 93},
      {TAILCUT_DROP_CEIL, 10, 0.0, 10},
      {TAILCUT_DROP_CEIL, 10, 1.0, 0},
      {TAILCUT_DROP_TRUNC, 577, 0.75, 144},
      {TAILCUT_DROP_TRUNC, 10, 0.9, 0}, /* 0.9999999999999998 */
      {TAILCUT_DROP_TRUNC, 100, 0.25, 75},
      {TAILCUT_DROP_PERCENT, 577, 75, 145},
      {TAILCUT_DROP_PERCENT, 10, 0, 10},
      {TAILCUT_DROP_PERCENT, 10, 100, 0},
      {TAILCUT_DROP_PERCENT, 1048576, 99, 10486},
  };
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
    tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
    rule.detector = TAILCUT_RATIO;
    rule.rounding = known[i].rounding;
    rule.min_keep = 0;
    if (rule.rounding == TAILCUT_DROP_PERCENT) {
      rule.percent = (int32_t)known[i].ratio;
    } else {
      rule.ratio = known[i].ratio;
    }
    const int32_t k = tailcut_kept_count(&rule, known[i].n);
    cr_expect_eq(k, known[i].k, "row %zu: %d of %d, expected %d", i, k, known[i].n, known[i].k);
  }
}

Test(sizing, kept_count_by_brute_force) {
  tt_random random = {4};
  for (int turn = 0; turn < 200000; turn++) {
    tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
    const int32_t n = tt_below(&random, tt_below(&random, 2) ? 20 : 3000);
    rule.detector = turn % 3 ? TAILCUT_RATIO : TAILCUT_TOPK + (turn % 2) - 1;
    rule.rounding = 1 + tt_below(&random, 6);
    rule.ratio = tt_below(&random, 2) ? tt_below(&random, 101) / 100.0 : tt_uniform(&random);
    rule.percent = tt_below(&random, 101);
    rule.k = 1 + tt_below(&random, 100);
    rule.tau = 0.0f;
    rule.min_keep = tt_below(&random, 12);
    if (tt_below(&random, 2)) rule.max_keep = rule.min_keep + tt_below(&random, 50);
    rule.round_to = 1 + tt_below(&random, 20);
    rule.order = tt_below(&random, 2) ? TAILCUT_HIGH : TAILCUT_LOW;
    /* Device memory: never read here. */
    if (rule.detector == TAILCUT_TOPK && tt_below(&random, 2)) rule.group_k = (const int32_t *)64;
    int64_t wanted = n;
    if (rule.detector == TAILCUT_TOPK && rule.k < n) wanted = rule.k;
    if (rule.detector == TAILCUT_RATIO) wanted = ref_ratio(&rule, n);
    const int32_t k = tailcut_kept_count(&rule, n);
    cr_assert_eq(k, ref_clamp(&rule, wanted, n), "turn %d: n %d, detector %d: %d, expected %d",
                 turn, n, rule.detector, k, (int)ref_clamp(&rule, wanted, n));
  }
}

/* What a cut keeps is never more, whatever the detector; and just that for TOPK and RATIO. */
Test(sizing, kept_count_bounds_what_a_cut_keeps) {
  int count, exact = 0, fewer = 0;
  const tt_backend *backend = tt_backends(&count);
  tailcut_handle handle = tt_create(backend);
  tt_random random = {8};
  const int all_options = backend->device_kind == TAILCUT_DEVICE_CPU;
  enum { MOST = 40, GROUPS = 3 };
  static const int32_t offsets[GROUPS + 1] = {0, MOST, 2 * MOST, 3 * MOST};
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = GROUPS, limits.max_tokens = MOST, limits.groups = GROUPS;
  tt_workspace w = tt_workspace_new(backend, handle, TAILCUT_CALL_CUT, &limits);
  float *scores = tt_upload(backend, NULL, GROUPS * MOST * 4, 0);
  int32_t *group_k = tt_upload(backend, NULL, GROUPS * 4, 0);
  int32_t *counts = tt_upload(backend, NULL, GROUPS * 4, 0);
  int32_t *flags = tt_upload(backend, NULL, GROUPS * 4, 0);
  int32_t *cu = tt_upload(backend, offsets, sizeof offsets, 0);
  for (int turn = 0; turn < 2000; turn++) {
    tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
    tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
    tailcut_selection selection = TAILCUT_SELECTION_INITIALIZER;
    float values[GROUPS * MOST];
    int32_t ks[GROUPS], kept[GROUPS];
    for (int i = 0; i < GROUPS * MOST; i++) values[i] = (float)tt_normal(&random);
    for (int i = 0; i < GROUPS; i++) ks[i] = tt_below(&random, 60) - 10;
    backend->memory->upload(scores, values, sizeof values);
    backend->memory->upload(group_k, ks, sizeof ks);
    batch.segments = GROUPS, batch.max_tokens = MOST;
    if (turn % 4 == 0 && all_options) batch.group_cu_seqlens = cu, batch.groups = GROUPS;
    rule.detector = 1 + tt_below(&random, TAILCUT_RATIO);
    rule.k = 1 + tt_below(&random, 50), rule.tau = 0.5f, rule.ratio = tt_uniform(&random);
    rule.rounding = 1 + tt_below(&random, 5);
    rule.order = turn % 2 && all_options ? TAILCUT_LOW : TAILCUT_HIGH;
    rule.min_keep = tt_below(&random, 12);
    if (tt_below(&random, 2)) rule.max_keep = rule.min_keep + tt_below(&random, 30);
    rule.round_to = 1 + tt_below(&random, 20);
    rule.spread = tt_uniform(&random);
    if (rule.detector == TAILCUT_TOPK && turn % 3 == 0 && all_options) rule.group_k = group_k;
    selection.counts = counts, selection.flags = flags;
    cr_assert_eq(
        tailcut_cut(handle, &batch, scores, NULL, NULL, &rule, &selection, w.data, w.size, NULL),
        TAILCUT_OK, "%s", tailcut_last_error());
    tt_download(backend, kept, counts, sizeof kept);
    const int32_t most = tailcut_kept_count(&rule, MOST);
    for (int b = 0; b < GROUPS; b++) {
      cr_assert_leq(kept[b], most, "turn %d: detector %d", turn, rule.detector);
      fewer += kept[b] < most;
      if (rule.group_k != NULL || rule.detector < TAILCUT_TOPK) continue;
      cr_assert_eq(kept[b], most, "turn %d: detector %d", turn, rule.detector);
      exact++;
    }
  }
  cr_assert_gt(exact, 500);
  cr_assert_gt(fewer, 500);
  void *all[] = {scores, group_k, counts, flags, cu};
  for (int i = 0; i < 5; i++) tt_free(backend, all[i]);
  tt_workspace_free(backend, w);
  tailcut_destroy(handle);
}

Test(sizing, kept_count_of_defaults_and_mistakes) {
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  cr_assert_eq(tailcut_kept_count(NULL, 77), 77);
  cr_assert_eq(tailcut_kept_count(NULL, 0), 0);
  cr_assert_eq(tailcut_kept_count(NULL, TAILCUT_MAX_SEGMENT_TOKENS), TAILCUT_MAX_SEGMENT_TOKENS);
  cr_assert_eq(tailcut_kept_count(NULL, -1), -1);
  cr_assert(strstr(tailcut_last_error(), "n is -1") != NULL);
  cr_assert_eq(tailcut_kept_count(NULL, TAILCUT_MAX_SEGMENT_TOKENS + 1), -1);
  rule.detector = TAILCUT_TOPK;
  cr_assert_eq(tailcut_kept_count(&rule, 5), -1);
  cr_assert(strstr(tailcut_last_error(), "rule->k is not set") != NULL);
  rule.group_k = (const int32_t *)64; /* k is the most: required all the same */
  cr_assert_eq(tailcut_kept_count(&rule, 5), -1);
  cr_assert(strstr(tailcut_last_error(), "rule->k is not set") != NULL);
  rule.k = 3;
  cr_assert_eq(tailcut_kept_count(&rule, 5), 3);
  rule.detector = TAILCUT_OTSU;
  cr_assert_eq(tailcut_kept_count(&rule, 5), -1);
  cr_assert(strstr(tailcut_last_error(), "rule->group_k") != NULL);
  rule.detector = TAILCUT_TOPK, rule.group_k = NULL, rule.order = 0;
  cr_assert_eq(tailcut_kept_count(&rule, 5), -1);
  cr_assert(strstr(tailcut_last_error(), "rule->order is not set") != NULL);
  rule.order = TAILCUT_LOW;
  rule.struct_size = 0;
  cr_assert_eq(tailcut_kept_count(&rule, 5), -1);
  rule.struct_size = sizeof rule;
  rule.k = 1 << 30;
  rule.round_to = INT32_MAX;
  cr_assert_eq(tailcut_kept_count(&rule, 5), 5);
  cr_assert_str_eq(tailcut_last_error(), "");
}

static size_t size_of(tailcut_handle handle, int32_t call, const tailcut_limits *limits) {
  size_t size = SIZE_MAX;
  cr_assert_eq(tailcut_workspace_size(handle, call, limits, &size), TAILCUT_OK, "%s",
               tailcut_last_error());
  return size;
}

Test(sizing, workspace_sizes_never_decrease) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  tt_random random = {6};
  for (int b = 0; b < count; b++) {
    tailcut_handle handle = tt_create(&backends[b]);
    for (int turn = 0; turn < 4000; turn++) {
      tailcut_limits l = TAILCUT_LIMITS_INITIALIZER, more;
      const int32_t call = 1 + turn % TAILCUT_CALL_MERGE;
      l.segments = tt_below(&random, 200);
      l.max_tokens = tt_below(&random, 5000);
      l.total_tokens = tt_below(&random, 2) ? 0 : tt_below(&random, 100000);
      l.dim = tt_below(&random, 5000);
      l.q_heads = tt_below(&random, 65);
      l.head_dim = tt_below(&random, 1025);
      l.groups = tt_below(&random, 2) ? 0 : tt_below(&random, 3000);
      l.window = tt_below(&random, 2) ? 0 : tt_below(&random, 200);
      more = l;
      if (l.total_tokens == 0) more.total_tokens = 0;
      more.segments += tt_below(&random, 2) * tt_below(&random, 100);
      more.max_tokens += tt_below(&random, 2) * tt_below(&random, 100);
      if (l.total_tokens != 0) more.total_tokens += tt_below(&random, 2) * tt_below(&random, 100);
      more.dim += tt_below(&random, 2) * tt_below(&random, 100);
      more.q_heads += tt_below(&random, 2) * tt_below(&random, 100);
      if (l.head_dim < 1000) more.head_dim += tt_below(&random, 24);
      more.groups += tt_below(&random, 2) * tt_below(&random, 100);
      more.window += tt_below(&random, 2) * tt_below(&random, 57);
      more.reserved = tt_below(&random, 100); /* not read */
      cr_assert_leq(size_of(handle, call, &l), size_of(handle, call, &more), "call %d on %s", call,
                    backends[b].name);
    }
    tailcut_destroy(handle);
  }
}

Test(sizing, workspace_size_refuses_mistakes) {
  int count;
  tailcut_handle handle = tt_create(tt_backends(&count));
  const tailcut_limits good = TAILCUT_LIMITS_INITIALIZER;
  tailcut_limits l = good;
  size_t size = 123;
  cr_assert_eq(tailcut_workspace_size(NULL, 1, &l, &size), TAILCUT_ERROR_NULL);
  cr_assert_eq(tailcut_workspace_size(handle, 1, NULL, &size), TAILCUT_ERROR_NULL);
  cr_assert_eq(tailcut_workspace_size(handle, 1, &l, NULL), TAILCUT_ERROR_NULL);
  cr_assert_eq(tailcut_workspace_size(handle, 0, &l, &size), TAILCUT_ERROR_ENUM);
  cr_assert_eq(tailcut_workspace_size(handle, 9, &l, &size), TAILCUT_ERROR_ENUM);
#define REFUSED(change, expected, word)                                          \
  l = good;                                                                      \
  change;                                                                        \
  cr_assert_eq(tailcut_workspace_size(handle, 1, &l, &size), expected, #change); \
  cr_assert(strstr(tailcut_last_error(), word) != NULL, "%s", tailcut_last_error())
  REFUSED(l.struct_size = 0, TAILCUT_ERROR_STRUCT_SIZE, "limits->struct_size is not set");
  REFUSED(l.segments = -1, TAILCUT_ERROR_RANGE, "limits->segments");
  REFUSED(l.max_tokens = -1, TAILCUT_ERROR_RANGE, "limits->max_tokens");
  REFUSED(l.max_tokens = 2 * TAILCUT_MAX_SEGMENT_TOKENS + 1, TAILCUT_ERROR_RANGE,
          "limits->max_tokens");
  REFUSED(l.total_tokens = -1, TAILCUT_ERROR_RANGE, "limits->total_tokens");
  REFUSED((l.segments = 1 << 20, l.max_tokens = 1 << 20), TAILCUT_ERROR_RANGE,
          "limits->total_tokens");
  REFUSED(l.groups = -1, TAILCUT_ERROR_RANGE, "limits->groups");
  REFUSED(l.groups = INT32_MAX, TAILCUT_ERROR_RANGE, "limits->groups");
  REFUSED(l.window = -1, TAILCUT_ERROR_RANGE, "limits->window");
  REFUSED(l.window = 257, TAILCUT_ERROR_RANGE, "limits->window");
  REFUSED(l.dim = -1, TAILCUT_ERROR_RANGE, "limits->dim");
  REFUSED(l.q_heads = -1, TAILCUT_ERROR_RANGE, "limits->q_heads");
  REFUSED(l.head_dim = 1025, TAILCUT_ERROR_RANGE, "limits->head_dim");
  cr_assert_eq(size, 123, "the size was written");
  char workspace[1];
  cr_assert_eq(tailcut_workspace_init(NULL, NULL, 0, NULL), TAILCUT_ERROR_NULL);
  cr_assert_eq(tailcut_workspace_init(handle, NULL, 1, NULL), TAILCUT_ERROR_WORKSPACE);
  cr_assert_eq(tailcut_workspace_init(handle, NULL, 0, NULL), TAILCUT_OK);
  cr_assert_eq(tailcut_workspace_init(handle, workspace + ((uintptr_t)workspace % 2 == 0), 1, NULL),
               TAILCUT_ERROR_WORKSPACE);
  tailcut_destroy(handle);
}

/* A workspace is just large enough: its exact size, with guards; one byte less is refused. It also
 * serves a smaller call, and calls of other kinds, one after the other. */
Test(sizing, the_exact_size_suffices) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  tt_random random = {12};
  for (int b = 0; b < count; b++) {
    const tt_backend *backend = &backends[b];
    tailcut_handle handle = tt_create(backend);
    for (int turn = 0; turn < 60; turn++) {
      tailcut_limits l = TAILCUT_LIMITS_INITIALIZER;
      tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
      tailcut_tokens t = TAILCUT_TOKENS_INITIALIZER;
      tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
      tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
      batch.segments = l.segments = 1 + tt_below(&random, 6);
      batch.max_tokens = l.max_tokens = 1 + tt_below(&random, 100);
      t.dim = l.dim = 1 + tt_below(&random, 300);
      t.dtype = TAILCUT_F16;
      const size_t rows = (size_t)(batch.segments * batch.max_tokens);
      uint16_t *tokens = tt_host(rows * (size_t)t.dim * 2);
      tt_tokens(&random, tokens, TAILCUT_F16, (int64_t)rows, t.dim, t.dim, TT_PLAIN);
      t.data = tt_upload(backend, tokens, rows * (size_t)t.dim * 2, 0);
      free(tokens);
      reference.source = TAILCUT_REFERENCE_MEAN;
      float *scores = tt_upload(backend, NULL, 4 * rows, 0);
      s.counts = tt_upload(backend, NULL, 4 * (size_t)batch.segments, 0);
      s.kept = tt_upload(backend, NULL, 4 * rows, 0);
      int32_t offsets[7];
      for (int32_t g = 0; g <= batch.segments; g++) offsets[g] = g * batch.max_tokens;
      int32_t *groups = tt_upload(backend, offsets, 4 * (size_t)(batch.segments + 1), 0);
      if (turn % 2 && backend->device_kind == TAILCUT_DEVICE_CPU) {
        batch.group_cu_seqlens = groups, batch.groups = l.groups = batch.segments;
      }
      const int32_t calls[] = {TAILCUT_CALL_SCORE, TAILCUT_CALL_CUT, TAILCUT_CALL_PRUNE_VISUAL};
      for (int i = 0; i < 3; i++) {
        tt_workspace w = tt_workspace_new(backend, handle, calls[i], &l);
        for (int less = 1; less >= 0; less--) {
          if (w.size < (size_t)less) continue;
          const size_t size = w.size - (size_t)less;
          tailcut_status status;
          if (i == 0) {
            status =
                tailcut_score(handle, &batch, &t, &reference, scores, NULL, w.data, size, NULL);
          } else if (i == 1) {
            status = tailcut_cut(handle, &batch, scores, NULL, NULL, NULL, &s, w.data, size, NULL);
          } else {
            status = tailcut_prune_visual(handle, &batch, &t, &reference, NULL, &s, NULL, 0, w.data,
                                          size, NULL);
          }
          cr_assert_eq(status, less ? TAILCUT_ERROR_WORKSPACE : TAILCUT_OK, "%s: call %d",
                       backend->name, i);
        }
        backend->memory->sync();
        tt_workspace_free(backend, w);
      }
      tt_free(backend, (void *)(uintptr_t)t.data);
      tt_free(backend, groups);
      tt_free(backend, scores);
      tt_free(backend, s.counts);
      tt_free(backend, s.kept);
    }
    tailcut_destroy(handle);
  }
}
