/* SPDX-License-Identifier: Apache-2.0 */
/* max_cosine: MAX_COSINE close to float64 for every dtype and every size of tile that the CUDA
 * backend chooses on a device of 132 multiprocessors (which one it takes follows from how many
 * tiles there are: maxcos.cuh), with edges that are not full, rows of any alignment, roles mixed
 * and in any order; the same bits and flags when it runs again. By hand: test_policies.c. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "data.h"
#include "reference.h"

enum { SEGMENTS = 6 };

/* The first sequence; the others are small. */
typedef struct shape {
  const char *name;
  int32_t dtype, candidates, queries, dim, pad; /* pad: elements between rows */
  int32_t misalign;                             /* elements before the first */
  unsigned spikes;
  int32_t large; /* on a device only, in one form: too slow elsewhere */
} shape;

#define F16 TAILCUT_F16
#define BF16 TAILCUT_BF16
#define F32 TAILCUT_F32
#define EVERY_SPIKE (TT_TIES | TT_HUGE | TT_TINY | TT_NOT_FINITE | TT_ZERO_ROWS)
static const shape shapes[] = {
    {"16 x 32", F16, 33, 18, 264, 0, 0, 0, 0},
    {"16 x 32", BF16, 100, 70, 1000, 24, 0, 0, 0},
    {"16 x 32", F32, 33, 18, 264, 0, 0, 0, 0},
    {"16 x 32", F32, 20, 20, 4100, 0, 0, 0, 0},
    {"16 x 32", F16, 60, 60, 100, 4, 0, EVERY_SPIKE, 0},
    {"16 x 32", BF16, 60, 60, 96, 0, 0, EVERY_SPIKE, 0},
    {"16 x 32", F32, 60, 60, 96, 0, 0, EVERY_SPIKE, 0},
    {"16 x 32", F16, 33, 18, 71, 0, 0, 0, 0},
    {"16 x 32", F32, 33, 18, 70, 0, 1, 0, 0},
    {"32 x 32", F16, 310, 250, 40, 0, 0, 0, 0},
    {"32 x 32", BF16, 310, 250, 41, 0, 3, 0, 0},
    {"32 x 32", F32, 310, 250, 40, 0, 0, 0, 0},
    {"64 x 64", F16, 600, 490, 72, 0, 0, TT_NOT_FINITE, 1},
    {"64 x 64", BF16, 600, 490, 72, 8, 0, 0, 1},
    {"64 x 64", F16, 600, 490, 20, 0, 0, 0, 1},
    {"64 x 64", F32, 600, 490, 36, 0, 0, 0, 1},
    {"64 x 32", F32, 600, 250, 36, 0, 0, 0, 1},
    {"64 x 32", F32, 600, 250, 9, 0, 0, 0, 1},
    {"128 x 128", F16, 1000, 1000, 24, 0, 0, 0, 1},
    {"128 x 128", BF16, 1000, 1000, 72, 0, 0, TT_NOT_FINITE, 1},
    {"128 x 64", F32, 1500, 1000, 16, 0, 0, 0, 1},
    {"256 x 128", F16, 2000, 2000, 16, 0, 0, 0, 1},
    {"256 x 128", BF16, 2000, 2000, 40, 0, 0, TT_NOT_FINITE, 1},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

/* One input on the host, and what is right. */
typedef struct input {
  tailcut_batch batch;
  tailcut_tokens tokens;
  int32_t offsets[SEGMENTS + 1], flags[SEGMENTS];
  uint8_t *roles;
  char *matrix;
  size_t bytes;
  double *scores;
} input;

/* Roles of a sequence of candidates and queries, every tenth both, and some rows that are neither,
 * shuffled. */
static int32_t put_roles(tt_random *random, uint8_t *roles, int32_t candidates, int32_t queries) {
  const int32_t both = (candidates < queries ? candidates : queries) / 10;
  int32_t n = 0;
  for (int32_t i = 0; i < both; i++) roles[n++] = TAILCUT_ROLE_CANDIDATE | TAILCUT_ROLE_QUERY;
  for (int32_t i = both; i < candidates; i++) roles[n++] = TAILCUT_ROLE_CANDIDATE;
  for (int32_t i = both; i < queries; i++) roles[n++] = TAILCUT_ROLE_QUERY;
  for (int32_t i = 0; i < 5; i++) roles[n++] = (uint8_t)(i < 2 ? 0 : TAILCUT_ROLE_ABSENT + i - 1);
  for (int32_t i = n - 1; i > 0; i--) {
    const int32_t j = tt_below(random, i + 1);
    const uint8_t role = roles[i];
    roles[i] = roles[j];
    roles[j] = role;
  }
  return n;
}

/* Exact scores and flags of segment b in double; NaN for no candidates. A row has no cosine where
 * its norm, as computed in fp32, is not finite. */
static void max64(input *in, int32_t b) {
  const int32_t dim = in->tokens.dim, start = in->offsets[b], n = in->offsets[b + 1] - start;
  float *x = tt_host(sizeof *x * (size_t)dim * (size_t)(n + 1));
  double *norms = tt_host(sizeof *norms * (size_t)(n + 1));
  int32_t queries = 0, candidates = 0;
  for (int32_t i = 0; i < n; i++) {
    float *row = x + (size_t)i * (size_t)dim;
    double square = 0;
    ref_row(&in->batch, &in->tokens, b, i, row);
    for (int32_t d = 0; d < dim; d++) square += (double)row[d] * (double)row[d];
    norms[i] = isfinite(sqrtf(ref_dot(row, row, dim))) ? fmax(sqrt(square), 1e-8) : NAN;
    queries += ref_is_query(in->roles[start + i]);
    candidates += ref_is_candidate(in->roles[start + i]);
  }
  in->flags[b] = candidates > 0 && queries == 0 ? TAILCUT_FLAG_BAD_REFERENCE : 0;
  for (int32_t i = 0; i < n; i++) {
    double best = NAN;
    int32_t others = 0;
    in->scores[start + i] = NAN;
    if (!ref_is_candidate(in->roles[start + i])) continue;
    for (int32_t t = 0; t < n; t++) {
      if (t == i || !ref_is_query(in->roles[start + t])) continue;
      double dot = 0;
      for (int32_t d = 0; d < dim; d++) {
        dot += (double)x[(size_t)i * (size_t)dim + (size_t)d] *
               (double)x[(size_t)t * (size_t)dim + (size_t)d];
      }
      others++;
      best = fmax(best, dot / (norms[i] * norms[t])); /* passes NaN over */
    }
    in->scores[start + i] = others == 0 ? 0.0 : fmax(-1.0, best > 1.0 ? 1.0 : best);
    if (others > 0 && isnan(best)) {
      in->scores[start + i] = NAN;
      in->flags[b] |= TAILCUT_FLAG_NAN;
    }
  }
  free(x);
  free(norms);
}

static void make(const shape *s, uint64_t seed, input *in) {
  static const tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  static const tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  tt_random random = {seed};
  const int64_t most = s->candidates + s->queries + SEGMENTS * 100, stride = s->dim + s->pad;
  memset(in, 0, sizeof *in);
  in->roles = tt_host((size_t)most);
  for (int32_t b = 0; b < SEGMENTS; b++) {
    const int32_t candidates = b == 0 ? s->candidates : b == 1 ? 0 : tt_below(&random, 40);
    const int32_t queries = b == 0 ? s->queries : b == 2 ? 0 : tt_below(&random, 40);
    const int32_t n = put_roles(&random, in->roles + in->offsets[b], candidates, queries);
    in->offsets[b + 1] = in->offsets[b] + n;
  }
  const int32_t total = in->offsets[SEGMENTS];
  in->batch = batch, in->tokens = tokens;
  in->batch.segments = SEGMENTS;
  in->batch.max_tokens = in->batch.total_tokens = total;
  in->batch.cu_seqlens = in->offsets;
  in->bytes = (size_t)(total * stride) * tt_size(s->dtype);
  in->matrix = tt_host(in->bytes);
  tt_tokens(&random, in->matrix, s->dtype, total, s->dim, stride, s->spikes);
  in->tokens.data = in->matrix;
  in->tokens.dtype = s->dtype;
  in->tokens.dim = s->dim;
  in->tokens.row_stride = stride;
  in->scores = tt_host(sizeof *in->scores * (size_t)total);
  for (int32_t b = 0; b < SEGMENTS; b++) max64(in, b);
}

static void drop(input *in) { free(in->roles), free(in->matrix), free(in->scores); }

/* Scores and flags of one call, which is made twice, with other scores in the array before. */
static void run(const input *in, const tt_backend *backend, const shape *s, float *scores,
                int32_t *flags) {
  tailcut_handle handle = tt_create(backend);
  tailcut_batch batch = in->batch;
  tailcut_tokens tokens = in->tokens;
  tailcut_relevance_options options = TAILCUT_RELEVANCE_OPTIONS_INITIALIZER;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  const size_t cells = 4 * (size_t)batch.total_tokens;
  float *again = tt_host(cells);
  limits.segments = SEGMENTS, limits.max_tokens = batch.max_tokens;
  limits.total_tokens = batch.total_tokens, limits.dim = tokens.dim;
  options.policy = TAILCUT_MAX_COSINE;
  batch.cu_seqlens = tt_upload(backend, in->offsets, sizeof in->offsets, 0);
  tokens.data =
      tt_upload(backend, in->matrix, in->bytes, (size_t)s->misalign * tt_size(tokens.dtype));
  uint8_t *roles = tt_upload(backend, in->roles, (size_t)batch.total_tokens, 1);
  float *out = tt_upload(backend, NULL, cells, TT_TIGHT);
  int32_t *out_flags = tt_upload(backend, NULL, 4 * SEGMENTS, 0);
  tt_workspace w = tt_workspace_new(backend, handle, TAILCUT_CALL_RELEVANCE, &limits);
  for (int turn = 0; turn < 2; turn++) {
    cr_assert_eq(tailcut_relevance(handle, &batch, &tokens, roles, &options, out, out_flags, w.data,
                                   w.size, NULL),
                 TAILCUT_OK, "%s", tailcut_last_error());
    tt_download(backend, turn ? again : scores, out, cells);
  }
  tt_download(backend, flags, out_flags, 4 * SEGMENTS);
  cr_assert_arr_eq(again, scores, cells, "run to run, %s on %s", s->name, backend->name);
  void *all[] = {(void *)(uintptr_t)batch.cu_seqlens,
                 (void *)(uintptr_t)tokens.data,
                 roles,
                 out,
                 out_flags,
                 w.data};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) tt_free(backend, all[i]);
  tailcut_destroy(handle);
  free(again);
}

static int is_large(const tt_backend *backend, const shape *s) {
  return s->large &&
         (backend->device_kind == TAILCUT_DEVICE_CPU || backend->form != TT_FORM_DEVICE);
}

Test(max_cosine, close_in_every_tile) {
  int count, compared = 0, bad = 0;
  const tt_backend *backends = tt_backends(&count);
  for (int n = 0; n < SHAPES; n++) {
    const shape *s = &shapes[n];
    const double tol = s->dtype == F32 ? 1e-5 : 2e-3;
    input in;
    int wanted = 0;
    for (int i = 0; i < count; i++) wanted += !is_large(&backends[i], s);
    if (wanted == 0) continue;
    make(s, 500 + (uint64_t)n, &in);
    const int32_t total = in.offsets[SEGMENTS];
    float *scores = tt_host(4 * (size_t)total);
    for (int i = 0; i < count; i++) {
      int32_t flags[SEGMENTS];
      if (is_large(&backends[i], s)) continue;
      run(&in, &backends[i], s, scores, flags);
      for (int32_t r = 0; r < total; r++) {
        const double got = (double)scores[r], want = in.scores[r];
        compared++;
        if (isnan(want) ? isnan(got) : fabs(got - want) <= tol) continue;
        if (bad++ < 20) {
          printf("%s of dtype %d and dim %d on %s, row %d: %g, expected %g\n", s->name,
                 (int)s->dtype, (int)s->dim, backends[i].name, (int)r, got, want);
        }
      }
      cr_assert_arr_eq(flags, in.flags, sizeof flags, "%s of dtype %d and dim %d on %s", s->name,
                       (int)s->dtype, (int)s->dim, backends[i].name);
    }
    free(scores);
    drop(&in);
  }
  cr_assert(bad == 0 && compared > 0, "%d of %d scores are far off", bad, compared);
}
