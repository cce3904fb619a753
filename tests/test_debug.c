/* SPDX-License-Identifier: Apache-2.0 */
/* debug: TAILCUT_DEBUG=slots on every backend: what it refuses, in which words and with nothing
 * written; what it lets pass; that it is off unless asked for, and under stream capture. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "data.h"

#if defined(TAILCUT_HAVE_CUDA)
#include <cuda_runtime_api.h>
#endif

enum {
  SEGMENTS = 2,
  T = 8,
  ROWS = SEGMENTS * T,
  DIM = 4,
  BLOCK = 4,
  POOL = 48,
  WIDTH = 6,
  KEEP = 3
};
enum { STRIDE = 8, PAGE = BLOCK * STRIDE + 16, BYTES = POOL / BLOCK * PAGE };

typedef enum kind { FUSED, COMPACT, SEQUENCE } kind;

/* One call: two arrays through tables of slots, which start as 0, 1, 2, ... for sources and, where
 * they have one of their own, 24, 25, 26, ... for results. */
typedef struct trial {
  const char *name;
  struct {
    char table; /* s: the first array's src_slots, or its only table; d: dst_slots; 0: no more */
    int row;
    int64_t slot;
  } change[4];
  kind kind;
  int apart; /* results have a table of their own, into the same memory */
  int packed, wide, zero_tail, same_pool;
  const char *message; /* NULL: sound */
  tailcut_status status;
} trial;

#define SOUND .status = TAILCUT_OK
#define OVERLAP(array, table, row, slot, other, by, other_slot)                               \
  .message = "rows[" #array "]." #table "_slots: row " #row " has slot " #slot                \
             ", the place of row " #other " by rows[0]." #by "_slots, slot " #other_slot ";", \
  .status = TAILCUT_ERROR_OVERLAP
#define RANGE(row, slot)                                                                   \
  .message = "rows[0].src_slots: row " #row " has slot " #slot "; expected -1, or one of", \
  .status = TAILCUT_ERROR_RANGE

static const trial trials[] = {
    {"sound", SOUND},
    {"sound, 64 bits", .wide = 1, SOUND},
    {"sound, apart", .apart = 1, SOUND},
    {"two rows in place", {{'s', 6, 1}}, OVERLAP(0, src, 6, 1, 1, src, 1)},
    {"of two segments, 64 bits", {{'s', 14, 2}}, .wide = 1, OVERLAP(0, src, 14, 2, 2, src, 2)},
    {"no row twice", {{'s', 1, -1}, {'s', 2, -1}, {'s', 9, -1}}, SOUND},
    {"below -1", {{'s', 5, -2}}, RANGE(5, -2)},
    {"far out", {{'s', 5, INT64_MAX - 1}}, .wide = 1, RANGE(5, 9223372036854775806)},
    {"two sources that no result is put on", {{'s', 4, 40}, {'s', 7, 40}}, SOUND},
    {"but for a tail that is cleared",
     {{'s', 4, 40}, {'s', 7, 40}},
     .zero_tail = 1,
     OVERLAP(0, src, 7, 40, 4, src, 40)},
    {"two sources apart", {{'s', 1, 0}}, .apart = 1, SOUND},
    {"two results apart", {{'d', 9, 24}}, .apart = 1, OVERLAP(0, dst, 9, 24, 0, dst, 24)},
    {"two results behind the last", {{'d', 7, 24}}, .apart = 1, SOUND},
    {"a result on another row's source",
     {{'d', 2, 5}},
     .apart = 1,
     OVERLAP(0, dst, 2, 5, 5, src, 5)},
    {"a result on its own row's source", {{'d', 2, 2}}, .apart = 1, SOUND},
    {"packed: two results",
     {{'d', 5, 24}},
     .apart = 1,
     .packed = 1,
     OVERLAP(0, dst, 5, 24, 0, dst, 24)},
    {"packed: behind the last", {{'d', 6, 24}}, .apart = 1, .packed = 1, SOUND},
    {"packed: on the source of that number",
     {{'d', 2, 2}},
     .apart = 1,
     .packed = 1,
     OVERLAP(0, dst, 2, 2, 2, src, 2)},
    {"the second array is the first", .same_pool = 1, OVERLAP(1, src, 0, 0, 0, src, 0)},
    /* Kept: 1, 4, 6 of the first segment, 0 and 3 of the second. */
    {"compact: a source on a result", {{'s', 6, 2}}, COMPACT, OVERLAP(0, src, 6, 2, 2, src, 2)},
    {"compact: rows not kept", {{'s', 5, 1}, {'s', 7, 4}, {'s', 12, 0}}, COMPACT, SOUND},
    {"compact: two sources", {{'s', 4, 40}, {'s', 6, 40}}, COMPACT, SOUND},
    {"compact, packed: two results",
     {{'d', 4, 25}},
     COMPACT,
     .apart = 1,
     .packed = 1,
     OVERLAP(0, dst, 4, 25, 1, dst, 25)},
    {"compact, packed: behind them", {{'d', 5, 25}}, COMPACT, .apart = 1, .packed = 1, SOUND},
    /* The last two rows of each segment are ABSENT. */
    {"padding", {{'s', 6, 0}, {'s', 7, 0}, {'s', 14, 0}, {'s', 15, 0}}, SEQUENCE, SOUND},
    {"padding that is cleared",
     {{'s', 6, 40}, {'s', 7, 40}},
     SEQUENCE,
     .zero_tail = 1,
     OVERLAP(0, src, 7, 40, 6, src, 40)},
};
enum { TRIALS = sizeof trials / sizeof trials[0] };

typedef struct memory {
  void *all[16];
  int count;
} memory;

static void *up(const tt_backend *backend, memory *m, const void *data, size_t bytes) {
  return m->all[m->count++] = tt_upload(backend, data, bytes, 0);
}

static void *table_of(const tt_backend *backend, memory *m, const trial *t, int side) {
  int64_t wide[ROWS];
  int32_t narrow[ROWS];
  for (int i = 0; i < ROWS; i++) wide[i] = i + (side ? 24 : 0);
  for (int i = 0; i < 4 && t->change[i].table; i++) {
    if (t->change[i].table == (side ? 'd' : 's')) wide[t->change[i].row] = t->change[i].slot;
  }
  for (int i = 0; i < ROWS; i++) narrow[i] = (int32_t)wide[i];
  return t->wide ? up(backend, m, wide, sizeof wide) : up(backend, m, narrow, sizeof narrow);
}

/* The status of a trial; *changed: a byte of the pools was. stream: as a run call's. */
static tailcut_status run(const tt_backend *backend, tailcut_handle handle, const trial *t,
                          void *stream, int *changed) {
  static const uint8_t roles[ROWS] = {2, 1, 1, 1, 1, 1, 4, 5, 2, 1, 1, 1, 1, 1, 4, 5};
  static const int32_t kept[ROWS] = {1, 4, 6, [T] = 0, 3}, counts[SEGMENTS] = {3, 2};
  static const int32_t cu[SEGMENTS + 1] = {0, 3, 5};
  float tokens[ROWS][DIM] = {{0}};
  char pool[BYTES], got[BYTES];
  memory m = {{NULL}, 0};
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tailcut_tokens x = TAILCUT_TOKENS_INITIALIZER;
  tailcut_reference mean = TAILCUT_REFERENCE_INITIALIZER;
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  tailcut_rows rows[2] = {TAILCUT_ROWS_INITIALIZER, TAILCUT_ROWS_INITIALIZER};
  for (int i = 0; i < ROWS; i++) tokens[i][0] = 1.0f, tokens[i][1] = (float)(i % 5);
  for (int i = 0; i < BYTES; i++) pool[i] = (char)(i * 7 + 1);
  batch.segments = limits.segments = SEGMENTS, batch.max_tokens = limits.max_tokens = T;
  x.data = up(backend, &m, tokens, sizeof tokens), x.dtype = TAILCUT_F32, x.dim = DIM;
  limits.dim = DIM;
  mean.source = TAILCUT_REFERENCE_MEAN;
  rule.detector = TAILCUT_TOPK, rule.k = KEEP;
  s.counts = up(backend, &m, counts, sizeof counts);
  s.kept = up(backend, &m, kept, sizeof kept);
  s.new_cu_seqlens = up(backend, &m, cu, sizeof cu);
  const uint8_t *who = up(backend, &m, roles, sizeof roles);
  char *at[2] = {up(backend, &m, pool, BYTES), up(backend, &m, pool, BYTES)};
  for (int i = 0; i < 2; i++) {
    tailcut_rows *r = &rows[i];
    r->src = r->dst = at[t->same_pool ? 0 : i];
    r->part_bytes = WIDTH, r->slot_bytes = t->wide ? 8 : 4;
    r->src_row_stride = r->dst_row_stride = STRIDE;
    r->page_rows = BLOCK, r->page_stride = PAGE;
    if (t->packed) r->placement = TAILCUT_PACKED;
    if (t->zero_tail) r->flags = TAILCUT_ROWS_ZERO_TAIL;
  }
  const trial sound = {.wide = t->wide};
  rows[0].src_slots = table_of(backend, &m, t, 0);
  rows[0].dst_slots = t->apart ? table_of(backend, &m, t, 1) : rows[0].src_slots;
  rows[1].src_slots = table_of(backend, &m, &sound, 0);
  rows[1].dst_slots = t->apart ? table_of(backend, &m, &sound, 1) : rows[1].src_slots;
  const int32_t calls[] = {TAILCUT_CALL_PRUNE_VISUAL, TAILCUT_CALL_COMPACT,
                           TAILCUT_CALL_PRUNE_SEQUENCE};
  tt_workspace w = tt_workspace_new(backend, handle, calls[t->kind], &limits);
  backend->memory->sync();
  const tailcut_status status =
      t->kind == FUSED ? tailcut_prune_visual(handle, &batch, &x, &mean, &rule, &s, rows, 2, w.data,
                                              w.size, stream)
      : t->kind == COMPACT ? tailcut_compact(handle, &batch, s.kept, TAILCUT_LOCAL, s.counts,
                                             s.new_cu_seqlens, rows, 2, w.data, w.size, stream)
                           : tailcut_prune_sequence(handle, &batch, &x, who, NULL, &rule, &s, rows,
                                                    2, w.data, w.size, stream);
  *changed = 0;
  for (int i = 0; i < 2; i++) {
    tt_download(backend, got, at[i], BYTES);
    *changed |= memcmp(got, pool, BYTES) != 0;
  }
  for (int i = 0; i < m.count; i++) tt_free(backend, m.all[i]);
  tt_workspace_free(backend, w);
  return status;
}

Test(debug, slots) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  for (int i = 0; i < count; i++) {
    setenv("TAILCUT_DEBUG", "slots", 1);
    tailcut_handle handle = tt_create(&backends[i]);
    for (int n = 0; n < TRIALS; n++) {
      const trial *t = &trials[n];
      int changed;
      const tailcut_status status = run(&backends[i], handle, t, NULL, &changed);
      cr_expect_eq(status, t->status, "%s on %s: %s (%s)", t->name, backends[i].name,
                   tailcut_status_string(status), tailcut_last_error());
      cr_expect_eq(changed, t->message == NULL, "%s on %s: what is written", t->name,
                   backends[i].name);
      if (t->message == NULL) continue;
      cr_expect(strncmp(tailcut_last_error(), t->message, strlen(t->message)) == 0, "%s on %s: %s",
                t->name, backends[i].name, tailcut_last_error());
    }
    tailcut_destroy(handle);
  }
}

/* Random tables into one small pool: the verdict is that of a look at every pair of rows, and a
 * call that passes gives every result the source that was there before. */
typedef struct draw {
  int64_t src[T], dst[T]; /* equal: in place by one table */
  int32_t kept[T], count[1];
  int one_table;
} draw;

static draw draw_tables(tt_random *random) {
  draw d;
  memset(&d, 0, sizeof d);
  const int32_t pool = 6 + tt_below(random, 20);
  d.one_table = tt_below(random, 2);
  for (int i = 0; i < T; i++) {
    d.src[i] = tt_below(random, 5) == 0 ? -1 : tt_below(random, 3) ? i : tt_below(random, pool);
    d.dst[i] = tt_below(random, 3) ? d.src[i] : 8 + tt_below(random, pool);
    if (d.one_table) d.dst[i] = d.src[i];
    if (tt_below(random, 2)) d.kept[d.count[0]++] = i;
  }
  static const int32_t odd[] = {-1, INT32_MIN, INT32_MAX, T, 0};
  if (tt_below(random, 6) == 0) d.kept[tt_below(random, T)] = odd[tt_below(random, 5)];
  return d;
}

/* An index that is followed. */
static int is_read(const draw *d, int j) {
  return d->kept[j] >= j && d->kept[j] < T && (j == 0 || d->kept[j] > d->kept[j - 1]);
}

/* Whether two rows of the call share a place that one of them writes: row i is read when it is
 * kept, result j < count is written. */
static int is_unsound(const draw *d) {
  int unsound = 0;
  for (int j = 0; j < d->count[0]; j++) {
    if (d->dst[j] < 0) continue;
    for (int i = 0; i < d->count[0]; i++) {
      if (i != j && d->dst[i] == d->dst[j]) unsound = 1;
      if (is_read(d, i) && d->kept[i] != j && d->src[d->kept[i]] == d->dst[j]) unsound = 1;
    }
  }
  return unsound;
}

Test(debug, random_tables) {
  int count, sound = 0, unsound = 0;
  const tt_backend *backends = tt_backends(&count);
  setenv("TAILCUT_DEBUG", "slots", 1);
  for (int i = 0; i < count; i++) {
    const tt_backend *b = &backends[i];
    tt_random random = {31};
    tailcut_handle handle = tt_create(b);
    for (int n = 0; n < 120; n++) {
      const draw d = draw_tables(&random);
      char pool[34 * STRIDE], got[34 * STRIDE];
      memory m = {{NULL}, 0};
      tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
      tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
      tailcut_rows r = TAILCUT_ROWS_INITIALIZER;
      for (size_t k = 0; k < sizeof pool; k++) pool[k] = (char)(k * 7 + k / 31);
      batch.segments = limits.segments = 1, batch.max_tokens = limits.max_tokens = T;
      r.src = r.dst = up(b, &m, pool, sizeof pool), r.part_bytes = STRIDE, r.slot_bytes = 8;
      r.src_slots = r.dst_slots = up(b, &m, d.src, sizeof d.src);
      if (!d.one_table) r.dst_slots = up(b, &m, d.dst, sizeof d.dst);
      const int32_t *kept = up(b, &m, d.kept, sizeof d.kept);
      const int32_t *number = up(b, &m, d.count, sizeof d.count);
      tt_workspace w = tt_workspace_new(b, handle, TAILCUT_CALL_COMPACT, &limits);
      const tailcut_status status = tailcut_compact(handle, &batch, kept, TAILCUT_LOCAL, number,
                                                    NULL, &r, 1, w.data, w.size, NULL);
      cr_expect_eq(status, is_unsound(&d) ? TAILCUT_ERROR_OVERLAP : TAILCUT_OK, "%d on %s: %s", n,
                   b->name, tailcut_last_error());
      tt_download(b, got, r.dst, sizeof got);
      for (int j = 0; j < d.count[0] && status == TAILCUT_OK; j++) {
        if (!is_read(&d, j) || d.dst[j] < 0 || d.src[d.kept[j]] < 0) continue;
        cr_expect(memcmp(got + d.dst[j] * STRIDE, pool + d.src[d.kept[j]] * STRIDE, STRIDE) == 0,
                  "%d on %s: result %d", n, b->name, j);
      }
      if (status != TAILCUT_OK) cr_expect(memcmp(got, pool, sizeof pool) == 0);
      sound += status == TAILCUT_OK, unsound += status != TAILCUT_OK;
      for (int k = 0; k < m.count; k++) tt_free(b, m.all[k]);
      tt_workspace_free(b, w);
    }
    tailcut_destroy(handle);
  }
  cr_assert(sound > 15 * count && unsound > 15 * count, "%d, %d", sound, unsound);
}

/* What is wrong runs: on the CPU, where it is no race. A slot below -1 is no row. */
static int runs_without(const tt_backend *backend, const trial *t) {
  if (t->status == TAILCUT_ERROR_RANGE) return t->change[0].slot < 0;
  return t->status != TAILCUT_OK && backend->device_kind == TAILCUT_DEVICE_CPU &&
         backend->threads == 1;
}

Test(debug, off_unless_asked_for) {
  int count, run_now = 0;
  const tt_backend *backends = tt_backends(&count);
  for (int i = 0; i < count; i++) {
    unsetenv("TAILCUT_DEBUG");
    if (i % 2) setenv("TAILCUT_DEBUG", "", 1);
    tailcut_handle handle = tt_create(&backends[i]);
    setenv("TAILCUT_DEBUG", "slots", 1); /* read at create alone */
    for (int n = 0; n < TRIALS; n++) {
      int changed;
      if (!runs_without(&backends[i], &trials[n])) continue;
      cr_expect_eq(run(&backends[i], handle, &trials[n], NULL, &changed), TAILCUT_OK, "%s",
                   trials[n].name);
      cr_expect(changed, "%s", trials[n].name);
      run_now++;
    }
    tailcut_destroy(handle);
  }
  cr_assert_geq(run_now, count);
}

Test(debug, other_words_are_refused) {
  static const char *const words[] = {"slot", "slots,", "1", "off", "Slots"};
  tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
    tailcut_handle handle = NULL;
    char expected[64];
    setenv("TAILCUT_DEBUG", words[i], 1);
    cr_assert_eq(tailcut_create(&handle, &config), TAILCUT_ERROR_ENUM);
    cr_assert_null(handle);
    snprintf(expected, sizeof expected, "TAILCUT_DEBUG is '%s'; expected slots", words[i]);
    cr_assert_str_eq(tailcut_last_error(), expected);
  }
}

#if defined(TAILCUT_HAVE_CUDA)
/* A captured call is not looked at, which the log says. */
Test(debug, under_capture) {
  int count;
  const tt_backend *backend = tt_backends(&count);
  if (backend->device_kind != TAILCUT_DEVICE_CUDA) return;
  char path[] = "/tmp/tailcut-test-XXXXXX", value[64], text[4096] = "";
  cr_assert_geq(mkstemp(path), 0);
  snprintf(value, sizeof value, "info:%s", path);
  setenv("TAILCUT_LOG", value, 1);
  setenv("TAILCUT_DEBUG", "slots", 1);
  tailcut_handle handle = tt_create(backend);
  cudaStream_t stream;
  cudaGraph_t graph;
  int32_t slots[ROWS], counts[1] = {2}, kept[2] = {3, 5};
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  tailcut_rows r = TAILCUT_ROWS_INITIALIZER;
  for (int i = 0; i < ROWS; i++) slots[i] = 7; /* as wrong as can be */
  memory m = {{NULL}, 0};
  batch.segments = limits.segments = 1, batch.max_tokens = limits.max_tokens = T;
  r.src = r.dst = up(backend, &m, NULL, 128), r.part_bytes = 8;
  r.src_slots = r.dst_slots = up(backend, &m, slots, sizeof slots);
  const int32_t *list = up(backend, &m, kept, sizeof kept);
  const int32_t *number = up(backend, &m, counts, sizeof counts);
  tt_workspace w = tt_workspace_new(backend, handle, TAILCUT_CALL_COMPACT, &limits);
  backend->memory->sync();
  for (int captured = 0; captured < 2; captured++) {
    cr_assert_eq(cudaStreamCreate(&stream), cudaSuccess);
    if (captured) cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    cr_expect_eq(tailcut_compact(handle, &batch, list, TAILCUT_LOCAL, number, NULL, &r, 1, w.data,
                                 w.size, stream),
                 captured ? TAILCUT_OK : TAILCUT_ERROR_OVERLAP, "%s", tailcut_last_error());
    cr_expect_eq(tailcut_last_error()[0] == '\0', captured);
    if (captured) cr_assert_eq(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    if (captured) cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  }
  cr_expect_eq(cudaGetLastError(), cudaSuccess);
  for (int i = 0; i < m.count; i++) tt_free(backend, m.all[i]);
  tt_workspace_free(backend, w);
  tailcut_destroy(handle);
  FILE *log = fopen(path, "r");
  text[fread(text, 1, sizeof text - 1, log)] = '\0';
  fclose(log);
  remove(path);
  cr_expect(strstr(text, "TAILCUT_DEBUG=slots: not checked: the stream is being captured") != NULL,
            "%s", text);
}
#endif
