/* SPDX-License-Identifier: Apache-2.0 */
/* groups: answers known by hand for groups of a segment, their flags, damaged offsets and counts of
 * their own. */
#include <string.h>

#include "question.h"

/* Groups of 4, 0, 5 and 3. */
static const float twelve[12] = {0.1f, 0.9f,  0.8f,   0.2f, /* */
                                 0.5f, 0.25f, 0.625f, 0.375f, 0.75f, 0.95f, 0.0f, 0.99f};
static const int32_t offsets[5] = {0, 4, 4, 9, 12};

static tt_question ask_groups(const float *scores) {
  tt_question q = tt_ask(12);
  q.scores = scores, q.groups = 4, q.offsets = offsets, q.options = TT_OPTION_GROUPS;
  q.rule.detector = TAILCUT_TOPK, q.rule.k = 2;
  return q;
}

Test(options, groups) {
  static const int32_t ranks[12] = {3, 0, 1, 2, 2, 4, 1, 3, 0, 1, 2, 0};
  static const float curve[12] = {0.9f,  0.8f,   0.2f, 0.1f, /* */
                                  0.75f, 0.625f, 0.5f, 0.375f, 0.25f, 0.99f, 0.95f, 0.0f};
  static const int32_t group_counts[4] = {2, 0, 2, 2};
  static const uint8_t mask[12] = {0, 1, 1, 0, 0, 0, 1, 0, 1, 1, 0, 1};
  tt_question q = ask_groups(twelve);
  tt_expect("two of each", &q, 6, LIST(1, 2, 6, 8, 9, 11), 0, mask);
  ON_EVERY_BACKEND(backend, handle) {
    const tt_answer a = tt_solve(backend, handle, &q);
    if (a.refused) continue;
    cr_assert_arr_eq(a.ranks, ranks, sizeof ranks);
    cr_assert_arr_eq(a.curve, curve, sizeof curve);
    cr_assert_arr_eq(a.group_counts, group_counts, sizeof group_counts);
  }
  q.rule.min_keep = 4; /* more than the last group has */
  tt_expect("min_keep of each", &q, 11, LIST(0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11), 0, NULL);
  q.rule.min_keep = 0, q.rule.max_keep = 1;
  tt_expect("max_keep of each", &q, 3, LIST(1, 8, 11), 0, NULL);
  q.rule.max_keep = -1, q.rule.detector = TAILCUT_GAP;
  tt_expect("gap of each", &q, 5, LIST(1, 2, 8, 9, 11), 0, NULL);
  /* The first two rows are no candidates: a group of two candidates, kept whole. */
  q.prefix = 2;
  static const float ten[12] = {0.8f, 0.2f, 0.5f, 0.25f, 0.625f, 0.375f, 0.75f, 0.95f, 0.0f, 0.99f};
  static const uint8_t behind[12] = {0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 1};
  q.scores = ten;
  tt_expect("behind a prefix", &q, 5, LIST(0, 1, 6, 7, 9), TAILCUT_FLAG_WHOLE, behind);
}

/* A segment's flags are its groups', or-ed. */
Test(options, flags_of_groups) {
  float scores[12] = {0};
  tt_question q = ask_groups(scores);
  memcpy(scores, twelve, sizeof scores);
  scores[5] = N_A_N;
  tt_expect("one NaN", &q, 6, LIST(1, 2, 6, 8, 9, 11), TAILCUT_FLAG_NAN, NULL);
  for (int i = 9; i < 12; i++) scores[i] = N_A_N;
  tt_expect("no number in one", &q, 6, LIST(1, 2, 6, 8, 9, 10),
            TAILCUT_FLAG_NAN | TAILCUT_FLAG_NO_SCORE, NULL);
  q.rule.detector = TAILCUT_GAP;
  tt_expect("which is kept whole", &q, 6, LIST(1, 2, 8, 9, 10, 11),
            TAILCUT_FLAG_NAN | TAILCUT_FLAG_NO_SCORE | TAILCUT_FLAG_WHOLE, NULL);
  scores[9] = 0.5f, scores[10] = 0.4f;
  tt_expect("two numbers in one", &q, 6, LIST(1, 2, 8, 9, 10, 11),
            TAILCUT_FLAG_NAN | TAILCUT_FLAG_WHOLE, NULL);
}

Test(options, damaged_offsets) {
  static const int32_t bad[][5] = {{0, 4, 3, 9, 12},        {0, 4, 4, 9, 13}, {-1, 4, 4, 9, 12},
                                   {0, 4, 4, 9, 11},        {1, 4, 4, 9, 12}, {0, 12, 4, 4, 12},
                                   {0, INT32_MIN, 0, 0, 12}};
  static const int32_t none[4] = {0, 0, 0, 0};
  tt_question q = ask_groups(twelve);
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    q.offsets = bad[i];
    tt_expect("damaged", &q, 0, NULL, TAILCUT_FLAG_INVALID, NULL);
    ON_EVERY_BACKEND(backend, handle) {
      const tt_answer a = tt_solve(backend, handle, &q);
      if (a.refused) continue;
      cr_assert_arr_eq(a.group_counts, none, sizeof none);
      cr_assert(a.kept[0] == TT_POISONED && a.ranks[0] == TT_POISONED, "touched");
    }
  }
  q.offsets = LIST(0, 0, 12, 12, 12);
  tt_expect("empty ones before and behind", &q, 2, LIST(9, 11), 0, NULL);
}

Test(options, group_k) {
  static const int32_t counts[4] = {3, 1, -5, 100},
                       group_counts[2][4] = {{3, 0, 0, 3}, {3, 0, 1, 3}};
  tt_question q = ask_groups(twelve);
  q.options |= TT_OPTION_GROUP_K;
  q.group_k = counts, q.rule.k = 3;
  for (q.rule.min_keep = 0; q.rule.min_keep <= 1; q.rule.min_keep++) {
    ON_EVERY_BACKEND(backend, handle) {
      const tt_answer a = tt_solve(backend, handle, &q);
      if (a.refused) continue;
      cr_assert_arr_eq(a.group_counts, group_counts[q.rule.min_keep], sizeof counts);
    }
  }
  q.rule.min_keep = 0, q.rule.k = 2; /* the most */
  tt_expect("at most k", &q, 4, LIST(1, 2, 9, 11), 0, NULL);
  q.groups = 0, q.offsets = NULL, q.options = TT_OPTION_GROUP_K, q.rule.k = 7;
  q.group_k = LIST(4);
  tt_expect("of a segment", &q, 4, LIST(1, 2, 9, 11), 0, NULL);
  q.group_k = LIST(0);
  tt_expect("none", &q, 0, NULL, 0, NULL);
}
