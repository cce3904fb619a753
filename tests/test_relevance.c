/* SPDX-License-Identifier: Apache-2.0 */
/* relevance: MAX_COSINE and ATTENTION close to float64 over dtypes, heads, causality, reductions,
 * strides and layouts; run to run the same bits; prune_sequence equals relevance, cut and compact
 * one after the other for every policy. By hand: test_policies.c; MEAN_COSINE's bits: the table of cases. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "data.h"
#include "reference.h"

enum { SEGMENTS = 4, MOST = 40, DIM = 56 };

/* One input on the host. */
typedef struct input {
  tailcut_batch batch;
  tailcut_tokens tokens;
  tailcut_relevance_options options;
  int32_t shape[SEGMENTS + 1];
  int64_t total;
  uint8_t *roles;
  void *matrix, *q, *k;
  float *lse;
  size_t matrix_bytes, q_bytes, k_bytes, lse_bytes;
} input;

typedef struct shape {
  int32_t policy, dtype, layout; /* 0 uniform, 1 lengths, 2 ragged */
  int32_t q_heads, k_heads, head_dim, causal, last_query, strided, spikes;
  int32_t head_max, query_max, lse; /* 1 [rows, q_heads], 2 [q_heads, rows] */
} shape;

static const shape shapes[] = {
    {TAILCUT_MEAN_COSINE, TAILCUT_F16, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
    {TAILCUT_MAX_COSINE, TAILCUT_F16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
    {TAILCUT_MAX_COSINE, TAILCUT_BF16, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0},
    {TAILCUT_MAX_COSINE, TAILCUT_F32, 1, 0, 0, 0, 0, 0, 0, TT_TIES | TT_ZERO_ROWS, 0, 0, 0},
    {TAILCUT_MAX_COSINE, TAILCUT_F32, 2, 0, 0, 0, 0, 0, 0, TT_NOT_FINITE, 0, 0, 0},
    {TAILCUT_ATTENTION, TAILCUT_F16, 0, 4, 4, 64, 0, 0, 0, 0, 0, 0, 0},
    {TAILCUT_ATTENTION, TAILCUT_F16, 2, 6, 2, 32, 1, 0, 1, 0, 0, 0, 0},
    {TAILCUT_ATTENTION, TAILCUT_BF16, 1, 4, 1, 16, 0, 1, 0, 0, 0, 0, 0},
    {TAILCUT_ATTENTION, TAILCUT_F32, 2, 3, 3, 1, 1, 1, 0, 0, 0, 0, 0},
    {TAILCUT_ATTENTION, TAILCUT_F32, 0, 8, 2, 80, 1, 0, 1, 0, 0, 0, 0},
    {TAILCUT_ATTENTION, TAILCUT_F16, 2, 8, 2, 64, 0, 0, 0, 0, 1, 0, 0},
    {TAILCUT_ATTENTION, TAILCUT_BF16, 0, 6, 3, 48, 1, 0, 0, 0, 0, 1, 0},
    {TAILCUT_ATTENTION, TAILCUT_F32, 1, 5, 5, 7, 0, 0, 1, 0, 1, 1, 0},
    {TAILCUT_ATTENTION, TAILCUT_F16, 2, 4, 2, 128, 1, 0, 0, 0, 0, 0, 1},
    {TAILCUT_ATTENTION, TAILCUT_F32, 0, 4, 1, 24, 0, 0, 1, 0, 0, 1, 2},
    {TAILCUT_ATTENTION, TAILCUT_BF16, 2, 16, 2, 40, 1, 1, 0, 0, 1, 0, 2},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

/* Into *in, which holds what its batch points to. */
static void make(const shape *s, uint64_t seed, input *in) {
  static const tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  static const tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  static const tailcut_relevance_options options = TAILCUT_RELEVANCE_OPTIONS_INITIALIZER;
  tt_random random = {seed};
  int32_t at = 0;
  memset(in, 0, sizeof *in);
  in->batch = batch, in->tokens = tokens, in->options = options;
  in->batch.segments = SEGMENTS;
  in->batch.max_tokens = MOST;
  for (int b = 0; b <= SEGMENTS; b++) {
    const int32_t n = b == 1 ? 0 : b == 2 ? MOST : 5 + tt_below(&random, MOST - 5);
    in->shape[b] = s->layout == 2 ? at : n;
    at += n;
  }
  if (s->layout == 2) in->batch.total_tokens = in->shape[SEGMENTS];
  if (s->layout == 2) in->batch.cu_seqlens = in->shape;
  if (s->layout == 1) in->batch.lengths = in->shape;
  in->total = ref_total(&in->batch);
  in->roles = tt_host((size_t)in->total);
  for (int64_t i = 0; i < in->total; i++) {
    const int roll = tt_below(&random, 10);
    in->roles[i] = roll < 6 ? 1 : roll < 8 ? 2 : roll < 9 ? 3 : 0;
    if (tt_below(&random, 8) == 0) in->roles[i] |= TAILCUT_ROLE_ABSENT;
  }
  const int64_t stride = DIM + (s->strided ? 8 : 0);
  in->tokens.dtype = s->dtype;
  in->tokens.dim = DIM;
  in->tokens.row_stride = s->strided ? stride : 0;
  in->matrix_bytes = (size_t)(in->total * stride) * tt_size(s->dtype);
  in->matrix = tt_host(in->matrix_bytes);
  tt_tokens(&random, in->matrix, s->dtype, in->total, DIM, stride, (unsigned)s->spikes);
  in->tokens.data = in->matrix;
  in->options.policy = s->policy;
  if (s->policy != TAILCUT_ATTENTION) return;
  in->options.dtype = s->dtype;
  in->options.causal = s->causal, in->options.last_query = s->last_query;
  in->options.q_heads = s->q_heads, in->options.k_heads = s->k_heads;
  in->options.head_dim = s->head_dim;
  if (s->head_max) in->options.head_reduction = TAILCUT_REDUCE_MAX;
  if (s->query_max) in->options.query_reduction = TAILCUT_REDUCE_MAX;
  int64_t q_row = s->q_heads * s->head_dim, k_row = s->k_heads * s->head_dim;
  if (s->strided) { /* one matrix [q | k | v] has rows like these; heads with a gap */
    in->options.q_head_stride = s->head_dim + 4;
    in->options.q_row_stride = q_row = s->q_heads * (s->head_dim + 4) + 8;
    in->options.k_row_stride = k_row = k_row + 24;
  }
  in->q_bytes = (size_t)(in->total * q_row) * tt_size(s->dtype);
  in->k_bytes = (size_t)(in->total * k_row) * tt_size(s->dtype);
  in->q = tt_host(in->q_bytes);
  in->k = tt_host(in->k_bytes);
  for (int64_t i = 0; i < in->total * q_row; i++) {
    tt_put(in->q, s->dtype, (size_t)i, (float)(1.5 * tt_normal(&random)));
  }
  for (int64_t i = 0; i < in->total * k_row; i++) {
    tt_put(in->k, s->dtype, (size_t)i, (float)(1.5 * tt_normal(&random)));
  }
  in->options.q = in->q, in->options.k = in->k;
  if (!s->lse) return;
  const int64_t elements = in->total * s->q_heads;
  in->lse_bytes = (size_t)elements * 4;
  in->lse = tt_host(in->lse_bytes);
  for (int64_t i = 0; i < elements; i++) in->lse[i] = (float)(5.0 + 2.0 * tt_normal(&random));
  in->options.lse = in->lse;
  if (s->lse == 2) {
    in->options.lse_row_stride = 1, in->options.lse_head_stride = in->total;
    if (s->layout != 2) in->options.lse_segment_stride = MOST;
  }
}

/* What a layer left behind for row r of segment b. */
static double given_lse(const input *in, int32_t b, int32_t r, int32_t h) {
  const int64_t row = ref_segment_of(&in->batch, b).start + r;
  return (double)(in->options.lse_row_stride == 1 ? in->lse[h * in->total + row]
                                                  : in->lse[row * in->options.q_heads + h]);
}

static void drop(input *in) {
  free(in->roles), free(in->matrix), free(in->q), free(in->k), free(in->lse);
}

static double reduced(int32_t reduction, int32_t count, double a, double b) {
  return reduction == TAILCUT_REDUCE_MAX ? fmax(a, b) : a + b / count;
}

static double cosine64(const float *a, const float *b) {
  double dot = 0, aa = 0, bb = 0;
  for (int d = 0; d < DIM; d++) {
    dot += (double)a[d] * (double)b[d];
    aa += (double)a[d] * (double)a[d], bb += (double)b[d] * (double)b[d];
  }
  const double m = sqrt(aa), n = sqrt(bb), s = dot / (fmax(m, 1e-8) * fmax(n, 1e-8));
  if (!isfinite(m) || !isfinite(n)) return NAN;
  return s > 1 ? 1 : s < -1 ? -1 : s;
}

/* Element of q or k: head h of row r of segment b. */
static double head_element(const input *in, int is_q, int32_t b, int64_t r, int32_t h, int32_t d) {
  const tailcut_relevance_options *o = &in->options;
  const int32_t heads = is_q ? o->q_heads : o->k_heads;
  int64_t row = is_q ? o->q_row_stride : o->k_row_stride;
  int64_t head = is_q ? o->q_head_stride : o->k_head_stride;
  if (row == 0) row = (int64_t)heads * o->head_dim;
  if (head == 0) head = o->head_dim;
  const int64_t start =
      in->batch.cu_seqlens ? in->batch.cu_seqlens[b] : (int64_t)b * in->batch.max_tokens;
  return (double)tt_get(is_q ? in->q : in->k, o->dtype, (size_t)((start + r) * row + h * head + d));
}

/* Exact relevance of segment b in double, NaN for no candidates. */
static void relevance64(const input *in, int32_t b, double *out) {
  const tailcut_relevance_options *o = &in->options;
  const ref_segment s = ref_segment_of(&in->batch, b);
  const uint8_t *role = in->roles + s.start;
  float x[DIM], t[DIM];
  double logits[MOST], heads[MOST];
  int32_t first = 0, queries = 0, compared[MOST] = {0};
  for (int32_t i = 0; i < s.n; i++) {
    if (ref_is_query(role[i])) queries = o->last_query ? 1 : queries + 1;
    if (o->last_query && ref_is_query(role[i])) first = i;
    out[i] = 0.0;
  }
  for (int32_t q = first; q < s.n; q++) {
    if (!ref_is_query(role[q])) continue;
    memset(heads, 0, sizeof heads);
    if (o->policy != TAILCUT_ATTENTION) {
      ref_row(&in->batch, &in->tokens, b, q, t);
      for (int32_t i = 0; i < s.n; i++) {
        ref_row(&in->batch, &in->tokens, b, i, x);
        const double c = cosine64(x, t);
        if (i == q) continue;
        out[i] = compared[i]++ == 0 ? c : fmax(out[i], c); /* fmax passes NaN over */
      }
      continue;
    }
    for (int32_t h = 0; h < o->q_heads; h++) {
      const int32_t keys = o->causal ? q + 1 : s.n;
      double total = 0, highest = -INFINITY;
      for (int32_t j = 0; j < keys; j++) {
        double dot = 0;
        for (int32_t d = 0; d < o->head_dim; d++) {
          dot += head_element(in, 1, b, q, h, d) *
                 head_element(in, 0, b, j, h / (o->q_heads / o->k_heads), d);
        }
        logits[j] = dot / sqrt((double)o->head_dim);
        if (role[j] & TAILCUT_ROLE_ABSENT) logits[j] = -INFINITY; /* no key */
        highest = fmax(highest, logits[j]);
      }
      for (int32_t j = 0; j < keys; j++) total += exp(logits[j] - highest);
      const double lse = o->lse ? given_lse(in, b, q, h) : highest + log(total);
      for (int32_t j = 0; j < keys; j++) {
        heads[j] = reduced(o->head_reduction, o->q_heads, heads[j], exp(logits[j] - lse));
      }
    }
    for (int32_t j = 0; j < s.n; j++) {
      out[j] = reduced(o->query_reduction, queries, out[j], heads[j]);
    }
  }
  for (int32_t i = 0; i < s.n; i++) {
    if (!ref_is_candidate(role[i])) out[i] = NAN;
  }
}

/* What a call gave, on the host. */
typedef struct output {
  float scores[SEGMENTS * MOST];
  int32_t counts[SEGMENTS], flags[SEGMENTS], kept[SEGMENTS * MOST], cu[SEGMENTS + 1];
  uint8_t rows[SEGMENTS * MOST * 6];
} output;

/* fused: prune_sequence; otherwise its three parts. */
static output prune(const input *in, const tt_backend *backend, int fused) {
  tailcut_handle handle = tt_create(backend);
  tailcut_batch batch = in->batch;
  tailcut_tokens tokens = in->tokens;
  tailcut_relevance_options options = in->options;
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
  tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  output out;
  const size_t n = (size_t)in->total, cells = 4 * n;
  memset(&out, 0, sizeof out);
  limits.segments = SEGMENTS, limits.max_tokens = MOST, limits.total_tokens = in->total;
  limits.dim = DIM, limits.q_heads = options.q_heads, limits.head_dim = options.head_dim;
  int32_t *where = tt_upload(backend, in->shape, 4 * (SEGMENTS + (batch.cu_seqlens ? 1 : 0)), 0);
  if (batch.cu_seqlens) batch.cu_seqlens = where;
  if (batch.lengths) batch.lengths = where;
  tokens.data = tt_upload(backend, in->matrix, in->matrix_bytes, TT_TIGHT);
  options.q = in->q ? tt_upload(backend, in->q, in->q_bytes, TT_TIGHT) : NULL;
  options.k = in->k ? tt_upload(backend, in->k, in->k_bytes, TT_TIGHT) : NULL;
  options.lse = in->lse ? tt_upload(backend, in->lse, in->lse_bytes, TT_TIGHT) : NULL;
  uint8_t *roles = tt_upload(backend, in->roles, n, TT_TIGHT);
  uint8_t *positions = tt_host(6 * n);
  for (size_t i = 0; i < 6 * n; i++) positions[i] = (uint8_t)(i * 37 + i / 256);
  s.counts = tt_upload(backend, NULL, 4 * SEGMENTS, 0);
  s.flags = tt_upload(backend, NULL, 4 * SEGMENTS, 0);
  s.kept = tt_upload(backend, out.kept, cells, TT_TIGHT);
  s.new_cu_seqlens = tt_upload(backend, NULL, 4 * (SEGMENTS + 1), 0);
  float *scores = tt_upload(backend, out.scores, cells, TT_TIGHT);
  rows.src = rows.dst = tt_upload(backend, positions, 6 * n, 1);
  rows.part_bytes = 6, rows.flags = TAILCUT_ROWS_ZERO_TAIL;
  rule.detector = TAILCUT_CHORD, rule.spread = 0.3;
  /* Two workspaces, of the exact sizes. */
  tt_workspace w = tt_workspace_new(
      backend, handle, fused ? TAILCUT_CALL_PRUNE_SEQUENCE : TAILCUT_CALL_RELEVANCE, &limits);
  tt_workspace w2 = tt_workspace_new(backend, handle, TAILCUT_CALL_CUT, &limits);
  tailcut_status status[3] = {TAILCUT_OK, TAILCUT_OK, TAILCUT_OK};
  if (fused) {
    s.scores = scores;
    status[0] = tailcut_prune_sequence(handle, &batch, &tokens, roles, &options, &rule, &s, &rows,
                                       1, w.data, w.size, NULL);
  } else {
    status[0] = tailcut_relevance(handle, &batch, &tokens, roles, &options, scores, s.flags, w.data,
                                  w.size, NULL);
  }
  if (!fused) {
    rule.scale = options.policy == TAILCUT_ATTENTION ? TAILCUT_SCALE_AUTO : TAILCUT_SCALE_UNIT;
    status[1] =
        tailcut_cut(handle, &batch, scores, roles, s.flags, &rule, &s, w2.data, w2.size, NULL);
    status[2] = tailcut_compact(handle, &batch, s.kept, TAILCUT_LOCAL, s.counts, NULL, &rows, 1,
                                w2.data, w2.size, NULL);
  }
  for (int i = 0; i < 3; i++) cr_assert_eq(status[i], TAILCUT_OK, "%s", tailcut_last_error());
  tt_download(backend, out.scores, scores, cells);
  tt_download(backend, out.counts, s.counts, sizeof out.counts);
  tt_download(backend, out.flags, s.flags, sizeof out.flags);
  tt_download(backend, out.kept, s.kept, cells);
  tt_download(backend, out.cu, s.new_cu_seqlens, sizeof out.cu);
  tt_download(backend, out.rows, rows.dst, 6 * n);
  void *all[] = {where,
                 (void *)(uintptr_t)tokens.data,
                 (void *)(uintptr_t)options.q,
                 roles,
                 (void *)(uintptr_t)options.k,
                 (void *)(uintptr_t)options.lse,
                 s.counts,
                 s.flags,
                 s.kept,
                 s.new_cu_seqlens,
                 scores,
                 rows.dst,
                 w.data,
                 w2.data};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) tt_free(backend, all[i]);
  tailcut_destroy(handle);
  free(positions);
  return out;
}

static void check_close(const input *in, const output *out, const char *name, int number) {
  const double tol = in->tokens.dtype == TAILCUT_F32 ? 1e-5 : 2e-3;
  int32_t bad = 0, compared = 0;
  double want[MOST];
  for (int32_t b = 0; b < SEGMENTS; b++) {
    const ref_segment s = ref_segment_of(&in->batch, b);
    relevance64(in, b, want);
    for (int32_t i = 0; i < s.n; i++) {
      const double got = (double)out->scores[s.start + i];
      const double scale = in->options.policy == TAILCUT_ATTENTION ? fmax(want[i], 0x1p-7) : 1.0;
      if (isnan(want[i]) ? isnan(got) : fabs(got - want[i]) <= tol * scale) continue;
      printf("shape %d on %s, segment %d row %d: %g, expected %g\n", number, name, b, i, got,
             want[i]);
      bad++;
    }
    compared += s.n;
  }
  cr_assert(bad == 0 && compared > 0, "%d of %d scores are far off", bad, compared);
}

/* The kept set is the one the exact rules give for the backend's own scores. */
static void check_kept(const input *in, const output *out, const char *name, int number) {
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
  int32_t counts[SEGMENTS], flags[SEGMENTS], cu[SEGMENTS + 1], kept[SEGMENTS * MOST] = {0};
  rule.detector = TAILCUT_CHORD, rule.spread = 0.3;
  s.counts = counts, s.flags = flags, s.new_cu_seqlens = cu, s.kept = kept;
  ref_cut(&in->batch, out->scores, in->roles, out->flags, &rule,
          in->options.policy == TAILCUT_ATTENTION, &s);
  cr_assert_arr_eq(out->counts, counts, sizeof counts, "shape %d on %s", number, name);
  cr_assert_arr_eq(out->kept, kept, sizeof kept, "shape %d on %s", number, name);
  cr_assert_arr_eq(out->cu, cu, sizeof cu, "shape %d on %s", number, name);
  cr_assert_arr_eq(out->flags, flags, sizeof flags, "shape %d on %s", number, name);
}

Test(relevance, every_policy) {
  int count, run = 0;
  const tt_backend *backends = tt_backends(&count);
  for (int i = 0; i < count; i++) {
    for (int n = 0; n < SHAPES; n++) {
      input in;
      make(&shapes[n], 100 + (uint64_t)n, &in);
      const output parts = prune(&in, &backends[i], 0), fused = prune(&in, &backends[i], 1);
      run++;
      const output again = prune(&in, &backends[i], 1);
      cr_assert_arr_eq(&again, &fused, sizeof fused, "run to run, shape %d", n);
      cr_assert_arr_eq(&parts, &fused, sizeof fused, "parts differ from fused, shape %d on %s", n,
                       backends[i].name);
      if (in.options.policy != TAILCUT_MEAN_COSINE && !shapes[n].spikes) {
        check_close(&in, &fused, backends[i].name, n);
      }
      if (shapes[n].policy == TAILCUT_MAX_COSINE && shapes[n].spikes) {
        check_close(&in, &fused, backends[i].name, n);
      }
      check_kept(&in, &fused, backends[i].name, n);
      drop(&in);
    }
  }
  cr_assert_eq(run, count * SHAPES);
}
