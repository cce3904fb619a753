/* SPDX-License-Identifier: Apache-2.0 */
/*
 * detect: k from the sorted curve. Formulas: curve.h. One function for each row of detectors.h, one
 * pass over the curve, all sums in int64; ties take the smallest rank because only a greater value
 * replaces the best.
 */
#include "../detectors.h"
#include "cpu.h"

/* Ranks that a rule considers: [begin, end). */
typedef struct ranks {
  int32_t begin, end;
} ranks;

static ranks search(const tc_curve *curve, int32_t least, int32_t most) {
  const int32_t n = curve->usable;
  ranks r = {tc_search_begin(n, curve->rule->search_lo), tc_search_end(n, curve->rule->search_hi)};
  if (r.begin < least) r.begin = least;
  if (r.end > most) r.end = most;
  return r;
}

static int32_t otsu(const tc_curve *curve) {
  const int32_t *q = curve->q, n = curve->usable;
  const ranks range = search(curve, 0, n - 1);
  int64_t total = 0, d = 0;            /* d = n * (sum of the head) - k * total */
  double head = 0.0, tail = (double)n; /* k and n - k */
  double best = 0.0;
  int32_t k = curve->n;
  for (int32_t r = 0; r < n; r++) total += tc_curve_value(q[r]);
  for (int32_t r = 0; r < range.end; r++) {
    d += (int64_t)n * tc_curve_value(q[r]) - total;
    head += 1.0;
    tail -= 1.0;
    if (r < range.begin) continue;
    const double value = tc_otsu_ratio((double)d, head, tail);
    if (value > best) {
      best = value;
      k = r + 1;
    }
  }
  return k;
}

static int32_t chord(const tc_curve *curve) {
  const int32_t *q = curve->q, n = curve->usable;
  const ranks range = search(curve, 0, n);
  const int64_t p0 = tc_curve_value(q[0]), plast = tc_curve_value(q[n - 1]);
  int64_t best = 0;
  int32_t k = curve->n;
  for (int32_t r = range.begin; r < range.end; r++) {
    const int64_t value = tc_chord_value(n, r, p0, tc_curve_value(q[r]), plast);
    if (value > best) {
      best = value;
      k = r + 1;
    }
  }
  return k;
}

static int32_t gap(const tc_curve *curve) {
  const int32_t *q = curve->q;
  const ranks range = search(curve, 0, curve->usable - 1);
  int64_t best = 0;
  int32_t k = curve->n;
  for (int32_t r = range.begin; r < range.end; r++) {
    const int64_t value = (int64_t)q[r] - q[r + 1];
    if (value > best) {
      best = value;
      k = r + 1;
    }
  }
  return k;
}

static int32_t curvature(const tc_curve *curve) {
  const int32_t *q = curve->q, n = curve->usable;
  const int32_t w = tc_curvature_window(n, curve->rule->window);
  const ranks range = search(curve, w, n - w); /* w <= INT32_MAX: n - w does not wrap */
  int64_t best = 0;
  int32_t k = curve->n;
  for (int32_t r = range.begin; r < range.end; r++) {
    const int64_t value = (int64_t)q[r - w] - 2 * (int64_t)q[r] + q[r + w];
    if (value > best) {
      best = value;
      k = r + 1;
    }
  }
  return k;
}

static int32_t iqr(const tc_curve *curve) {
  const int32_t *q = curve->q, n = curve->usable;
  const int64_t fence = tc_iqr_fence(tc_curve_value(q[(n - 1) / 4]),
                                     tc_curve_value(q[(int32_t)(3 * (int64_t)(n - 1) / 4)]));
  int32_t k = 0;
  while (k < n && 2 * (int64_t)tc_curve_value(q[k]) > fence) k++;
  return k;
}

static int32_t mean(const tc_curve *curve) {
  const int32_t *q = curve->q, n = curve->usable;
  int64_t s1 = 0, s2 = 0;
  int32_t k = 0;
  for (int32_t r = 0; r < n; r++) {
    const int64_t p = tc_curve_value(q[r]);
    s1 += p;
    s2 += p * p;
  }
  const double threshold = tc_mean_threshold(n, s1, s2, curve->rule->lambda);
  while (k < n && (double)tc_curve_value(q[k]) > threshold) k++;
  return k;
}

static int32_t mass(const tc_curve *curve) {
  const int32_t *q = curve->q, n = curve->usable;
  const int64_t last = tc_curve_value(q[n - 1]);
  int64_t total = 0, sum = 0;
  for (int32_t r = 0; r < n; r++) total += tc_curve_value(q[r]) - last;
  if (total == 0) return curve->n;
  const double wanted = curve->rule->mass * (double)total;
  int32_t k = 0;
  while (k < n) {
    sum += tc_curve_value(q[k++]) - last;
    if ((double)sum >= wanted) break;
  }
  return k;
}

static int32_t threshold(const tc_curve *curve) {
  const float tau = tc_ordered(curve->rule->tau, curve->rule->order == TAILCUT_LOW);
  int32_t k = 0;
  while (k < curve->usable && tc_item_score(curve->items[k]) >= tau) k++;
  return k;
}

static int32_t topk(const tc_curve *curve) {
  const int32_t k = tc_topk_count(curve->rule, curve->group);
  return k < curve->n ? k : curve->n;
}

static int32_t ratio(const tc_curve *curve) { return tc_ratio_count(curve->rule, curve->n); }

static int32_t auto_exponent(const uint64_t *items, int32_t n) {
  uint32_t largest = 0;
  for (int32_t r = 0; r < n; r++) {
    const uint32_t bits = tc_float_bits(tc_item_score(items[r])) & 0x7FFFFFFFu;
    if (bits < 0x7F800000u && bits > largest) largest = bits;
  }
  return tc_scale_exponent(largest);
}

/* The curve as integers. Only where its ends do is there anything to saturate. */
static void quantise(const tc_curve *curve) {
  const int automatic = curve->rule->scale == TAILCUT_SCALE_AUTO;
  const double factor = tc_scale_factor(automatic ? auto_exponent(curve->items, curve->usable) : 0);
  const int32_t n = curve->usable;
  if (n == 0) return;
  const double best = (double)tc_item_score(curve->items[0]) * factor;
  const double worst = (double)tc_item_score(curve->items[n - 1]) * factor;
  if (best <= 1073741824.0 && worst >= -1073741824.0) {
    for (int32_t r = 0; r < n; r++) {
      curve->q[r] = tc_round((double)tc_item_score(curve->items[r]) * factor);
    }
  } else {
    for (int32_t r = 0; r < n; r++) {
      curve->q[r] = tc_quantise(tc_item_score(curve->items[r]), factor);
    }
  }
}

int32_t tc_detect(const tc_curve *curve) {
  static int32_t (*const functions[])(const tc_curve *curve) = {
#define TC_FUNCTION(name, word, function, uses, help) [TAILCUT_##name] = function,
      TC_DETECTORS(TC_FUNCTION)
#undef TC_FUNCTION
  };
  const int32_t detector = curve->rule->detector;
  if (tc_detector_uses(detector) & TC_USES_SCALE) quantise(curve);
  return functions[detector](curve);
}
