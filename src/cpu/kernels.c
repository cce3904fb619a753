/* SPDX-License-Identifier: Apache-2.0 */
/* kernels: which SIMD levels this build and this CPU have. */
#include "kernels.h"

#include <stddef.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>

/* __builtin_cpu_supports also asks whether the operating system saves the registers. It does not
 * know f16c in every compiler, so that bit is read here; it needs no more saving than avx2. */
static int has_f16c(void) {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
}

static int has_avx2(void) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static int has_avx512(void) {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif

const tc_kernels *tc_kernels_for(tc_simd level) {
  switch (level) {
    case TC_SIMD_SCALAR:
      return &tc_kernels_scalar;
#if defined(__x86_64__) && defined(__GNUC__)
    case TC_SIMD_AVX2:
      return has_avx2() ? &tc_kernels_avx2 : NULL;
    case TC_SIMD_AVX512:
      return has_avx512() ? &tc_kernels_avx512 : NULL;
#elif defined(__aarch64__) && defined(__GNUC__)
    case TC_SIMD_NEON:
      return &tc_kernels_neon; /* part of every AArch64 */
#endif
    default:
      return NULL;
  }
}

tc_simd tc_kernels_best(void) {
  int level = TC_SIMD_AVX512;
  while (tc_kernels_for((tc_simd)level) == NULL) level--;
  return (tc_simd)level;
}
