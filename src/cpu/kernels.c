/* SPDX-License-Identifier: Apache-2.0 */
/* kernels: which SIMD levels this build and this CPU have. */
#include "kernels.h"

#include <stddef.h>
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

const char *const tc_simd_names[TC_SIMD_LEVELS] = {"scalar",    "neon",   "neon-dotprod", "avx2",
                                                   "avx2-vnni", "avx512", "avx512-vnni"};

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

/* Some compilers know one of these, some both. They need no more saving than their level. */
static int has_avx_vnni(void) {
  unsigned a, b, c, d;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1u << 4)) != 0;
}

static int has_avx512_vnni(void) {
  unsigned a, b, c, d;
  return has_avx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (c & (1u << 11)) != 0;
}
#elif defined(__aarch64__) && defined(__GNUC__)
static int has_dotprod(void) {
#if defined(__ARM_FEATURE_DOTPROD)
  return 1; /* what the compiler was told, as on every Mac */
#elif defined(__linux__)
  return (getauxval(AT_HWCAP) & (1ul << 20)) != 0; /* HWCAP_ASIMDDP */
#else
  return 0;
#endif
}
#endif

const tc_kernels *tc_kernels_for(tc_simd level) {
  switch (level) {
    case TC_SIMD_SCALAR:
      return &tc_kernels_scalar;
#if defined(__x86_64__) && defined(__GNUC__)
    case TC_SIMD_AVX2:
      return has_avx2() ? &tc_kernels_avx2 : NULL;
    case TC_SIMD_AVX2_VNNI:
      return has_avx_vnni() ? &tc_kernels_avx2_vnni : NULL;
    case TC_SIMD_AVX512:
      return has_avx512() ? &tc_kernels_avx512 : NULL;
    case TC_SIMD_AVX512_VNNI:
      return has_avx512_vnni() ? &tc_kernels_avx512_vnni : NULL;
#elif defined(__aarch64__) && defined(__GNUC__)
    case TC_SIMD_NEON:
      return &tc_kernels_neon; /* part of every AArch64 */
    case TC_SIMD_NEON_DOTPROD:
      return has_dotprod() ? &tc_kernels_neon_dotprod : NULL;
#endif
    default:
      return NULL;
  }
}

tc_simd tc_kernels_best(void) {
  int level = TC_SIMD_LEVELS - 1;
  while (tc_kernels_for((tc_simd)level) == NULL) level--;
  return (tc_simd)level;
}
