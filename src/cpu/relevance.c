/* SPDX-License-Identifier: Apache-2.0 */
/*
 * relevance: how much each candidate row has to do with the query rows of its sequence.
 *
 * MEAN_COSINE  r_v = <v,u> / max(|v|, 1e-8), u from score.c's mean direction: exact.
 * MAX_COSINE   max over t but v of their cosine: every query row is a reference in turn, chunks of
 *              candidates stay in cache; exact here too, though only promised close.
 * ATTENTION    attention.c.
 */
#include "cpu.h"

/* Rows [i0, i1) of a sequence without query rows: candidates score 0 whatever they hold. */
static void score_zero(const tc_job *job, int32_t b, int32_t i0, int32_t i1) {
  const uint8_t *roles = job->call->roles + job->start[b];
  float *scores = job->scores + job->start[b];
  for (int32_t i = i0; i < i1; i++) {
    scores[i] = tc_is_candidate(roles[i]) ? 0.0f : tc_bits_float(TC_NAN_BITS);
  }
}

static int has_candidate(const tc_job *job, int32_t b) {
  const uint8_t *roles = job->call->roles + job->start[b];
  for (int32_t i = 0; i < job->n[b]; i++) {
    if (tc_is_candidate(roles[i])) return 1;
  }
  return 0;
}

/* Rows of segments [first, first + count) against their directions, shared by rows. */
static void mean_share(tc_job *job, tc_team team, int32_t first, int32_t count) {
  const int32_t dim = job->call->tokens.dim;
  const int64_t all = job->cum[first + count] - job->cum[first];
  const int64_t from = job->cum[first] + all * team.id / team.size;
  const int64_t to = job->cum[first] + all * (team.id + 1) / team.size;
  for (int32_t b = first; b < first + count && job->cum[b] < to; b++) {
    const int32_t i0 = (int32_t)(from > job->cum[b] ? from - job->cum[b] : 0);
    const int32_t i1 = (int32_t)(to < job->cum[b + 1] ? to - job->cum[b] : job->n[b]);
    if (i0 >= i1) continue;
    if (job->query_counts[b - first] == 0) {
      score_zero(job, b, i0, i1);
      continue;
    }
    const float *u = job->directions + (size_t)(b - first) * (size_t)dim;
    if (tc_score_range(job, b, i0, i1, u, 1.0f, job->call->roles + job->start[b],
                       job->scores + job->start[b])) {
      tc_flag(job, b, TAILCUT_FLAG_NAN);
    }
  }
  tc_team_barrier(team);
  for (int32_t g = team.id; g < count; g += team.size) {
    const int32_t b = first + g;
    if (job->n[b] == 0 || !has_candidate(job, b)) continue;
    if (tc_bad_norm(tc_norm(job, job->directions + (size_t)g * (size_t)dim, dim))) {
      tc_flag(job, b, TAILCUT_FLAG_BAD_REFERENCE);
    }
  }
  tc_team_barrier(team);
}

static float larger(float a, float b) { return a != a || b > a ? b : a; } /* fmaxf */

/* Rows [i0, i1) of segment b, at most TC_SCORE_CHUNK, against all its query rows. */
static void max_chunk(tc_job *job, int32_t b, int32_t i0, int32_t i1, float *query) {
  const tailcut_tokens *tokens = &job->call->tokens;
  const int64_t stride = tokens->row_stride * tc_dtype_size(tokens->dtype);
  const uint8_t *roles = job->call->roles + job->start[b];
  float *best = job->scores + job->start[b];
  float dots[TC_SCORE_CHUNK], squares[TC_SCORE_CHUNK];
  const char *chunk = tc_token_row(job, b, i0);
  int32_t queries = 0, any_nan = 0;
  job->kernels->score_rows[tokens->dtype - 1](chunk, stride, i1 - i0, tokens->dim, NULL, NULL,
                                              squares);
  for (int32_t i = i0; i < i1; i++) best[i] = tc_bits_float(TC_NAN_BITS);
  for (int32_t t = 0; t < job->n[b]; t++) {
    if (!tc_is_query(roles[t])) continue;
    queries++;
    job->kernels->widen[tokens->dtype - 1](tc_token_row(job, b, t), query, tokens->dim);
    const float norm = tc_norm(job, query, tokens->dim);
    job->kernels->score_rows[tokens->dtype - 1](chunk, stride, i1 - i0, tokens->dim, query, dots,
                                                NULL);
    for (int32_t i = i0; i < i1; i++) {
      const float cosine = tc_cosine_finish(dots[i - i0], sqrtf(squares[i - i0]), norm);
      if (i != t) best[i] = larger(best[i], cosine);
    }
  }
  for (int32_t i = i0; i < i1; i++) {
    if (!tc_is_candidate(roles[i])) {
      best[i] = tc_bits_float(TC_NAN_BITS);
    } else if (queries == 0) {
      best[i] = 0.0f;
      tc_flag(job, b, TAILCUT_FLAG_BAD_REFERENCE);
    } else if (queries == 1 && tc_is_query(roles[i])) {
      best[i] = 0.0f; /* it is the only one itself */
    } else {
      any_nan |= best[i] != best[i];
    }
  }
  if (any_nan) tc_flag(job, b, TAILCUT_FLAG_NAN);
}

static void max_team(tc_job *job, tc_team team) {
  const int32_t segments = job->call->batch.segments;
  const int64_t all = job->cum[segments];
  const int64_t chunks = all / TC_SCORE_CHUNK + segments; /* upper bound: tasks by flat row */
  float *query = tc_scratch(job, team);
  int32_t b = 0, next = 0;
  int64_t task = tc_task(job, TC_NEXT_RELEVANCE);
  for (int64_t number = 0; number < chunks && b < segments; number++) {
    while (b < segments && next >= job->n[b]) {
      b++;
      next = 0;
    }
    if (b == segments) break;
    const int32_t end = job->n[b] - next < TC_SCORE_CHUNK ? job->n[b] : next + TC_SCORE_CHUNK;
    if (number == task) {
      max_chunk(job, b, next, end, query);
      task = tc_task(job, TC_NEXT_RELEVANCE);
    }
    next = end;
  }
  tc_team_barrier(team);
}

void tc_relevance_team(tc_job *job, tc_team team) {
  const int32_t segments = job->call->batch.segments;
  if (job->call->options.policy == TAILCUT_ATTENTION) {
    tc_attention_team(job, team);
    return;
  }
  if (job->call->options.policy == TAILCUT_MAX_COSINE) {
    max_team(job, team);
    return;
  }
  for (int32_t first = 0; first < segments; first += TC_DIRECTIONS) {
    const int32_t count = segments - first < TC_DIRECTIONS ? segments - first : TC_DIRECTIONS;
    tc_direction_team(job, team, first, count, job->directions);
    mean_share(job, team, first, count);
  }
}
