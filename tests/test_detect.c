/* SPDX-License-Identifier: Apache-2.0 */
/* detect: every detector on every kind of curve at both scales, with random parameters, search
 * ranges, clamps, spreads, layouts and roles, against the reference, whole outputs compared; then
 * properties that need no reference. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

#include "data.h"
#include "random_cases.h"
#include "reference.h"
#include "runner.h"

Test(detect, every_option_at_random) {
  int count, failures = 0;
  char name[40];
  const tt_backend *backends = tt_backends(&count);
  tailcut_handle handles[16];
  tt_random random = {2718};
  for (int i = 0; i < count; i++) handles[i] = tt_create(&backends[i]);
  const int turns = backends[0].device_kind == TAILCUT_DEVICE_CUDA ? 60 : 300; /* simulated: slow */
  for (int turn = 0; turn < turns; turn++) {
    tt_case c = tt_random_case(&random);
    snprintf(name, sizeof name, "options %d", turn);
    c.name = name;
    failures += tt_run_case(&c, backends, handles, count);
  }
  for (int i = 0; i < count; i++) tailcut_destroy(handles[i]);
  cr_assert_eq(failures, 0, "%d runs differ from the reference", failures);
}

Test(detect, every_rule_on_every_curve) {
  int count, failures = 0, cases = 0;
  char name[80];
  const tt_backend *backends = tt_backends(&count);
  tailcut_handle handles[16];
  tt_random random = {314};
  for (int i = 0; i < count; i++) handles[i] = tt_create(&backends[i]);
  for (int rule = 1; rule <= TT_RULES; rule++) {
    for (int curve = 0; curve < TT_CURVES; curve++) {
      for (int32_t scale = 1; scale <= 2; scale++) {
        tt_case c = tt_random_cut(&random, rule, (tt_curve)curve, scale);
        snprintf(name, sizeof name, "rule %d, curve %d, scale %d", rule, curve, scale);
        c.name = name;
        failures += tt_run_case(&c, backends, handles, count);
        cases++;
      }
    }
  }
  for (int i = 0; i < count; i++) tailcut_destroy(handles[i]);
  printf("%d cases on %d backends\n", cases, count);
  cr_assert_eq(failures, 0, "%d runs differ from the reference", failures);
}

/* Scales, by what they must be: AUTO's curve is the same for scores times any power of two. */
Test(detect, auto_scale_follows_powers_of_two) {
  tt_random random = {9};
  float scores[200], scaled[200];
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  for (int32_t detector = TAILCUT_OTSU; detector <= TAILCUT_MASS; detector++) {
    rule.detector = detector;
    for (int turn = 0; turn < 20; turn++) {
      int whole;
      for (int i = 0; i < 200; i++) scores[i] = (float)tt_normal(&random);
      const int64_t k = ref_detect(&rule, 1, scores, 200, 0, &whole);
      for (int e = -60; e <= 60; e += 40) {
        for (int i = 0; i < 200; i++) scaled[i] = ldexpf(scores[i], e);
        cr_assert_eq(ref_detect(&rule, 1, scaled, 200, 0, &whole), k);
      }
    }
  }
}

/* The library's own promises about one array of scores, whatever the rule. */
static void check_promises(tailcut_handle handle, const float *scores, int32_t n,
                           const tailcut_rule *rule, tt_workspace w) {
  static int32_t counts, flags, kept[512], ranks[512];
  static float curve[512];
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
  batch.segments = 1, batch.max_tokens = n;
  s.counts = &counts, s.kept = kept, s.ranks = ranks, s.curve = curve, s.flags = &flags;
  cr_assert_eq(tailcut_cut(handle, &batch, scores, NULL, NULL, rule, &s, w.data, w.size, NULL),
               TAILCUT_OK);
  const int32_t most = tailcut_kept_count(rule, n);
  cr_assert_geq(most, 0);
  cr_assert_leq(counts, most, "more kept than tailcut_kept_count says");
  if (rule->detector >= TAILCUT_TOPK) cr_assert_eq(counts, most);
  for (int32_t j = 1; j < counts; j++) cr_assert_lt(kept[j - 1], kept[j]);
  for (int32_t j = 0; j < counts; j++) cr_assert(kept[j] >= 0 && kept[j] < n);
  for (int32_t i = 0; i < n; i++) {
    const float at = curve[ranks[i]];
    cr_assert(at == scores[i] || (isnan(at) && isnan(scores[i])));
  }
  for (int32_t r = 1; r < n; r++) {
    const float before = rule->order == TAILCUT_LOW ? -curve[r - 1] : curve[r - 1];
    const float at = rule->order == TAILCUT_LOW ? -curve[r] : curve[r];
    cr_assert(before >= at || isnan(at), "the curve rises at %d", r);
  }
  if (rule->spread == 0.0) {
    for (int32_t j = 0; j < counts; j++) cr_assert_lt(ranks[kept[j]], counts);
  }
}

Test(detect, promises) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  if (backends[0].device_kind != TAILCUT_DEVICE_CPU) return; /* host pointers are passed */
  tailcut_handle handle = tt_create(&backends[0]);
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = 1, limits.max_tokens = 512;
  const tt_workspace w = tt_workspace_new(&backends[0], handle, TAILCUT_CALL_CUT, &limits);
  tt_random random = {8};
  float scores[512];
  for (int turn = 0; turn < 3000; turn++) {
    const tt_case c = tt_random_cut(&random, 1 + turn % TT_RULES,
                                    (tt_curve)(turn / TT_RULES % TT_CURVES), 1 + turn % 2);
    tailcut_rule rule = tt_rule_of(&c);
    rule.order = turn % 5 == 0 ? TAILCUT_LOW : TAILCUT_HIGH;
    const int32_t n = 1 + tt_below(&random, 512);
    float tight[512];
    for (int32_t i = 0; i < n; i++) tight[i] = (float)tt_normal(&random);
    for (int32_t i = 0; i < n; i++) scores[i] = turn % 3 ? tight[i] : rintf(tight[i]);
    if (turn % 7 == 0) scores[tt_below(&random, n)] = NAN;
    check_promises(handle, scores, n, &rule, w);
  }
  tt_workspace_free(&backends[0], w);
  tailcut_destroy(handle);
}
