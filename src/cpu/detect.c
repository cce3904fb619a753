/* SPDX-License-Identifier: Apache-2.0 */
/*
 * detect: k from the sorted curve. Formulas: curve.h. One pass over the curve per detector, all
 * sums in int64; ties take the smallest rank because only a greater value replaces the best.
 */
#include "cpu.h"

static int32_t otsu(const int32_t *q, int32_t n, int32_t begin, int32_t end, int32_t all) {
  int64_t total = 0, d = 0;            /* d = n * (sum of the head) - k * total */
  double head = 0.0, tail = (double)n; /* k and n - k */
  double best = 0.0;
  int32_t k = all;
  for (int32_t r = 0; r < n; r++) total += tc_curve_value(q[r]);
  if (end > n - 1) end = n - 1;
  for (int32_t r = 0; r < end; r++) {
    d += (int64_t)n * tc_curve_value(q[r]) - total;
    head += 1.0;
    tail -= 1.0;
    if (r < begin) continue;
    const double value = tc_otsu_ratio((double)d, head, tail);
    if (value > best) {
      best = value;
      k = r + 1;
    }
  }
  return k;
}

static int32_t chord(const int32_t *q, int32_t n, int32_t begin, int32_t end, int32_t all) {
  const int64_t p0 = tc_curve_value(q[0]), plast = tc_curve_value(q[n - 1]);
  int64_t best = 0;
  int32_t k = all;
  for (int32_t r = begin; r < end; r++) {
    const int64_t value = tc_chord_value(n, r, p0, tc_curve_value(q[r]), plast);
    if (value > best) {
      best = value;
      k = r + 1;
    }
  }
  return k;
}

static int32_t gap(const int32_t *q, int32_t n, int32_t begin, int32_t end, int32_t all) {
  int64_t best = 0;
  int32_t k = all;
  if (end > n - 1) end = n - 1;
  for (int32_t r = begin; r < end; r++) {
    const int64_t value = (int64_t)q[r] - q[r + 1];
    if (value > best) {
      best = value;
      k = r + 1;
    }
  }
  return k;
}

static int32_t curvature(const int32_t *q, int32_t n, int32_t begin, int32_t end, int32_t window,
                         int32_t all) {
  const int32_t w = tc_curvature_window(n, window);
  int64_t best = 0;
  int32_t k = all;
  if (begin < w) begin = w;
  if ((int64_t)end > (int64_t)n - w) end = n - w;
  for (int32_t r = begin; r < end; r++) {
    const int64_t value = (int64_t)q[r - w] - 2 * (int64_t)q[r] + q[r + w];
    if (value > best) {
      best = value;
      k = r + 1;
    }
  }
  return k;
}

static int32_t iqr(const int32_t *q, int32_t n) {
  const int64_t fence = tc_iqr_fence(tc_curve_value(q[(n - 1) / 4]),
                                     tc_curve_value(q[(int32_t)(3 * (int64_t)(n - 1) / 4)]));
  int32_t k = 0;
  while (k < n && 2 * (int64_t)tc_curve_value(q[k]) > fence) k++;
  return k;
}

static int32_t mean(const int32_t *q, int32_t n, double lambda) {
  int64_t s1 = 0, s2 = 0;
  int32_t k = 0;
  for (int32_t r = 0; r < n; r++) {
    const int64_t p = tc_curve_value(q[r]);
    s1 += p;
    s2 += p * p;
  }
  const double threshold = tc_mean_threshold(n, s1, s2, lambda);
  while (k < n && (double)tc_curve_value(q[k]) > threshold) k++;
  return k;
}

static int32_t mass(const int32_t *q, int32_t n, double share, int32_t all) {
  const int64_t last = tc_curve_value(q[n - 1]);
  int64_t total = 0, sum = 0;
  for (int32_t r = 0; r < n; r++) total += tc_curve_value(q[r]) - last;
  if (total == 0) return all;
  const double wanted = share * (double)total;
  int32_t k = 0;
  while (k < n) {
    sum += tc_curve_value(q[k++]) - last;
    if ((double)sum >= wanted) break;
  }
  return k;
}

static int32_t auto_exponent(const uint64_t *items, int32_t n) {
  uint32_t largest = 0;
  for (int32_t r = 0; r < n; r++) {
    const uint32_t bits = tc_float_bits(tc_item_score(items[r])) & 0x7FFFFFFFu;
    if (bits < 0x7F800000u && bits > largest) largest = bits;
  }
  return tc_scale_exponent(largest);
}

int32_t tc_detect(const tailcut_rule *rule, const uint64_t *items, int32_t n, int32_t n_usable,
                  int bad_reference, int32_t *q, int *whole) {
  const int32_t m = n_usable;
  *whole = 0;
  if (rule->detector == TAILCUT_TOPK) return rule->k < n ? rule->k : n;
  if (rule->detector == TAILCUT_RATIO) return tc_ratio_count(rule, n);
  if (bad_reference || m < 3) {
    *whole = 1;
    return n;
  }
  if (rule->detector == TAILCUT_THRESHOLD) {
    int32_t k = 0;
    while (k < m && tc_item_score(items[k]) >= rule->tau) k++;
    return k;
  }
  const int32_t exponent = rule->scale == TAILCUT_SCALE_AUTO ? auto_exponent(items, m) : 0;
  const double factor = tc_scale_factor(exponent);
  for (int32_t r = 0; r < m; r++) q[r] = tc_quantise(tc_item_score(items[r]), factor);
  const int32_t begin = tc_search_begin(m, rule->search_lo);
  const int32_t end = tc_search_end(m, rule->search_hi);
  switch (rule->detector) {
    case TAILCUT_CHORD:
      return chord(q, m, begin, end, n);
    case TAILCUT_GAP:
      return gap(q, m, begin, end, n);
    case TAILCUT_CURVATURE:
      return curvature(q, m, begin, end, rule->window, n);
    case TAILCUT_IQR:
      return iqr(q, m);
    case TAILCUT_MEAN:
      return mean(q, m, rule->lambda);
    case TAILCUT_MASS:
      return mass(q, m, rule->mass, n);
    default:
      return otsu(q, m, begin, end, n);
  }
}
