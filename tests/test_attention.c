/* SPDX-License-Identifier: Apache-2.0 */
/* attention: ATTENTION close to float64 where sequences, heads and channels are many enough for
 * everything that the CUDA backend does: several tiles of keys, of query rows and of pairs, blocks
 * that share one, heads of 1 to 5 pieces, rows of any alignment, NaN; all layouts, reductions and
 * log-sum-exps. Tiny and huge values, and such as fp32 sums of products are far off for: ties of
 * huge logits, sums that cancel, single rows and heads that are huge, squares that overflow. The
 * same bits and flags when it runs again. By hand: test_policies.c; small sequences and the fused
 * call: test_relevance.c. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "data.h"
#include "reference.h"

enum { SEGMENTS = 4 };

#define F16 TAILCUT_F16
#define BF16 TAILCUT_BF16
#define F32 TAILCUT_F32

/* What is special about q and k. */
typedef enum special {
  PLAIN,
  NAN_KEY,   /* a key that is not a number */
  INFINITE,  /* keys and a query row with infinities */
  TIES,      /* every third key equals the one before */
  CANCEL,    /* two channels whose products are huge and cancel out */
  LOPSIDED,  /* the same, and the squares of q overflow in fp32, those of k underflow */
  ONE_KEY,   /* the same, but huge in one late key of each sequence alone */
  ONE_QUERY, /* or in its last query row */
  ONE_HEAD   /* the first key head and its query heads are 1,000 times as large */
} special;

typedef struct shape {
  int32_t dtype, most, queries; /* of 100 rows, so many ask */
  int32_t q_heads, k_heads, head_dim, pad;
  int32_t causal, last_query, heads, rows; /* heads, rows: 1: the greatest */
  int32_t lse;                             /* 1: any, 2: about the true one */
  special special;
  double scale; /* of q and k */
} shape;

static const shape shapes[] = {
    {F16, 300, 60, 4, 1, 128, 0, 0, 0, 0, 0, 0, PLAIN, 1.0},
    {F16, 300, 30, 8, 1, 64, 0, 1, 0, 1, 0, 0, PLAIN, 1.5},
    {BF16, 270, 50, 4, 4, 80, 8, 1, 0, 0, 1, 0, PLAIN, 1.0},
    {F16, 260, 5, 6, 2, 192, 0, 0, 0, 1, 1, 0, PLAIN, 1.0},
    {BF16, 140, 40, 2, 1, 320, 0, 0, 0, 0, 0, 0, PLAIN, 6.0},
    {F16, 400, 20, 8, 2, 128, 0, 0, 1, 0, 0, 0, PLAIN, 1.0},
    {F16, 140, 30, 3, 3, 71, 3, 1, 0, 0, 0, 0, PLAIN, 1.0},
    {F32, 270, 40, 4, 2, 64, 0, 0, 0, 0, 0, 0, PLAIN, 1.0},
    {F32, 140, 40, 3, 1, 129, 1, 1, 0, 0, 1, 0, PLAIN, 1.0},
    {F16, 200, 40, 4, 2, 128, 0, 1, 0, 0, 0, 1, PLAIN, 1.0},
    {F32, 140, 30, 2, 2, 40, 0, 0, 0, 1, 0, 1, PLAIN, 1.0},
    {F16, 200, 30, 4, 2, 64, 0, 1, 0, 0, 0, 0, NAN_KEY, 1.0},
    {F32, 140, 30, 2, 1, 33, 0, 1, 0, 1, 1, 0, NAN_KEY, 1.0},
    {F16, 200, 50, 2, 2, 64, 0, 0, 0, 0, 0, 0, PLAIN, 1e-3},
    {F32, 140, 40, 4, 2, 64, 0, 0, 0, 0, 0, 0, PLAIN, 9.0},
    {F32, 140, 40, 2, 1, 71, 1, 1, 0, 0, 1, 0, PLAIN, 1e12},
    {F16, 140, 40, 2, 2, 128, 0, 0, 0, 1, 0, 0, PLAIN, 400.0},
    {BF16, 140, 40, 2, 1, 80, 0, 1, 0, 0, 0, 0, PLAIN, 1e25},
    {BF16, 90, 20, 2, 1, 40, 0, 0, 0, 0, 0, 0, PLAIN, 1e-30},
    {BF16, 90, 20, 4, 2, 64, 0, 1, 0, 0, 0, 0, TIES, 1e37},
    {F16, 90, 20, 2, 2, 71, 1, 0, 0, 1, 0, 0, TIES, 1e4},
    {F32, 90, 20, 2, 1, 64, 0, 0, 1, 0, 0, 0, TIES, 1e18},
    {F16, 140, 20, 4, 2, 64, 0, 1, 0, 0, 0, 0, CANCEL, 1.0},
    {BF16, 90, 20, 2, 1, 71, 1, 0, 1, 1, 1, 0, CANCEL, 1.0},
    {F32, 90, 20, 2, 2, 40, 0, 0, 0, 0, 1, 0, CANCEL, 1.0},
    {F16, 90, 20, 2, 1, 256, 0, 1, 0, 0, 0, 2, CANCEL, 0.5},
    {BF16, 90, 20, 2, 1, 64, 0, 0, 0, 0, 0, 0, LOPSIDED, 1.0},
    {F16, 90, 20, 4, 2, 64, 0, 1, 0, 0, 0, 2, PLAIN, 300.0},
    {F16, 260, 20, 4, 2, 40, 0, 0, 0, 0, 0, 0, ONE_KEY, 1.0},
    {BF16, 90, 20, 4, 4, 64, 0, 1, 0, 0, 0, 0, ONE_QUERY, 1.0},
    {F16, 260, 20, 2, 1, 64, 0, 0, 1, 0, 0, 0, ONE_QUERY, 1.0},
    {F16, 90, 20, 6, 3, 64, 0, 0, 0, 0, 1, 0, ONE_HEAD, 1.0},
    {BF16, 260, 20, 4, 2, 64, 0, 1, 0, 1, 0, 0, ONE_HEAD, 0.5},
    {F16, 90, 20, 2, 1, 64, 0, 1, 0, 0, 0, 0, INFINITE, 1.0},
    {BF16, 90, 20, 1, 1, 40, 0, 0, 1, 0, 0, 0, INFINITE, 1.0},
    {F32, 90, 20, 2, 2, 40, 0, 1, 0, 0, 1, 0, INFINITE, 1.0},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

/* One input on the host, and what is right. Sequences lie one behind the other: [rows, heads,
 * head_dim + pad]. */
typedef struct input {
  tailcut_batch batch;
  tailcut_relevance_options options;
  int32_t offsets[SEGMENTS + 1], flags[SEGMENTS];
  uint8_t *roles;
  void *q, *k;
  size_t q_bytes, k_bytes;
  float *lse;
  int close; /* lse is about the true one */
  double *scores;
} input;

static double product(const input *in, int32_t t, int32_t h, int32_t j) {
  const tailcut_relevance_options *o = &in->options;
  const int64_t q = t * o->q_row_stride + h * o->q_head_stride;
  const int64_t k = j * o->k_row_stride + h / (o->q_heads / o->k_heads) * o->k_head_stride;
  double dot = 0;
  for (int32_t d = 0; d < o->head_dim; d++) {
    dot += (double)tt_get(in->q, o->dtype, (size_t)(q + d)) *
           (double)tt_get(in->k, o->dtype, (size_t)(k + d));
  }
  return dot / sqrt((double)o->head_dim);
}

static double reduced(int32_t reduction, int32_t count, double a, double b) {
  if (reduction == TAILCUT_REDUCE_MEAN) return a + b / count;
  return isnan(a) || isnan(b) ? NAN : fmax(a, b);
}

/* Exact scores and flags of segment b; NaN for no candidates. */
static void attention64(input *in, int32_t b) {
  const tailcut_relevance_options *o = &in->options;
  const int32_t start = in->offsets[b], end = in->offsets[b + 1];
  double *x = tt_host(sizeof *x * (size_t)(end - start + 1));
  double *heads = tt_host(sizeof *heads * (size_t)(end - start + 1));
  int32_t queries = 0, last = -1, first = end;
  for (int32_t i = end - 1; i >= start; i--) {
    if (ref_is_candidate(in->roles[i])) first = i;
    if (ref_is_query(in->roles[i]) && queries++ == 0) last = i;
    in->scores[i] = 0.0;
  }
  const int unseen = first < end && (queries == 0 || (o->causal && last < first));
  in->flags[b] = unseen ? TAILCUT_FLAG_BAD_REFERENCE : 0;
  if (o->last_query) queries = 1;
  for (int32_t t = o->last_query && last >= 0 ? last : start; t < end && !unseen; t++) {
    if (!ref_is_query(in->roles[t])) continue;
    const int32_t seen = o->causal ? t + 1 : end;
    memset(heads, 0, sizeof *heads * (size_t)(end - start));
    for (int32_t h = 0; h < o->q_heads; h++) {
      double highest = -INFINITY, total = 0;
      for (int32_t j = start; j < seen; j++) {
        x[j - start] = product(in, t, h, j);
        if (in->roles[j] & TAILCUT_ROLE_ABSENT) x[j - start] = -INFINITY;
        highest = fmax(highest, x[j - start]);
      }
      for (int32_t j = start; j < seen; j++) total += exp(x[j - start] - highest);
      if (in->close) in->lse[t * o->q_heads + h] = (float)(highest + log(total) + 1.0);
      for (int32_t j = start; j < seen; j++) {
        const double p = in->lse ? exp(x[j - start] - (double)in->lse[t * o->q_heads + h])
                                 : exp(x[j - start] - highest) / total;
        heads[j - start] = reduced(o->head_reduction, o->q_heads, heads[j - start], p);
      }
    }
    for (int32_t j = start; j < end; j++) {
      in->scores[j] = reduced(o->query_reduction, queries, in->scores[j], heads[j - start]);
    }
  }
  for (int32_t i = start; i < end; i++) {
    if (!ref_is_candidate(in->roles[i])) {
      in->scores[i] = NAN;
    } else if (isnan(in->scores[i])) {
      in->flags[b] |= TAILCUT_FLAG_NAN;
    }
  }
  free(x);
  free(heads);
}

static void *heads_of(tt_random *random, const shape *s, int32_t rows, int32_t heads,
                      size_t *bytes) {
  const size_t count = (size_t)rows * (size_t)(heads * (s->head_dim + s->pad));
  *bytes = count * tt_size(s->dtype);
  void *array = tt_host(*bytes);
  for (size_t i = 0; i < count; i++) {
    tt_put(array, s->dtype, i, (float)(s->scale * tt_normal(random)));
  }
  return array;
}

/* Multiplies a head of a row by a factor. */
static void enlarge(void *array, const shape *s, int64_t at, float factor) {
  for (int64_t d = at; d < at + s->head_dim; d++) {
    tt_put(array, s->dtype, (size_t)d, factor * tt_get(array, s->dtype, (size_t)d));
  }
}

/* Puts x into the first channel of a head of a row, y into the last. */
static void put_ends(void *array, const shape *s, int64_t at, float x, float y) {
  tt_put(array, s->dtype, (size_t)at, x);
  tt_put(array, s->dtype, (size_t)(at + s->head_dim - 1), y);
}

/* Makes q and k what is special about them. */
static void make_special(const shape *s, input *in) {
  const tailcut_relevance_options *o = &in->options;
  const float to_q = s->special == LOPSIDED ? 0x1p100f : 1.0f, from_k = 1.0f / to_q;
  const int cancel = s->special == CANCEL || s->special == LOPSIDED;
  const int one_key = s->special == ONE_KEY, one_query = s->special == ONE_QUERY;
  for (int32_t i = 0, start = 0, late_key = 0, late_query = 0; i < in->offsets[SEGMENTS]; i++) {
    for (int32_t b = 0; b < SEGMENTS; b++) {
      if (i != in->offsets[b]) continue;
      start = i;
      for (int32_t j = i; j < in->offsets[b + 1]; j++) {
        if (!(in->roles[j] & TAILCUT_ROLE_ABSENT)) late_key = j;
        if (ref_is_query(in->roles[j])) late_query = j;
      }
    }
    for (int32_t h = 0; h < s->q_heads; h++) {
      const int64_t at = i * o->q_row_stride + h * o->q_head_stride;
      const float end = one_key ? 0x1p8f : i == late_query ? 0x1p15f : 0.0f;
      if (s->special == ONE_HEAD && h < s->q_heads / s->k_heads) enlarge(in->q, s, at, 1000.0f);
      if (s->special == LOPSIDED) enlarge(in->q, s, at, to_q);
      if (cancel) put_ends(in->q, s, at, 0x1p13f * to_q, 0x1p13f * to_q);
      if (one_key || one_query) put_ends(in->q, s, at, end, end);
    }
    for (int32_t h = 0; h < s->k_heads; h++) {
      const int64_t at = i * o->k_row_stride + h * o->k_head_stride;
      const float end = one_query ? 0x1p9f : i == late_key ? 0x1p15f : 0.0f;
      if (s->special == ONE_HEAD && h == 0) enlarge(in->k, s, at, 1000.0f);
      if (s->special == LOPSIDED) enlarge(in->k, s, at, from_k);
      if (cancel) put_ends(in->k, s, at, 0x1p13f * from_k, -0x1p13f * from_k);
      if (one_key || one_query) put_ends(in->k, s, at, end, -end);
      for (int32_t d = 0; s->special == TIES && (i - start) % 3 == 1 && d < s->head_dim; d++) {
        const float twin = tt_get(in->k, s->dtype, (size_t)(at - o->k_row_stride + d));
        tt_put(in->k, s->dtype, (size_t)(at + d), twin);
      }
    }
  }
  const size_t last = (size_t)(in->offsets[SEGMENTS] - 30);
  if (s->special == NAN_KEY) tt_put(in->k, s->dtype, (size_t)o->k_row_stride * last, NAN);
  if (s->special != INFINITE) return;
  tt_put(in->k, s->dtype, (size_t)o->k_row_stride * last, INFINITY);
  tt_put(in->k, s->dtype, (size_t)o->k_row_stride * last + 3, -INFINITY);
  tt_put(in->k, s->dtype, (size_t)o->k_row_stride * 9, INFINITY);
  tt_put(in->q, s->dtype, (size_t)o->q_row_stride * (size_t)(in->offsets[2] + 7), -INFINITY);
}

static void make(const shape *s, uint64_t seed, input *in) {
  static const tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  static const tailcut_relevance_options options = TAILCUT_RELEVANCE_OPTIONS_INITIALIZER;
  tt_random random = {seed};
  const int32_t sizes[SEGMENTS] = {s->most, 0, 20, s->most / 2};
  memset(in, 0, sizeof *in);
  for (int32_t b = 0; b < SEGMENTS; b++) in->offsets[b + 1] = in->offsets[b] + sizes[b];
  const int32_t total = in->offsets[SEGMENTS];
  in->roles = tt_host((size_t)total);
  for (int32_t i = 0; i < total; i++) {
    const int asks = tt_below(&random, 100) < s->queries;
    in->roles[i] = asks                         ? TAILCUT_ROLE_QUERY
                   : tt_below(&random, 20) == 0 ? 0
                                                : TAILCUT_ROLE_CANDIDATE;
    if (tt_below(&random, 20) == 0) in->roles[i] |= 3;
    if (tt_below(&random, 20) == 0) in->roles[i] |= TAILCUT_ROLE_ABSENT;
    /* The third sequence has its text in front: where causal, none sees a candidate. */
    if (i >= in->offsets[2] && i < in->offsets[3]) in->roles[i] = i < in->offsets[2] + 8 ? 2 : 1;
  }
  in->batch = batch, in->options = options;
  in->batch.segments = SEGMENTS;
  in->batch.max_tokens = s->most;
  in->batch.total_tokens = total;
  in->batch.cu_seqlens = in->offsets;
  tailcut_relevance_options *o = &in->options;
  o->policy = TAILCUT_ATTENTION, o->dtype = s->dtype;
  o->q_heads = s->q_heads, o->k_heads = s->k_heads, o->head_dim = s->head_dim;
  o->causal = s->causal, o->last_query = s->last_query;
  if (s->heads) o->head_reduction = TAILCUT_REDUCE_MAX;
  if (s->rows) o->query_reduction = TAILCUT_REDUCE_MAX;
  o->q_head_stride = o->k_head_stride = s->head_dim + s->pad;
  o->q_row_stride = s->q_heads * o->q_head_stride;
  o->k_row_stride = s->k_heads * o->k_head_stride;
  in->q = heads_of(&random, s, total, s->q_heads, &in->q_bytes);
  in->k = heads_of(&random, s, total, s->k_heads, &in->k_bytes);
  make_special(s, in);
  in->close = s->lse == 2;
  if (s->lse) {
    in->lse = tt_host(4 * (size_t)(total * s->q_heads));
    for (int32_t i = 0; i < total * s->q_heads; i++) {
      in->lse[i] = (float)(5.0 + tt_normal(&random));
    }
  }
  in->scores = tt_host(sizeof *in->scores * (size_t)total);
  for (int32_t b = 0; b < SEGMENTS; b++) attention64(in, b);
}

static void drop(input *in) {
  free(in->roles), free(in->q), free(in->k), free(in->lse), free(in->scores);
}

/* Scores and flags of one call, which is made twice in one workspace. */
static void run(const input *in, const tt_backend *backend, int number, float *scores,
                int32_t *flags) {
  tailcut_handle handle = tt_create(backend);
  tailcut_batch batch = in->batch;
  tailcut_relevance_options o = in->options;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  const size_t rows = (size_t)batch.total_tokens;
  float *again = tt_host(4 * rows);
  limits.segments = SEGMENTS, limits.max_tokens = batch.max_tokens;
  limits.total_tokens = batch.total_tokens;
  limits.q_heads = o.q_heads, limits.head_dim = o.head_dim;
  void *offsets = tt_upload(backend, in->offsets, sizeof in->offsets, 0);
  void *q = tt_upload(backend, in->q, in->q_bytes, TT_TIGHT);
  void *k = tt_upload(backend, in->k, in->k_bytes, TT_TIGHT);
  void *lse = in->lse ? tt_upload(backend, in->lse, 4 * rows * (size_t)o.q_heads, TT_TIGHT) : NULL;
  uint8_t *roles = tt_upload(backend, in->roles, rows, 1);
  float *out = tt_upload(backend, NULL, 4 * rows, TT_TIGHT);
  int32_t *out_flags = tt_upload(backend, NULL, 4 * SEGMENTS, 0);
  tt_workspace w = tt_workspace_new(backend, handle, TAILCUT_CALL_RELEVANCE, &limits);
  batch.cu_seqlens = offsets;
  o.q = q, o.k = k, o.lse = lse;
  for (int turn = 0; turn < 2; turn++) {
    cr_assert_eq(
        tailcut_relevance(handle, &batch, NULL, roles, &o, out, out_flags, w.data, w.size, NULL),
        TAILCUT_OK, "%s", tailcut_last_error());
    tt_download(backend, turn ? again : scores, out, 4 * rows);
  }
  tt_download(backend, flags, out_flags, 4 * SEGMENTS);
  cr_assert_arr_eq(again, scores, 4 * rows, "run to run, shape %d on %s", number, backend->name);
  void *all[] = {offsets, q, k, lse, roles, out, out_flags, w.data};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) tt_free(backend, all[i]);
  tailcut_destroy(handle);
  free(again);
}

Test(attention, close_in_every_shape) {
  int count, compared = 0, bad = 0;
  const tt_backend *backends = tt_backends(&count);
  for (int n = 0; n < SHAPES; n++) {
    const shape *s = &shapes[n];
    const double tol = s->dtype == F32 ? 1e-5 : 2e-3;
    input in;
    make(s, 900 + (uint64_t)n, &in);
    const int32_t total = in.offsets[SEGMENTS];
    float *scores = tt_host(4 * (size_t)total);
    for (int i = 0; i < count; i++) {
      int32_t flags[SEGMENTS];
      run(&in, &backends[i], n, scores, flags);
      for (int32_t r = 0; r < total; r++) {
        const double got = (double)scores[r], want = in.scores[r];
        compared++;
        if (isnan(want) ? isnan(got) : fabs(got - want) <= tol * fmax(want, 0x1p-7)) continue;
        if (bad++ < 20) {
          printf("shape %d on %s, row %d: %g, expected %g\n", n, backends[i].name, (int)r, got,
                 want);
        }
      }
      cr_assert_arr_eq(flags, in.flags, sizeof flags, "shape %d on %s", n, backends[i].name);
    }
    free(scores);
    drop(&in);
  }
  cr_assert(bad == 0 && compared > 0, "%d of %d scores are far off", bad, compared);
}
