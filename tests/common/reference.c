/* SPDX-License-Identifier: Apache-2.0 */
/* reference: segments, scores, mean directions and relevance, word by word from the specification:
 * plain loops, C's fmaf and fmaxf, the summation tree written as a recursion. */
#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "data.h"

int64_t ref_total(const tailcut_batch *batch) {
  if (batch->total_tokens != 0) return batch->total_tokens;
  return (int64_t)batch->segments * batch->max_tokens;
}

static int contains(const int32_t *offsets, int32_t count, int64_t row) {
  for (int32_t i = 0; i < count; i++) {
    if (offsets[i] == row) return 1;
  }
  return 0;
}

/* Whether the group offsets are in order, and the segment's ends among them. */
static int groups_fit(const tailcut_batch *batch, const ref_segment *s) {
  const int32_t *offsets = batch->group_cu_seqlens, count = batch->groups + 1;
  if (offsets == NULL) return 1;
  for (int32_t i = 0; i < count; i++) {
    if (offsets[i] < 0 || offsets[i] > ref_total(batch)) return 0;
    if (i > 0 && offsets[i] < offsets[i - 1]) return 0;
  }
  return contains(offsets, count, s->start) && contains(offsets, count, s->end);
}

ref_segment ref_segment_of(const tailcut_batch *batch, int32_t b) {
  const int64_t start = (int64_t)b * batch->max_tokens;
  ref_segment s = {start, start + batch->max_tokens, 0, 1};
  int64_t rows = batch->max_tokens;
  if (batch->cu_seqlens != NULL) {
    const int32_t *cu = batch->cu_seqlens;
    s.start = cu[b];
    s.end = cu[b + 1];
    rows = (int64_t)cu[b + 1] - cu[b];
    for (int32_t i = b; i <= b + 1; i++) {
      if (cu[i] < 0 || cu[i] > ref_total(batch)) s.valid = 0;
      for (int32_t earlier = 0; earlier < i; earlier++) {
        if (cu[i] < cu[earlier]) s.valid = 0;
      }
    }
  } else if (batch->lengths != NULL) {
    rows = batch->lengths[b];
  }
  if (rows < 0 || rows > batch->max_tokens) s.valid = 0;
  if (s.valid && !groups_fit(batch, &s)) s.valid = 0;
  if (!s.valid) s.start = s.end = 0;
  if (s.valid && rows > batch->prefix_rows) s.n = (int32_t)(rows - batch->prefix_rows);
  return s;
}

void ref_row(const tailcut_batch *batch, const tailcut_tokens *tokens, int32_t b, int64_t r,
             float *out) {
  const int64_t row_stride = tokens->row_stride ? tokens->row_stride : tokens->dim;
  int64_t at = r * row_stride;
  if (batch->cu_seqlens != NULL) {
    at += batch->cu_seqlens[b] * row_stride;
  } else {
    at += b * (tokens->segment_stride ? tokens->segment_stride : batch->max_tokens * row_stride);
  }
  for (int32_t d = 0; d < tokens->dim; d++) {
    out[d] = tt_get(tokens->data, tokens->dtype, (size_t)(at + d));
  }
}

/* The sum of a[0..n-1] by additions at stride n/2, ..., 2, 1, seen from its end: what stands at e
 * before the addition at `stride` are those of the strides above. */
static float tree(const float *a, int n, int e, int stride) {
  if (stride == n) return a[e];
  return tree(a, n, e, 2 * stride) + tree(a, n, e + stride, 2 * stride);
}

float ref_dot(const float *a, const float *b, int32_t dim) {
  float accumulators[256] = {0}, groups[32];
  for (int32_t j = 0; j < dim; j++) {
    accumulators[j % 256] = fmaf(a[j], b[j], accumulators[j % 256]);
  }
  for (int g = 0; g < 32; g++) groups[g] = tree(accumulators + 8 * g, 8, 0, 1);
  return tree(groups, 32, 0, 1);
}

static float norm(const float *a, int32_t dim) { return sqrtf(ref_dot(a, a, dim)); }

/* A norm as a divisor. */
static float floored(float norm) { return isfinite(norm) ? fmaxf(norm, 1e-8f) : NAN; }

static float clamped(float s) {
  if (isnan(s)) return NAN;
  if (s > 1.0f) return 1.0f;
  if (s < -1.0f) return -1.0f;
  return s == 0.0f ? 0.0f : s;
}

float ref_cosine(float dot, float norm_x, float norm_c) {
  return clamped(dot / (floored(norm_x) * floored(norm_c)));
}

int ref_is_candidate(uint8_t role) {
  return (role & TAILCUT_ROLE_CANDIDATE) && !(role & TAILCUT_ROLE_ABSENT);
}

int ref_is_query(uint8_t role) {
  return (role & TAILCUT_ROLE_QUERY) && !(role & TAILCUT_ROLE_ABSENT);
}

static int is_bad(float n) { return !(isfinite(n) && n != 0.0f); }

/* Mean direction of the rows first..first+n-1 of segment b that are queries by their roles (NULL:
 * all are); returns their number. */
static int32_t direction_of(const tailcut_batch *batch, const tailcut_tokens *tokens, int32_t b,
                            int32_t first, int32_t n, const uint8_t *roles, float *u) {
  const int32_t dim = tokens->dim;
  float *row = tt_host(sizeof *row * (size_t)dim), *block = tt_host(sizeof *block * (size_t)dim);
  int32_t count = 0, in_block = 0;
  for (int32_t d = 0; d < dim; d++) u[d] = 0.0f;
  for (int32_t r = 0; r < n; r++) {
    if (r % 64 == 0) {
      in_block = 0;
      for (int32_t d = 0; d < dim; d++) block[d] = 0.0f;
    }
    if (roles == NULL || ref_is_query(roles[r])) {
      ref_row(batch, tokens, b, first + r, row);
      const float w = 1.0f / floored(norm(row, dim));
      for (int32_t d = 0; d < dim; d++) block[d] = fmaf(row[d], w, block[d]);
      count++;
      in_block++;
    }
    if ((r % 64 == 63 || r == n - 1) && in_block > 0) {
      for (int32_t d = 0; d < dim; d++) u[d] = u[d] + block[d];
    }
  }
  for (int32_t d = 0; d < dim && count > 0; d++) u[d] = u[d] / (float)count;
  free(row);
  free(block);
  return count;
}

void ref_mean_direction(const tailcut_batch *batch, const tailcut_tokens *tokens,
                        const uint8_t *roles, float *direction) {
  for (int32_t b = 0; b < batch->segments; b++) {
    const ref_segment s = ref_segment_of(batch, b);
    direction_of(batch, tokens, b, batch->prefix_rows, s.n,
                 roles ? roles + (s.n ? s.start : 0) : NULL, direction + (int64_t)b * tokens->dim);
  }
}

/* The reference vector of segment b, which has n candidates; none with LAG. */
static void reference_of(const tailcut_batch *batch, const tailcut_tokens *tokens,
                         const tailcut_reference *reference, int32_t b, int32_t n, float *c) {
  const int32_t dtype = reference->dtype ? reference->dtype : tokens->dtype;
  if (reference->source == TAILCUT_REFERENCE_ROW) {
    ref_row(batch, tokens, b, 0, c);
  } else if (reference->source == TAILCUT_REFERENCE_MEAN) {
    direction_of(batch, tokens, b, batch->prefix_rows, n, NULL, c);
  } else if (reference->source == TAILCUT_REFERENCE_GIVEN) {
    for (int32_t d = 0; d < tokens->dim; d++) {
      c[d] = tt_get(reference->data, dtype, (size_t)(b * reference->segment_stride + d));
    }
  }
}

void ref_score(const tailcut_batch *batch, const tailcut_tokens *tokens,
               const tailcut_reference *reference, float *scores, int32_t *flags) {
  const int32_t dim = tokens->dim, p = batch->prefix_rows;
  if (reference->source == TAILCUT_REFERENCE_NOVELTY) {
    ref_novelty(batch, tokens, reference->window ? reference->window : 64, scores, flags);
    return;
  }
  const int lags = reference->source == TAILCUT_REFERENCE_LAG;
  float *c = tt_host(sizeof *c * (size_t)dim), *x = tt_host(sizeof *x * (size_t)dim);
  for (int32_t b = 0; b < batch->segments; b++) {
    const ref_segment s = ref_segment_of(batch, b);
    int32_t flag = s.valid ? 0 : TAILCUT_FLAG_INVALID;
    if (s.n > 0) reference_of(batch, tokens, reference, b, s.n, c);
    if (s.n > 0 && !lags && is_bad(norm(c, dim))) flag |= TAILCUT_FLAG_BAD_REFERENCE;
    for (int32_t i = 0; i < s.n; i++) {
      float score = -1.0f;
      if (!lags || i >= reference->lag) {
        if (lags) ref_row(batch, tokens, b, i - reference->lag + p, c);
        ref_row(batch, tokens, b, i + p, x);
        score = ref_cosine(ref_dot(x, c, dim), norm(x, dim), norm(c, dim));
      }
      scores[s.start + i] = score;
      if (isnan(score)) flag |= TAILCUT_FLAG_NAN;
    }
    if (flags != NULL) flags[b] = flag;
  }
  free(c);
  free(x);
}

void ref_relevance(const tailcut_batch *batch, const tailcut_tokens *tokens, const uint8_t *roles,
                   float *scores, int32_t *flags) {
  const int32_t dim = tokens->dim;
  float *u = tt_host(sizeof *u * (size_t)dim), *x = tt_host(sizeof *x * (size_t)dim);
  for (int32_t b = 0; b < batch->segments; b++) {
    const ref_segment s = ref_segment_of(batch, b);
    const uint8_t *role = roles + (s.n ? s.start : 0);
    const int32_t queries = direction_of(batch, tokens, b, 0, s.n, role, u);
    int32_t flag = s.valid ? 0 : TAILCUT_FLAG_INVALID;
    for (int32_t i = 0; i < s.n; i++) {
      scores[s.start + i] = NAN;
      if (!ref_is_candidate(role[i])) continue;
      if (queries == 0 || is_bad(norm(u, dim))) flag |= TAILCUT_FLAG_BAD_REFERENCE;
      ref_row(batch, tokens, b, i, x);
      const float score = queries == 0 ? 0.0f : clamped(ref_dot(x, u, dim) / floored(norm(x, dim)));
      scores[s.start + i] = score;
      if (isnan(score)) flag |= TAILCUT_FLAG_NAN;
    }
    if (flags != NULL) flags[b] = flag;
  }
  free(u);
  free(x);
}
