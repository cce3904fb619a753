/* SPDX-License-Identifier: Apache-2.0 */
/* mode: the floating-point mode in which everything computes: round to nearest even, denormals
 * kept, exceptions masked. The thread's own comes back. What computes in between stands in a
 * function of its own that is not inlined. (Not fegetround: on x86 that reads the x87 unit's mode,
 * and a caller may have set that of SSE alone.) */
#ifndef TAILCUT_MODE_H_
#define TAILCUT_MODE_H_

#include <stdint.h>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
typedef unsigned int tc_mode;
#elif defined(__aarch64__)
typedef uint64_t tc_mode;
#else
#include <fenv.h>
typedef fenv_t tc_mode;
#endif

/* Loads and stores stay on their side of a change. */
#define TC_MODE_FENCE() __asm__ volatile("" ::: "memory")

static inline void tc_mode_enter(tc_mode *saved) {
#if defined(__x86_64__) || defined(_M_X64)
  *saved = _mm_getcsr();
  _mm_setcsr(0x1F80);
#elif defined(__aarch64__)
  __asm__ volatile("mrs %0, fpcr" : "=r"(*saved)::"memory");
  __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)0) : "memory");
#else
  fegetenv(saved);
  fesetenv(FE_DFL_ENV);
#endif
  TC_MODE_FENCE();
}

static inline void tc_mode_leave(const tc_mode *saved) {
  TC_MODE_FENCE();
#if defined(__x86_64__) || defined(_M_X64)
  _mm_setcsr(*saved);
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0" ::"r"(*saved) : "memory");
#else
  fesetenv(saved);
#endif
}

#endif /* TAILCUT_MODE_H_ */
