/* SPDX-License-Identifier: Apache-2.0 */
/* shapes: lengths and offsets that rows of the table of cases name. */
#ifndef TAILCUT_TESTS_SHAPES_H_
#define TAILCUT_TESTS_SHAPES_H_

#include <stdint.h>

/* Shapes with damage. Offsets: a step back; beyond the total; negative; longer than max_tokens. */
static const int32_t lengths_bad[] = {20, -1, 38, 37, 0, 1, INT32_MIN, INT32_MAX};
static const int32_t offsets_back[] = {0, 30, 10, 25, 40, 40};
static const int32_t offsets_far[] = {0, 20, 90, 60, 95, 100};
static const int32_t offsets_negative[] = {-5, 10, 20, 30, INT32_MIN, 40};
static const int32_t offsets_long[] = {0, 37, 75, 100, 100, 137};
static const int32_t offsets_late[] = {7, 20, 44, 44, 50, 60}; /* need not begin at 0 */
static const int32_t lengths_short[] = {0, 1, 2, 3, 4, 5, 6, 7};

#define ALL_AND_BAD .segments = 5, .shape

#endif /* TAILCUT_TESTS_SHAPES_H_ */
