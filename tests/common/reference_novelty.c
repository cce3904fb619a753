/* SPDX-License-Identifier: Apache-2.0 */
/* reference_novelty: novelty and merging, step by step from the specification: doubles where the
 * result is exact in them, one pair of rows at a time, nothing kept from one pair to the next. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "data.h"
#include "reference.h"

/* A window's rows as bytes. */
typedef struct window {
  int32_t n, dim;
  int8_t *q;
  float *r; /* mean square of each row */
} window;

static int is_blank(const window *w, int32_t i) { return !(isfinite(w->r[i]) && w->r[i] > 0.0f); }

static window window_of(const tailcut_batch *batch, const tailcut_tokens *tokens, int32_t b,
                        int32_t first, int32_t n) {
  const int32_t dim = tokens->dim;
  window w = {n, dim, tt_host((size_t)n * (size_t)dim), tt_host(sizeof(float) * (size_t)n)};
  float *x = tt_host(sizeof *x * (size_t)dim);
  for (int32_t i = 0; i < n; i++) {
    int exponent;
    ref_row(batch, tokens, b, (int64_t)first + i + batch->prefix_rows, x);
    w.r[i] = ref_dot(x, x, dim) / (float)dim;
    if (is_blank(&w, i)) continue;
    frexp((double)w.r[i], &exponent); /* r = 0.5..1 * 2^exponent */
    const int shift = 4 - (int)floor((exponent - 1) / 2.0);
    for (int32_t d = 0; d < dim; d++) {
      const double scaled = nearbyint(ldexp((double)x[d], shift));
      w.q[i * (int64_t)dim + d] = (int8_t)(scaled > 127 ? 127 : scaled < -127 ? -127 : scaled);
    }
  }
  free(x);
  return w;
}

static void free_window(window *w) {
  free(w->q);
  free(w->r);
}

static float product(const window *w, int32_t i, int32_t j) {
  int64_t g = 0;
  for (int32_t d = 0; d < w->dim; d++) {
    g += w->q[i * (int64_t)w->dim + d] * w->q[j * (int64_t)w->dim + d];
  }
  return (float)g;
}

static int32_t point(const window *w, int32_t i, int32_t j) {
  const float c = product(w, i, j) / (sqrtf(product(w, i, i)) * sqrtf(product(w, j, j)));
  const double clamped = c > 1.0f ? 1.0 : c < -1.0f ? -1.0 : (double)c;
  return (int32_t)nearbyint(clamped * 1048576.0);
}

/* v of each row of a window; -1 for the first, -2 for blank ones. */
static void values_of(const window *w, int32_t *v) {
  int32_t *m = tt_host(sizeof *m * (size_t)w->n), first = -1;
  for (int32_t i = 0; i < w->n; i++) {
    v[i] = -2;
    if (first < 0 && !is_blank(w, i)) first = i;
  }
  if (first >= 0) v[first] = -1;
  for (int32_t i = 0; i < w->n && first >= 0; i++) {
    if (i != first && !is_blank(w, i)) m[i] = point(w, i, first);
  }
  for (;;) {
    int32_t best = -1;
    for (int32_t i = 0; i < w->n; i++) {
      if (v[i] != -2 || is_blank(w, i)) continue;
      if (best < 0 || m[i] < m[best]) best = i;
    }
    if (best < 0) break;
    v[best] = 1048576 - m[best];
    for (int32_t i = 0; i < w->n; i++) {
      if (v[i] != -2 || is_blank(w, i)) continue;
      const int32_t p = point(w, i, best);
      if (p > m[i]) m[i] = p;
    }
  }
  free(m);
}

void ref_novelty(const tailcut_batch *batch, const tailcut_tokens *tokens, int32_t size,
                 float *scores, int32_t *flags) {
  const int32_t groups = batch->group_cu_seqlens != NULL ? batch->groups : batch->segments;
  for (int32_t b = 0; b < batch->segments; b++) {
    const ref_segment s = ref_segment_of(batch, b);
    int32_t flag = s.valid ? 0 : TAILCUT_FLAG_INVALID, start;
    for (int32_t g = 0; g < groups; g++) {
      const int32_t n = ref_part_of(batch, &s, b, g, &start), windows = (n + size - 1) / size;
      int32_t *v = tt_host(sizeof *v * (size_t)n), greatest = 0;
      for (int64_t i = 0; i < windows; i++) {
        const int32_t lo = (int32_t)(i * n / windows), hi = (int32_t)((i + 1) * n / windows);
        window w = window_of(batch, tokens, b, start + lo, hi - lo);
        values_of(&w, v + lo);
        for (int32_t r = lo; r < hi; r++) {
          if (v[r] == -2) scores[s.start + start + r] = w.r[r - lo] == 0.0f ? 0.0f : NAN;
          if (v[r] == -2 && w.r[r - lo] != 0.0f) flag |= TAILCUT_FLAG_NAN;
          if (v[r] > greatest) greatest = v[r];
        }
        free_window(&w);
      }
      for (int32_t r = 0; r < n; r++) {
        if (v[r] == -2) continue;
        scores[s.start + start + r] = (float)(v[r] == -1 ? greatest + 1 : v[r]) / 4194304.0f;
      }
      free(v);
    }
    if (flags != NULL) flags[b] = flag;
  }
}

/* ---------------------------------------------------------------------------------- merging -- */

static float weight_of(const tailcut_merge_options *options, int32_t p, int is_kept, int32_t size) {
  float w = 1.0f;
  if (!is_kept && options->power == TAILCUT_MERGE_COS4) {
    const float c = p > 0 ? (float)p / 1048576.0f : 0.0f, square = c * c;
    w = square * square;
  }
  return options->sizes_in != NULL ? w * (float)size : w;
}

/* A window's part of the plan: `at` is the row number that its first candidate's numbers have. */
static void plan_window(const tailcut_merge_options *options, const window *w, int64_t at,
                        int32_t first, const int32_t *sizes, ref_plan *plan) {
  for (int32_t i = 0; i < w->n; i++) {
    const int is_kept = plan->result[at + i] >= 0;
    int32_t joins = is_kept ? i : -1, best = 0;
    for (int32_t j = 0; j < w->n && !is_kept && !is_blank(w, i); j++) {
      if (plan->result[at + j] < 0 || is_blank(w, j)) continue;
      const int32_t p = point(w, i, j);
      if (joins >= 0 && p <= best) continue;
      joins = j;
      best = p;
    }
    plan->joins[at + i] = joins < 0 ? -1 : first + joins;
    plan->weight[at + i] = weight_of(options, best, is_kept, sizes[i]);
  }
}

void ref_plan_merge(const tailcut_batch *batch, const tailcut_tokens *tokens,
                    const tailcut_merge_options *options, const int32_t *kept,
                    int32_t kept_placement, const int32_t *counts, const int32_t *new_cu,
                    ref_plan *plan) {
  const int32_t groups = batch->group_cu_seqlens != NULL ? batch->groups : batch->segments;
  const int64_t total = ref_total(batch);
  plan->result = tt_host(sizeof *plan->result * (size_t)total);
  plan->joins = tt_host(sizeof *plan->joins * (size_t)total);
  plan->weight = tt_host(sizeof *plan->weight * (size_t)total);
  for (int64_t r = 0; r < total; r++) plan->result[r] = plan->joins[r] = -1;
  for (int32_t b = 0; b < batch->segments; b++) {
    const ref_segment s = ref_segment_of(batch, b);
    const int64_t place = kept_placement == TAILCUT_PACKED ? new_cu[b] : s.start;
    int32_t *sizes = tt_host(sizeof *sizes * (size_t)s.n), last = -1, start;
    for (int32_t i = 0; i < s.n; i++) {
      const int64_t row = s.start + batch->prefix_rows + i;
      sizes[i] =
          options->sizes_in != NULL && options->sizes_in[row] > 1 ? options->sizes_in[row] : 1;
    }
    for (int32_t j = 0; j < counts[b] && counts[b] <= s.n; j++) {
      const int32_t i = kept[place + j];
      if (i < j || i >= s.n || i <= last) continue;
      plan->result[s.start + i] = j;
      last = i;
    }
    for (int32_t g = 0; g < groups; g++) {
      const int32_t size = options->window ? options->window : 64;
      const int32_t n = ref_part_of(batch, &s, b, g, &start), windows = (n + size - 1) / size;
      for (int64_t i = 0; i < windows; i++) {
        const int32_t lo = start + (int32_t)(i * n / windows);
        const int32_t hi = start + (int32_t)((i + 1) * n / windows);
        window w = window_of(batch, tokens, b, lo, hi - lo);
        plan_window(options, &w, s.start + lo, lo, sizes + lo, plan);
        free_window(&w);
      }
    }
    for (int32_t i = 0; i < s.n && options->joins_out != NULL; i++) {
      options->joins_out[s.start + i] = plan->joins[s.start + i];
    }
    for (int32_t i = 0; i < s.n && options->sizes_out != NULL; i++) {
      const int32_t j = plan->result[s.start + i];
      uint32_t sum = 0;
      for (int32_t m = 0; m < s.n; m++) {
        if (plan->joins[s.start + m] == i) sum += (uint32_t)sizes[m];
      }
      if (j >= 0) memcpy(options->sizes_out + place + j, &sum, 4);
    }
    free(sizes);
  }
}

void ref_plan_free(ref_plan *plan) {
  free(plan->result);
  free(plan->joins);
  free(plan->weight);
}
