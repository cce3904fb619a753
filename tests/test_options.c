/* SPDX-License-Identifier: Apache-2.0 */
/* options: answers known by hand for lag, order, absent rows and masks, the rule that servers use
 * for video, and features of any scale. */
#include <math.h>

#include "data.h"
#include "question.h"

/* --------------------------------------------------------------------------------------- lag -- */

Test(options, lag) {
  static const float tokens[7][2] = {{1, 0}, {0, 1}, {2, 0}, {0, -3}, {3, 4}, {0, 5}, {N_A_N, 0}};
  static const float known[7] = {-1, -1, 1, -1, 0.6f, -1, N_A_N};
  tt_question q = tt_ask(7);
  q.tokens = &tokens[0][0], q.source = TAILCUT_REFERENCE_LAG, q.lag = 2;
  q.options = TT_OPTION_LAG;
  q.rule.detector = TAILCUT_TOPK, q.rule.k = 2;
  ON_EVERY_BACKEND(backend, handle) {
    const tt_answer a = tt_solve(backend, handle, &q);
    if (a.refused) continue;
    for (int i = 0; i < 7; i++) {
      cr_assert(isnan(known[i]) ? isnan(a.scores[i]) : a.scores[i] == known[i], "%d: %g", i,
                (double)a.scores[i]);
    }
  }
  tt_expect("lag", &q, 2, LIST(2, 4), TAILCUT_FLAG_NAN, NULL);
  /* No reference is bad, not even zeros: nothing is kept whole. */
  static const float zeros[4][2] = {{0, 0}, {0, 0}, {0, 0}, {1, 0}};
  q.rows = 4, q.tokens = &zeros[0][0], q.lag = 1;
  q.rule.detector = TAILCUT_GAP; /* -1, 0, 0, 0 */
  tt_expect("zeros", &q, 3, LIST(1, 2, 3), 0, NULL);
  q.lag = 4;
  q.rule.detector = TAILCUT_GAP; /* flat */
  tt_expect("a lag of all", &q, 4, LIST(0, 1, 2, 3), 0, NULL);
}

/* The rule of servers: of N tokens keep max(a frame's, int(N (1 - q))), the least similar to the
 * same patch of the frame before; the first frame is whole. */
Test(options, video) {
  static const float tokens[12][2] = {{5, 0},  {0, 1}, {1, 1}, {4, 0},  /* */
                                      {1, 0},  {4, 3}, {2, 2}, {0, 2},  /* cosines 1 0.6 1 0 */
                                      {-4, 3}, {8, 6}, {3, 3}, {0, 1}}; /* -0.8 1 1 1 */
  static const struct {
    double q;
    int32_t count, kept[12];
  } known[] = {{0.5, 6, {0, 1, 2, 3, 7, 8}},
               {0.4, 7, {0, 1, 2, 3, 5, 7, 8}},
               {0.9, 4, {0, 1, 2, 3}},
               {1.0, 4, {0, 1, 2, 3}},
               {0.55, 5, {0, 1, 2, 3, 8}},
               {0.25, 9, {0, 1, 2, 3, 4, 5, 6, 7, 8}},
               {0.0, 12, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}}};
  tt_question q = tt_ask(12);
  q.tokens = &tokens[0][0], q.source = TAILCUT_REFERENCE_LAG, q.lag = 4;
  q.options = TT_OPTION_LAG | TT_OPTION_LOW;
  q.rule.detector = TAILCUT_RATIO, q.rule.rounding = TAILCUT_DROP_TRUNC;
  q.rule.min_keep = 4, q.rule.order = TAILCUT_LOW;
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
    q.rule.ratio = known[i].q;
    tt_expect("video", &q, known[i].count, known[i].kept, 0, NULL);
  }
}

/* ------------------------------------------------------------------------------------- order -- */

Test(options, low) {
  static const float scores[7] = {0.9f, -0.2f, 0.5f, -0.0f, 0.0f, N_A_N, -0.7f};
  static const int32_t ranks[7] = {5, 1, 4, 2, 3, 6, 0};
  static const float curve[6] = {-0.7f, -0.2f, 0.0f, 0.0f, 0.5f, 0.9f};
  tt_question q = tt_ask(7);
  q.scores = scores;
  q.rule.order = TAILCUT_LOW, q.options = TT_OPTION_LOW;
  q.rule.detector = TAILCUT_TOPK, q.rule.k = 3;
  ON_EVERY_BACKEND(backend, handle) {
    const tt_answer a = tt_solve(backend, handle, &q);
    if (a.refused) continue;
    cr_assert_arr_eq(a.ranks, ranks, sizeof ranks);
    cr_assert_arr_eq(a.curve, curve, sizeof curve); /* bytes: zeros are +0 */
    cr_assert(isnan(a.curve[6]));
  }
  tt_expect("low", &q, 3, LIST(1, 3, 6), TAILCUT_FLAG_NAN, NULL);
  q.rule.detector = TAILCUT_THRESHOLD, q.rule.tau = -0.2f;
  tt_expect("tau is kept", &q, 2, LIST(1, 6), TAILCUT_FLAG_NAN, NULL);
  q.rule.tau = 0.0f;
  tt_expect("tau 0 takes both zeros", &q, 4, LIST(1, 3, 4, 6), TAILCUT_FLAG_NAN, NULL);
  q.rule.tau = 0.6f;
  tt_expect("tau 0.6", &q, 5, LIST(1, 2, 3, 4, 6), TAILCUT_FLAG_NAN, NULL);
  /* Seen from below: the curve 0 0.02 0.85 0.9 1.0 1.0 has its fall after two. */
  static const float plateau[6] = {1.0f, 0.02f, 0.9f, 1.0f, 0.0f, 0.85f};
  q.rows = 6, q.scores = plateau, q.rule.detector = TAILCUT_OTSU;
  tt_expect("otsu from below", &q, 2, LIST(1, 4), 0, NULL);
  q.rule.detector = TAILCUT_GAP;
  tt_expect("gap from below", &q, 2, LIST(1, 4), 0, NULL);
  q.rule.order = TAILCUT_HIGH, q.options = 0;
  tt_expect("from above", &q, 4, LIST(0, 2, 3, 5), 0, NULL);
}

/* --------------------------------------------------------------------- absent rows and masks -- */

Test(options, absent) {
  static const float scores[8] = {0.1f, 9.0f, 8.0f, 7.0f, 6.0f, 5.0f, 0.3f, 0.2f};
  static const uint8_t roles[8] = {1, 5, 2, 6, 0, 4, 1, 1 | 8},
                       nobody[8] = {5, 4, 6, 7, 4, 5, 4, 4};
  static const int32_t ranks[8] = {2, -1, -1, -1, -1, -1, 0, 1};
  static const uint8_t mask[8] = {0, 0, 1, 0, 1, 0, 1, 0}, empty[8] = {0};
  tt_question q = tt_ask(8);
  q.scores = scores, q.roles = roles;
  q.rule.detector = TAILCUT_TOPK, q.rule.k = 1;
  tt_expect("absent", &q, 3, LIST(2, 4, 6), 0, mask);
  ON_EVERY_BACKEND(backend, handle) {
    cr_assert_arr_eq(tt_solve(backend, handle, &q).ranks, ranks, sizeof ranks);
  }
  q.rule.k = 100;
  tt_expect("all but the absent", &q, 5, LIST(0, 2, 4, 6, 7), 0, NULL);
  q.roles = nobody;
  tt_expect("all are absent", &q, 0, NULL, 0, empty);
}

Test(options, mask) {
  static const uint8_t mask[12] = {0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0};
  tt_question q = tt_ask(12);
  q.prefix = 2, q.options = TT_OPTION_MASK;
  q.rule.detector = TAILCUT_TOPK, q.rule.k = 2;
  static const float ten[12] = {0.1f, 0.9f, 0.2f, 0, 0, 0, 0, 0.8f};
  q.scores = ten;
  tt_expect("mask", &q, 2, LIST(1, 7), 0, mask);
}

/* ---------------------------------------------------------------------------- small features -- */

/* Norms above 1e-8 score as they do at any scale: the same bits, so the same tokens. */
Test(options, features_of_any_scale) {
  enum { ROWS = 100, DIM = 24 };
  static float tokens[ROWS * DIM], scaled[ROWS * DIM];
  tt_random random = {12};
  tt_tokens(&random, tokens, TAILCUT_F32, ROWS, DIM, DIM, TT_PLAIN);
  tt_question q = tt_ask(ROWS);
  q.dim = DIM;
  for (int prefix = 0; prefix < 2; prefix++) { /* mean direction, CLS row */
    q.prefix = prefix;
    q.source = prefix ? TAILCUT_REFERENCE_ROW : TAILCUT_REFERENCE_MEAN;
    ON_EVERY_BACKEND(backend, handle) {
      q.tokens = tokens;
      const tt_answer a = tt_solve(backend, handle, &q);
      cr_assert(a.count > 5 && a.count < 95, "%d kept", a.count);
      for (int e = -20; e <= 20; e += 10) {
        for (int i = 0; i < ROWS * DIM; i++) scaled[i] = ldexpf(tokens[i], e);
        q.tokens = scaled;
        const tt_answer b = tt_solve(backend, handle, &q);
        cr_assert_arr_eq(&a, &b, sizeof a, "times 2^%d on %s", e, backend->name);
      }
    }
  }
}
