/* SPDX-License-Identifier: Apache-2.0 */
/* policies: relevance by hand: who is compared with whom, absent rows, rows that are their own
 * query, sequences without a query or of which no query sees a candidate, huge and tiny rows. */
#include <criterion/criterion.h>
#include <math.h>

#include "backends.h"
#include "reference.h"

enum { MOST_ROWS = 6 };

/* A sequence and its scores; what is no candidate scores NaN. q is 0, so attention is shared evenly
 * by the keys a query sees. */
typedef struct known {
  const char *name;
  int32_t policy, n;
  float tokens[MOST_ROWS][2];
  uint8_t roles[MOST_ROWS];
  float scores[MOST_ROWS];
  int32_t flags, causal, last_query;
} known;

#define MEAN TAILCUT_MEAN_COSINE
#define MAX TAILCUT_MAX_COSINE
#define ATTENTION TAILCUT_ATTENTION
#define BAD TAILCUT_FLAG_BAD_REFERENCE
#define SOME_NAN TAILCUT_FLAG_NAN
#define ANGLES                                        \
  {                                                   \
    {2, 0}, {0, 5}, {3, 4}, {-1, 0}, {0, 0}, { 0, 7 } \
  }
#define N_A_N (__builtin_nanf(""))

static const known by_hand[] = {
    {"two queries", MEAN, 6, ANGLES, {2, 2, 1, 1, 1, 0}, {0, 0, 0.7f, -0.5f, 0, 0}, 0, 0, 0},
    {"two queries", MAX, 6, ANGLES, {2, 2, 1, 1, 1, 0}, {0, 0, 0.8f, 0, 0, 0}, 0, 0, 0},
    {"absent", MEAN, 6, ANGLES, {2, 6, 1, 1, 5, 7}, {0, 0, 0.6f, -1, 0, 0}, 0, 0, 0},
    {"absent", MAX, 6, ANGLES, {2, 6, 1, 1, 5, 7}, {0, 0, 0.6f, -1, 0, 0}, 0, 0, 0},
    {"no query", MEAN, 3, ANGLES, {1, 0, 1}, {0, 0, 0}, BAD, 0, 0},
    {"no query", MAX, 3, ANGLES, {1, 0, 1}, {0, 0, 0}, BAD, 0, 0},
    {"no query but an absent one", MEAN, 3, ANGLES, {1, 6, 1}, {0, 0, 0}, BAD, 0, 0},
    {"no query but an absent one", MAX, 3, ANGLES, {1, 7, 1}, {0, 0, 0}, BAD, 0, 0},
    {"itself, in the mean", MEAN, 3, ANGLES, {3, 0, 1}, {1, 0, 0.6f}, 0, 0, 0},
    {"not itself", MAX, 3, ANGLES, {3, 0, 1}, {0, 0, 0.6f}, 0, 0, 0},
    {"each other", MAX, 3, ANGLES, {3, 3, 3}, {0.6f, 0.8f, 0.8f}, 0, 0, 0},
    {"no candidates", MEAN, 3, ANGLES, {2, 0, 5}, {0}, 0, 0, 0},
    {"no candidates, no query", MAX, 3, ANGLES, {0, 0, 5}, {0}, 0, 0, 0},
    {"opposite queries", MEAN, 4, ANGLES, {2, 0, 1, 2}, {0, 0, 0, 0}, BAD, 0, 0},
    {"a huge row",
     MEAN,
     3,
     {{1, 0}, {0x1p100f, 0}, {3, 4}},
     {2, 1, 1},
     {0, N_A_N, 0.6f},
     SOME_NAN,
     0,
     0},
    {"a huge row",
     MAX,
     3,
     {{1, 0}, {0x1p100f, 0}, {3, 4}},
     {2, 1, 1},
     {0, N_A_N, 0.6f},
     SOME_NAN,
     0,
     0},
    {"a huge query",
     MEAN,
     3,
     {{1, 0}, {0x1p100f, 0}, {3, 4}},
     {2, 2, 1},
     {0, 0, N_A_N},
     SOME_NAN | BAD,
     0,
     0},
    {"a huge query is passed over",
     MAX,
     3,
     {{1, 0}, {0x1p100f, 0}, {3, 4}},
     {2, 2, 1},
     {0, 0, 0.6f},
     0,
     0,
     0},
    {"tiny rows",
     MEAN,
     3,
     {{0x1p-20f, 0}, {0, 0x1p-20f}, {0x3p-22f, 0x4p-22f}},
     {2, 2, 1},
     {0, 0, 0.7f},
     0,
     0,
     0},
    {"tiny rows",
     MAX,
     3,
     {{0x1p-20f, 0}, {0, 0x1p-20f}, {0x3p-22f, 0x4p-22f}},
     {2, 2, 1},
     {0, 0, 0.8f},
     0,
     0,
     0},
    {"absent rows are no keys", ATTENTION, 4, {{0}}, {1, 0, 5, 2}, {1 / 3.0f}, 0, 0, 0},
    {"absent queries do not ask", ATTENTION, 4, {{0}}, {1, 6, 7, 2}, {0.5f}, 0, 0, 0},
    {"no query sees one", ATTENTION, 3, {{0}}, {2, 1, 1}, {0, 0, 0}, BAD, 1, 0},
    {"not even the last", ATTENTION, 4, {{0}}, {2, 2, 1, 6}, {0, 0, 0, 0}, BAD, 1, 1},
    {"all see all", ATTENTION, 3, {{0}}, {2, 1, 1}, {0, 1 / 3.0f, 1 / 3.0f}, 0, 0, 0},
    {"one sees one", ATTENTION, 3, {{0}}, {1, 2, 1}, {0.5f, 0, 0}, 0, 1, 0},
    {"the last sees both", ATTENTION, 4, {{0}}, {1, 2, 1, 2}, {0.25f, 0, 0.25f}, 0, 1, 1},
    {"both queries", ATTENTION, 4, {{0}}, {1, 2, 1, 2}, {0.375f, 0, 0.125f}, 0, 1, 0},
    {"an absent one is not the last", ATTENTION, 4, {{0}}, {1, 2, 5, 6}, {0.5f}, 0, 0, 1},
    {"no query at all", ATTENTION, 2, {{0}}, {1, 6}, {0, 0}, BAD, 0, 0},
    {"no candidates", ATTENTION, 2, {{0}}, {2, 0}, {0, 0}, 0, 1, 0},
};

Test(policies, by_hand) {
  static const float zeros[MOST_ROWS][2] = {{0}};
  int count;
  const tt_backend *backends = tt_backends(&count);
  for (int b = 0; b < count; b++) {
    tailcut_handle handle = tt_create(&backends[b]);
    for (size_t i = 0; i < sizeof by_hand / sizeof by_hand[0]; i++) {
      const known *k = &by_hand[i];
      tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
      tailcut_tokens t = TAILCUT_TOKENS_INITIALIZER;
      tailcut_relevance_options options = TAILCUT_RELEVANCE_OPTIONS_INITIALIZER;
      tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
      float got[MOST_ROWS];
      int32_t flags = -1;
      batch.segments = limits.segments = 1, batch.max_tokens = limits.max_tokens = k->n;
      t.dtype = TAILCUT_F32, t.dim = limits.dim = 2;
      options.policy = k->policy;
      if (k->policy == ATTENTION) {
        options.dtype = TAILCUT_F32, options.causal = k->causal, options.last_query = k->last_query;
        options.q_heads = options.k_heads = limits.q_heads = 1;
        options.head_dim = limits.head_dim = 2;
      }
      const size_t n = (size_t)k->n;
      t.data = tt_upload(&backends[b], k->tokens, 8 * n, TT_TIGHT);
      options.q = options.k = tt_upload(&backends[b], zeros, 8 * n, TT_TIGHT);
      uint8_t *roles = tt_upload(&backends[b], k->roles, n, TT_TIGHT);
      float *scores = tt_upload(&backends[b], NULL, 4 * n, TT_TIGHT);
      int32_t *out_flags = tt_upload(&backends[b], NULL, 4, TT_TIGHT);
      tt_workspace w = tt_workspace_new(&backends[b], handle, TAILCUT_CALL_RELEVANCE, &limits);
      cr_assert_eq(tailcut_relevance(handle, &batch, &t, roles, &options, scores, out_flags, w.data,
                                     w.size, NULL),
                   TAILCUT_OK, "%s", tailcut_last_error());
      tt_download(&backends[b], got, scores, 4 * n);
      tt_download(&backends[b], &flags, out_flags, 4);
      for (int r = 0; r < k->n; r++) {
        const int nan = !ref_is_candidate(k->roles[r]) || isnan(k->scores[r]);
        cr_assert(nan ? isnan(got[r]) : fabsf(got[r] - k->scores[r]) < 1e-6f,
                  "%s, policy %d, row %d on %s: %g", k->name, k->policy, r, backends[b].name,
                  (double)got[r]);
      }
      cr_assert_eq(flags, k->flags, "%s, policy %d: %d", k->name, k->policy, flags);
      void *all[] = {(void *)(uintptr_t)t.data,
                     (void *)(uintptr_t)options.q,
                     roles,
                     scores,
                     out_flags,
                     w.data};
      for (size_t m = 0; m < sizeof all / sizeof all[0]; m++) tt_free(&backends[b], all[m]);
    }
    tailcut_destroy(handle);
  }
}

/* Two heads of one channel; queries are rows 2 and 3, of which row 2 looks away from rows 0 and 1
 * with its second head, row 3 with both: p is 1/4 or 0. With an lse p is 1 / its exponential. */
enum { HEADS = 2, ROWS = 4 };
typedef struct reductions {
  int32_t heads, queries; /* 0: MEAN */
  float lse[HEADS];       /* of row 2; row 3's is ln 16. 0: none */
  int32_t by_head;        /* lse is [q_heads, rows] */
  float score;
  int32_t flags;
} reductions;
#define LN2 0.693147182f
#define GREATEST TAILCUT_REDUCE_MAX

static const reductions reductions_by_hand[] = {
    {0, 0, {0}, 0, 1 / 16.0f, 0},
    {GREATEST, 0, {0}, 0, 1 / 8.0f, 0},
    {0, GREATEST, {0}, 0, 1 / 8.0f, 0},
    {GREATEST, GREATEST, {0}, 0, 1 / 4.0f, 0},
    {0, 0, {LN2, 2 * LN2}, 0, 7 / 32.0f, 0},
    {0, 0, {LN2, 2 * LN2}, 1, 7 / 32.0f, 0},
    {GREATEST, 0, {LN2, 2 * LN2}, 1, 9 / 32.0f, 0},
    {0, GREATEST, {LN2, 2 * LN2}, 0, 3 / 8.0f, 0},
    {GREATEST, GREATEST, {LN2, 2 * LN2}, 1, 1 / 2.0f, 0},
    {0, 0, {INFINITY, 2 * LN2}, 0, N_A_N, SOME_NAN},
    {GREATEST, GREATEST, {LN2, -INFINITY}, 0, N_A_N, SOME_NAN},
    {GREATEST, GREATEST, {N_A_N, LN2}, 1, N_A_N, SOME_NAN},
};

Test(policies, reductions) {
  static const uint8_t roles[ROWS] = {1, 1, 2, 2};
  static const float q[ROWS][HEADS] = {{0}, {0}, {0, 100}, {100, 100}}, k[ROWS] = {0, 0, 1, 1};
  static const float zeros[ROWS][HEADS] = {{0}};
  int count;
  const tt_backend *backends = tt_backends(&count);
  for (int b = 0; b < count; b++) {
    const tt_backend *on = &backends[b];
    tailcut_handle handle = tt_create(on);
    for (size_t i = 0; i < sizeof reductions_by_hand / sizeof reductions_by_hand[0]; i++) {
      const reductions *r = &reductions_by_hand[i];
      const int given = r->lse[0] != 0.0f;
      tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
      tailcut_relevance_options o = TAILCUT_RELEVANCE_OPTIONS_INITIALIZER;
      tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
      float scores[ROWS], lse[ROWS * HEADS];
      int32_t flags = -1;
      for (int h = 0; h < HEADS; h++) {
        for (int t = 0; t < ROWS; t++) { /* rows that do not ask have none */
          lse[r->by_head ? h * ROWS + t : t * HEADS + h] = t < 2    ? N_A_N
                                                           : t == 2 ? r->lse[h]
                                                                    : 4 * LN2;
        }
      }
      batch.segments = limits.segments = 1, batch.max_tokens = limits.max_tokens = ROWS;
      o.policy = TAILCUT_ATTENTION, o.dtype = TAILCUT_F32;
      o.q_heads = limits.q_heads = HEADS, o.k_heads = 1, o.head_dim = limits.head_dim = 1;
      if (r->heads) o.head_reduction = r->heads;
      if (r->queries) o.query_reduction = r->queries;
      if (given && r->by_head) o.lse_row_stride = 1, o.lse_head_stride = ROWS;
      float *d_q = tt_upload(on, given ? zeros : q, sizeof q, TT_TIGHT);
      float *d_k = tt_upload(on, k, sizeof k, TT_TIGHT);
      float *d_lse = tt_upload(on, lse, sizeof lse, TT_TIGHT);
      uint8_t *d_roles = tt_upload(on, roles, sizeof roles, TT_TIGHT);
      float *d_scores = tt_upload(on, NULL, sizeof scores, TT_TIGHT);
      int32_t *d_flags = tt_upload(on, NULL, sizeof flags, TT_TIGHT);
      tt_workspace w = tt_workspace_new(on, handle, TAILCUT_CALL_RELEVANCE, &limits);
      o.q = d_q, o.k = d_k, o.lse = given ? d_lse : NULL;
      cr_assert_eq(tailcut_relevance(handle, &batch, NULL, d_roles, &o, d_scores, d_flags, w.data,
                                     w.size, NULL),
                   TAILCUT_OK, "%s", tailcut_last_error());
      tt_download(on, scores, d_scores, sizeof scores);
      tt_download(on, &flags, d_flags, sizeof flags);
      for (int t = 0; t < ROWS; t++) {
        const int nan = t >= 2 || isnan(r->score);
        cr_assert(nan ? isnan(scores[t]) : fabsf(scores[t] - r->score) < 1e-6f,
                  "%d, row %d on %s: %g, expected %g", (int)i, t, on->name, (double)scores[t],
                  (double)r->score);
      }
      cr_assert_eq(flags, r->flags, "%d on %s: %d", (int)i, on->name, flags);
      void *all[] = {d_q, d_k, d_lse, d_roles, d_scores, d_flags, w.data};
      for (size_t m = 0; m < sizeof all / sizeof all[0]; m++) tt_free(on, all[m]);
    }
    tailcut_destroy(handle);
  }
}
