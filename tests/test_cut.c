/* SPDX-License-Identifier: Apache-2.0 */
/* cut: curves whose answers are known by hand, written here as literals: what each detector does on
 * ties, flat, convex, concave and S-shaped curves, one and two tokens, NaN, infinities, clamps and
 * spread. test_detect.c compares with the reference on random curves. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"

enum { MOST = 24, ALL = 99 };
#define N_A_N (__builtin_nanf(""))
#define INF (__builtin_inff())

typedef struct row {
  const char *name;
  int32_t detector;
  int32_t n;
  float scores[MOST];
  int32_t k;     /* expected */
  int32_t flags; /* expected */
  double number; /* TOPK k, RATIO ratio, THRESHOLD tau, MEAN lambda, MASS mass, CURVATURE window */
  int32_t scale; /* default AUTO */
} row;

/* Curves of 12. Convex: a long tail. Concave: a cliff at the end. S: plateau, fall, floor. */
#define CONVEX 1.0f, 0.8f, 0.25f, 0.2f, 0.15f, 0.12f, 0.1f, 0.08f, 0.06f, 0.05f, 0.04f, 0.03f
#define CONCAVE 1.0f, 0.98f, 0.96f, 0.94f, 0.92f, 0.9f, 0.88f, 0.86f, 0.84f, 0.3f, 0.15f, 0.0f
#define SHAPE_S 0.9f, 0.89f, 0.88f, 0.87f, 0.86f, 0.2f, 0.19f, 0.18f, 0.17f, 0.16f, 0.15f, 0.14f
#define FLAT 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f
#define LINE 0.75f, 0.625f, 0.5f, 0.375f, 0.25f, 0.125f, 0.0f

static const row rows[] = {
    {.name = "convex", TAILCUT_OTSU, 12, {CONVEX}, 2, 0},
    {.name = "convex", TAILCUT_CHORD, 12, {CONVEX}, 3, 0},
    {.name = "convex", TAILCUT_GAP, 12, {CONVEX}, 2, 0},
    {.name = "convex", TAILCUT_CURVATURE, 12, {CONVEX}, 3, 0},
    {.name = "convex, window 2", TAILCUT_CURVATURE, 12, {CONVEX}, 3, 0, 2},
    {.name = "convex", TAILCUT_IQR, 12, {CONVEX}, 2, 0},
    {.name = "convex", TAILCUT_MEAN, 12, {CONVEX}, 2, 0, 1.0},
    {.name = "convex", TAILCUT_MASS, 12, {CONVEX}, 2, 0, 0.5},
    {.name = "concave", TAILCUT_OTSU, 12, {CONCAVE}, 9, 0},
    {.name = "concave", TAILCUT_CHORD, 12, {CONCAVE}, 9, 0},
    {.name = "concave", TAILCUT_GAP, 12, {CONCAVE}, 9, 0},
    {.name = "concave", TAILCUT_CURVATURE, 12, {CONCAVE}, 10, 0},
    {.name = "concave", TAILCUT_IQR, 12, {CONCAVE}, 1, 0}, /* none; min_keep */
    {.name = "S", TAILCUT_OTSU, 12, {SHAPE_S}, 5, 0},
    {.name = "S", TAILCUT_CHORD, 12, {SHAPE_S}, 6, 0},
    {.name = "S", TAILCUT_GAP, 12, {SHAPE_S}, 5, 0},
    {.name = "S", TAILCUT_CURVATURE, 12, {SHAPE_S}, 6, 0},
    {.name = "S", TAILCUT_MEAN, 12, {SHAPE_S}, 5, 0, 1.0},
    {.name = "flat", TAILCUT_OTSU, 6, {FLAT}, 6, 0},
    {.name = "flat", TAILCUT_CHORD, 6, {FLAT}, 6, 0},
    {.name = "flat", TAILCUT_GAP, 6, {FLAT}, 6, 0},
    {.name = "flat", TAILCUT_CURVATURE, 6, {FLAT}, 6, 0},
    {.name = "flat", TAILCUT_MASS, 6, {FLAT}, 6, 0, 0.9},
    {.name = "flat", TAILCUT_IQR, 6, {FLAT}, 1, 0},
    {.name = "flat", TAILCUT_MEAN, 6, {FLAT}, 1, 0, 1.0},
    {.name = "flat", TAILCUT_MEAN, 6, {FLAT}, 1, 0, -1.0}, /* nothing is above itself */
    {.name = "line", TAILCUT_CHORD, 7, {LINE}, 7, 0},
    {.name = "line", TAILCUT_GAP, 7, {LINE}, 1, 0},  /* all drops equal: the first */
    {.name = "line", TAILCUT_OTSU, 7, {LINE}, 3, 0}, /* 3 and 4 are equally good: the smaller */
    {.name = "line", TAILCUT_CURVATURE, 7, {LINE}, 7, 0},
    {.name = "line", TAILCUT_MASS, 7, {LINE}, 3, 0, 0.7}, /* 6+5+4 of 21 >= 0.7 * 21 */
    {.name = "line", TAILCUT_MASS, 7, {LINE}, 6, 0, 1.0},
    {.name = "line", TAILCUT_MEAN, 7, {LINE}, 3, 0, 0.0},
    {.name = "threshold at a score", TAILCUT_THRESHOLD, 7, {LINE}, 4, 0, 0.375},
    {.name = "threshold above all", TAILCUT_THRESHOLD, 7, {LINE}, 1, 0, 2.0},
    {.name = "threshold zero takes -0",
     TAILCUT_THRESHOLD,
     4,
     {1.0f, -0.0f, 0.0f, -1.0f},
     3,
     0,
     0.0},
    {.name = "threshold and NaN", TAILCUT_THRESHOLD, 5, {1, N_A_N, 2, 0, 3}, 3, 2, 0.5},
    {.name = "topk", TAILCUT_TOPK, 7, {LINE}, 4, 0, 4},
    {.name = "topk above", TAILCUT_TOPK, 7, {LINE}, 7, 0, 50},
    {.name = "topk of two", TAILCUT_TOPK, 2, {1, 2}, 1, 0, 1},
    {.name = "topk of NaN", TAILCUT_TOPK, 3, {N_A_N, N_A_N, N_A_N}, 2, 18, 2},
    {.name = "ratio", TAILCUT_RATIO, 7, {LINE}, 4, 0, 0.5},
    {.name = "ratio of NaN", TAILCUT_RATIO, 4, {N_A_N, 1, N_A_N, 2}, 3, 2, 0.75},
    {.name = "one token", TAILCUT_OTSU, 1, {3.0f}, 1, 1},
    {.name = "two tokens", TAILCUT_OTSU, 2, {3.0f, 1.0f}, 2, 1},
    {.name = "two tokens", TAILCUT_THRESHOLD, 2, {3.0f, 1.0f}, 1, 0, 2.0},
    {.name = "one token", TAILCUT_THRESHOLD, 1, {3.0f}, 1, 0, 3.0},
    {.name = "all NaN", TAILCUT_THRESHOLD, 3, {N_A_N, N_A_N, N_A_N}, 1, 18, 0.0}, /* min_keep */
    {.name = "all NaN", TAILCUT_RATIO, 3, {N_A_N, N_A_N, N_A_N}, 1, 18, 0.3},
    {.name = "one number", TAILCUT_MEAN, 3, {N_A_N, 1, N_A_N}, 3, 3, 0.0},
    {.name = "three tokens", TAILCUT_OTSU, 3, {3.0f, 1.0f, 1.5f}, 1, 0},
    {.name = "one is NaN of three", TAILCUT_OTSU, 3, {3.0f, N_A_N, 1.0f}, 3, 3},
    {.name = "all NaN", TAILCUT_CHORD, 4, {N_A_N, N_A_N, N_A_N, N_A_N}, 4, 19},
    {.name = "NaN beside a step", TAILCUT_OTSU, 6, {1, N_A_N, 0, 1, 0, N_A_N}, 2, 2},
    {.name = "flat with NaN",
     TAILCUT_GAP,
     6,
     {1, 1, N_A_N, 1, 1, N_A_N},
     6,
     2}, /* all, NaN included */
    {.name = "infinity", TAILCUT_GAP, 5, {INF, 1.0f, 0.5f, 0.25f, -INF}, 4, 0},
    {.name = "infinities alone", TAILCUT_OTSU, 4, {INF, -INF, INF, -INF}, 2, 0},
    {.name = "infinite ones hide the rest", TAILCUT_CHORD, 4, {INF, INF, INF, INF}, 4, 0},
    /* AUTO with an infinity: finite ones are scaled to at most 1; both saturate alike. */
    {.name = "infinity equals the largest", TAILCUT_GAP, 4, {INF, 4.0f, 1.0f, 0.5f}, 2, 0},
    {.name = "unit saturates",
     TAILCUT_GAP,
     4,
     {8.0f, 4.0f, 0.75f, 0.25f},
     3,
     0,
     0,
     TAILCUT_SCALE_UNIT},
    {.name = "auto does not",
     TAILCUT_GAP,
     4,
     {8.0f, 4.0f, 0.75f, 0.25f},
     1,
     0,
     0,
     TAILCUT_SCALE_AUTO},
    {"unit is blind to denormals",
     TAILCUT_OTSU,
     4,
     {4e-40f, 1e-40f, 0, 0},
     4,
     0,
     0,
     TAILCUT_SCALE_UNIT},
    {.name = "auto sees them",
     TAILCUT_OTSU,
     4,
     {4e-40f, 1e-40f, 0, 0},
     1,
     0,
     0,
     TAILCUT_SCALE_AUTO},
    {.name = "auto, all zero", TAILCUT_OTSU, 4, {0.0f, -0.0f, 0.0f, 0.0f}, 4, 0},
    /* 20 bits: below 2^-20 OTSU sees nothing, GAP does. */
    {"a difference below 2^-20",
     TAILCUT_OTSU,
     4,
     {0x1.00001p-1f, 0x1p-1f, 0x1p-1f, 0x1p-1f},
     4,
     0,
     0,
     TAILCUT_SCALE_UNIT},
    {"a difference below 2^-20",
     TAILCUT_GAP,
     4,
     {0x1.00001p-1f, 0x1p-1f, 0x1p-1f, 0x1p-1f},
     1,
     0,
     0,
     TAILCUT_SCALE_UNIT},
    {"p rounds down, also below zero",
     TAILCUT_OTSU,
     4,
     {0.0f, -0x1p-22f, -0x1p-22f, -0x1p-22f},
     1,
     0,
     0,
     TAILCUT_SCALE_UNIT},
    /* q is rounded to nearest, ties to even: 0.75 and 0.25; 2.5, 1.5 and 0.5 of its unit. */
    {.name = "q rounds up",
     TAILCUT_GAP,
     4,
     {0x1.8p-31f, 0x1p-32f, 0, 0},
     1,
     0,
     0,
     TAILCUT_SCALE_UNIT},
    {.name = "q ties to even",
     TAILCUT_GAP,
     4,
     {0x1.4p-29f, 0x1.8p-30f, 0x1p-31f, 0},
     2,
     0,
     0,
     TAILCUT_SCALE_UNIT},
    {.name = "no candidates", TAILCUT_OTSU, 0, {0}, 0, 0},
};

static tailcut_rule rule_of(const row *c) {
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  rule.detector = c->detector;
  rule.scale = c->scale;
  if (c->detector == TAILCUT_TOPK) rule.k = (int32_t)c->number;
  if (c->detector == TAILCUT_RATIO) rule.ratio = c->number;
  if (c->detector == TAILCUT_THRESHOLD) rule.tau = (float)c->number;
  if (c->detector == TAILCUT_MEAN) rule.lambda = c->number;
  if (c->detector == TAILCUT_MASS) rule.mass = c->number;
  if (c->detector == TAILCUT_CURVATURE) rule.window = (int32_t)c->number;
  return rule;
}

typedef struct answer {
  int32_t k, flags, kept[MOST], ranks[MOST];
  float curve[MOST];
} answer;

/* room: rows the call may have, as in a captured graph, where that is more than n; then neither
 * curve nor ranks are asked for. */
static answer cut_in_room(const tt_backend *backend, tailcut_handle handle, const float *scores,
                          int32_t n, int32_t room, const tailcut_rule *rule) {
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  const size_t bytes = 4 * (size_t)n;
  answer a;
  memset(&a, 0, sizeof a);
  batch.segments = limits.segments = 1;
  batch.max_tokens = limits.max_tokens = room;
  void *lengths = room > n ? tt_upload(backend, &n, 4, 0) : NULL;
  void *input = tt_upload(backend, scores, bytes, TT_TIGHT);
  batch.lengths = lengths;
  s.counts = tt_upload(backend, NULL, 4, 0);
  s.flags = tt_upload(backend, NULL, 4, 0);
  s.kept = tt_upload(backend, NULL, bytes, TT_TIGHT);
  s.ranks = room > n ? NULL : tt_upload(backend, NULL, bytes, TT_TIGHT);
  s.curve = room > n ? NULL : tt_upload(backend, NULL, bytes, TT_TIGHT);
  tt_workspace w = tt_workspace_new(backend, handle, TAILCUT_CALL_CUT, &limits);
  cr_assert_eq(tailcut_cut(handle, &batch, input, NULL, NULL, rule, &s, w.data, w.size, NULL),
               TAILCUT_OK, "%s", tailcut_last_error());
  tt_download(backend, &a.k, s.counts, 4);
  tt_download(backend, &a.flags, s.flags, 4);
  tt_download(backend, a.kept, s.kept, bytes);
  if (s.ranks != NULL) tt_download(backend, a.ranks, s.ranks, bytes);
  if (s.curve != NULL) tt_download(backend, a.curve, s.curve, bytes);
  void *all[] = {input, s.counts, s.flags, s.kept, s.ranks, s.curve, lengths, w.data};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
    if (all[i] != NULL) tt_free(backend, all[i]);
  }
  return a;
}

static answer cut(const tt_backend *backend, tailcut_handle handle, const float *scores, int32_t n,
                  const tailcut_rule *rule) {
  return cut_in_room(backend, handle, scores, n, n, rule);
}

#define ON_EVERY_BACKEND(backend, handle)                     \
  int count_;                                                 \
  const tt_backend *backend = tt_backends(&count_);           \
  tailcut_handle handle;                                      \
  for (; count_ > 0 && (handle = tt_create(backend)) != NULL; \
       count_--, backend++, tailcut_destroy(handle))

Test(cut, known_answers) {
  ON_EVERY_BACKEND(backend, handle) {
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
      const row *c = &rows[i];
      const tailcut_rule rule = rule_of(c);
      float turned[MOST];
      const answer a = cut(backend, handle, c->scores, c->n, &rule);
      cr_expect_eq(a.k, c->k, "%s, detector %d on %s: k is %d, expected %d", c->name, c->detector,
                   backend->name, a.k, c->k);
      cr_expect_eq(a.flags, c->flags, "%s, detector %d on %s: flags %d, expected %d", c->name,
                   c->detector, backend->name, a.flags, c->flags);
      /* The order of the tokens is nothing to k. */
      for (int32_t j = 0; j < c->n; j++) turned[j] = c->scores[(j * 5 + 3) % c->n];
      if (c->n % 5 == 0) continue;
      cr_expect_eq(cut(backend, handle, turned, c->n, &rule).k, c->k, "%s, other order", c->name);
    }
  }
}

/* The few rows of a call that might have had many: the same answers. */
Test(cut, known_answers_with_room) {
  ON_EVERY_BACKEND(backend, handle) {
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
      const row *c = &rows[i];
      tailcut_rule rule = rule_of(c);
      if (c->detector != TAILCUT_OTSU && c->detector != TAILCUT_TOPK &&
          c->detector != TAILCUT_RATIO && c->detector != TAILCUT_THRESHOLD) {
        continue; /* cut alike whatever room there is */
      }
      for (int clamps = 0; clamps < 2; clamps++) {
        if (clamps) rule.min_keep = 2, rule.max_keep = 9;
        const answer expected = cut(backend, handle, c->scores, c->n, &rule);
        const answer a = cut_in_room(backend, handle, c->scores, c->n, 8300, &rule);
        cr_expect_eq(a.k, expected.k, "%s on %s: k is %d, expected %d", c->name, backend->name, a.k,
                     expected.k);
        cr_expect_eq(a.flags, expected.flags, "%s on %s: flags %d, expected %d", c->name,
                     backend->name, a.flags, expected.flags);
        cr_expect_arr_eq(a.kept, expected.kept, 4 * (size_t)expected.k, "%s on %s: kept", c->name,
                         backend->name);
      }
    }
  }
}

/* Ties by index, -0 equal to +0, NaN last and among themselves by index. */
Test(cut, order) {
  static const float scores[9] = {0.0f, 2.0f, -0.0f, N_A_N, 2.0f, -INF, INF, -N_A_N, 0.0f};
  static const int32_t ranks[9] = {3, 1, 4, 7, 2, 6, 0, 8, 5};
  static const float curve[7] = {INF, 2.0f, 2.0f, 0.0f, 0.0f, 0.0f, -INF};
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  ON_EVERY_BACKEND(backend, handle) {
    for (int32_t k = 1; k <= 9; k++) {
      rule.detector = TAILCUT_TOPK, rule.k = k;
      const answer a = cut(backend, handle, scores, 9, &rule);
      cr_assert_eq(a.k, k);
      cr_assert_arr_eq(a.ranks, ranks, sizeof ranks);
      cr_assert_arr_eq(a.curve, curve, sizeof curve); /* bytes: zeros are +0 */
      static const uint32_t nan_bits[2] = {0x7FC00000u, 0x7FC00000u};
      cr_assert_arr_eq(&a.curve[7], nan_bits, sizeof nan_bits);
      int32_t j = 0;
      for (int32_t i = 0; i < 9; i++) {
        if (ranks[i] < k) cr_assert_eq(a.kept[j++], i, "k %d", k);
      }
    }
  }
}

/* n, wanted k, min_keep, max_keep, round_to -> k */
Test(cut, clamps) {
  static const int32_t known[][6] = {
      {20, 7, 0, -1, 1, 7},   {20, 7, 9, -1, 1, 9},   {20, 7, 0, 5, 1, 5},  {20, 7, 0, -1, 8, 8},
      {20, 7, 0, 7, 8, 7},    {20, 17, 0, -1, 8, 20}, {20, 8, 0, -1, 8, 8}, {20, 9, 0, 12, 8, 12},
      {20, 1, 30, 40, 1, 20}, {20, 7, 0, 0, 4, 0},    {20, 7, 3, 3, 5, 3},  {5, 2, 0, -1, 64, 5},
      {20, 4, 6, 100, 4, 8},  {3, 3, 0, 2, 2, 2},     {1, 1, 1, -1, 16, 1},
  };
  float scores[MOST];
  for (int i = 0; i < MOST; i++) scores[i] = (float)-i;
  ON_EVERY_BACKEND(backend, handle) {
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
      tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
      rule.detector = TAILCUT_TOPK;
      rule.k = known[i][1], rule.min_keep = known[i][2];
      rule.max_keep = known[i][3], rule.round_to = known[i][4];
      const answer a = cut(backend, handle, scores, known[i][0], &rule);
      cr_expect_eq(a.k, known[i][5], "row %zu: %d", i, a.k);
      cr_expect_eq(tailcut_kept_count(&rule, known[i][0]), known[i][5], "row %zu", i);
      for (int32_t j = 0; j < a.k; j++) cr_expect_eq(a.kept[j], j); /* the best ones */
    }
  }
}

/* Scores fall with the index, so kept indices are ranks. k = 6 of 12: h = 6 - t, t = floor(6 f);
 * tail ranks h + ((2i+1) M) div (2t), M = 12 - h. */
Test(cut, spread) {
  static const struct {
    double spread;
    int32_t kept[6];
  } known[] = {{0.0, {0, 1, 2, 3, 4, 5}},   {0.16, {0, 1, 2, 3, 4, 5}}, {0.17, {0, 1, 2, 3, 4, 8}},
               {0.34, {0, 1, 2, 3, 6, 10}}, {0.5, {0, 1, 2, 4, 7, 10}}, {0.99, {0, 2, 4, 6, 8, 10}},
               {1.0, {1, 3, 5, 7, 9, 11}}};
  float scores[12];
  for (int i = 0; i < 12; i++) scores[i] = (float)-i;
  ON_EVERY_BACKEND(backend, handle) {
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
      tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
      rule.detector = TAILCUT_TOPK, rule.k = 6, rule.spread = known[i].spread;
      const answer a = cut(backend, handle, scores, 12, &rule);
      cr_expect_eq(a.k, 6);
      for (int j = 0; j < 6; j++) {
        cr_expect_eq(a.kept[j], known[i].kept[j], "spread %g: %d, expected %d", known[i].spread,
                     a.kept[j], known[i].kept[j]);
      }
    }
  }
}

/* lo:hi limits the ranks, not the sums: LINE's chord and drops with a bump at rank 8 of 10. */
Test(cut, search_range) {
  static const float scores[10] = {20, 10, 9, 8, 7, 6, 5, 4, 3, 0};
  static const struct {
    double lo, hi;
    int32_t k;
  } known[] = {{0.0, 1.0, 1},   {0.1, 1.0, 9},  {0.1, 0.8, 2},   {0.05, 0.9, 1},
               {0.75, 0.81, 9}, {0.9, 1.0, 10}, {0.85, 0.95, 9}, {0.5, 0.51, 6}};
  ON_EVERY_BACKEND(backend, handle) {
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
      tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
      rule.detector = TAILCUT_GAP;
      rule.search_lo = known[i].lo, rule.search_hi = known[i].hi;
      const answer a = cut(backend, handle, scores, 10, &rule);
      cr_expect_eq(a.k, known[i].k, "%g:%g: %d, expected %d", known[i].lo, known[i].hi, a.k,
                   known[i].k);
    }
  }
}

/* The variance of 16524 ones and a number just below is positive, but its fp64 value is not: the
 * root must be of 0, and the ones are above the mean. */
Test(cut, variance_that_rounds_below_zero) {
  enum { N = 16525 };
  static float scores[N];
  for (int i = 0; i < N; i++) scores[i] = i == 777 ? 1.0f - 0x1p-20f : 1.0f;
  ON_EVERY_BACKEND(backend, handle) {
    tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
    tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
    tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
    tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
    int32_t k = 0;
    batch.segments = limits.segments = 1, batch.max_tokens = limits.max_tokens = N;
    rule.detector = TAILCUT_MEAN, rule.scale = TAILCUT_SCALE_UNIT;
    float *input = tt_upload(backend, scores, sizeof scores, 0);
    s.counts = tt_upload(backend, NULL, 4, 0);
    tt_workspace w = tt_workspace_new(backend, handle, TAILCUT_CALL_CUT, &limits);
    cr_assert_eq(tailcut_cut(handle, &batch, input, NULL, NULL, &rule, &s, w.data, w.size, NULL),
                 TAILCUT_OK);
    tt_download(backend, &k, s.counts, 4);
    cr_assert_eq(k, N - 1, "%d on %s", k, backend->name);
    tt_free(backend, input);
    tt_free(backend, s.counts);
    tt_workspace_free(backend, w);
  }
}
