/* SPDX-License-Identifier: Apache-2.0 */
/*
 * detectors: the one list of detectors. A row makes the detector's name, says which parameters of
 * a rule it uses, and is asked for by every table that has one entry per detector: the CPU's
 * functions (a row without one does not compile), the checks of a rule, the command's words and
 * help.
 */
#ifndef TAILCUT_DETECTORS_H_
#define TAILCUT_DETECTORS_H_

#include "tailcut.h"

/* Parameters of a rule. Clamps, spread and order go with every detector. */
enum {
  TC_USES_NONE = 0,
  TC_USES_K = 1,
  TC_USES_RATIO = 2, /* ratio or percent, by rounding */
  TC_USES_TAU = 4,
  TC_USES_LAMBDA = 8,
  TC_USES_MASS = 16,
  TC_USES_WINDOW = 32,
  TC_USES_SEARCH = 64, /* it looks for a rank, in the search range */
  TC_USES_SCALE = 128  /* it reads the integer curve */
};

/* X(TAILCUT_<name>, the command's word, the CPU's function, parameters, what is kept).
 * The functions (cpu/detect.c): `rank` detectors choose a rank of the curve, the others count. */
#define TC_DETECTORS(X)                                                                           \
  X(OTSU, "otsu", otsu, TC_USES_SEARCH | TC_USES_SCALE,                                           \
    "the head of the best two-class split of the curve")                                          \
  X(CHORD, "chord", chord, TC_USES_SEARCH | TC_USES_SCALE,                                        \
    "up to the point farthest from the line between the curve's ends")                            \
  X(GAP, "gap", gap, TC_USES_SEARCH | TC_USES_SCALE, "up to the largest drop between neighbours") \
  X(CURVATURE, "curvature", curvature, TC_USES_WINDOW | TC_USES_SEARCH | TC_USES_SCALE,           \
    "up to the largest second difference over a window")                                          \
  X(IQR, "iqr", iqr, TC_USES_SCALE, "outliers: above Q3 + 1.5 (Q3 - Q1)")                         \
  X(MEAN, "mean", mean, TC_USES_LAMBDA | TC_USES_SCALE,                                           \
    "above the mean + lambda standard deviations")                                                \
  X(MASS, "mass", mass, TC_USES_MASS | TC_USES_SCALE,                                             \
    "the smallest head with the share f of the total above the minimum")                          \
  X(THRESHOLD, "threshold", threshold, TC_USES_TAU, "scores of at least tau")                     \
  X(TOPK, "topk", topk, TC_USES_K, "k tokens")                                                    \
  X(RATIO, "ratio", ratio, TC_USES_RATIO, "a share of the tokens, by a named rounding")

#define TC_COUNT_(name, word, function, uses, help) +1
enum { TC_DETECTOR_COUNT = 0 TC_DETECTORS(TC_COUNT_) };
_Static_assert((int)TC_DETECTOR_COUNT == (int)TAILCUT_RATIO, "a detector of the header has no row");

/* The TC_USES_ bits of a detector; 0 for other numbers. rule.c */
int32_t tc_detector_uses(int32_t detector);

#endif /* TAILCUT_DETECTORS_H_ */
