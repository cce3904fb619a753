/* SPDX-License-Identifier: Apache-2.0 */
/* reference_cut: order, detectors, clamps, spread and groups from the specification: qsort, floor
 * and rint on doubles for the curve's integers, loops over every candidate for every k. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "reference.h"

typedef struct entry {
  float score;
  int32_t index;
} entry;

static int best_first(const void *left, const void *right) {
  const entry *a = left, *b = right;
  const int nan_a = isnan(a->score), nan_b = isnan(b->score);
  if (nan_a != nan_b) return nan_a - nan_b;
  if (!nan_a && a->score != b->score) return a->score > b->score ? -1 : 1;
  return a->index < b->index ? -1 : 1;
}

/* 2^30 times the score over the scale, rounded to an integer. */
static int64_t q_of(float s, int exponent) {
  const double v = rint(ldexp((double)s, 30 - exponent));
  return v > 0x1p30 ? 1 << 30 : v < -0x1p30 ? -(1 << 30) : (int64_t)v;
}

static int auto_exponent(const float *scores, int32_t n) {
  double largest = 0.0;
  int e = -126;
  for (int32_t i = 0; i < n; i++) {
    if (isfinite(scores[i]) && fabs((double)scores[i]) > largest) largest = fabs((double)scores[i]);
  }
  if (largest == 0.0) return 0;
  while (ldexp(1.0, e) < largest) e++;
  return e;
}

int64_t ref_ratio(const tailcut_rule *rule, int32_t n) {
  const double N = n, r = rule->ratio;
  switch (rule->rounding) {
    case TAILCUT_CEIL:
      return (int64_t)ceil(N * r - 1e-9);
    case TAILCUT_FLOOR:
      return (int64_t)trunc(N * r);
    case TAILCUT_NEAREST:
      return (int64_t)rint(N * r);
    case TAILCUT_DROP_CEIL:
      return n - (int64_t)ceil(N * r - 1e-9);
    case TAILCUT_DROP_TRUNC:
      return (int64_t)trunc(N * (1 - r));
    default:
      return n - (int64_t)n * rule->percent / 100;
  }
}

/* The detectors that look for a rank: value of rank r, or -1 where r does not take part. */
static double otsu_at(const int64_t *p, int64_t n, int64_t r, const int64_t *head) {
  const int64_t k = r + 1;
  if (r > n - 2) return -1.0;
  const int64_t d = n * head[r] - k * head[n - 1];
  (void)p;
  return (double)d * (double)d / ((double)k * (double)(n - k));
}

static double rank_value(const tailcut_rule *rule, const int64_t *q, const int64_t *p,
                         const int64_t *head, int64_t n, int64_t r) {
  const int64_t w = rule->window ? rule->window : n / 16 > 1 ? n / 16 : 1;
  switch (rule->detector) {
    case TAILCUT_OTSU:
      return otsu_at(p, n, r, head);
    case TAILCUT_CHORD:
      return (double)llabs((p[0] - p[r]) * (n - 1) - r * (p[0] - p[n - 1])); /* below 2^53 */
    case TAILCUT_GAP:
      return r <= n - 2 ? (double)(q[r] - q[r + 1]) : -1.0;
    default:
      return r >= w && r <= n - 1 - w ? (double)(q[r - w] - 2 * q[r] + q[r + w]) : -1.0;
  }
}

int64_t ref_detect(const tailcut_rule *rule, int auto_scale, const float *scores, int32_t n,
                   int bad_reference, int *whole) {
  int64_t k = 0;
  int32_t m = 0;
  *whole = 0;
  if (rule->detector == TAILCUT_TOPK) return rule->k < n ? rule->k : n;
  if (rule->detector == TAILCUT_RATIO) return ref_ratio(rule, n);
  entry *order = tt_host(sizeof *order * (size_t)n);
  for (int32_t i = 0; i < n; i++) {
    order[i] = (entry){scores[i], i};
    m += !isnan(scores[i]);
  }
  if (bad_reference || (m < 3 && rule->detector != TAILCUT_THRESHOLD)) {
    free(order);
    *whole = 1;
    return n;
  }
  qsort(order, (size_t)n, sizeof *order, best_first);
  int64_t *q = tt_host(sizeof *q * (size_t)m), *p = tt_host(sizeof *p * (size_t)m);
  int64_t *head = tt_host(sizeof *head * (size_t)m); /* p_0 + ... + p_r */
  const int exponent = auto_scale ? auto_exponent(scores, n) : 0;
  for (int32_t r = 0; r < m; r++) {
    q[r] = q_of(order[r].score, exponent);
    p[r] = (int64_t)floor((double)q[r] / 1024.0);
    head[r] = p[r] + (r > 0 ? head[r - 1] : 0);
  }
  if (rule->detector <= TAILCUT_CURVATURE) {
    const int64_t first = (int64_t)floor(rule->search_lo * m);
    const int64_t last = (int64_t)ceil(rule->search_hi * m) - 1;
    double best = 0.0;
    k = n;
    for (int64_t r = first; r <= last; r++) {
      const double value = rank_value(rule, q, p, head, m, r);
      if (value > best) best = value, k = r + 1;
    }
  } else if (rule->detector == TAILCUT_IQR) {
    const int64_t q3 = p[(m - 1) / 4], q1 = p[3 * (int64_t)(m - 1) / 4];
    for (int32_t r = 0; r < m; r++) k += 2 * p[r] > 2 * q3 + 3 * (q3 - q1);
  } else if (rule->detector == TAILCUT_MEAN) {
    int64_t squares = 0;
    for (int32_t r = 0; r < m; r++) squares += p[r] * p[r];
    const double mean = (double)head[m - 1] / m;
    const double variance = (double)squares / m - mean * mean;
    const double t = mean + rule->lambda * sqrt(variance > 0.0 ? variance : 0.0);
    for (int32_t r = 0; r < m; r++) k += (double)p[r] > t;
  } else if (rule->detector == TAILCUT_MASS) {
    const int64_t total = head[m - 1] - m * p[m - 1];
    if (total == 0) k = n;
    for (int64_t j = 1; k == 0; j++) {
      if ((double)(head[j - 1] - j * p[m - 1]) >= rule->mass * (double)total) k = j;
    }
  } else {
    for (int32_t i = 0; i < n; i++) k += scores[i] >= rule->tau;
  }
  free(order);
  free(q);
  free(p);
  free(head);
  return k;
}

int64_t ref_clamp(const tailcut_rule *rule, int64_t k, int32_t n) {
  const int64_t most = rule->max_keep == -1 || rule->max_keep > n ? n : rule->max_keep;
  if (n == 0) return 0;
  if (k < rule->min_keep) k = rule->min_keep;
  if (k > most) k = most;
  while (k % rule->round_to != 0 && k < most) k++;
  return k > most ? most : k;
}

/* keep[r] of every rank: the head and the spread tail. */
static void keep_ranks(double share, int64_t k, int64_t usable, uint8_t *keep) {
  const int64_t t = (int64_t)floor(share * (double)k), h = k - t;
  const int64_t span = (usable > k ? usable : k) - h;
  for (int64_t r = 0; r < h; r++) keep[r] = 1;
  for (int64_t i = 0; i < t; i++) keep[h + (2 * i + 1) * span / (2 * t)] = 1;
}

int32_t ref_kept_count(const tailcut_rule *rule, int32_t n) {
  int64_t k = n;
  if (rule->detector == TAILCUT_TOPK && rule->k < n) k = rule->k;
  if (rule->detector == TAILCUT_RATIO) k = ref_ratio(rule, n);
  return (int32_t)ref_clamp(rule, k, n);
}

/* The rule as it is for one group: its own k, and tau as the negated scores need it. */
static tailcut_rule rule_of_group(const tailcut_rule *rule, int32_t g) {
  tailcut_rule own = *rule;
  if (rule->order == TAILCUT_LOW) own.tau = -rule->tau;
  if (rule->group_k != NULL && rule->group_k[g] < rule->k) {
    own.k = rule->group_k[g] < 0 ? 0 : rule->group_k[g];
  }
  return own;
}

/* One group of n candidates (with roles: rows): sets keep[i], and curve and ranks where they are
 * not NULL; returns its flags. */
static int32_t cut_group(const float *scores, const uint8_t *roles, int32_t n, int bad,
                         const tailcut_rule *rule, int auto_scale, uint8_t *keep, float *curve,
                         int32_t *ranks) {
  const float sign = rule->order == TAILCUT_LOW ? -1.0f : 1.0f;
  int32_t m = 0, usable = 0, flag = 0;
  int whole;
  entry *order = tt_host(sizeof *order * (size_t)n);
  float *candidates = tt_host(sizeof *candidates * (size_t)n);
  uint8_t *keep_rank = tt_host((size_t)n + 1);
  for (int32_t i = 0; i < n; i++) {
    const int candidate = roles == NULL || ref_is_candidate(roles[i]);
    if (ranks != NULL) ranks[i] = -1;
    keep[i] = !candidate && !(roles[i] & TAILCUT_ROLE_ABSENT);
    if (!candidate) continue;
    candidates[m] = sign * scores[i];
    order[m] = (entry){candidates[m], i};
    m++;
    usable += !isnan(scores[i]);
  }
  if (m > 0) {
    qsort(order, (size_t)m, sizeof *order, best_first);
    const int64_t wanted = ref_detect(rule, auto_scale, candidates, m, bad, &whole);
    keep_ranks(rule->spread, ref_clamp(rule, wanted, m), usable, keep_rank);
    flag = (whole ? TAILCUT_FLAG_WHOLE : 0) | (usable < m ? TAILCUT_FLAG_NAN : 0) |
           (bad ? TAILCUT_FLAG_BAD_REFERENCE : 0) | (usable == 0 ? TAILCUT_FLAG_NO_SCORE : 0);
  }
  for (int32_t r = 0; r < m; r++) {
    const float s = sign * order[r].score;
    keep[order[r].index] = keep_rank[r];
    if (ranks != NULL) ranks[order[r].index] = r;
    if (curve != NULL) curve[r] = isnan(s) ? NAN : s == 0.0f ? 0.0f : s;
  }
  free(order);
  free(candidates);
  free(keep_rank);
  return flag;
}

int32_t ref_part_of(const tailcut_batch *batch, const ref_segment *s, int32_t b, int32_t g,
                    int32_t *first) {
  int32_t n = 0;
  *first = 0;
  if (batch->group_cu_seqlens == NULL) return g == b ? s->n : 0;
  for (int32_t i = 0; i < s->n; i++) {
    const int64_t row = s->start + batch->prefix_rows + i;
    if (row < batch->group_cu_seqlens[g] || row >= batch->group_cu_seqlens[g + 1]) continue;
    if (n++ == 0) *first = i;
  }
  return n;
}

void ref_cut(const tailcut_batch *batch, const float *scores, const uint8_t *roles,
             const int32_t *input_flags, const tailcut_rule *rule, int auto_scale,
             const tailcut_selection *out) {
  const int32_t groups = batch->group_cu_seqlens != NULL ? batch->groups : batch->segments;
  out->new_cu_seqlens[0] = 0;
  for (int32_t g = 0; g < groups && out->group_counts != NULL; g++) out->group_counts[g] = 0;
  for (int32_t b = 0; b < batch->segments; b++) {
    ref_segment s = ref_segment_of(batch, b);
    const int32_t given = input_flags != NULL ? input_flags[b] : 0;
    if (given & TAILCUT_FLAG_INVALID) s = (ref_segment){0, 0, 0, 0};
    uint8_t *keep = tt_host((size_t)s.n);
    int32_t flag = s.valid ? 0 : TAILCUT_FLAG_INVALID, k = 0, first;
    for (int32_t g = 0; g < groups; g++) {
      const int32_t n = ref_part_of(batch, &s, b, g, &first);
      const int64_t at = s.start + first;
      const tailcut_rule own = rule_of_group(rule, g);
      if (n == 0) continue;
      flag |= cut_group(scores + at, roles ? roles + at : NULL, n,
                        (given & TAILCUT_FLAG_BAD_REFERENCE) != 0, &own, auto_scale, keep + first,
                        out->curve ? out->curve + at : NULL, out->ranks ? out->ranks + at : NULL);
      for (int32_t i = 0; i < n && out->group_counts != NULL; i++) {
        out->group_counts[g] += keep[first + i];
      }
    }
    const int64_t to = out->kept_placement == TAILCUT_PACKED ? out->new_cu_seqlens[b] : s.start;
    for (int64_t row = s.start; row < s.end && out->mask != NULL; row++) out->mask[row] = 0;
    for (int32_t i = 0; i < s.n; i++) {
      if (keep[i]) out->kept[to + k++] = i;
      if (out->mask != NULL) out->mask[s.start + batch->prefix_rows + i] = keep[i];
    }
    out->counts[b] = k;
    out->new_cu_seqlens[b + 1] = out->new_cu_seqlens[b] + k;
    out->flags[b] = flag;
    if (out->host_counts != NULL) out->host_counts[b] = k;
    free(keep);
  }
}
