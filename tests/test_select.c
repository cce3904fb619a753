/* SPDX-License-Identifier: Apache-2.0 */
/* select: what is kept does not depend on whether ranks are asked for, with which all is sorted
 * (rank.c, which test_detect.c compares with the reference), without which only what must be: every
 * rule that knows the second way, on curves that are hard for it: all bins alive, ties at the cut,
 * clamps that end inside ties, outliers, values at the edges of p, sizes 1 to 4096, and on a device
 * also beyond 8192, what one of its blocks cuts. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "backends.h"
#include "cpu/cpu.h"
#include "data.h"

enum { MOST = 4096, LONG = 9216, CURVES = 19, SIDES = 2 };

static double root(double k, double n) { return sqrt(k * (n - k)); }

/* Score i of n of a curve of this kind. Its place in the curve is i; they are shuffled later. */
static float score_at(tt_random *random, int curve, int32_t i, int32_t n) {
  static const float mixed[8] = {0.0f, -0.0f, 1.0f, -1.0f, 0x1p-20f, -0x1p-21f, 0x1p-31f, 0.5f};
  const double at = (i + 0.5) / n;
  switch (curve) {
    case 0:
      return (float)tt_normal(random) * 0.2f;
    case 1: /* ties */
      return rintf((float)tt_normal(random) * 4.0f) / 16.0f;
    case 2: /* two values */
      return i < n / 3 ? 0.75f : 0.25f;
    case 3: /* flat */
      return 0.3f;
    case 4: /* one high outlier; 5: one low; 6: one of each */
      return i == 0 ? 1.0f : 0.1f + 1e-4f * (float)tt_uniform(random);
    case 5:
      return i == n - 1 ? -1.0f : 0.1f + 1e-4f * (float)tt_uniform(random);
    case 6:
      return i == 0 ? 1.0f : i == n - 1 ? -1.0f : 1e-3f * (float)tt_uniform(random);
    case 7: /* the sum of the first k follows the root, so B is the same everywhere */
      return (float)(0.01 * (root(i + 1, n) - root(i, n)));
    case 8: /* the same in whole steps of p */
      return (float)(rint(0x1p13 * (root(i + 1, n) - root(i, n))) * 0x1p-20);
    case 9: /* a long tail */
      return (float)exp(-8.0 * at);
    case 10: /* neighbours in p */
      return 0.5f + 0x1p-20f * (float)tt_below(random, 3);
    case 11: /* below p */
      return 0.5f + 0x1p-23f * (float)tt_below(random, 9);
    case 12: /* zeros of both signs among small values */
      return mixed[tt_below(random, 8)];
    case 13: /* beyond 1: saturates at scale UNIT */
      return (float)tt_normal(random) * 3.0f;
    case 14:
      return ldexpf((float)tt_normal(random), tt_below(random, 200) - 100);
    case 15: /* denormals: no scale for fp32 */
      return ldexpf((float)tt_uniform(random), -130);
    case 16: /* heaps far from each other, of neighbours in p */
      return (i < n / 3 ? 0.7f : -0.4f) + 0x1p-20f * (float)tt_below(random, 300);
    case 17: /* a line */
      return (float)(1.0 - at);
    default: /* two heaps with something between */
      return (float)((i < n / 4 ? 0.6 : 0.1) + 0.02 * tt_normal(random));
  }
}

static void make_curve(tt_random *random, int curve, float *scores, int32_t n) {
  for (int32_t i = 0; i < n; i++) scores[i] = score_at(random, curve, i, n);
  for (int32_t i = n - 1; i > 0; i--) {
    const int32_t j = tt_below(random, i + 1);
    const float swap = scores[i];
    scores[i] = scores[j];
    scores[j] = swap;
  }
  if (tt_below(random, 6) == 0) {
    static const float others[4] = {INFINITY, -INFINITY, NAN, -NAN};
    for (int32_t i = 1 + tt_below(random, 3); i > 0; i--) {
      scores[tt_below(random, n)] = others[tt_below(random, 4)];
    }
  }
}

static tailcut_rule make_rule(tt_random *random, const float *scores, int32_t n) {
  static const int32_t detectors[4] = {TAILCUT_OTSU, TAILCUT_THRESHOLD, TAILCUT_TOPK,
                                       TAILCUT_RATIO};
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  rule.detector = tt_below(random, 2) ? TAILCUT_OTSU : detectors[tt_below(random, 4)];
  rule.scale = 1 + tt_below(random, 2);
  rule.order = tt_below(random, 3) == 0 ? TAILCUT_LOW : TAILCUT_HIGH;
  rule.k = 1 + tt_below(random, n + 1);
  rule.ratio = tt_uniform(random);
  const float tau = scores[tt_below(random, n)];
  rule.tau = isfinite(tau) ? tau : 0.0f;
  if (tt_below(random, 3) == 0) rule.round_to = 1 + tt_below(random, 70);
  if (tt_below(random, 4) == 0) rule.min_keep = tt_below(random, n + 2);
  if (tt_below(random, 4) == 0) rule.max_keep = rule.min_keep + tt_below(random, n);
  return rule;
}

typedef struct room {
  const tt_backend *backend;
  tailcut_handle handle;
  tt_workspace workspace;
  tailcut_batch batch;
  float *scores;
  uint8_t *roles;
} room;

typedef struct answer {
  int32_t count, flags, kept[LONG], ranks[LONG];
  uint8_t mask[LONG];
} answer;

/* to: this side's, so that what is left unwritten is another turn's. */
static void cut(const room *r, const tailcut_rule *rule, bool in_order, answer *to, answer *a) {
  tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
  s.counts = &to->count, s.flags = &to->flags, s.kept = to->kept, s.mask = to->mask;
  if (in_order) s.ranks = to->ranks;
  cr_assert_eq(tailcut_cut(r->handle, &r->batch, r->scores, r->roles, NULL, rule, &s,
                           r->workspace.data, r->workspace.size, NULL),
               TAILCUT_OK, "%s", tailcut_last_error());
  tt_download(r->backend, a, to, sizeof *a);
  if (in_order) memset(a->ranks, TT_POISON, sizeof a->ranks);
}

/* Turns say which curve and, unless all are long, which sizes. */
static void compare(const tt_backend *backend, int turn, int end, uint64_t seed, bool is_long) {
  static answer sides[SIDES];
  static float scores[LONG];
  static uint8_t roles[LONG];
  tt_random random = {seed};
  room r = {.backend = backend, .handle = tt_create(backend)};
  answer *to[SIDES];
  for (int side = 0; side < SIDES; side++) to[side] = tt_upload(backend, NULL, sizeof **to, 0);
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = 1, limits.max_tokens = is_long ? LONG : MOST, limits.groups = 3;
  r.workspace = tt_workspace_new(backend, r.handle, TAILCUT_CALL_CUT, &limits);
  for (; turn < end; turn++) {
    const int sizes = turn / CURVES % 4;
    const int32_t n = is_long      ? 8193 + tt_below(&random, LONG - 8192)
                      : sizes == 0 ? 1 + tt_below(&random, 130)
                      : sizes == 1 ? 64 * (1 + tt_below(&random, 9))
                      : sizes == 2 ? 64 + tt_below(&random, 1000)
                                   : 1 + tt_below(&random, MOST);
    int32_t offsets[4] = {0, tt_below(&random, n + 1), 0, n};
    offsets[2] = offsets[1] + tt_below(&random, n - offsets[1] + 1);
    make_curve(&random, turn % CURVES, scores, n);
    tailcut_rule rule = make_rule(&random, scores, n);
    const bool otsu = is_long && turn % 3 > 0; /* curves 7 and 8 among them */
    if (otsu) rule.detector = TAILCUT_OTSU;
    const bool groups = tt_below(&random, 4) == 0 && !otsu, has_roles = tt_below(&random, 4) == 0;
    for (int32_t i = 0; i < n; i++) roles[i] = (uint8_t)(tt_below(&random, 9) ? 1 : i % 8);
    r.batch = (tailcut_batch)TAILCUT_BATCH_INITIALIZER;
    r.batch.segments = 1, r.batch.max_tokens = n;
    int32_t *given = tt_upload(backend, offsets, sizeof offsets, 0);
    if (groups) r.batch.groups = 3, r.batch.group_cu_seqlens = given;
    r.scores = tt_upload(backend, scores, sizeof *scores * (size_t)n, 0);
    r.roles = has_roles ? tt_upload(backend, roles, (size_t)n, 0) : NULL;
    for (int side = 0; side < SIDES; side++) cut(&r, &rule, side == 0, to[side], &sides[side]);
    cr_assert_eq(sides[0].count, sides[1].count,
                 "turn %d: n %d, detector %d: k %d by the order, %d by bins", turn, n,
                 rule.detector, sides[0].count, sides[1].count);
    cr_assert_arr_eq(&sides[0], &sides[1], sizeof sides[0], "turn %d: n %d, detector %d", turn, n,
                     rule.detector);
    tt_free(backend, given);
    tt_free(backend, r.scores);
    tt_free(backend, r.roles);
  }
  for (int side = 0; side < SIDES; side++) tt_free(backend, to[side]);
  tt_workspace_free(backend, r.workspace);
  tailcut_destroy(r.handle);
}

Test(select, equals_the_order) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  for (int i = 0; i < count; i++) {
    if (backends[i].device_kind == TAILCUT_DEVICE_CPU) {
      compare(&backends[i], 0, i == 0 ? 6000 : 2000, 77 + (uint64_t)i / 2, false);
    } else {
      compare(&backends[i], 2 * CURVES, 4 * CURVES, 77, false);
      compare(&backends[i], 0, CURVES, 78, true);
    }
  }
}

/* Neither way is taken by mistake: the bins, by all that can; and few of a plain curve's candidates
 * are sorted. */
Test(select, sorts_what_it_must) {
  static float scores[MOST];
  static int32_t offset[MOST];
  static uint64_t items[MOST], spare[MOST], chosen[MOST / 64], other[MOST / 64];
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  tt_random random = {5};
  tc_bins bins = {.kernels = tc_kernels_for(tc_kernels_best()),
                  .scores = scores,
                  .offset = offset,
                  .items = items,
                  .spare = spare,
                  .chosen = chosen,
                  .other = other};
  for (int32_t n = 64; n <= MOST; n += 448) {
    bins.m = n;
    for (int32_t i = 0; i < n; i++) scores[i] = 0.2f * (float)tt_normal(&random);
    for (int32_t detector = TAILCUT_OTSU; detector <= TAILCUT_RATIO; detector++) {
      rule.detector = detector, rule.k = n / 3, rule.ratio = 0.3, rule.tau = 0.1f;
      rule.scale = TAILCUT_SCALE_AUTO;
      const int can = detector == TAILCUT_OTSU || detector >= TAILCUT_THRESHOLD;
      cr_assert_eq(tc_can_select(&rule, n), can, "detector %d", detector);
      if (!can) continue;
      cr_assert(tc_bins_fill(&bins, &rule));
      tc_bins_choose(&bins, tc_bins_detect(&bins, &rule, 0));
      cr_expect_lt(bins.end - bins.first, 8 + n / 6, "n %d, detector %d", n, detector);
    }
    rule.detector = TAILCUT_OTSU;
    scores[n / 2] = NAN;
    cr_assert_not(tc_bins_fill(&bins, &rule));
    scores[n / 2] = -INFINITY;
    cr_assert_not(tc_bins_fill(&bins, &rule));
  }
  rule.detector = TAILCUT_OTSU;
  cr_assert_not(tc_can_select(&rule, 10));
  rule.search_hi = 0.9;
  cr_assert_not(tc_can_select(&rule, 576));
  rule.search_hi = 1.0, rule.spread = 0.1;
  cr_assert_not(tc_can_select(&rule, 576));
}
