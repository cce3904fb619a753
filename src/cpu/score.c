/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score: cosine of every candidate to its segment's reference vector.
 *
 * Formula: s = <x,c> / (max(|x|,1e-8) * max(|c|,1e-8)), clamped; METHOD.md, stage 1. Strategy:
 * candidates of all segments are one range that is split evenly among the threads, because rows
 * that a thread reads again tend to be in its own cache; it takes its share in pieces, and who is
 * done helps another thread with the rest: the cores of a machine may differ by half in speed for
 * as long as a neighbour is busy. The arithmetic is the SIMD kernels' (fixed summation order).
 * Limits: a reference vector is widened again by each thread that reaches its segment.
 */
#include "cpu.h"

enum {
  LEAST_PIECE = 16, /* rows; a power of two */
  MOST_SHARES = 8   /* that a thread looks at, its own the first */
};

float tc_norm(const tc_job *job, const float *v, int32_t dim) {
  float square = 0.0f;
  job->kernels->score_rows[2](v, 0, 1, dim, NULL, NULL, &square);
  return sqrtf(square);
}

int tc_score_range(const tc_job *job, int32_t b, int32_t i0, int32_t i1, const float *ref,
                   float ref_norm, const uint8_t *roles, float *scores) {
  const tailcut_tokens *tokens = &job->call->tokens;
  const int64_t stride = tokens->row_stride * tc_dtype_size(tokens->dtype);
  float squares[TC_SCORE_CHUNK];
  int any_nan = 0;
  for (int32_t i = i0; i < i1; i += TC_SCORE_CHUNK) {
    const int32_t rows = i1 - i < TC_SCORE_CHUNK ? i1 - i : TC_SCORE_CHUNK;
    float *s = scores + i;
    job->kernels->score_rows[tokens->dtype - 1](tc_token_row(job, b, i), stride, rows, tokens->dim,
                                                ref, s, squares);
    const int nan = job->kernels->cosines(s, squares, rows, ref_norm);
    if (roles == NULL) {
      any_nan |= nan;
      continue;
    }
    for (int32_t j = 0; j < rows; j++) {
      if (tc_is_candidate(roles[i + j])) {
        any_nan |= s[j] != s[j];
      } else {
        s[j] = tc_bits_float(TC_NAN_BITS);
      }
    }
  }
  return any_nan;
}

/* Candidates [i0, i1) of segment b, each against the one `lag` before it. Returns whether a score
 * is NaN. */
static int lag_range(const tc_job *job, int32_t b, int32_t i0, int32_t i1, float *space,
                     float *scores) {
  const tailcut_tokens *tokens = &job->call->tokens;
  const int32_t lag = job->call->reference.lag, dim = tokens->dim, type = tokens->dtype - 1;
  const int64_t stride = tokens->row_stride * tc_dtype_size(tokens->dtype);
  float squares[TC_SCORE_CHUNK], before[TC_SCORE_CHUNK];
  int any_nan = 0;
  int32_t i = i0;
  for (; i < i1 && i < lag; i++) scores[i] = -1.0f;
  for (; i < i1; i += TC_SCORE_CHUNK) {
    const int32_t rows = i1 - i < TC_SCORE_CHUNK ? i1 - i : TC_SCORE_CHUNK;
    const char *row = tc_token_row(job, b, i), *reference = tc_token_row(job, b, i - lag);
    job->kernels->score_rows[type](reference, stride, rows, dim, NULL, NULL, before);
    for (int32_t j = 0; j < rows; j++) {
      float *s = scores + i + j;
      job->kernels->widen[type](reference + j * stride, space, dim);
      job->kernels->score_rows[type](row + j * stride, stride, 1, dim, space, s, squares + j);
      *s = tc_cosine_finish(*s, sqrtf(squares[j]), sqrtf(before[j]));
      any_nan |= *s != *s;
    }
  }
  return any_nan;
}

/* A segment's reference, made ready. */
typedef struct ready {
  int32_t segment; /* -1: none */
  const float *data;
  float norm;
} ready;

/* The reference of segment b as fp32: widened into `space`, or where it already is. */
static const float *reference(const tc_job *job, int32_t b, int32_t first, float *space) {
  const tailcut_reference *r = &job->call->reference;
  const int32_t dim = job->call->tokens.dim;
  const char *data = (const char *)r->data;
  if (r->source == TAILCUT_REFERENCE_MEAN) {
    return job->directions + (size_t)(b - first) * (size_t)dim;
  }
  if (r->source == TAILCUT_REFERENCE_ROW) {
    data = tc_token_row(job, b, -(int64_t)job->call->batch.prefix_rows);
  } else {
    data += b * r->segment_stride * tc_dtype_size(r->dtype);
  }
  job->kernels->widen[r->dtype - 1](data, space, dim);
  return space;
}

/* Candidates [from, to) of the range, all in segments [first, first + count). ref: what is in
 * `space`. */
static void score_rows(tc_job *job, int32_t first, int32_t count, int64_t from, int64_t to,
                       ready *ref, float *space) {
  int32_t lo = first, hi = first + count - 1;
  while (lo < hi) { /* the last segment that starts at or before `from` and is not empty */
    const int32_t mid = lo + (hi - lo + 1) / 2;
    if (job->cum[mid] <= from) {
      lo = mid;
    } else {
      hi = mid - 1;
    }
  }
  for (int32_t b = lo; b < first + count && job->cum[b] < to; b++) {
    const int32_t i0 = (int32_t)(from > job->cum[b] ? from - job->cum[b] : 0);
    const int32_t i1 = (int32_t)(to < job->cum[b + 1] ? to - job->cum[b] : job->n[b]);
    int any_nan;
    if (i0 >= i1) continue;
    if (job->call->reference.source == TAILCUT_REFERENCE_LAG) {
      any_nan = lag_range(job, b, i0, i1, space, job->scores + job->start[b]);
    } else {
      if (ref->segment != b) {
        ref->segment = b;
        ref->data = reference(job, b, first, space);
        ref->norm = tc_norm(job, ref->data, job->call->tokens.dim);
        if (tc_bad_norm(ref->norm)) tc_flag(job, b, TAILCUT_FLAG_BAD_REFERENCE);
      }
      any_nan =
          tc_score_range(job, b, i0, i1, ref->data, ref->norm, NULL, job->scores + job->start[b]);
    }
    if (any_nan) tc_flag(job, b, TAILCUT_FLAG_NAN);
  }
}

/* The next piece of a share of n: about half of what is left, so that the last ones are small and
 * whoever takes them ends at about the same time. Returns its length. */
static int64_t take_piece(tc_progress *taken, int64_t n, int64_t *from) {
  int64_t at = atomic_load_explicit(&taken->at, memory_order_relaxed), piece;
  do {
    if (at >= n) return 0;
    piece = ((n - at) / 2 | (LEAST_PIECE - 1)) + 1;
    piece = piece < n - at ? piece : n - at;
  } while (!atomic_compare_exchange_weak_explicit(&taken->at, &at, at + piece, memory_order_relaxed,
                                                  memory_order_relaxed));
  *from = at;
  return piece;
}

/* Candidates of segments [first, first + count): this thread's share, then what is left of the
 * others'. */
static void score_share(tc_job *job, tc_team team, int32_t first, int32_t count) {
  const int64_t all = job->cum[first + count] - job->cum[first];
  ready ref = {-1, NULL, 0.0f};
  for (int32_t h = 0; h < team.size && h < MOST_SHARES; h++) {
    const int32_t whose = (team.id + h) % team.size;
    const int64_t from = all * whose / team.size, to = all * (whose + 1) / team.size;
    int64_t at, piece;
    while ((piece = take_piece(&job->taken[whose], to - from, &at)) > 0) {
      const int64_t i = job->cum[first] + from + at;
      score_rows(job, first, count, i, i + piece, &ref, tc_scratch(job, team));
    }
  }
}

/* Weights of the rows that make up mean directions, [i0, i1) of segment b. */
static void weigh(const tc_job *job, int32_t b, int32_t i0, int32_t i1) {
  const tailcut_tokens *tokens = &job->call->tokens;
  const int64_t stride = tokens->row_stride * tc_dtype_size(tokens->dtype);
  const uint8_t *roles = job->call->roles ? job->call->roles + job->start[b] : NULL;
  float *w = job->weights + job->start[b];
  int32_t i = i0;
  while (i < i1) {
    int32_t end = i;
    while (end < i1 && (roles == NULL || tc_is_query(roles[end]))) end++;
    if (end > i) {
      job->kernels->score_rows[tokens->dtype - 1](tc_token_row(job, b, i), stride, end - i,
                                                  tokens->dim, NULL, NULL, w + i);
      for (; i < end; i++) w[i] = 1.0f / tc_norm_floor(sqrtf(w[i]));
    } else {
      i++;
    }
  }
}

/* Components [d0, d1) of segment b's direction; returns the number of rows that count. */
static int32_t sum_columns(const tc_job *job, int32_t b, int32_t d0, int32_t d1, float *block,
                           float *u) {
  const tailcut_tokens *tokens = &job->call->tokens;
  const int32_t element = tc_dtype_size(tokens->dtype);
  const uint8_t *roles = job->call->roles ? job->call->roles + job->start[b] : NULL;
  const float *w = job->weights + job->start[b];
  int32_t rows = 0;
  memset(u, 0, sizeof *u * (size_t)(d1 - d0));
  for (int32_t i = 0; i < job->n[b]; i += TC_BLOCK) {
    const int32_t end = job->n[b] - i < TC_BLOCK ? job->n[b] : i + TC_BLOCK;
    const int32_t before = rows;
    memset(block, 0, sizeof *block * (size_t)(d1 - d0));
    for (int32_t r = i; r < end; r++) {
      if (roles != NULL && !tc_is_query(roles[r])) continue;
      job->kernels->accumulate[tokens->dtype - 1](tc_token_row(job, b, r) + (int64_t)d0 * element,
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
void tc_direction_team(tc_job *job, tc_team team, int32_t first, int32_t count, float *out) {
  const int32_t dim = job->call->tokens.dim;
  const int32_t slices = count >= 2 * team.size ? 1 : team.size;
  const int64_t all = job->cum[first + count] - job->cum[first];
  const int64_t from = job->cum[first] + all * team.id / team.size;
  const int64_t to = job->cum[first] + all * (team.id + 1) / team.size;
  float *block = tc_scratch(job, team);
  for (int32_t b = first; b < first + count && job->cum[b] < to; b++) {
    const int64_t i0 = from - job->cum[b], i1 = to - job->cum[b];
    weigh(job, b, (int32_t)(i0 > 0 ? i0 : 0), (int32_t)(i1 < job->n[b] ? i1 : job->n[b]));
  }
  tc_team_barrier(team);
  for (int32_t task = team.id; task < count * slices; task += team.size) {
    const int32_t g = task / slices, slice = task % slices;
    const int32_t d0 = (int32_t)((int64_t)dim * slice / slices);
    const int32_t d1 = (int32_t)((int64_t)dim * (slice + 1) / slices);
    const int32_t rows =
        sum_columns(job, first + g, d0, d1, block, out + (size_t)g * (size_t)dim + d0);
    if (slice == 0 && job->query_counts != NULL) job->query_counts[g] = rows;
  }
  tc_team_barrier(team);
}

void tc_score_segment(tc_job *job, tc_team team, int32_t b) {
  ready ref = {-1, NULL, 0.0f};
  score_rows(job, b, 1, job->cum[b], job->cum[b + 1], &ref, tc_scratch(job, team));
}

void tc_score_team(tc_job *job, tc_team team) {
  const int32_t segments = job->call->batch.segments;
  if (job->call->reference.source == TAILCUT_REFERENCE_NOVELTY) {
    tc_novelty_team(job, team);
    return;
  }
  if (job->call->reference.source != TAILCUT_REFERENCE_MEAN) {
    if (segments > job->images) score_share(job, team, job->images, segments - job->images);
    tc_team_barrier(team);
    return;
  }
  for (int32_t first = 0; first < segments; first += TC_DIRECTIONS) {
    const int32_t count = segments - first < TC_DIRECTIONS ? segments - first : TC_DIRECTIONS;
    tc_direction_team(job, team, first, count, job->directions);
    score_share(job, team, first, count);
    tc_team_barrier(team);
    atomic_store_explicit(&job->taken[team.id].at, 0, memory_order_relaxed);
  }
}
