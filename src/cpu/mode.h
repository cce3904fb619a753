/* SPDX-License-Identifier: Apache-2.0 */
/* mode: the floating-point mode in which every thread of a call computes: round to nearest even,
 * denormals kept, exceptions masked. The thread's own comes back. */
#ifndef TAILCUT_MODE_H_
#define TAILCUT_MODE_H_

#include "team.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#else
#include <fenv.h>
#endif

static inline void tc_run_in_mode(tc_team_fn fn, void *job, tc_team team) {
#if defined(__x86_64__) || defined(_M_X64)
  const unsigned int saved = _mm_getcsr();
  _mm_setcsr(0x1F80);
  fn(job, team);
  _mm_setcsr(saved);
#elif defined(__aarch64__)
  uint64_t saved;
  __asm__ volatile("mrs %0, fpcr" : "=r"(saved)::"memory");
  __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)0) : "memory");
  fn(job, team);
  __asm__ volatile("msr fpcr, %0" ::"r"(saved) : "memory");
#else
  fenv_t saved;
  fegetenv(&saved);
  fesetenv(FE_DFL_ENV);
  fn(job, team);
  fesetenv(&saved);
#endif
}

#endif /* TAILCUT_MODE_H_ */
