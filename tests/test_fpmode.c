/* SPDX-License-Identifier: Apache-2.0 */
/* fpmode: the caller's floating-point mode changes nothing and comes back: rounding directions,
 * flush to zero, denormals are zero, trapping exceptions, on every backend and every call, with
 * denormal inputs. The expected bytes are made before the mode is. */
#define _GNU_SOURCE /* feenableexcept */
#include <criterion/criterion.h>
#include <fenv.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "runner.h"

typedef struct mode {
  const char *name;
  int rounding; /* of fesetround */
  int flush;    /* denormals are zero, in and out */
  int trap;     /* exceptions are not masked */
} mode;

static const mode modes[] = {
    {"as it is", FE_TONEAREST, 0, 0}, {"upward", FE_UPWARD, 0, 0},
    {"downward", FE_DOWNWARD, 0, 0},  {"to zero", FE_TOWARDZERO, 0, 0},
    {"flush", FE_TONEAREST, 1, 0},    {"trap", FE_TONEAREST, 0, 1},
    {"all", FE_UPWARD, 1, 1},
};

/* The control bits of the mode, without the sticky exception flags. */
static uint64_t control(void) {
#if defined(__x86_64__)
  return _mm_getcsr() & 0xFFC0u;
#elif defined(__aarch64__)
  uint64_t fpcr;
  __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
  return fpcr;
#else
  return (uint64_t)fegetround();
#endif
}

static void enter(const mode *m) {
  fesetround(m->rounding);
#if defined(__x86_64__)
  if (m->flush) _mm_setcsr(_mm_getcsr() | 0x8040u);
#elif defined(__aarch64__)
  if (m->flush) __asm__ volatile("msr fpcr, %0" ::"r"(control() | (1u << 24)));
#endif
  feclearexcept(FE_ALL_EXCEPT);
  if (m->trap) feenableexcept(FE_DIVBYZERO | FE_INVALID | FE_OVERFLOW | FE_UNDERFLOW);
}

/* A caller that sets the mode of SSE alone: fegetround then knows nothing of it. */
static void x87_to_nearest(void) {
#if defined(__x86_64__)
  uint16_t word;
  __asm__ volatile("fnstcw %0" : "=m"(word));
  word &= (uint16_t)~0x0C00u;
  __asm__ volatile("fldcw %0" ::"m"(word));
#endif
}

static const char *const cases[] = {
    "f16 dim 257",
    "tiny f32",
    "tiny bf16",
    "huge f32",
    "all spikes",
    "mean of 300",
    "mass",
    "cut denormal",
    "cut roles",
    "cut infinite",
    "cut some NaN",
    "spread half",
    "sequence f32",
    "sequence huge",
    "sequence uniform",
    "ratio",
    "reference zero",
    "mean + lambda",
    "row spikes",
    "unit prune, auto",
    "cut large",
    "sequence spikes",
    "not finite f32",
    "iqr",
    "lag spikes",
    "groups low spread clamps",
    "groups, denormal",
    "groups roles low group k",
    "low threshold",
};

static void run_in(const mode *m) {
  int count, runs = 0;
  const tt_backend *backends = tt_backends(&count);
  for (size_t n = 0; n < sizeof cases / sizeof cases[0]; n++) {
    const tt_case *c = NULL;
    for (int i = 0; i < tt_case_count(); i++) {
      if (strcmp(tt_case_at(i)->name, cases[n]) == 0) c = tt_case_at(i);
    }
    cr_assert_not_null(c, "no case is called '%s'", cases[n]);
    tt_problem *p = tt_problem_new(c);
    for (int b = 0; b < count; b++) {
      fenv_t before;
      feholdexcept(&before);
      tailcut_handle handle = tt_create(&backends[b]);
      enter(m);
      const uint64_t entered = control();
      const int failures = tt_run_problem(p, &backends[b], handle);
      const uint64_t left = control();
      fesetenv(&before);
      tailcut_destroy(handle);
      cr_assert_eq(failures, 0, "mode '%s', %s on %s", m->name, c->name, backends[b].name);
      cr_assert_eq(left, entered, "mode '%s' became %llx from %llx on %s", m->name,
                   (unsigned long long)left, (unsigned long long)entered, backends[b].name);
      runs++;
    }
    tt_problem_free(p);
  }
  printf("%d runs\n", runs);
  cr_assert_gt(runs, 0);
}

/* Tests of their own: each is a process, whose team of threads is born in the mode. */
Test(fpmode, as_it_is) { run_in(&modes[0]); }
Test(fpmode, upward) { run_in(&modes[1]); }
Test(fpmode, downward) { run_in(&modes[2]); }
Test(fpmode, to_zero) { run_in(&modes[3]); }
Test(fpmode, flush) { run_in(&modes[4]); }
Test(fpmode, trap) { run_in(&modes[5]); }
Test(fpmode, all_at_once) { run_in(&modes[6]); }

/* The host's own arithmetic as well: it must agree with what a call will keep. */
Test(fpmode, kept_count) {
  static const int32_t roundings[] = {TAILCUT_CEIL, TAILCUT_FLOOR, TAILCUT_NEAREST,
                                      TAILCUT_DROP_CEIL, TAILCUT_DROP_TRUNC};
  for (size_t m = 0; m < sizeof modes / sizeof modes[0]; m++) {
    for (size_t i = 0; i < sizeof roundings / sizeof roundings[0]; i++) {
      for (int32_t n = 1; n <= 400; n++) {
        fenv_t before;
        tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
        rule.detector = TAILCUT_RATIO;
        rule.rounding = roundings[i];
        rule.ratio = 0.01 * (double)(n % 100);
        const int32_t want = tailcut_kept_count(&rule, n);
        feholdexcept(&before);
        enter(&modes[m]);
        if (n % 2) x87_to_nearest();
        const uint64_t entered = control();
        const int32_t got = tailcut_kept_count(&rule, n);
        const uint64_t left = control();
        fesetenv(&before);
        cr_assert_eq(got, want, "mode '%s', rounding %d, n %d: %d, expected %d", modes[m].name,
                     rule.rounding, n, got, want);
        cr_assert_eq(left, entered);
      }
    }
  }
}

/* Shares so small that flushing takes them for 0 are above 0 all the same. */
Test(fpmode, denormal_shares) {
  for (size_t m = 0; m < sizeof modes / sizeof modes[0]; m++) {
    fenv_t before;
    tailcut_rule mass = TAILCUT_RULE_INITIALIZER, search = TAILCUT_RULE_INITIALIZER;
    mass.detector = TAILCUT_MASS;
    mass.mass = 5e-324;
    search.search_hi = 5e-324;
    feholdexcept(&before);
    enter(&modes[m]);
    const int32_t by_mass = tailcut_kept_count(&mass, 9), by_range = tailcut_kept_count(&search, 9);
    fesetenv(&before);
    cr_assert_eq(by_mass, 9, "mode '%s': %s", modes[m].name, tailcut_last_error());
    cr_assert_eq(by_range, 9, "mode '%s': %s", modes[m].name, tailcut_last_error());
  }
}
