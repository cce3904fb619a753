/* SPDX-License-Identifier: Apache-2.0 */
/* avx512_halves: the tables of the AVX-512 levels, on operations of AVX2. */
#if defined(__x86_64__) && defined(__GNUC__)
#include "avx512_halves.h"

#define TC_IN_HALVES
#define V_HOLD(x) (void)0
#define tc_kernels_avx512 tt_kernels_avx512_halves
#define tc_kernels_avx512_vnni tt_kernels_avx512_vnni_halves
#include "cpu/kernels_avx512.c"
#else
typedef int tt_kernels_avx512_halves_is_elsewhere;
#endif
