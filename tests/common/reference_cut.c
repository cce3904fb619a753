/* SPDX-License-Identifier: Apache-2.0 */
/* reference_cut: order, detectors, clamps, spread and compaction from the specification: qsort,
 * floor and rint on doubles for the curve's integers, loops over every candidate for every k. */
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
  if (bad_reference || m < 3) {
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

/* One segment of n rows: sets keep[row]; returns its flags. */
static int32_t cut_one(const float *scores, const uint8_t *roles, int32_t n, int32_t input_flags,
                       const tailcut_rule *rule, int auto_scale, uint8_t *keep, float *curve,
                       int32_t *ranks) {
  int32_t m = 0, usable = 0, flag = 0;
  int whole;
  entry *order = tt_host(sizeof *order * (size_t)n);
  float *candidates = tt_host(sizeof *candidates * (size_t)n);
  uint8_t *keep_rank = tt_host((size_t)n + 1);
  for (int32_t i = 0; i < n; i++) {
    if (ranks != NULL) ranks[i] = -1;
    keep[i] = roles != NULL && !(roles[i] & TAILCUT_ROLE_CANDIDATE);
    if (keep[i]) continue;
    candidates[m] = scores[i];
    order[m++] = (entry){scores[i], i};
    usable += !isnan(scores[i]);
  }
  if (m > 0) {
    const int bad = (input_flags & TAILCUT_FLAG_BAD_REFERENCE) != 0;
    qsort(order, (size_t)m, sizeof *order, best_first);
    const int64_t wanted = ref_detect(rule, auto_scale, candidates, m, bad, &whole);
    keep_ranks(rule->spread, ref_clamp(rule, wanted, m), usable, keep_rank);
    flag = (whole ? TAILCUT_FLAG_WHOLE : 0) | (usable < m ? TAILCUT_FLAG_NAN : 0) |
           (bad ? TAILCUT_FLAG_BAD_REFERENCE : 0);
  }
  for (int32_t r = 0; r < m; r++) {
    keep[order[r].index] = keep_rank[r];
    if (ranks != NULL) ranks[order[r].index] = r;
    if (curve != NULL) curve[r] = order[r].score == 0.0f ? 0.0f : order[r].score;
    if (curve != NULL && isnan(curve[r])) curve[r] = NAN;
  }
  free(order);
  free(candidates);
  free(keep_rank);
  return flag;
}

void ref_cut(const tailcut_batch *batch, const float *scores, const uint8_t *roles,
             const int32_t *input_flags, const tailcut_rule *rule, int auto_scale,
             const tailcut_selection *out) {
  out->new_cu_seqlens[0] = 0;
  for (int32_t b = 0; b < batch->segments; b++) {
    ref_segment s = ref_segment_of(batch, b);
    const int32_t given = input_flags != NULL ? input_flags[b] : 0;
    if (given & TAILCUT_FLAG_INVALID) s.valid = 0, s.n = 0;
    if (s.n == 0) s.start = 0;
    uint8_t *keep = tt_host((size_t)s.n);
    const int32_t flag = cut_one(scores + s.start, roles ? roles + s.start : NULL, s.n, given, rule,
                                 auto_scale, keep, out->curve ? out->curve + s.start : NULL,
                                 out->ranks ? out->ranks + s.start : NULL);
    const int64_t to = out->kept_placement == TAILCUT_PACKED ? out->new_cu_seqlens[b] : s.start;
    int32_t k = 0;
    for (int32_t i = 0; i < s.n; i++) {
      if (keep[i]) out->kept[to + k++] = i;
    }
    out->counts[b] = k;
    out->new_cu_seqlens[b + 1] = out->new_cu_seqlens[b] + k;
    out->flags[b] = s.valid ? flag : TAILCUT_FLAG_INVALID;
    if (out->host_counts != NULL) out->host_counts[b] = k;
    free(keep);
  }
}

/* Where a row stands, or -1. `number`: its row number in the batch; `flat`: counted from the base
 * and not from its segment's start. */
static int64_t place(const tailcut_rows *a, const tailcut_batch *batch, int is_dst, int32_t b,
                     int64_t number, int64_t r, int flat) {
  const int64_t default_row = a->part_bytes * a->parts;
  int64_t row = is_dst ? a->dst_row_stride : a->src_row_stride;
  int64_t segment = is_dst ? a->dst_segment_stride : a->src_segment_stride;
  const void *slots = is_dst ? a->dst_slots : a->src_slots;
  if (row == 0) row = default_row;
  if (segment == 0) segment = row * batch->max_tokens;
  if (slots == NULL) return flat || batch->cu_seqlens ? number * row : b * segment + r * row;
  const int64_t slot =
      a->slot_bytes == 8 ? ((const int64_t *)slots)[number] : ((const int32_t *)slots)[number];
  if (slot == -1) return -1;
  if (a->page_rows == 0) return slot * row;
  return slot / a->page_rows * a->page_stride + slot % a->page_rows * row;
}

enum { MOVE, ZERO, OPEN };

static void one_row(const tailcut_rows *a, char *dst, const char *row, uint8_t *open, int what) {
  const int64_t stride = a->dst_part_stride ? a->dst_part_stride : a->part_bytes;
  for (int32_t part = 0; part < a->parts; part++) {
    const int64_t at = (dst - (char *)a->dst) + part * stride;
    for (int64_t i = 0; i < a->part_bytes; i++) {
      if (what == OPEN) open[at + i] = 1;
      if (what == OPEN) continue;
      ((char *)a->dst)[at + i] = what == MOVE ? row[part * a->part_bytes + i] : 0;
    }
  }
}

void ref_compact(const tailcut_batch *batch, const int32_t *kept, int32_t kept_placement,
                 const int32_t *counts, const int32_t *new_cu, const tailcut_rows *a,
                 uint8_t *open) {
  const int packed = a->placement == TAILCUT_PACKED;
  const int tail = a->flags & TAILCUT_ROWS_ZERO_TAIL ? ZERO : OPEN;
  const int64_t width = a->part_bytes * a->parts;
  const int64_t src_part = a->src_part_stride ? a->src_part_stride : a->part_bytes;
  int64_t candidates = 0;
  for (int32_t b = 0; b < batch->segments; b++) {
    const ref_segment s = ref_segment_of(batch, b);
    const int32_t k = counts[b] < 0 || counts[b] > s.n ? 0 : counts[b];
    const int32_t *list = kept + (kept_placement == TAILCUT_PACKED ? new_cu[b] : s.start);
    char *rows = tt_host((size_t)(k * width)); /* all are read before any is written */
    uint8_t *read = tt_host((size_t)k);
    candidates += s.n;
    for (int32_t j = 0; j < k; j++) {
      const int64_t r = (int64_t)list[j] + batch->prefix_rows;
      if (a->flags & TAILCUT_ROWS_RENUMBER) {
        const int64_t wide = j;
        const int32_t narrow = j;
        for (int32_t part = 0; part < a->parts; part++) {
          memcpy(rows + j * width + part * a->part_bytes,
                 a->part_bytes == 8 ? (const void *)&wide : (const void *)&narrow,
                 (size_t)a->part_bytes);
        }
        read[j] = 1;
        continue;
      }
      if (list[j] >= s.n || list[j] < j || (j > 0 && list[j] <= list[j - 1])) continue;
      const int64_t from = place(a, batch, 0, b, s.start + r, r, 0);
      if (from < 0) continue;
      for (int32_t part = 0; part < a->parts; part++) {
        memcpy(rows + j * width + part * a->part_bytes,
               (const char *)a->src + from + part * src_part, (size_t)a->part_bytes);
      }
      read[j] = 1;
    }
    for (int32_t j = 0; j < (packed ? k : s.n); j++) {
      const int64_t to = place(a, batch, 1, b, (packed ? new_cu[b] : s.start) + j, j, packed);
      if (to < 0 || (j < k && !read[j])) continue;
      one_row(a, (char *)a->dst + to, rows + j * width, open, j < k ? MOVE : tail);
    }
    free(rows);
    free(read);
  }
  for (int64_t j = packed ? new_cu[batch->segments] : candidates; j < candidates; j++) {
    const int64_t to = place(a, batch, 1, 0, j, j, 1);
    if (to >= 0) one_row(a, (char *)a->dst + to, NULL, open, tail);
  }
}
