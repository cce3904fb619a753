/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exact: refuses compiler options that change the bits of floating-point arithmetic. Included by
 * every header that computes or that everything which computes includes.
 *
 * GCC says by a macro what such options have switched on, so each is an error. Clang has macros for
 * two of them only: whatever the others ask for (its FLT_EVAL_METHOD is then -1), its operators are
 * exact in what follows. Contraction shows in no macro of GCC's (-ffp-contract=off). What nvcc
 * is given for device code shows in no macro: CMakeLists.txt looks at the options.
 */
#ifndef TAILCUT_EXACT_H_
#define TAILCUT_EXACT_H_

#if defined(__FAST_MATH__)
#error "tailcut promises exact bits: build it without -ffast-math"
#elif defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "tailcut promises exact bits: build it without -ffinite-math-only"
#elif defined(__ASSOCIATIVE_MATH__)
#error "tailcut promises exact bits: build it without -fassociative-math"
#elif defined(__RECIPROCAL_MATH__)
#error "tailcut promises exact bits: build it without -freciprocal-math"
#elif defined(__NO_SIGNED_ZEROS__)
#error "tailcut promises exact bits: build it without -fno-signed-zeros"
#elif __FLT_EVAL_METHOD__ == 1 || __FLT_EVAL_METHOD__ == 2 || \
    (__FLT_EVAL_METHOD__ == -1 && !defined(__clang__))
#error "tailcut promises exact bits: build it without -mfpmath=387 (i386: with -mfpmath=sse)"
#endif

#if defined(__clang__) && !defined(__CUDACC__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wignored-pragmas" /* older ones, on some processors */
#pragma clang diagnostic ignored "-Wunknown-pragmas"
#pragma float_control(precise, on)
#pragma clang fp reassociate(off)
#pragma clang diagnostic pop
#pragma clang fp contract(off) /* which `precise` has switched on */
#endif

#endif /* TAILCUT_EXACT_H_ */
