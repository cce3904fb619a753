/* SPDX-License-Identifier: Apache-2.0 */
/* compact: random kept lists on row arrays of every shape: rows of 1 to 16384 bytes, parts,
 * strides, slots and pages, in place, LOCAL and PACKED, small destinations, zero tails, renumbering
 * from a base, keys that turn, damaged lists and group offsets; each against the naive
 * compaction, gaps and neighbours included, and against each other. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data.h"
#include "problem.h"
#include "reference.h"
#include "runner.h"

/* Which arrays are tried: of any shape; rows of whole units of 16 bytes, as fast forms take
 * them; the same in place in segments that one block would take long for. */
enum { ANY, ALIGNED, LONG };

/* One random call: a batch, a kept list, one array. */
typedef struct call {
  int shapes;
  tailcut_batch batch;
  int32_t shape[12], counts[12], cu[13];
  int32_t *kept, *offsets; /* of groups */
  int64_t base[12];
  int64_t total;
  int32_t placement;
  tailcut_rows rows;
  tailcut_rotation rotation; /* struct_size 0: none */
  float *angles;
  uint8_t *positions;
  uint8_t *src, *dst, *want, *open, *slots, *dst_slots;
  size_t src_bytes, dst_bytes, slot_bytes;
  int in_place;
  size_t misalign;
} call;

static void make_batch(call *c, tt_random *random) {
  static const tailcut_batch defaults = TAILCUT_BATCH_INITIALIZER;
  const int layout = tt_below(random, 3);
  int32_t at = 0;
  c->batch = defaults;
  c->batch.segments = 1 + tt_below(random, c->shapes == LONG ? 2 : 6);
  c->batch.max_tokens = c->shapes == LONG ? 8200 + tt_below(random, 500) : 1 + tt_below(random, 40);
  c->batch.prefix_rows = tt_below(random, 3) ? 0 : 1 + 4 * tt_below(random, 2);
  for (int32_t b = 0; b <= c->batch.segments; b++) {
    const int32_t n = tt_below(random, c->batch.max_tokens + 1);
    c->shape[b] = layout == 2 ? at : n;
    at += n;
  }
  if (layout == 1) c->batch.lengths = c->shape;
  if (layout == 2) {
    c->batch.cu_seqlens = c->shape;
    c->batch.total_tokens = c->shape[c->batch.segments] + tt_below(random, 3);
  }
  c->total = ref_total(&c->batch);
}

/* A group for every row. damage: one offset is another's, or no row's. */
static void make_groups(call *c, tt_random *random, int damage) {
  if (c->shapes == LONG || tt_below(random, 4) != 0) return;
  c->offsets = tt_host(4 * (size_t)c->total + 4);
  for (int32_t i = 0; i <= c->total; i++) c->offsets[i] = i;
  const int32_t at = tt_below(random, (int32_t)c->total + 1);
  const int roll = tt_below(random, 3);
  if (damage) {
    c->offsets[at] = roll == 0 ? (int32_t)c->total + 1 : roll == 1 ? -1 : at > 0 ? at - 1 : 0;
  }
  c->batch.groups = (int32_t)c->total;
  c->batch.group_cu_seqlens = c->offsets;
}

/* Ascending lists of random lengths; damage: counts out of range, indices that are no such list. */
static void make_kept(call *c, tt_random *random, int damage) {
  c->kept = tt_host(4 * (size_t)c->total + 4);
  memset(c->kept, 0x7F, 4 * (size_t)c->total);
  c->cu[0] = 0;
  for (int32_t b = 0; b < c->batch.segments; b++) {
    const ref_segment s = ref_segment_of(&c->batch, b);
    const int32_t share = 1 + tt_below(random, 8);
    int32_t *list = c->kept + (c->placement == TAILCUT_PACKED ? c->cu[b] : s.start), k = 0;
    for (int32_t i = 0; i < s.n; i++) {
      if (tt_below(random, 8) < share) list[k++] = i;
    }
    c->counts[b] = k;
    c->cu[b + 1] = c->cu[b] + k;
    if (!damage) continue;
    for (int32_t j = 0; j < k; j++) {
      static const int32_t odd[] = {-1, 0, 1 << 30, INT32_MIN, INT32_MAX, 3, 7};
      if (tt_below(random, 3) == 0) list[j] = odd[tt_below(random, 7)];
      if (tt_below(random, 6) == 0) list[j] = j > 0 ? list[j - 1] : s.n;
      if (tt_below(random, 9) == 0) list[j] = s.n;
    }
    if (tt_below(random, 5) == 0) c->counts[b] = tt_below(random, 2) ? -1 - k : s.n + 1;
  }
}

static uint8_t *random_bytes(tt_random *random, size_t n) {
  uint8_t *p = tt_host(n);
  for (size_t i = 0; i < n; i++) p[i] = (uint8_t)tt_next(random);
  return p;
}

static uint8_t *make_slots(const call *c, tt_random *random, int32_t bytes) {
  uint8_t *table = tt_host((size_t)(c->total * bytes));
  int64_t slot = c->total - 1;
  for (int64_t i = 0; i < c->total; i++, slot--) { /* backwards: any distinct order will do */
    const int64_t wide = tt_below(random, 6) == 0 ? -1 : slot;
    const int32_t narrow = (int32_t)wide;
    memcpy(table + i * bytes, bytes == 8 ? (const void *)&wide : (const void *)&narrow,
           (size_t)bytes);
  }
  return table;
}

static const int64_t widths[] = {1,   2,   3,    4,    7,    8,    12,   16,   17,   31,  32,
                                 48,  63,  64,   65,   96,   127,  128,  144,  255,  256, 257,
                                 512, 768, 1000, 1024, 2048, 4095, 4096, 8192, 16384};

/* Bits of all that addresses are made of. */
static int64_t address_bits(const call *c) {
  const tailcut_rows *r = &c->rows;
  const int64_t rows = r->src_row_stride | r->dst_row_stride | r->page_stride;
  return r->part_bytes | rows | r->src_part_stride | r->dst_part_stride | (int64_t)c->misalign;
}

/* Keys, where values of some dtype stand at multiples of their size. */
static void make_rotation(call *c, tt_random *random) {
  static const tailcut_rotation defaults = TAILCUT_ROTATION_INITIALIZER;
  tailcut_rotation *t = &c->rotation;
  const int64_t bits = address_bits(c);
  if ((c->rows.flags & TAILCUT_ROWS_RENUMBER) || bits % 2 != 0 || tt_below(random, 2)) return;
  const int32_t size = bits % 4 == 0 && tt_below(random, 2) ? 4 : 2;
  const int32_t values = (int32_t)c->rows.part_bytes / size;
  if (values < 2) return;
  *t = defaults;
  t->dtype = size == 4 ? TAILCUT_F32 : TAILCUT_F16 + tt_below(random, 2);
  t->pairing = 1 + tt_below(random, 2);
  t->rotary_dim = tt_below(random, 3) ? 2 * (1 + tt_below(random, values / 2)) : values / 2 * 2;
  if (t->rotary_dim > 1024) t->rotary_dim = 1024;
  t->rotary_offset = tt_below(random, values - t->rotary_dim + 1);
  t->position_bytes = tt_below(random, 2) ? 4 : 8;
  const int table = tt_below(random, 2);
  t->table_rows = table ? 1 + tt_below(random, 60) : 0;
  const int32_t angles = table ? t->table_rows * t->rotary_dim : t->rotary_dim / 2;
  c->angles = tt_host(sizeof(float) * (size_t)angles);
  for (int32_t i = 0; i < angles; i++) c->angles[i] = (float)tt_normal(random);
  t->inv_freq = table ? NULL : c->angles;
  t->cos_sin = table ? c->angles : NULL;
  for (int b = 0; b < 12; b++) c->base[b] = tt_below(random, 70) - 10;
  if (t->position_bytes == 4) { /* as int32 */
    int32_t narrow[12];
    for (int b = 0; b < 12; b++) narrow[b] = (int32_t)c->base[b];
    memcpy(c->base, narrow, sizeof narrow);
  }
  if (tt_below(random, 2)) t->new_base = c->base;
  c->positions = tt_host(8 * (size_t)c->total);
  for (int64_t i = 0; i < c->total; i++) {
    const int64_t wide = tt_below(random, 4) ? i : tt_below(random, 100) - 20;
    const int32_t narrow = (int32_t)wide;
    memcpy(c->positions + i * t->position_bytes,
           t->position_bytes == 8 ? (const void *)&wide : (const void *)&narrow,
           (size_t)t->position_bytes);
  }
  if (tt_below(random, 3)) t->positions = c->positions;
}

static void make_rows(call *c, tt_random *random) {
  static const tailcut_rows defaults = TAILCUT_ROWS_INITIALIZER;
  tailcut_rows *r = &c->rows;
  *r = defaults;
  const int aligned = c->shapes != ANY, large = c->shapes == LONG;
  r->part_bytes = widths[tt_below(random, (int32_t)(sizeof widths / sizeof widths[0]))];
  if (aligned) r->part_bytes = 16 * (1 + tt_below(random, 70));
  if (large) r->part_bytes = 512 + 16 * tt_below(random, 4);
  r->parts = large || tt_below(random, 2) ? 1 : 1 + tt_below(random, 4);
  r->placement = large || tt_below(random, 3) ? TAILCUT_LOCAL : TAILCUT_PACKED;
  r->flags = !aligned && tt_below(random, 2) ? TAILCUT_ROWS_ZERO_TAIL : 0;
  if ((r->part_bytes == 4 || r->part_bytes == 8) && tt_below(random, 2)) {
    r->flags |= TAILCUT_ROWS_RENUMBER;
  }
  c->in_place = r->placement == TAILCUT_LOCAL && (large || tt_below(random, 2));
  r->slot_bytes = tt_below(random, 2) ? 4 : 8;
  r->src_part_stride = r->part_bytes + tt_below(random, 2) * (aligned ? 16 : 5);
  r->src_row_stride = r->src_part_stride * r->parts + tt_below(random, 2) * (aligned ? 48 : 11);
  r->dst_part_stride = c->in_place ? r->src_part_stride : r->part_bytes + tt_below(random, 2) * 16;
  r->dst_row_stride = c->in_place ? r->src_row_stride : r->dst_part_stride * r->parts;
  r->page_rows = tt_below(random, 3) * 4;
  const int64_t wider =
      r->src_row_stride > r->dst_row_stride ? r->src_row_stride : r->dst_row_stride;
  r->page_stride = r->page_rows ? r->page_rows * wider + 24 : 0;
  if (!c->in_place && tt_below(random, 3) == 0) {
    const int64_t most = r->placement == TAILCUT_PACKED ? c->total : c->batch.max_tokens;
    r->dst_rows = 1 + tt_below(random, (int32_t)(most > 0 ? most : 1));
  }
  if ((r->flags & TAILCUT_ROWS_RENUMBER) && tt_below(random, 2)) {
    for (int b = 0; b < 12; b++) c->base[b] = (int64_t)tt_next(random);
    r->renumber_base = c->base;
  }
  const int slots = !aligned && tt_below(random, 3) == 0;
  if (slots) {
    c->slots = make_slots(c, random, r->slot_bytes);
    c->slot_bytes = (size_t)(c->total * r->slot_bytes);
    if (!c->in_place && tt_below(random, 2)) c->dst_slots = make_slots(c, random, r->slot_bytes);
  }
  const int64_t pages = r->page_rows ? c->total / r->page_rows + 1 : 0;
  const int64_t dense_src = (c->total + 1) * r->src_row_stride;
  const int64_t dense_dst = (c->total + 1) * r->dst_row_stride;
  c->src_bytes = (size_t)(slots && r->page_rows ? pages * r->page_stride : dense_src);
  c->dst_bytes =
      (size_t)((c->in_place ? slots : c->dst_slots != NULL) && r->page_rows ? pages * r->page_stride
                                                                            : dense_dst);
  c->src = random_bytes(random, c->src_bytes);
  c->dst = c->in_place ? c->src : random_bytes(random, c->dst_bytes);
  c->misalign = (size_t)tt_below(random, 2) * (size_t)tt_below(random, aligned ? 1 : 40);
  make_rotation(c, random);
  if (c->rotation.struct_size != 0) r->rotation = &c->rotation;
}

static void expect(call *c) {
  tailcut_rows *r = &c->rows;
  c->want = tt_host(c->dst_bytes);
  c->open = tt_host(c->dst_bytes);
  memcpy(c->want, c->dst, c->dst_bytes);
  r->dst = c->want;
  r->src = c->in_place ? c->want : c->src;
  r->src_slots = c->slots;
  r->dst_slots = c->in_place ? c->slots : c->dst_slots;
  ref_compact(&c->batch, c->kept, c->placement, c->counts, c->cu, r, c->open, NULL);
}

static int run(const call *c, const tt_backend *backend, tailcut_handle handle, int number) {
  tailcut_batch batch = c->batch;
  tailcut_rows r = c->rows;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  const size_t n = (size_t)batch.segments;
  const int tight = number % 2;
  void *shape = tt_upload(backend, c->shape, 4 * (n + (batch.cu_seqlens != NULL)), TT_TIGHT);
  if (batch.cu_seqlens != NULL) batch.cu_seqlens = shape;
  if (batch.lengths != NULL) batch.lengths = shape;
  limits.segments = batch.segments;
  limits.max_tokens = batch.max_tokens;
  limits.total_tokens = batch.total_tokens;
  limits.groups = batch.groups;
  void *offsets = NULL;
  void *base = r.renumber_base ? tt_upload(backend, c->base, sizeof c->base, 0) : NULL;
  if (c->offsets != NULL) {
    offsets = tt_upload(backend, c->offsets, 4 * (size_t)c->total + 4, TT_TIGHT);
    batch.group_cu_seqlens = offsets;
  }
  r.renumber_base = base;
  tailcut_rotation turn = c->rotation;
  if (r.rotation != NULL) {
    const size_t angles =
        (size_t)turn.rotary_dim * (turn.cos_sin ? (size_t)turn.table_rows * 4 : 2);
    if (turn.positions != NULL) {
      turn.positions =
          tt_upload(backend, c->positions, (size_t)(c->total * turn.position_bytes), TT_TIGHT);
    }
    if (turn.new_base != NULL) turn.new_base = tt_upload(backend, c->base, sizeof c->base, 0);
    if (turn.inv_freq != NULL) turn.inv_freq = tt_upload(backend, c->angles, angles, TT_TIGHT);
    if (turn.cos_sin != NULL) turn.cos_sin = tt_upload(backend, c->angles, angles, TT_TIGHT);
    r.rotation = &turn;
  }
  const int refused = (c->offsets != NULL && (backend->refuses & TT_OPTION_GROUPS)) ||
                      (base != NULL && (backend->refuses & TT_OPTION_BASE)) ||
                      (r.rotation != NULL && (backend->refuses & TT_OPTION_ROTATION));
  void *kept = tt_upload(backend, c->kept, 4 * (size_t)c->total, TT_TIGHT);
  void *counts = tt_upload(backend, c->counts, 4 * n, TT_TIGHT);
  void *cu = tt_upload(backend, c->cu, 4 * (n + 1), TT_TIGHT);
  const size_t where = tight && c->misalign == 0 ? TT_TIGHT : c->misalign;
  r.dst = tt_upload(backend, c->dst, c->dst_bytes, where);
  r.src = c->in_place ? r.dst : tt_upload(backend, c->src, c->src_bytes, where);
  void *slots = c->slots ? tt_upload(backend, c->slots, c->slot_bytes, TT_TIGHT) : NULL;
  void *dst_slots = c->dst_slots ? tt_upload(backend, c->dst_slots, c->slot_bytes, 0) : NULL;
  r.src_slots = slots;
  r.dst_slots = c->in_place ? slots : dst_slots;
  tt_workspace w = tt_workspace_new(backend, handle, TAILCUT_CALL_COMPACT, &limits);
  cr_assert_eq(
      tailcut_compact(handle, &batch, kept, c->placement, counts, cu, &r, 1, w.data, w.size, NULL),
      refused ? TAILCUT_ERROR_UNSUPPORTED : TAILCUT_OK, "%s", tailcut_last_error());
  const uint8_t *want = refused ? c->dst : c->want;
  uint8_t *got = tt_host(c->dst_bytes);
  tt_download(backend, got, r.dst, c->dst_bytes);
  int bad = 0;
  for (size_t i = 0; i < c->dst_bytes && !bad; i++) {
    if (!ref_differs(got, want, refused ? NULL : c->open, i)) continue;
    printf(
        "call %d on %s: byte %zu of %zu is %02x, expected %02x (part_bytes %d, parts %d, "
        "placement %d, flags %d, in place %d, slots %d/%d, rotary_dim %d)\n",
        number, backend->name, i, c->dst_bytes, got[i], want[i], (int)r.part_bytes, r.parts,
        r.placement, r.flags, c->in_place, slots != NULL, dst_slots != NULL, turn.rotary_dim);
    bad = 1;
  }
  void *all[] = {shape, kept, counts, cu, r.dst, slots, dst_slots, offsets, base, w.data};
  if (!c->in_place) tt_free(backend, (void *)(uintptr_t)r.src);
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) tt_free(backend, all[i]);
  const void *const angles[] = {turn.positions, turn.new_base, turn.inv_freq, turn.cos_sin};
  for (int i = 0; i < 4; i++) tt_free(backend, (void *)(uintptr_t)angles[i]);
  free(got);
  return bad;
}

static void run_calls(int calls, int shapes, int damage, uint64_t seed) {
  int count, bad = 0;
  const tt_backend *backends = tt_backends(&count);
  tailcut_handle handles[16];
  tt_random random = {seed};
  for (int i = 0; i < count; i++) handles[i] = tt_create(&backends[i]);
  for (int number = 0; number < calls; number++) {
    call c;
    memset(&c, 0, sizeof c);
    c.shapes = shapes;
    make_batch(&c, &random);
    make_groups(&c, &random, damage);
    c.placement = tt_below(&random, 2) ? TAILCUT_LOCAL : TAILCUT_PACKED;
    make_kept(&c, &random, damage);
    make_rows(&c, &random);
    expect(&c);
    for (int i = 0; i < count; i++) bad += run(&c, &backends[i], handles[i], number);
    if (!c.in_place) free(c.dst);
    free(c.kept), free(c.offsets), free(c.src), free(c.want), free(c.open), free(c.slots),
        free(c.dst_slots), free(c.angles), free(c.positions);
  }
  for (int i = 0; i < count; i++) tailcut_destroy(handles[i]);
  cr_assert_eq(bad, 0, "%d of %d calls differ", bad, calls * count);
}

Test(compact, sound_lists) { run_calls(400, ANY, 0, 11); }
Test(compact, damaged_lists) { run_calls(300, ANY, 1, 12); }
Test(compact, aligned_rows) { run_calls(150, ALIGNED, 0, 13); }
Test(compact, aligned_rows_damaged_lists) { run_calls(100, ALIGNED, 1, 14); }
Test(compact, long_segments) { run_calls(4, LONG, 0, 15); }
Test(compact, long_segments_damaged_lists) { run_calls(3, LONG, 1, 16); }
