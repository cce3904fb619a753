/* SPDX-License-Identifier: Apache-2.0 */
/* heavy: the big rows of the table of cases (up to 2^20 scores), in a program of their own, so that
 * a simulated device can be spared them; test_prune says of each that it is not run there. */
#include <criterion/criterion.h>

#include "runner.h"

Test(heavy, big_cases) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  const tt_outcome o = tt_run_cases(TT_ALL_KINDS, 2, backends, count);
  cr_assert_eq(o.failures, 0, "%d of %d runs differ from the reference", o.failures, o.runs);
  cr_assert_geq(o.cases, 8, "only %d cases were run", o.cases);
}
