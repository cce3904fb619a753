/* SPDX-License-Identifier: Apache-2.0 */
/* avx2_vnni: the table of the AVX-VNNI level, without VNNI. */
#if defined(__x86_64__) && defined(__GNUC__)
#include "avx512_halves.h"

#define TC_IN_HALVES
#define V_HOLD(x) (void)0
#define tc_kernels_avx2 tt_kernels_avx2_again
#define tc_kernels_avx2_vnni tt_kernels_avx2_vnni_halves
#include "cpu/kernels_avx2.c"
#else
typedef int tt_kernels_avx2_vnni_halves_is_elsewhere;
#endif
