/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attention: the ATTENTION policy of relevance.
 *
 * Formula: r_v = mean over query rows t and heads h of softmax_j(q_t,h . k_j,h' / sqrt(d)) at
 * j = v, h' = h / (q_heads / k_heads), j over the rows of the sequence that are not ABSENT, j <= t
 * where causal. Strategy: a
 * head belongs to one thread, which walks the query rows in order and adds to a column of sums
 * in double; heads are then added in order: the same bits for any number of threads. Precision:
 * dots in the fixed fp32 order, softmax in double. No attention map is stored.
 */
#include "cpu.h"

static const char *head_row(const tc_job *job, int32_t b, int64_t row, int is_q, int32_t head) {
  const tailcut_relevance_options *o = &job->call->options;
  const int64_t row_stride = is_q ? o->q_row_stride : o->k_row_stride;
  const int64_t segment = job->call->batch.cu_seqlens != NULL
                              ? job->start[b] * row_stride
                              : b * (is_q ? o->q_segment_stride : o->k_segment_stride);
  const int64_t element =
      segment + row * row_stride + head * (is_q ? o->q_head_stride : o->k_head_stride);
  return (const char *)(is_q ? o->q : o->k) + element * tc_dtype_size(o->dtype);
}

static void one_head(const tc_job *job, int32_t b, int32_t head, int32_t first_query, float *query,
                     float *logits) {
  const tailcut_relevance_options *o = &job->call->options;
  const uint8_t *roles = job->call->roles + job->start[b];
  const int32_t n = job->n[b];
  const int32_t k_head = head / (o->q_heads / o->k_heads);
  const int64_t k_stride = o->k_row_stride * tc_dtype_size(o->dtype);
  const double scale = 1.0 / sqrt((double)o->head_dim);
  double *sums = job->head_sums + (size_t)head * (size_t)job->call->batch.max_tokens;
  for (int32_t j = 0; j < n; j++) sums[j] = 0.0;
  for (int32_t t = first_query; t < n; t++) {
    const int32_t keys = o->causal ? t + 1 : n;
    double total = 0.0;
    if (!tc_is_query(roles[t])) continue;
    job->kernels->widen[o->dtype - 1](head_row(job, b, t, 1, head), query, o->head_dim);
    job->kernels->score_rows[o->dtype - 1](head_row(job, b, 0, 0, k_head), k_stride, keys,
                                           o->head_dim, query, logits, NULL);
    float highest = -HUGE_VALF; /* NaN logits spread by the sum */
    for (int32_t j = 0; j < keys; j++) {
      if (!tc_is_absent(roles[j]) && logits[j] > highest) highest = logits[j];
    }
    for (int32_t j = 0; j < keys; j++) {
      const int is_key = !tc_is_absent(roles[j]);
      const double e = is_key ? exp(((double)logits[j] - (double)highest) * scale) : 0.0;
      logits[j] = (float)e;
      total += e;
    }
    for (int32_t j = 0; j < keys; j++) sums[j] += (double)logits[j] / total;
  }
}

void tc_attention_team(tc_job *job, tc_team team) {
  const tailcut_relevance_options *o = &job->call->options;
  float *query = tc_scratch(job, team);
  float *logits = query + tc_align((size_t)o->head_dim * 4) / 4;
  for (int32_t b = 0; b < job->call->batch.segments; b++) {
    const uint8_t *roles = job->call->roles + job->start[b];
    const int32_t n = job->n[b];
    float *scores = job->scores + job->start[b];
    int32_t queries = 0, last = 0, first_candidate = -1, any_nan = 0, unseen = 0;
    for (int32_t t = 0; t < n; t++) {
      if (first_candidate < 0 && tc_is_candidate(roles[t])) first_candidate = t;
      if (!tc_is_query(roles[t])) continue;
      queries++;
      last = t;
    }
    if (o->last_query && queries > 0) queries = 1;
    if (o->causal && last < first_candidate) queries = 0; /* none sees a candidate */
    if (queries > 0) {
      for (int32_t h = team.id; h < o->q_heads; h += team.size) {
        one_head(job, b, h, o->last_query ? last : 0, query, logits);
      }
    }
    tc_team_barrier(team);
    const double share = 1.0 / ((double)queries * (double)o->q_heads);
    for (int32_t j = team.id; j < n; j += team.size) {
      double sum = 0.0;
      if (!tc_is_candidate(roles[j])) {
        scores[j] = tc_bits_float(TC_NAN_BITS);
        continue;
      }
      for (int32_t h = 0; queries > 0 && h < o->q_heads; h++) {
        sum += job->head_sums[(size_t)h * (size_t)job->call->batch.max_tokens + (size_t)j];
      }
      scores[j] = queries > 0 ? (float)(sum * share) : 0.0f;
      if (scores[j] != scores[j]) {
        scores[j] = tc_bits_float(TC_NAN_BITS);
        any_nan = 1;
      }
      unseen |= queries == 0;
    }
    if (any_nan) tc_flag(job, b, TAILCUT_FLAG_NAN);
    if (unseen) tc_flag(job, b, TAILCUT_FLAG_BAD_REFERENCE);
    tc_team_barrier(team);
  }
}
