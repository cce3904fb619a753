/* SPDX-License-Identifier: Apache-2.0 */
/* neon_table: the SIMD levels of this machine against the scalar level, as a plain program that can
 * be built statically and run under an emulator. Fails where AArch64 has no NEON level, or another
 * best level than the one that is named. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "common/kernel_table.h"

int main(int argc, char **argv) {
  kt_state t;
  if (!kt_init(&t, 2024)) {
    printf("neon_table: no memory\n");
    return 1;
  }
  const int levels = kt_run(&t, 1280);
  int found = 1;
#if defined(__aarch64__)
  found = tc_kernels_for(TC_SIMD_NEON) != NULL && tc_kernels_best() <= TC_SIMD_NEON_DOTPROD;
  if (!found) printf("neon_table: NEON is not among the levels\n");
#endif
  if (argc > 1) found &= strcmp(tc_kernels_for(tc_kernels_best())->name, argv[1]) == 0;
  printf("neon_table: %d levels besides scalar (best: %s), %ld values compared, %ld differ\n",
         levels, tc_kernels_for(tc_kernels_best())->name, t.checks, t.failures);
  return t.failures == 0 && found && levels > 0 && t.checks > 100000 ? 0 : 1;
}
