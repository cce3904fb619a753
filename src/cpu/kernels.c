/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels.h"
#include <stddef.h>
extern const tc_kernels tc_kernels_scalar;
const tc_kernels *tc_kernels_for(tc_simd level) {
  return level == TC_SIMD_SCALAR ? &tc_kernels_scalar : NULL;
}
tc_simd tc_kernels_best(void) { return TC_SIMD_SCALAR; }
