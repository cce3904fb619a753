/* SPDX-License-Identifier: Apache-2.0 */
/*
 * curve: the arithmetic of the cut that must be the same on every backend, once for both compilers.
 *
 * Formulas: the detectors (Otsu 1979 for OTSU; Kneedle's distance for CHORD; Tukey's fence for
 * IQR), clamps, roundings and the spread. Strategy: curve values are integers, so sums and products
 * are exact in int64 (|p| <= 2^20, at most 2^20 tokens); the few double operations are written one
 * per rounding and built uncontracted. Nothing here knows how a backend sorts or sums.
 */
#ifndef TAILCUT_CURVE_H_
#define TAILCUT_CURVE_H_

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "exact.h"
#include "tailcut.h"

#if defined(__CUDACC__)
#define TC_HD __host__ __device__ static inline
#else
#define TC_HD static inline
#endif

/* What a row is, by its role: ABSENT rules the other bits out. */
TC_HD int tc_is_absent(uint8_t role) { return (role & TAILCUT_ROLE_ABSENT) != 0; }
TC_HD int tc_is_candidate(uint8_t role) {
  return (role & (TAILCUT_ROLE_CANDIDATE | TAILCUT_ROLE_ABSENT)) == TAILCUT_ROLE_CANDIDATE;
}
TC_HD int tc_is_query(uint8_t role) {
  return (role & (TAILCUT_ROLE_QUERY | TAILCUT_ROLE_ABSENT)) == TAILCUT_ROLE_QUERY;
}

#define TC_NAN_BITS 0x7FC00000u
#define TC_KEY_NAN 0xFFFFFFFFu

TC_HD uint32_t tc_float_bits(float s) {
  uint32_t b;
  memcpy(&b, &s, sizeof b);
  return b;
}

TC_HD float tc_bits_float(uint32_t b) {
  float s;
  memcpy(&s, &b, sizeof s);
  return s;
}

/* Sort key: ascending keys are descending scores, -0 equals +0, every NaN is the one last key. */
TC_HD uint32_t tc_key(float s) {
  const uint32_t b = tc_float_bits(s + 0.0f); /* -0 becomes +0 */
  if (s != s) return TC_KEY_NAN;
  return (b >> 31) ? b : b ^ 0x7FFFFFFFu;
}

/* A score as a rule of order LOW or HIGH sees it; its own inverse. -0 may come out: keys take it
 * for +0. */
TC_HD float tc_ordered(float s, int low) { return low ? -s : s; }

/* The score of a key, with -0 as +0 and every NaN the same. Keys behind -infinity's are no scores:
 * a backend may tell kinds of them apart. */
TC_HD float tc_key_score(uint32_t key) {
  return tc_bits_float(key > 0xFF800000u   ? TC_NAN_BITS
                       : key > 0x7FFFFFFFu ? key
                                           : key ^ 0x7FFFFFFFu);
}

/* A norm as a divisor: the floor is on each norm. NaN where it is not finite. */
TC_HD float tc_norm_floor(float norm) {
  if (!(norm <= 3.402823466e38f)) return tc_bits_float(TC_NAN_BITS);
  return norm > 1e-8f ? norm : 1e-8f;
}

/* Whether a reference of this norm is bad: 0 or not finite. */
TC_HD int tc_bad_norm(float norm) { return !(norm > 0.0f) || norm > 3.402823466e38f; }

/* Finishes a cosine: d = <x,c>, then the two norms. The clamp keeps NaN. */
TC_HD float tc_cosine_finish(float d, float norm_x, float norm_c) {
  float s = d / (tc_norm_floor(norm_x) * tc_norm_floor(norm_c));
  if (s != s) return tc_bits_float(TC_NAN_BITS);
  s = s > 1.0f ? 1.0f : s;
  s = s < -1.0f ? -1.0f : s;
  return s + 0.0f; /* -0 becomes +0 */
}

/* AUTO's exponent for the largest finite magnitude of a segment (its bits; 0: none nonzero): the
 * smallest e in -126..128 with magnitude <= 2^e. */
TC_HD int32_t tc_scale_exponent(uint32_t max_magnitude_bits) {
  int32_t e = (int32_t)(max_magnitude_bits >> 23) - 127;
  if (max_magnitude_bits == 0) return 0;
  if (e < -126) return -126; /* denormals */
  return (max_magnitude_bits & 0x7FFFFFu) ? e + 1 : e;
}

/* 2^(30-e), exactly. */
TC_HD double tc_scale_factor(int32_t e) {
  uint64_t b = (uint64_t)(1023 + 30 - e) << 52;
  double f;
  memcpy(&f, &b, sizeof f);
  return f;
}

/* q = rint(v), to nearest even, |v| <= 2^30: adding 1.5 * 2^52 leaves no room for a fraction, so
 * that the addition rounds to an integer as rint does, without a call. */
TC_HD int32_t tc_round(double v) {
  const double magic = 6755399441055744.0;
  return (int32_t)((v + magic) - magic);
}

/* q = rint(s * 2^(30-e)), saturating at +-2^30. s is not NaN. */
TC_HD int32_t tc_quantise(float s, double factor) {
  double v = (double)s * factor;
  v = v < 1073741824.0 ? v : 1073741824.0;
  v = v > -1073741824.0 ? v : -1073741824.0;
  return tc_round(v);
}

/* p = q >> 10, arithmetic. |q| <= 2^30. */
TC_HD int32_t tc_curve_value(int32_t q) {
  return (int32_t)(((uint32_t)q + (1u << 30)) >> 10) - (1 << 20);
}

/* OTSU's between-class variance (times N'^2) of a head of k values: d = n * (its sum) - k * total.
 */
TC_HD double tc_otsu_ratio(double d, double k, double n_minus_k) {
  const double num = d * d;
  const double den = k * n_minus_k;
  return num / den;
}
TC_HD double tc_otsu_value(int64_t n, int64_t k, int64_t sk, int64_t total) {
  return tc_otsu_ratio((double)(n * sk - k * total), (double)k, (double)(n - k));
}

/* CHORD's distance (unnormalised) of rank r. */
TC_HD int64_t tc_chord_value(int64_t n, int64_t r, int64_t p0, int64_t pr, int64_t plast) {
  const int64_t v = (p0 - pr) * (n - 1) - r * (p0 - plast);
  return v < 0 ? -v : v;
}

/* MEAN's threshold t: a value p is kept when (double)p > t. */
TC_HD double tc_mean_threshold(int64_t n, int64_t s1, int64_t s2, double lambda) {
  const double m = (double)s1 / (double)n;
  const double mm = m * m;
  const double v = (double)s2 / (double)n - mm;
  const double sd = sqrt(v > 0.0 ? v : 0.0);
  const double step = lambda * sd;
  return m + step;
}

/* IQR keeps a value p when 2p > fence. */
TC_HD int64_t tc_iqr_fence(int64_t q3, int64_t q1) { return 2 * q3 + 3 * (q3 - q1); }

/* First and one-past-last rank of the search range of a curve of n values. */
TC_HD int32_t tc_search_begin(int32_t n, double lo) { return (int32_t)floor(lo * (double)n); }
TC_HD int32_t tc_search_end(int32_t n, double hi) { return (int32_t)ceil(hi * (double)n); }

TC_HD int32_t tc_curvature_window(int32_t n, int32_t window) {
  if (window > 0) return window;
  return n / 16 > 1 ? n / 16 : 1;
}

/* Whether a group is kept whole for want of a reference or of a curve. */
TC_HD int tc_keeps_whole(int32_t detector, int32_t n_usable, int bad_reference) {
  if (detector == TAILCUT_TOPK || detector == TAILCUT_RATIO) return 0;
  return bad_reference || (n_usable < 3 && detector != TAILCUT_THRESHOLD);
}

/* TOPK's k of group g, before the clamps. */
TC_HD int32_t tc_topk_count(const tailcut_rule *rule, int32_t g) {
  const int32_t given = rule->group_k != NULL ? rule->group_k[g] : rule->k;
  return given < 0 ? 0 : given > rule->k ? rule->k : given;
}

/* RATIO's k of n candidates, before the clamps. */
TC_HD int32_t tc_ratio_count(const tailcut_rule *rule, int32_t n) {
  const double dn = (double)n;
  const double x = dn * rule->ratio;
  const double kept_share = 1.0 - rule->ratio;
  double k;
  switch (rule->rounding) {
    case TAILCUT_FLOOR:
      k = trunc(x);
      break;
    case TAILCUT_NEAREST:
      k = rint(x);
      break;
    case TAILCUT_DROP_CEIL:
      k = dn - ceil(x - 1e-9);
      break;
    case TAILCUT_DROP_TRUNC:
      k = trunc(dn * kept_share);
      break;
    case TAILCUT_DROP_PERCENT:
      return n - (int32_t)((int64_t)n * rule->percent / 100);
    default:
      k = ceil(x - 1e-9);
      break;
  }
  return (int32_t)k;
}

/* The clamps that follow every detector. k and n are >= 0; max_keep < 0 means n. */
TC_HD int32_t tc_clamp_count(const tailcut_rule *rule, int64_t k, int32_t n) {
  const int64_t max_keep = rule->max_keep < 0 || rule->max_keep > n ? n : rule->max_keep;
  if (n == 0) return 0;
  if (k < rule->min_keep) k = rule->min_keep;
  if (k > max_keep) k = max_keep;
  if (rule->round_to > 1) k = (k + rule->round_to - 1) / rule->round_to * rule->round_to;
  return (int32_t)(k > max_keep ? max_keep : k);
}

/* The spread: of k tokens the best head ones and `tail` ranks spaced evenly over `span` ranks
 * behind them. */
typedef struct tc_spread {
  int32_t head;
  int32_t tail;
  int64_t span;
} tc_spread;

TC_HD tc_spread tc_spread_of(double share, int32_t k, int32_t n_usable) {
  tc_spread s;
  s.tail = (int32_t)floor(share * (double)k);
  s.head = k - s.tail;
  s.span = (int64_t)(n_usable > k ? n_usable : k) - s.head;
  return s;
}

/* Rank of the spread's i-th tail token, i < tail. */
TC_HD int32_t tc_spread_rank(tc_spread s, int32_t i) {
  return s.head + (int32_t)((2 * (int64_t)i + 1) * s.span / (2 * (int64_t)s.tail));
}

/* Whether rank r is kept: tc_spread_rank inverted, for a thread that holds one rank. */
TC_HD int tc_spread_keeps(tc_spread s, int32_t r) {
  const int64_t u = (int64_t)r - s.head;
  const int64_t two_t = 2 * (int64_t)s.tail;
  int64_t c;
  if (u < 0) return 1;
  if (s.tail == 0 || u >= s.span) return 0;
  c = ((two_t * u + s.span - 1) / s.span) | 1;
  return c < two_t && c * s.span < two_t * (u + 1);
}

#endif /* TAILCUT_CURVE_H_ */
