/* SPDX-License-Identifier: Apache-2.0 */
/* random_cases: made-up rows of the table of cases; their names, which seed the data, are the
 * caller's. */
#ifndef TAILCUT_TESTS_RANDOM_CASES_H_
#define TAILCUT_TESTS_RANDOM_CASES_H_

#include "cases.h"
#include "data.h"

/* 1..10 the detectors, RATIO once more for each other rounding. */
enum { TT_RULES = TAILCUT_RATIO + TAILCUT_DROP_PERCENT - 1 };

/* Scores of a curve, cut by a rule with any parameters, range, clamps, layout and roles. */
tt_case tt_random_cut(tt_random *random, int rule, tt_curve curve, int32_t scale);
/* A case of any kind with any of the options. */
tt_case tt_random_case(tt_random *random);

#endif /* TAILCUT_TESTS_RANDOM_CASES_H_ */
