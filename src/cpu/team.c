/* SPDX-License-Identifier: Apache-2.0 */
/* team: the only file that knows OpenMP, and the floating-point mode of every thread of a call. */
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#else
#include <fenv.h>
#endif

#if defined(__unix__) || defined(__APPLE__)
#include <sched.h>
#endif

#include "cpu.h"

/* Round to nearest even, denormals kept, exceptions masked; the caller's mode comes back. */
static void run_in_mode(tc_team_fn fn, tc_run *run, tc_team team) {
#if defined(__x86_64__) || defined(_M_X64)
  const unsigned int saved = _mm_getcsr();
  _mm_setcsr(0x1F80);
  fn(run, team);
  _mm_setcsr(saved);
#elif defined(__aarch64__)
  uint64_t saved;
  __asm__ volatile("mrs %0, fpcr" : "=r"(saved)::"memory");
  __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)0) : "memory");
  fn(run, team);
  __asm__ volatile("msr fpcr, %0" ::"r"(saved) : "memory");
#else
  fenv_t saved;
  fegetenv(&saved);
  fesetenv(FE_DFL_ENV);
  fn(run, team);
  fesetenv(&saved);
#endif
}

void tc_team_run(int32_t threads, tc_team_fn fn, tc_run *run) {
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    {
      const tc_team team = {omp_get_thread_num(), omp_get_num_threads()};
      run_in_mode(fn, run, team);
    }
    return;
  }
#endif
  (void)threads;
  run_in_mode(fn, run, (tc_team){0, 1});
}

void tc_team_barrier(tc_team team) {
#if defined(_OPENMP)
  if (team.size > 1) {
#pragma omp barrier
  }
#else
  (void)team;
#endif
}

void tc_team_relax(int spins) {
#if defined(__unix__) || defined(__APPLE__)
  if (spins % 1024 == 1023) { /* the other may need this core */
    sched_yield();
    return;
  }
#endif
  (void)spins;
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#endif
}

int32_t tc_team_cores(void) {
#if defined(_OPENMP)
  const int cores = omp_get_num_procs();
  return cores < 1 ? 1 : cores > 1024 ? 1024 : cores;
#else
  return 1;
#endif
}
