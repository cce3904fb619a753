/* SPDX-License-Identifier: Apache-2.0 */
/* prune: the table of cases (tests/common/cases.c) on every backend: the parts and the fused call,
 * each against the reference, so parts equal the fused call and every backend equals every other;
 * then batch invariance: a segment gives the same bits alone and in any batch; and that nothing is
 * overwritten before it has been read. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "problem.h"
#include "runner.h"

static void run_kind(unsigned kind, int least) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  const tt_outcome o = tt_run_cases(kind, 0, backends, count);
  cr_assert_eq(o.failures, 0, "%d of %d runs differ from the reference", o.failures, o.runs);
  cr_assert_geq(o.cases, least, "only %d cases were run", o.cases);
}

Test(prune, visual) { run_kind(TT_VISUAL, 205); }
Test(prune, cut) { run_kind(TT_CUT, 85); }
Test(prune, sequence) { run_kind(TT_SEQUENCE, 16); }

Test(prune, names_of_cases_are_unique) {
  for (int i = 0; i < tt_case_count(); i++) {
    for (int j = 0; j < i; j++) {
      const char *name = tt_case_at(i)->name;
      cr_assert(strcmp(name, tt_case_at(j)->name) != 0, "%s twice", name);
    }
  }
}

/* One segment's results. */
typedef struct result {
  int32_t count, flags;
  int32_t kept[64];
  float scores[64];
} result;

enum { DIM = 72, MOST = 64, SEGMENTS = 9 };

/* Prunes `segments` segments that stand one after the other in `tokens`, ragged by cu. */
static void prune(const tt_backend *backend, const uint16_t *tokens, const int32_t *cu,
                  int32_t segments, int32_t source, result *out) {
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tailcut_tokens t = TAILCUT_TOKENS_INITIALIZER;
  tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  const size_t rows = (size_t)cu[segments], n = (size_t)segments;
  tailcut_handle handle = tt_create(backend);
  batch.segments = limits.segments = segments;
  batch.max_tokens = limits.max_tokens = MOST;
  batch.total_tokens = limits.total_tokens = cu[segments];
  batch.prefix_rows = source == TAILCUT_REFERENCE_ROW;
  batch.cu_seqlens = tt_upload(backend, cu, 4 * (n + 1), 0);
  t.data = tt_upload(backend, tokens, rows * DIM * 2, 0);
  t.dtype = TAILCUT_F16;
  t.dim = limits.dim = DIM;
  reference.source = source;
  rule.spread = 0.25;
  s.counts = tt_upload(backend, NULL, 4 * n, 0);
  s.flags = tt_upload(backend, NULL, 4 * n, 0);
  s.kept = tt_upload(backend, NULL, 4 * rows, 0);
  s.scores = tt_upload(backend, NULL, 4 * rows, 0);
  tt_workspace w = tt_workspace_new(backend, handle, TAILCUT_CALL_PRUNE_VISUAL, &limits);
  cr_assert_eq(tailcut_prune_visual(handle, &batch, &t, &reference, &rule, &s, NULL, 0, w.data,
                                    w.size, NULL),
               TAILCUT_OK, "%s", tailcut_last_error());
  int32_t *numbers = tt_host(4 * (2 * n + rows));
  float *scores = tt_host(4 * rows);
  tt_download(backend, numbers, s.counts, 4 * n);
  tt_download(backend, numbers + n, s.flags, 4 * n);
  tt_download(backend, numbers + 2 * n, s.kept, 4 * rows);
  tt_download(backend, scores, s.scores, 4 * rows);
  for (size_t b = 0; b < n; b++) {
    const int32_t candidates = cu[b + 1] - cu[b] - batch.prefix_rows;
    memset(&out[b], 0, sizeof out[b]);
    out[b].count = numbers[b];
    out[b].flags = numbers[n + b];
    for (int32_t j = 0; j < numbers[b]; j++) out[b].kept[j] = numbers[2 * n + (size_t)(cu[b] + j)];
    for (int32_t i = 0; i < candidates; i++) out[b].scores[i] = scores[cu[b] + i];
  }
  tt_free(backend, (void *)(uintptr_t)batch.cu_seqlens);
  tt_free(backend, (void *)(uintptr_t)t.data);
  tt_free(backend, s.counts);
  tt_free(backend, s.flags);
  tt_free(backend, s.kept);
  tt_free(backend, s.scores);
  tt_workspace_free(backend, w);
  tailcut_destroy(handle);
  free(numbers);
  free(scores);
}

static void batch_invariance(int32_t source) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  tt_random random = {77};
  int32_t cu[SEGMENTS + 1] = {0}, lengths[SEGMENTS];
  result alone[SEGMENTS], together[SEGMENTS], turned[SEGMENTS];
  for (int b = 0; b < SEGMENTS; b++) {
    lengths[b] = b == 4 ? 2 : 8 + tt_below(&random, MOST - 8);
    cu[b + 1] = cu[b] + lengths[b];
  }
  uint16_t *tokens = tt_host((size_t)cu[SEGMENTS] * DIM * 2);
  uint16_t *reversed = tt_host((size_t)cu[SEGMENTS] * DIM * 2);
  tt_tokens(&random, tokens, TAILCUT_F16, cu[SEGMENTS], DIM, DIM, TT_TIES);
  int32_t turned_cu[SEGMENTS + 1] = {0};
  for (int b = 0; b < SEGMENTS; b++) { /* the segments in reverse order */
    const int from = SEGMENTS - 1 - b;
    turned_cu[b + 1] = turned_cu[b] + lengths[from];
    memcpy(reversed + turned_cu[b] * DIM, tokens + cu[from] * DIM, (size_t)lengths[from] * DIM * 2);
  }
  for (int i = 0; i < count; i++) {
    prune(&backends[i], tokens, cu, SEGMENTS, source, together);
    prune(&backends[i], reversed, turned_cu, SEGMENTS, source, turned);
    for (int b = 0; b < SEGMENTS; b++) {
      const int32_t own[2] = {0, lengths[b]};
      prune(&backends[i], tokens + cu[b] * DIM, own, 1, source, &alone[b]);
      cr_assert_arr_eq(&alone[b], &together[b], sizeof alone[b], "segment %d on %s", b,
                       backends[i].name);
      cr_assert_arr_eq(&alone[b], &turned[SEGMENTS - 1 - b], sizeof alone[b],
                       "segment %d at another position on %s", b, backends[i].name);
    }
  }
  free(tokens);
  free(reversed);
}

Test(prune, a_segment_is_the_same_in_any_batch) {
  batch_invariance(TAILCUT_REFERENCE_ROW);
  batch_invariance(TAILCUT_REFERENCE_MEAN);
}

/* ---------------------------------------------------------- what is read and what is written -- */

enum { ROWS = 40, WIDTH = 48, IMAGES = 6, MEMORY = 12, ROW = WIDTH * 2, IMAGE = ROWS * ROW };

/* Byte offsets in one piece of memory of MEMORY images. */
typedef struct places {
  const char *name;
  size_t tokens, reference, dst;
  int64_t reference_stride; /* elements */
  int32_t placement;
  int apart; /* the rows come from other memory */
  int slots; /* and go through a table that turns their order */
} places;

static const places all_places[] = {
    {"an image's row is everybody's reference", 0, IMAGE + 2 * ROW, 0, 0, TAILCUT_LOCAL, 0, 0},
    {"the next image's first row", 0, IMAGE, 0, ROWS *WIDTH, TAILCUT_LOCAL, 0, 0},
    {"the last row of the image before", ROW, 0, ROW, ROWS *WIDTH, TAILCUT_LOCAL, 0, 0},
    {"the image's own row", 0, 3 * ROW, 0, ROWS *WIDTH, TAILCUT_LOCAL, 0, 0},
    {"packed over the scored rows", 0, IMAGES *IMAGE, 0, 0, TAILCUT_PACKED, 1, 0},
    {"by slots, the last scored row first", 0, IMAGES *IMAGE, 0, 0, TAILCUT_PACKED, 1, 1},
    {"over the next image's scored rows", 0, IMAGES *IMAGE, IMAGE, 0, TAILCUT_LOCAL, 1, 0},
    {"over the reference", 0, IMAGES *IMAGE + 8 * ROW, 6 * IMAGE, 0, TAILCUT_PACKED, 1, 0},
};

/* The call, or its parts one after the other; the memory afterwards in `out`. */
static void prune_places(const tt_backend *backend, const places *at, const char *memory,
                         const char *other, int parts, char *out) {
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  const size_t bytes = MEMORY * IMAGE;
  tailcut_handle handle = tt_create(backend);
  char *device = tt_upload(backend, memory, bytes, 0),
       *source = tt_upload(backend, other, bytes, 0);
  batch.segments = limits.segments = IMAGES;
  batch.max_tokens = limits.max_tokens = ROWS;
  tokens.dtype = TAILCUT_F16;
  limits.dim = tokens.dim = WIDTH;
  tokens.data = device + at->tokens;
  reference.data = device + at->reference;
  reference.segment_stride = at->reference_stride;
  rule.detector = TAILCUT_TOPK;
  rule.k = 25;
  rows.dst = device + at->dst;
  rows.src = at->apart ? source : rows.dst;
  rows.part_bytes = ROW;
  rows.placement = at->placement;
  int32_t table[IMAGES * ROWS];
  for (int32_t i = 0; i < IMAGES * ROWS; i++) table[i] = IMAGES * ROWS - 1 - i;
  void *slots = tt_upload(backend, table, sizeof table, 0);
  if (at->slots) rows.dst_slots = slots;
  s.counts = tt_upload(backend, NULL, 4 * IMAGES, 0);
  s.new_cu_seqlens = tt_upload(backend, NULL, 4 * (IMAGES + 1), 0);
  s.kept = tt_upload(backend, NULL, 4 * IMAGES * ROWS, 0);
  s.scores = tt_upload(backend, NULL, 4 * IMAGES * ROWS, 0);
  tt_workspace w = tt_workspace_new(backend, handle, TAILCUT_CALL_PRUNE_VISUAL, &limits);
  if (!parts) {
    cr_assert_eq(tailcut_prune_visual(handle, &batch, &tokens, &reference, &rule, &s, &rows, 1,
                                      w.data, w.size, NULL),
                 TAILCUT_OK, "%s", tailcut_last_error());
  } else {
    float *scores = s.scores;
    s.scores = NULL;
    rule.scale = TAILCUT_SCALE_UNIT;
    cr_assert_eq(
        tailcut_score(handle, &batch, &tokens, &reference, scores, NULL, w.data, w.size, NULL),
        TAILCUT_OK, "%s", tailcut_last_error());
    cr_assert_eq(tailcut_cut(handle, &batch, scores, NULL, NULL, &rule, &s, w.data, w.size, NULL),
                 TAILCUT_OK, "%s", tailcut_last_error());
    cr_assert_eq(tailcut_compact(handle, &batch, s.kept, TAILCUT_LOCAL, s.counts, s.new_cu_seqlens,
                                 &rows, 1, w.data, w.size, NULL),
                 TAILCUT_OK, "%s", tailcut_last_error());
    s.scores = scores;
  }
  tt_download(backend, out, device, bytes);
  tt_free(backend, device);
  tt_free(backend, source);
  tt_free(backend, slots);
  tt_free(backend, s.counts);
  tt_free(backend, s.new_cu_seqlens);
  tt_free(backend, s.kept);
  tt_free(backend, s.scores);
  tt_workspace_free(backend, w);
  tailcut_destroy(handle);
}

Test(prune, everything_is_read_before_it_is_overwritten) {
  const size_t values = MEMORY * ROWS * WIDTH, bytes = values * 2;
  int count;
  const tt_backend *backends = tt_backends(&count);
  tt_random random = {5};
  char *memory = tt_host(bytes), *other = tt_host(bytes), *call = tt_host(bytes);
  char *parts = tt_host(bytes);
  for (size_t p = 0; p < sizeof all_places / sizeof all_places[0]; p++) {
    tt_tokens(&random, memory, TAILCUT_F16, MEMORY * ROWS, WIDTH, WIDTH, TT_PLAIN);
    tt_tokens(&random, other, TAILCUT_F16, MEMORY * ROWS, WIDTH, WIDTH, TT_PLAIN);
    for (int i = 0; i < count; i++) {
      prune_places(&backends[i], &all_places[p], memory, other, 0, call);
      prune_places(&backends[i], &all_places[p], memory, other, 1, parts);
      cr_expect(memcmp(call, memory, bytes) != 0, "%s: nothing was written", all_places[p].name);
      cr_expect(memcmp(call, parts, bytes) == 0, "%s: the call is not its parts on %s",
                all_places[p].name, backends[i].name);
    }
  }
  free(memory);
  free(other);
  free(call);
  free(parts);
}
