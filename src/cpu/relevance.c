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
static void score_zero(const tc_run *run, int32_t b, int32_t i0, int32_t i1) {
  const uint8_t *roles = run->call->roles + run->start[b];
  float *scores = run->scores + run->start[b];
  for (int32_t i = i0; i < i1; i++) {
    scores[i] = tc_is_candidate(roles[i]) ? 0.0f : tc_bits_float(TC_NAN_BITS);
  }
}

static int has_candidate(const tc_run *run, int32_t b) {
  const uint8_t *roles = run->call->roles + run->start[b];
  for (int32_t i = 0; i < run->n[b]; i++) {
    if (tc_is_candidate(roles[i])) return 1;
  }
  return 0;
}

/* Rows of segments [first, first + count) against their directions, shared by rows. */
static void mean_share(tc_run *run, tc_team team, int32_t first, int32_t count) {
  const int32_t dim = run->call->tokens.dim;
  const int64_t all = run->cum[first + count] - run->cum[first];
  const int64_t from = run->cum[first] + all * team.id / team.size;
  const int64_t to = run->cum[first] + all * (team.id + 1) / team.size;
  for (int32_t b = first; b < first + count && run->cum[b] < to; b++) {
    const int32_t i0 = (int32_t)(from > run->cum[b] ? from - run->cum[b] : 0);
    const int32_t i1 = (int32_t)(to < run->cum[b + 1] ? to - run->cum[b] : run->n[b]);
    if (i0 >= i1) continue;
    if (run->query_counts[b - first] == 0) {
      score_zero(run, b, i0, i1);
      continue;
    }
    const float *u = run->directions + (size_t)(b - first) * (size_t)dim;
    if (tc_score_range(run, b, i0, i1, u, 1.0f, run->call->roles + run->start[b],
                       run->scores + run->start[b])) {
      tc_flag(run, b, TAILCUT_FLAG_NAN);
    }
  }
  tc_team_barrier(team);
  for (int32_t g = team.id; g < count; g += team.size) {
    const int32_t b = first + g;
    if (run->n[b] == 0 || !has_candidate(run, b)) continue;
    if (tc_bad_norm(tc_norm(run, run->directions + (size_t)g * (size_t)dim, dim))) {
      tc_flag(run, b, TAILCUT_FLAG_BAD_REFERENCE);
    }
  }
  tc_team_barrier(team);
}

static float larger(float a, float b) { return a != a || b > a ? b : a; } /* fmaxf */

/* Rows [i0, i1) of segment b, at most TC_SCORE_CHUNK, against all its query rows. */
static void max_chunk(tc_run *run, int32_t b, int32_t i0, int32_t i1, float *query) {
  const tailcut_tokens *tokens = &run->call->tokens;
  const int64_t stride = tokens->row_stride * tc_dtype_size(tokens->dtype);
  const uint8_t *roles = run->call->roles + run->start[b];
  float *best = run->scores + run->start[b];
  float dots[TC_SCORE_CHUNK], squares[TC_SCORE_CHUNK];
  const char *chunk = tc_token_row(run, b, i0);
  int32_t queries = 0, any_nan = 0;
  run->kernels->score_rows[tokens->dtype - 1](chunk, stride, i1 - i0, tokens->dim, NULL, NULL,
                                              squares);
  for (int32_t i = i0; i < i1; i++) best[i] = tc_bits_float(TC_NAN_BITS);
  for (int32_t t = 0; t < run->n[b]; t++) {
    if (!tc_is_query(roles[t])) continue;
    queries++;
    run->kernels->widen[tokens->dtype - 1](tc_token_row(run, b, t), query, tokens->dim);
    const float norm = tc_norm(run, query, tokens->dim);
    run->kernels->score_rows[tokens->dtype - 1](chunk, stride, i1 - i0, tokens->dim, query, dots,
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
      tc_flag(run, b, TAILCUT_FLAG_BAD_REFERENCE);
    } else if (queries == 1 && tc_is_query(roles[i])) {
      best[i] = 0.0f; /* it is the only one itself */
    } else {
      any_nan |= best[i] != best[i];
    }
  }
  if (any_nan) tc_flag(run, b, TAILCUT_FLAG_NAN);
}

static void max_team(tc_run *run, tc_team team) {
  const int32_t segments = run->call->batch.segments;
  const int64_t all = run->cum[segments];
  const int64_t chunks = all / TC_SCORE_CHUNK + segments; /* upper bound: tasks by flat row */
  float *query = tc_scratch(run, team);
  int32_t b = 0, next = 0;
  int64_t task = tc_task(run, TC_NEXT_RELEVANCE);
  for (int64_t number = 0; number < chunks && b < segments; number++) {
    while (b < segments && next >= run->n[b]) {
      b++;
      next = 0;
    }
    if (b == segments) break;
    const int32_t end = run->n[b] - next < TC_SCORE_CHUNK ? run->n[b] : next + TC_SCORE_CHUNK;
    if (number == task) {
      max_chunk(run, b, next, end, query);
      task = tc_task(run, TC_NEXT_RELEVANCE);
    }
    next = end;
  }
  tc_team_barrier(team);
}

void tc_relevance_team(tc_run *run, tc_team team) {
  const int32_t segments = run->call->batch.segments;
  if (run->call->options.policy == TAILCUT_ATTENTION) {
    tc_attention_team(run, team);
    return;
  }
  if (run->call->options.policy == TAILCUT_MAX_COSINE) {
    max_team(run, team);
    return;
  }
  for (int32_t first = 0; first < segments; first += TC_DIRECTIONS) {
    const int32_t count = segments - first < TC_DIRECTIONS ? segments - first : TC_DIRECTIONS;
    tc_direction_team(run, team, first, count, run->directions);
    mean_share(run, team, first, count);
  }
}
