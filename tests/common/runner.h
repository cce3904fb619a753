/* SPDX-License-Identifier: Apache-2.0 */
/* runner: runs cases of the table on a backend and compares every byte with what the reference
 * says. A plain function, for Criterion suites and plain programs alike. */
#ifndef TAILCUT_TESTS_RUNNER_H_
#define TAILCUT_TESTS_RUNNER_H_

#include "backends.h"
#include "cases.h"
#include "problem.h"

typedef struct tt_outcome {
  int cases;    /* rows of the table that were run */
  int runs;     /* rows times backends */
  int failures; /* runs with a wrong byte or status; each has been printed */
  int left_out; /* rows times backends that were not run; why has been printed */
  int refused;  /* runs on backends that lack an option of the row: seen to be refused */
} tt_outcome;

/* Every row of the given kinds (tt_kind bits) on every backend. heavy: 0 without the heavy rows, 1
 * with them, 2 these alone.
 * What is not run is said on stdout. */
tt_outcome tt_run_cases(unsigned kinds, int heavy, const tt_backend *backends, int count);

/* One case, from the table or made up, on several backends with a handle each: the number of wrong
 * runs. */
int tt_run_case(const tt_case *c, const tt_backend *backends, const tailcut_handle *handles,
                int count);

/* One problem on one backend: the number of wrong outputs. */
int tt_run_problem(const tt_problem *p, const tt_backend *backend, tailcut_handle handle);

#endif /* TAILCUT_TESTS_RUNNER_H_ */
