/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score: cosine of every candidate to its segment's reference vector.
 *
 * Formula: s = <x,c> / (max(|x|,1e-8) * max(|c|,1e-8)), clamped; METHOD.md, stage 1. Strategy: candidates of all
 * segments are one range that is split evenly among the threads; dots and squared norms come from
 * the SIMD kernels (fixed summation order), the rest is one rounding per operation here. Limits:
 * a reference vector is widened again by each thread that reaches its segment.
 */
#include "cpu.h"

float tc_norm(const tc_run *run, const float *v, int32_t dim) {
  float square = 0.0f;
  run->kernels->score_rows[2](v, 0, 1, dim, NULL, NULL, &square);
  return sqrtf(square);
}

int tc_score_range(const tc_run *run, int32_t b, int32_t i0, int32_t i1, const float *ref,
                   float ref_norm, const uint8_t *roles, float *scores) {
  const tailcut_tokens *tokens = &run->call->tokens;
  const int64_t stride = tokens->row_stride * tc_dtype_size(tokens->dtype);
  float squares[TC_SCORE_CHUNK];
  int any_nan = 0;
  for (int32_t i = i0; i < i1; i += TC_SCORE_CHUNK) {
    const int32_t rows = i1 - i < TC_SCORE_CHUNK ? i1 - i : TC_SCORE_CHUNK;
    float *s = scores + i;
    run->kernels->score_rows[tokens->dtype - 1](tc_token_row(run, b, i), stride, rows, tokens->dim,
                                                ref, s, squares);
    for (int32_t j = 0; j < rows; j++) {
      s[j] = tc_cosine_finish(s[j], sqrtf(squares[j]), ref_norm);
      if (roles != NULL && !tc_is_candidate(roles[i + j])) {
        s[j] = tc_bits_float(TC_NAN_BITS);
      } else {
        any_nan |= s[j] != s[j];
      }
    }
  }
  return any_nan;
}

/* Candidates [i0, i1) of segment b, each against the one `lag` before it. Returns whether a score is
 * NaN. */
static int lag_range(const tc_run *run, int32_t b, int32_t i0, int32_t i1, float *space,
                     float *scores) {
  const tailcut_tokens *tokens = &run->call->tokens;
  const int32_t lag = run->call->reference.lag, dim = tokens->dim, type = tokens->dtype - 1;
  const int64_t stride = tokens->row_stride * tc_dtype_size(tokens->dtype);
  float squares[TC_SCORE_CHUNK], before[TC_SCORE_CHUNK];
  int any_nan = 0;
  int32_t i = i0;
  for (; i < i1 && i < lag; i++) scores[i] = -1.0f;
  for (; i < i1; i += TC_SCORE_CHUNK) {
    const int32_t rows = i1 - i < TC_SCORE_CHUNK ? i1 - i : TC_SCORE_CHUNK;
    const char *row = tc_token_row(run, b, i), *reference = tc_token_row(run, b, i - lag);
    run->kernels->score_rows[type](reference, stride, rows, dim, NULL, NULL, before);
    for (int32_t j = 0; j < rows; j++) {
      float *s = scores + i + j;
      run->kernels->widen[type](reference + j * stride, space, dim);
      run->kernels->score_rows[type](row + j * stride, stride, 1, dim, space, s, squares + j);
      *s = tc_cosine_finish(*s, sqrtf(squares[j]), sqrtf(before[j]));
      any_nan |= *s != *s;
    }
  }
  return any_nan;
}

/* The reference of segment b as fp32: widened into `space`, or where it already is. */
static const float *reference(const tc_run *run, int32_t b, int32_t first, float *space) {
  const tailcut_reference *r = &run->call->reference;
  const int32_t dim = run->call->tokens.dim;
  const char *data = (const char *)r->data;
  if (r->source == TAILCUT_REFERENCE_MEAN) {
    return run->directions + (size_t)(b - first) * (size_t)dim;
  }
  if (r->source == TAILCUT_REFERENCE_ROW) {
    data = tc_token_row(run, b, -(int64_t)run->call->batch.prefix_rows);
  } else {
    data += b * r->segment_stride * tc_dtype_size(r->dtype);
  }
  run->kernels->widen[r->dtype - 1](data, space, dim);
  return space;
}

/* This thread's share of the candidates of segments [first, first + count). */
static void score_share(tc_run *run, tc_team team, int32_t first, int32_t count) {
  const int64_t all = run->cum[first + count] - run->cum[first];
  const int64_t from = run->cum[first] + all * team.id / team.size;
  const int64_t to = run->cum[first] + all * (team.id + 1) / team.size;
  float *space = tc_scratch(run, team);
  int32_t lo = first, hi = first + count - 1;
  if (from == to) return;
  while (lo < hi) { /* the last segment that starts at or before `from` and is not empty */
    const int32_t mid = lo + (hi - lo + 1) / 2;
    if (run->cum[mid] <= from) {
      lo = mid;
    } else {
      hi = mid - 1;
    }
  }
  for (int32_t b = lo; b < first + count && run->cum[b] < to; b++) {
    const int32_t i0 = (int32_t)(from > run->cum[b] ? from - run->cum[b] : 0);
    const int32_t i1 = (int32_t)(to < run->cum[b + 1] ? to - run->cum[b] : run->n[b]);
    if (i0 >= i1) continue;
    if (run->call->reference.source == TAILCUT_REFERENCE_LAG) {
      if (lag_range(run, b, i0, i1, space, run->scores + run->start[b])) {
        tc_flag(run, b, TAILCUT_FLAG_NAN);
      }
      continue;
    }
    const float *ref = reference(run, b, first, space);
    const float norm = tc_norm(run, ref, run->call->tokens.dim);
    if (tc_bad_norm(norm)) tc_flag(run, b, TAILCUT_FLAG_BAD_REFERENCE);
    if (tc_score_range(run, b, i0, i1, ref, norm, NULL, run->scores + run->start[b])) {
      tc_flag(run, b, TAILCUT_FLAG_NAN);
    }
  }
}

/* Weights of the rows that make up mean directions, [i0, i1) of segment b. */
static void weigh(const tc_run *run, int32_t b, int32_t i0, int32_t i1) {
  const tailcut_tokens *tokens = &run->call->tokens;
  const int64_t stride = tokens->row_stride * tc_dtype_size(tokens->dtype);
  const uint8_t *roles = run->call->roles ? run->call->roles + run->start[b] : NULL;
  float *w = run->weights + run->start[b];
  int32_t i = i0;
  while (i < i1) {
    int32_t end = i;
    while (end < i1 && (roles == NULL || tc_is_query(roles[end]))) end++;
    if (end > i) {
      run->kernels->score_rows[tokens->dtype - 1](tc_token_row(run, b, i), stride, end - i,
                                                  tokens->dim, NULL, NULL, w + i);
      for (; i < end; i++) w[i] = 1.0f / tc_norm_floor(sqrtf(w[i]));
    } else {
      i++;
    }
  }
}

/* Components [d0, d1) of segment b's direction; returns the number of rows that count. */
static int32_t sum_columns(const tc_run *run, int32_t b, int32_t d0, int32_t d1, float *block,
                           float *u) {
  const tailcut_tokens *tokens = &run->call->tokens;
  const int32_t element = tc_dtype_size(tokens->dtype);
  const uint8_t *roles = run->call->roles ? run->call->roles + run->start[b] : NULL;
  const float *w = run->weights + run->start[b];
  int32_t rows = 0;
  memset(u, 0, sizeof *u * (size_t)(d1 - d0));
  for (int32_t i = 0; i < run->n[b]; i += TC_BLOCK) {
    const int32_t end = run->n[b] - i < TC_BLOCK ? run->n[b] : i + TC_BLOCK;
    const int32_t before = rows;
    memset(block, 0, sizeof *block * (size_t)(d1 - d0));
    for (int32_t r = i; r < end; r++) {
      if (roles != NULL && !tc_is_query(roles[r])) continue;
      run->kernels->accumulate[tokens->dtype - 1](tc_token_row(run, b, r) + (int64_t)d0 * element,
                                                  w[r], block, d1 - d0);
      rows++;
    }
    if (rows == before) continue;
    for (int32_t d = 0; d < d1 - d0; d++) u[d] += block[d];
  }
  if (rows > 0) {
    for (int32_t d = 0; d < d1 - d0; d++) u[d] /= (float)rows;
  }
  return rows;
}

/* Mean directions of segments [first, first + count) into out [count, dim]. Threads share rows for
 * the norms and, where segments are few, columns for the sums: no component is ever split. */
void tc_direction_team(tc_run *run, tc_team team, int32_t first, int32_t count, float *out) {
  const int32_t dim = run->call->tokens.dim;
  const int32_t slices = count >= 2 * team.size ? 1 : team.size;
  const int64_t all = run->cum[first + count] - run->cum[first];
  const int64_t from = run->cum[first] + all * team.id / team.size;
  const int64_t to = run->cum[first] + all * (team.id + 1) / team.size;
  float *block = tc_scratch(run, team);
  for (int32_t b = first; b < first + count && run->cum[b] < to; b++) {
    const int64_t i0 = from - run->cum[b], i1 = to - run->cum[b];
    weigh(run, b, (int32_t)(i0 > 0 ? i0 : 0), (int32_t)(i1 < run->n[b] ? i1 : run->n[b]));
  }
  tc_team_barrier(team);
  for (int32_t task = team.id; task < count * slices; task += team.size) {
    const int32_t g = task / slices, slice = task % slices;
    const int32_t d0 = (int32_t)((int64_t)dim * slice / slices);
    const int32_t d1 = (int32_t)((int64_t)dim * (slice + 1) / slices);
    const int32_t rows =
        sum_columns(run, first + g, d0, d1, block, out + (size_t)g * (size_t)dim + d0);
    if (slice == 0 && run->query_counts != NULL) run->query_counts[g] = rows;
  }
  tc_team_barrier(team);
}

void tc_score_team(tc_run *run, tc_team team) {
  const int32_t segments = run->call->batch.segments;
  if (run->call->reference.source != TAILCUT_REFERENCE_MEAN) {
    if (segments > 0) score_share(run, team, 0, segments);
    tc_team_barrier(team);
    return;
  }
  for (int32_t first = 0; first < segments; first += TC_DIRECTIONS) {
    const int32_t count = segments - first < TC_DIRECTIONS ? segments - first : TC_DIRECTIONS;
    tc_direction_team(run, team, first, count, run->directions);
    score_share(run, team, first, count);
    tc_team_barrier(team);
  }
}
