/* SPDX-License-Identifier: Apache-2.0 */
/* question: one segment with options, put to a backend, for answers that are known by hand. A
 * backend that refuses an option must say so and write nothing. */
#ifndef TAILCUT_TESTS_QUESTION_H_
#define TAILCUT_TESTS_QUESTION_H_

#include <criterion/criterion.h>

#include "backends.h"

enum { TT_MOST = 128, TT_POISONED = (int32_t)0xA5A5A5A5 };
#define N_A_N (__builtin_nanf(""))

/* One segment: scores to cut, or fp32 tokens to prune. */
typedef struct tt_question {
  int32_t rows, dim, prefix;
  const float *scores, *tokens;
  const uint8_t *roles;
  tailcut_rule rule;
  int32_t source, lag;
  int32_t groups;
  const int32_t *offsets, *group_k;
  unsigned options; /* TT_OPTION_ bits that it carries */
} tt_question;

typedef struct tt_answer {
  int refused;
  int32_t count, flags, kept[TT_MOST], ranks[TT_MOST], group_counts[TT_MOST];
  float scores[TT_MOST], curve[TT_MOST];
  uint8_t mask[TT_MOST];
} tt_answer;

/* The default rule on `rows` rows, and MEAN as the reference of tokens of 2 channels. */
tt_question tt_ask(int32_t rows);
/* What a backend answers; .refused where it had to refuse, and did. */
tt_answer tt_solve(const tt_backend *backend, tailcut_handle handle, const tt_question *q);
/* What a question must give on every backend. mask: NULL where nothing is said of it. */
void tt_expect(const char *name, const tt_question *q, int32_t count, const int32_t *kept,
               int32_t flags, const uint8_t *mask);

#define ON_EVERY_BACKEND(backend, handle)                     \
  int count_;                                                 \
  const tt_backend *backend = tt_backends(&count_);           \
  tailcut_handle handle;                                      \
  for (; count_ > 0 && (handle = tt_create(backend)) != NULL; \
       count_--, backend++, tailcut_destroy(handle))

#define LIST(...) ((const int32_t[]){__VA_ARGS__})

#endif /* TAILCUT_TESTS_QUESTION_H_ */
