/* SPDX-License-Identifier: Apache-2.0 */
/* merge: tailcut_merge with kept lists from anywhere, sound ones and damaged ones, in every layout
 * of a batch; each array, the sizes and what everything joins against the naive statement, with
 * nothing readable behind any array. The table of cases has the lists of cuts. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "data.h"
#include "reference.h"

enum { SEGMENTS = 6, ARRAYS = 4 };

/* An array as it was, as it must be, and which of its bytes are anybody's. */
typedef struct array {
  tailcut_rows rows;
  uint8_t *data, *want, *open, *src; /* src NULL: in place */
  size_t bytes, src_bytes;
} array;

typedef struct call {
  tailcut_batch batch;
  tailcut_tokens tokens;
  tailcut_merge_options options;
  int32_t shape[SEGMENTS + 1], counts[SEGMENTS], cu[SEGMENTS + 1], placement, *kept, *groups;
  int32_t *sizes_in, *sizes, *joins; /* the last two: as they must be */
  int64_t total;
  array arrays[ARRAYS];
} call;

static void make_batch(call *c, tt_random *random) {
  static const tailcut_batch defaults = TAILCUT_BATCH_INITIALIZER;
  const int layout = tt_below(random, 3);
  int32_t at = 0;
  c->batch = defaults;
  c->batch.segments = 1 + tt_below(random, SEGMENTS);
  c->batch.max_tokens = 1 + tt_below(random, tt_below(random, 2) ? 200 : 70);
  c->batch.prefix_rows = tt_below(random, 3) ? 0 : 1 + 4 * tt_below(random, 2);
  for (int32_t b = 0; b <= c->batch.segments; b++) {
    const int32_t n = tt_below(random, c->batch.max_tokens + 1);
    c->shape[b] = layout == 2 ? at : tt_below(random, 9) ? n : -1 - n;
    at += n;
  }
  if (layout == 1) c->batch.lengths = c->shape;
  if (layout == 2) c->batch.cu_seqlens = c->shape, c->batch.total_tokens = at;
  c->total = ref_total(&c->batch);
  if (tt_below(random, 4)) return;
  c->groups = tt_host(4 * (size_t)c->total + 4); /* of one row each */
  for (int32_t i = 0; i <= c->total; i++) c->groups[i] = i;
  c->batch.group_cu_seqlens = c->groups;
  c->batch.groups = (int32_t)c->total;
}

/* Ascending lists of random lengths; damage: counts out of range, indices that are no such list. */
static void make_kept(call *c, tt_random *random, int damage) {
  c->placement = tt_below(random, 2) ? TAILCUT_LOCAL : TAILCUT_PACKED;
  c->kept = tt_host(4 * (size_t)c->total + 4);
  for (int32_t b = 0; b < c->batch.segments; b++) {
    const ref_segment s = ref_segment_of(&c->batch, b);
    const int32_t share = tt_below(random, 9);
    int32_t *list = c->kept + (c->placement == TAILCUT_PACKED ? c->cu[b] : s.start), k = 0;
    for (int32_t i = 0; i < s.n; i++) {
      if (tt_below(random, 16) < share * share / 4) list[k++] = i;
    }
    c->counts[b] = k;
    c->cu[b + 1] = c->cu[b] + k;
    for (int32_t j = 0; j < k && damage; j++) {
      static const int32_t odd[] = {-1, 0, 1 << 30, INT32_MIN, INT32_MAX, 3, 7};
      const int roll = tt_below(random, 24);
      if (roll < 3) list[j] = odd[tt_below(random, 7)];
      if (roll == 3) list[j] = j > 0 ? list[j - 1] : s.n;
      if (roll == 4) list[j] = s.n - tt_below(random, 2); /* nothing behind it is followed */
      if (roll == 5) list[j] = tt_below(random, s.n);
    }
    if (damage && tt_below(random, 6) == 0) {
      c->counts[b] = tt_below(random, 2) ? -1 - k : s.n + 1 + tt_below(random, 2) * 100;
    }
  }
}

static void make_array(call *c, tt_random *random, int number) {
  static const tailcut_rows defaults = TAILCUT_ROWS_INITIALIZER;
  array *a = &c->arrays[number];
  tailcut_rows *r = &a->rows;
  const int32_t dtype = number == 0 ? c->tokens.dtype : TAILCUT_F16 + tt_below(random, 3);
  const int32_t size = (int32_t)tt_size(dtype);
  int32_t dim = number == 0 ? c->tokens.dim : 1 + tt_below(random, tt_below(random, 4) ? 40 : 700);
  const int apart = number == 2 || (number == 3 && tt_below(random, 2));
  if (number > 0 && tt_below(random, 2)) dim = (dim + 7) / 8 * 8; /* rows of whole units */
  *r = defaults;
  r->part_bytes = dim * size;
  if (number == 0 || number == 2 || tt_below(random, 2)) {
    r->flags = TAILCUT_ROWS_MERGE, r->dtype = dtype;
  }
  if (apart) r->placement = TAILCUT_LOCAL + tt_below(random, 2);
  if (tt_below(random, 3) == 0) r->flags |= TAILCUT_ROWS_ZERO_TAIL;
  if (apart && tt_below(random, 4) == 0) {
    const int64_t most = r->placement == TAILCUT_PACKED ? c->total : c->batch.max_tokens;
    r->dst_rows = 1 + tt_below(random, (int32_t)most);
  }
  a->bytes = (size_t)(c->total * dim * size);
  a->data = tt_host(a->bytes);
  a->src_bytes = apart ? a->bytes : 0;
  if (apart) a->src = tt_host(a->bytes);
  if (number == 0) memcpy(a->data, c->tokens.data, a->bytes);
  if (number > 0) {
    tt_tokens(random, apart ? a->src : a->data, dtype, c->total, dim, dim,
              tt_below(random, 2) ? TT_NOT_FINITE | TT_HUGE : 0);
  }
}

static void make(call *c, tt_random *random, int damage) {
  static const tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  static const tailcut_merge_options options = TAILCUT_MERGE_OPTIONS_INITIALIZER;
  memset(c, 0, sizeof *c);
  make_batch(c, random);
  make_kept(c, random, damage);
  c->tokens = tokens;
  c->tokens.dtype = TAILCUT_F16 + tt_below(random, 3);
  c->tokens.dim = 1 + tt_below(random, 40);
  void *x = tt_host((size_t)(c->total * c->tokens.dim) * tt_size(c->tokens.dtype));
  tt_tokens(random, x, c->tokens.dtype, c->total, c->tokens.dim, c->tokens.dim,
            (unsigned)tt_below(random, 64));
  c->tokens.data = x;
  c->options = options;
  c->options.power = tt_below(random, 2) ? TAILCUT_MERGE_COS4 : TAILCUT_MERGE_MEAN;
  c->options.window = 64 << tt_below(random, 3);
  const size_t rows = 4 * (size_t)c->total;
  if (tt_below(random, 2)) {
    c->sizes_in = tt_host(rows);
    for (int64_t i = 0; i < c->total; i++) c->sizes_in[i] = tt_below(random, 30) - 2;
  }
  c->sizes = tt_host(rows), c->joins = tt_host(rows);
  memset(c->sizes, TT_POISON, rows), memset(c->joins, TT_POISON, rows);
  for (int i = 0; i < ARRAYS; i++) make_array(c, random, i);
}

static void expect(call *c) {
  ref_plan plan;
  tailcut_merge_options options = c->options;
  options.sizes_in = c->sizes_in, options.sizes_out = c->sizes, options.joins_out = c->joins;
  ref_plan_merge(&c->batch, &c->tokens, &options, c->kept, c->placement, c->counts, c->cu, &plan);
  for (int i = 0; i < ARRAYS; i++) {
    array *a = &c->arrays[i];
    a->want = tt_host(a->bytes), a->open = tt_host(a->bytes);
    memcpy(a->want, a->data, a->bytes);
    tailcut_rows r = a->rows;
    r.dst = a->want, r.src = a->src != NULL ? a->src : a->want;
    ref_compact(&c->batch, c->kept, c->placement, c->counts, c->cu, &r, a->open, &plan);
  }
  ref_plan_free(&plan);
}

static int differs(const tt_backend *backend, int number, const char *what, const void *device,
                   const void *want, const uint8_t *open, size_t bytes) {
  uint8_t *got = tt_host(bytes);
  size_t i = 0;
  tt_download(backend, got, device, bytes);
  while (i < bytes && !ref_differs(got, want, open, i)) i++;
  if (i < bytes) {
    printf("call %d on %s: %s: byte %zu of %zu is %02x, expected %02x\n", number, backend->name,
           what, i, bytes, got[i], ((const uint8_t *)want)[i]);
  }
  free(got);
  return i < bytes;
}

static int run(const call *c, const tt_backend *backend, tailcut_handle handle, int number) {
  const size_t n = (size_t)c->batch.segments, rows = 4 * (size_t)c->total;
  tailcut_batch batch = c->batch;
  tailcut_tokens tokens = c->tokens;
  tailcut_merge_options options = c->options;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  tailcut_rows r[ARRAYS];
  void *all[32];
  int used = 0, bad = 0;
#define UP(data, bytes) (all[used++] = tt_upload(backend, data, bytes, TT_TIGHT))
  const int32_t *shape = UP(c->shape, 4 * (n + (batch.cu_seqlens != NULL)));
  if (batch.cu_seqlens != NULL) batch.cu_seqlens = shape;
  if (batch.lengths != NULL) batch.lengths = shape;
  if (c->groups != NULL) batch.group_cu_seqlens = UP(c->groups, rows + 4);
  const int32_t *kept = UP(c->kept, rows), *counts = UP(c->counts, 4 * n);
  const int32_t *cu = UP(c->cu, 4 * n + 4);
  if (c->sizes_in != NULL) options.sizes_in = UP(c->sizes_in, rows);
  options.sizes_out = UP(NULL, rows), options.joins_out = UP(NULL, rows);
  for (int i = 0; i < ARRAYS; i++) {
    const array *a = &c->arrays[i];
    r[i] = a->rows;
    r[i].dst = UP(a->data, a->bytes);
    r[i].src = a->src != NULL ? UP(a->src, a->src_bytes) : r[i].dst;
  }
  tokens.data = r[0].dst;
  limits.segments = batch.segments, limits.max_tokens = batch.max_tokens;
  limits.total_tokens = batch.total_tokens, limits.groups = batch.groups;
  limits.dim = tokens.dim, limits.window = options.window;
  tt_workspace w = tt_workspace_new(backend, handle, TAILCUT_CALL_MERGE, &limits);
  cr_assert_eq(tailcut_merge(handle, &batch, &tokens, kept, c->placement, counts, cu, &options, r,
                             ARRAYS, w.data, w.size, NULL),
               TAILCUT_OK, "%s", tailcut_last_error());
  for (int i = 0; i < ARRAYS; i++) {
    const array *a = &c->arrays[i];
    char what[80];
    snprintf(what, sizeof what, "array %d (dtype %d, %d bytes, placement %d, flags %d)", i,
             r[i].dtype, (int)r[i].part_bytes, r[i].placement, r[i].flags);
    bad |= differs(backend, number, what, r[i].dst, a->want, a->open, a->bytes);
  }
  bad |= differs(backend, number, "sizes", options.sizes_out, c->sizes, NULL, rows);
  bad |= differs(backend, number, "joins", options.joins_out, c->joins, NULL, rows);
  tt_workspace_free(backend, w);
  while (used > 0) tt_free(backend, all[--used]);
  return bad;
}

static void free_call(call *c) {
  free((void *)(uintptr_t)c->tokens.data);
  free(c->kept), free(c->groups), free(c->sizes_in), free(c->sizes), free(c->joins);
  for (int i = 0; i < ARRAYS; i++) {
    array *a = &c->arrays[i];
    free(a->data), free(a->want), free(a->open), free(a->src);
  }
}

static void run_calls(int calls, int damage, uint64_t seed) {
  int count, bad = 0;
  const tt_backend *backends = tt_backends(&count);
  tailcut_handle handles[16];
  tt_random random = {seed};
  for (int i = 0; i < count; i++) handles[i] = tt_create(&backends[i]);
  for (int number = 0; number < calls; number++) {
    call c;
    make(&c, &random, damage);
    expect(&c);
    for (int i = 0; i < count; i++) bad += run(&c, &backends[i], handles[i], number);
    free_call(&c);
  }
  for (int i = 0; i < count; i++) tailcut_destroy(handles[i]);
  cr_assert_eq(bad, 0, "%d of %d calls differ", bad, calls * count);
}

Test(merge, sound_lists) { run_calls(20, 0, 21); }
Test(merge, damaged_lists) { run_calls(30, 1, 22); }
