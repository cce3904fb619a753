/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attention: the ATTENTION policy of relevance.
 *
 * Formula: p = softmax_j(q_t,h . k_j,h' / sqrt(d)) at j = v, h' = h / (q_heads / k_heads), j over
 * the rows of the sequence that are not ABSENT, j <= t where causal; r_v = p reduced over the heads
 * h, then over the query rows t. Strategy: pairs of a query row and a head are taken in order,
 * TC_PAIRS at a time: each pair's p belongs to one thread, then each key's reductions do, which
 * take the pairs in order: the same bits for any number of threads. Precision: double, but
 * for products of fp16 and bf16 that are small enough for fp32 sums. No attention map is stored,
 * only that of TC_PAIRS rows.
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

/* A sequence and who asks in it. */
typedef struct asked {
  const uint8_t *roles;
  int32_t b, n;
  int32_t first, end; /* query rows are among [first, end); none where end is 0 */
  int32_t queries;    /* their number */
  int32_t any;        /* whether there is a candidate */
} asked;

static asked look(const tc_job *job, int32_t b) {
  const tailcut_relevance_options *o = &job->call->options;
  asked a = {job->call->roles + job->start[b], b, job->n[b], 0, 0, 0, 0};
  int32_t first_candidate = a.n;
  for (int32_t t = 0; t < a.n; t++) {
    if (tc_is_candidate(a.roles[t]) && !a.any) first_candidate = t, a.any = 1;
    if (!tc_is_query(a.roles[t])) continue;
    if (a.queries++ == 0 || o->last_query) a.first = t;
    a.end = t + 1;
  }
  if (o->last_query && a.queries > 0) a.queries = 1;
  /* Where none sees a candidate none asks. */
  if (!a.any || (o->causal && a.end <= first_candidate)) a.queries = a.end = 0;
  return a;
}

/* The query row behind t. */
static int32_t next_query(const asked *a, int32_t t) {
  do t++;
  while (t < a->end && !tc_is_query(a->roles[t]));
  return t;
}

static double given_lse(const tc_job *job, int32_t b, int32_t t, int32_t head) {
  const tailcut_relevance_options *o = &job->call->options;
  const int64_t segment = job->call->batch.cu_seqlens != NULL ? job->start[b] * o->lse_row_stride
                                                              : b * o->lse_segment_stride;
  const float lse = o->lse[segment + t * o->lse_row_stride + head * o->lse_head_stride];
  return isfinite(lse) ? (double)lse : (double)tc_bits_float(TC_NAN_BITS);
}

/* In double, in eight sums. */
static double wide_dot(const float *x, const float *y, int32_t n) {
  double sums[8] = {0.0};
  int32_t d = 0;
  for (; d + 8 <= n; d += 8) {
    for (int i = 0; i < 8; i++) sums[i] += (double)x[d + i] * (double)y[d + i];
  }
  for (; d < n; d++) sums[0] += (double)x[d] * (double)y[d];
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

/* A pair's products with `keys` keys into `products`; p, and room behind query, are scratch. fp32
 * sums do where no product can be so large that their error, 13 * 2^-24 of |q||k| at most, passes a
 * half of the tolerance of fp16 and bf16. */
static void multiply(const tc_job *job, const asked *a, int32_t t, int32_t head, int32_t keys,
                     float *query, float *p, double *products) {
  const tailcut_relevance_options *o = &job->call->options;
  const int32_t k_head = head / (o->q_heads / o->k_heads);
  const int64_t k_stride = o->k_row_stride * tc_dtype_size(o->dtype);
  const char *k = head_row(job, a->b, 0, 0, k_head);
  job->kernels->widen[o->dtype - 1](head_row(job, a->b, t, 1, head), query, o->head_dim);
  if (o->dtype != TAILCUT_F32) {
    float *squares = (float *)products;
    float most = 0.0f;
    job->kernels->score_rows[o->dtype - 1](k, k_stride, keys, o->head_dim, query, p, squares);
    for (int32_t j = 0; j < keys; j++) {
      if (squares[j] > most && !tc_is_absent(a->roles[j])) most = squares[j];
    }
    /* A square in fp32 lacks up to 2^-140, what underflows of 1,024 channels. */
    const double own = wide_dot(query, query, o->head_dim);
    if (!(own * ((double)most + 0x1p-140) > 1e6 * (double)o->head_dim)) {
      for (int32_t j = 0; j < keys; j++) products[j] = (double)p[j];
      return;
    }
  }
  float *key = query + tc_align((size_t)o->head_dim * 4) / 4;
  for (int32_t j = 0; j < keys; j++) {
    job->kernels->widen[o->dtype - 1](k + j * k_stride, key, o->head_dim);
    products[j] = wide_dot(query, key, o->head_dim);
  }
}

/* p of a pair at the keys it sees; 0 at ABSENT ones. */
static void one_pair(const tc_job *job, const asked *a, int32_t t, int32_t head, float *query,
                     float *p) {
  const tailcut_relevance_options *o = &job->call->options;
  const int32_t keys = o->causal ? t + 1 : a->n;
  const double scale = 1.0 / sqrt((double)o->head_dim);
  double *products = (double *)(query + 2 * (tc_align((size_t)o->head_dim * 4) / 4));
  multiply(job, a, t, head, keys, query, p, products);
  if (o->lse != NULL) {
    const double lse = given_lse(job, a->b, t, head);
    for (int32_t j = 0; j < keys; j++) {
      p[j] = tc_is_absent(a->roles[j]) ? 0.0f : (float)exp(products[j] * scale - lse);
    }
    return;
  }
  double total = 0.0, highest = -HUGE_VAL; /* NaN products spread by the sum */
  for (int32_t j = 0; j < keys; j++) {
    if (!tc_is_absent(a->roles[j]) && products[j] > highest) highest = products[j];
  }
  for (int32_t j = 0; j < keys; j++) {
    const double e = tc_is_absent(a->roles[j]) ? 0.0 : exp((products[j] - highest) * scale);
    products[j] = e;
    total += e;
  }
  for (int32_t j = 0; j < keys; j++) p[j] = (float)(products[j] / total);
}

/* With one more value. A sum is a mean once it is divided. */
static double reduced(int32_t reduction, double so_far, double value) {
  if (reduction == TAILCUT_REDUCE_MEAN) return so_far + value;
  return value > so_far || value != value ? value : so_far; /* NaN stays */
}

/* Takes the pairs from (t, head) on, `count` of them, whose p are there, into keys [j0, j1). */
static void reduce_pairs(const tc_job *job, const asked *a, int32_t t, int32_t head, int32_t count,
                         int32_t j0, int32_t j1) {
  const tailcut_relevance_options *o = &job->call->options;
  for (int32_t i = 0; i < count; i++) {
    const float *p = job->pairs + (size_t)i * (size_t)job->call->batch.max_tokens;
    const int32_t keys = o->causal ? t + 1 : a->n;
    const int32_t end = j1 < keys ? j1 : keys;
    for (int32_t j = j0; j < end; j++) {
      job->over_heads[j] =
          head == 0 ? (double)p[j] : reduced(o->head_reduction, job->over_heads[j], (double)p[j]);
    }
    if (++head < o->q_heads) continue;
    for (int32_t j = j0; j < end; j++) {
      job->over_queries[j] = reduced(o->query_reduction, job->over_queries[j], job->over_heads[j]);
    }
    head = 0;
    t = next_query(a, t);
  }
}

static void finish_keys(tc_job *job, const asked *a, int32_t j0, int32_t j1) {
  const tailcut_relevance_options *o = &job->call->options;
  float *scores = job->scores + job->start[a->b];
  double count = 1.0;
  if (o->head_reduction == TAILCUT_REDUCE_MEAN) count *= o->q_heads;
  if (o->query_reduction == TAILCUT_REDUCE_MEAN) count *= a->queries;
  for (int32_t j = j0; j < j1; j++) {
    scores[j] = tc_bits_float(TC_NAN_BITS);
    if (!tc_is_candidate(a->roles[j])) continue;
    const float score = a->queries > 0 ? (float)(job->over_queries[j] / count) : 0.0f;
    if (score == score) {
      scores[j] = score;
    } else {
      tc_flag(job, a->b, TAILCUT_FLAG_NAN);
    }
  }
}

void tc_attention_team(tc_job *job, tc_team team) {
  const tailcut_relevance_options *o = &job->call->options;
  float *query = tc_scratch(job, team);
  for (int32_t b = 0; b < job->call->batch.segments; b++) {
    const asked a = look(job, b);
    const int32_t j0 = (int32_t)((int64_t)a.n * team.id / team.size);
    const int32_t j1 = (int32_t)((int64_t)a.n * (team.id + 1) / team.size);
    const int64_t pairs = (int64_t)a.queries * o->q_heads;
    int32_t t = a.first, head = 0;
    for (int32_t j = j0; j < j1; j++) job->over_queries[j] = 0.0;
    for (int64_t from = 0; from < pairs; from += TC_PAIRS) {
      const int32_t count = (int32_t)(pairs - from < TC_PAIRS ? pairs - from : TC_PAIRS);
      const int32_t first_t = t, first_head = head;
      for (int32_t i = 0; i < count; i++) {
        float *p = job->pairs + (size_t)i * (size_t)job->call->batch.max_tokens;
        if (i % team.size == team.id) one_pair(job, &a, t, head, query, p);
        if (++head == o->q_heads) head = 0, t = next_query(&a, t);
      }
      tc_team_barrier(team);
      reduce_pairs(job, &a, first_t, first_head, count, j0, j1);
      tc_team_barrier(team);
    }
    if (a.any && a.queries == 0 && team.id == 0) tc_flag(job, b, TAILCUT_FLAG_BAD_REFERENCE);
    finish_keys(job, &a, j0, j1);
    tc_team_barrier(team); /* others' keys are different ones in the next sequence */
  }
}
