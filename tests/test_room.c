/* SPDX-License-Identifier: Apache-2.0 */
/* room: result arrays of exactly the size that can be kept. Each layout is compacted and pruned
 * with source and result at either edge of unreadable memory, or both in one arena, and compared
 * byte for byte with plain loops (pieces.h); one byte closer, the two of an arena share a byte and
 * are refused.
 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backends.h"
#include "data.h"
#include "pieces.h"
#include "room_layouts.h"

enum { DIM = 8, PAGE = 4096 };

/* Memory that ends, or begins, where nothing can be touched. */
typedef struct edge {
  char *map, *data;
  size_t mapped;
} edge;

static edge edge_new(size_t bytes, int at_end) {
  const size_t body = (bytes + PAGE - 1) / PAGE * PAGE;
  edge e = {NULL, NULL, body + 2 * PAGE};
  e.map = mmap(NULL, e.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  cr_assert_neq((void *)e.map, MAP_FAILED);
  cr_assert_eq(mprotect(e.map + PAGE, body, PROT_READ | PROT_WRITE), 0);
  e.data = at_end ? e.map + PAGE + body - bytes : e.map + PAGE;
  memset(e.map + PAGE, TT_POISON, body);
  return e;
}

/* How the call says what room there is. */
typedef enum said { BY_DST_ROWS, BY_THE_RULE } said;

static tt_pieces pieces_of(const layout *l, said how, int zero) {
  static const tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  const int64_t *dst = how == BY_THE_RULE ? l->exact : l->dst;
  tt_pieces p = {B, T, P, l->ragged, {T, T, T}, {0, T, 2 * T, 3 * T}, rows};
  tailcut_rows *r = &p.r;
  r->part_bytes = l->part_bytes, r->parts = l->parts, r->placement = l->placement;
  r->src_part_stride = l->src[0], r->src_row_stride = l->src[1], r->src_segment_stride = l->src[2];
  r->dst_part_stride = dst[0], r->dst_row_stride = dst[1], r->dst_segment_stride = dst[2];
  r->dst_rows = how == BY_THE_RULE ? 0 : l->dst_rows;
  r->flags = zero ? TAILCUT_ROWS_ZERO_TAIL : 0;
  return p;
}

/* Bytes from the base to the last one of an array. Never in place. */
static size_t bytes_of(const tt_pieces *p, int is_dst, int64_t rows) {
  static const int32_t none[TT_SEGMENTS_MOST + 1] = {0};
  const int packed = is_dst && p->r.placement == TAILCUT_PACKED;
  const int32_t last = packed ? 0 : p->segments - 1;
  tt_pieces q = *p;
  q.r.src = "src", q.r.dst = NULL;
  return (size_t)(tt_piece(&q, is_dst, last, rows - 1, p->r.parts - 1, none) + p->r.part_bytes);
}

/* What the calls take but for the row array. */
typedef struct call {
  const tt_backend *backend;
  tailcut_handle handle;
  float tokens[B * T * DIM], reference[DIM];
  int32_t counts[B], kept[B * T], new_cu[B + 1];
  tailcut_batch batch;
  void *workspace;
  size_t workspace_size;
} call;

static void call_init(call *c, const tt_backend *backend, int32_t ragged) {
  static const int32_t offsets[B + 1] = {0, T, 2 * T, 3 * T};
  static const tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tt_random random = {3};
  c->backend = backend;
  c->handle = tt_create(backend);
  for (int i = 0; i < B * T * DIM; i++) c->tokens[i] = (float)tt_normal(&random);
  for (int i = 0; i < DIM; i++) c->reference[i] = (float)tt_normal(&random);
  c->batch = batch;
  c->batch.segments = B, c->batch.max_tokens = T, c->batch.prefix_rows = P;
  c->batch.cu_seqlens = ragged ? offsets : NULL;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = B, limits.max_tokens = T, limits.dim = DIM, limits.groups = B;
  c->workspace_size = 0;
  for (int32_t kind = 1; kind <= TAILCUT_CALL_PRUNE_SEQUENCE; kind++) {
    size_t size;
    cr_assert_eq(tailcut_workspace_size(c->handle, kind, &limits, &size), TAILCUT_OK);
    if (size > c->workspace_size) c->workspace_size = size;
  }
  c->workspace = tt_upload(backend, NULL, c->workspace_size, 0);
}

static void call_end(call *c) {
  tt_free(c->backend, c->workspace);
  tailcut_destroy(c->handle);
}

/* Prunes with a rule; counts, kept and new_cu are what it selects. */
static tailcut_status prune(call *c, const tailcut_rule *rule, const tailcut_rows *rows) {
  tailcut_tokens t = TAILCUT_TOKENS_INITIALIZER;
  tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
  t.data = c->tokens, t.dtype = TAILCUT_F32, t.dim = DIM;
  reference.data = c->reference;
  s.counts = c->counts, s.kept = c->kept, s.new_cu_seqlens = c->new_cu;
  return tailcut_prune_visual(c->handle, &c->batch, &t, &reference, rule, &s, rows, 1, c->workspace,
                              c->workspace_size, NULL);
}

static tailcut_status compact(call *c, const tailcut_rows *rows) {
  return tailcut_compact(c->handle, &c->batch, c->kept, TAILCUT_LOCAL, c->counts, c->new_cu, rows,
                         1, c->workspace, c->workspace_size, NULL);
}

static tailcut_rule top(int32_t k) {
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  rule.detector = TAILCUT_TOPK, rule.k = k;
  return rule;
}

/* The rows that a result has: of a segment, or PACKED of all. */
static int64_t room_of(const layout *l, said how) {
  const int64_t kept = l->placement == TAILCUT_PACKED ? B * K : K;
  return how == BY_THE_RULE ? kept : l->dst_rows;
}

/* Rows of the array itself: a ragged one has all the segments' places. */
static int64_t array_rows(const layout *l, said how) {
  if (l->ragged && l->placement == TAILCUT_LOCAL) return B * T - P;
  return room_of(l, how);
}

static void fill(char *bytes, size_t size) {
  for (size_t i = 0; i < size; i++) bytes[i] = (char)(i * 131 + i / 7 + 5);
}

/* One layout by one call. */
static void try_layout(call *c, const layout *l, said how, int part, int zero, int at_end) {
  tt_pieces p = pieces_of(l, how, zero);
  const int arena = l->dst_at >= 0;
  if (l->ragged) p.segments = 1; /* sizes: one run of rows */
  const size_t src_bytes = bytes_of(&p, 0, l->ragged ? B * T : T);
  const size_t dst_bytes = bytes_of(&p, 1, array_rows(l, how));
  p.segments = B;
  const size_t src_end = (size_t)l->src_at + src_bytes;
  const size_t dst_end = arena ? (size_t)l->dst_at + dst_bytes : 0;
  edge source = edge_new(src_end > dst_end ? src_end : dst_end, at_end);
  edge result = edge_new(arena ? 1 : dst_bytes, at_end);
  const size_t all = src_end > dst_end ? src_end : dst_end;
  char *src = source.data + l->src_at;
  char *dst = arena ? source.data + l->dst_at : result.data;
  fill(source.data, all);
  char *before = tt_host(all), *wanted = tt_host(arena ? all : dst_bytes);
  memcpy(before, source.data, all);
  memcpy(wanted, arena ? source.data : result.data, arena ? all : dst_bytes);
  p.r.src = src, p.r.dst = dst;
  const tailcut_rule rule = top(K);
  if (part) { /* the lists first; then back to the start */
    cr_assert_eq(prune(c, &rule, &p.r), TAILCUT_OK, "%s", tailcut_last_error());
    memcpy(source.data, before, all);
    if (!arena) memset(dst, TT_POISON, dst_bytes);
  }
  const tailcut_status status = part ? compact(c, &p.r) : prune(c, &rule, &p.r);
  cr_assert_eq(status, TAILCUT_OK, "%s, %s: %s", l->name, c->backend->name, tailcut_last_error());
  for (int32_t b = 0; b < B; b++) cr_assert_eq(c->counts[b], K);
  tt_compact(&p, before + l->src_at, arena ? wanted + l->dst_at : wanted, room_of(l, how),
             c->counts, c->kept, c->new_cu);
  cr_expect_eq(memcmp(arena ? source.data : dst, wanted, arena ? all : dst_bytes), 0,
               "%s, %s, %s, %s: other bytes than plain loops", l->name, c->backend->name,
               part ? "compact" : "prune", how == BY_THE_RULE ? "by the rule" : "dst_rows");
  if (!arena) cr_expect_eq(memcmp(source.data, before, all), 0, "%s: source written", l->name);
  free(before);
  free(wanted);
  munmap(source.map, source.mapped);
  munmap(result.map, result.mapped);
}

Test(room, exactly_what_can_be_kept) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  for (int i = 0; i < count && backends[i].device_kind == TAILCUT_DEVICE_CPU; i++) {
    for (int n = 0; n < LAYOUTS; n++) {
      static call c;
      call_init(&c, &backends[i], layouts[n].ragged);
      for (int way = 0; way < 16; way++) {
        const said how = way & 1 ? BY_THE_RULE : BY_DST_ROWS;
        const int part = way >> 1 & 1;
        if (part && how == BY_THE_RULE) continue; /* compact has no rule */
        try_layout(&c, &layouts[n], how, part, way >> 2 & 1, way >> 3 & 1);
      }
      call_end(&c);
    }
  }
}

/* A byte nearer to the source, from either side. */
Test(room, one_byte_shared_is_refused) {
  int count, refused = 0, layouts_refused = 0, in_arena = 0;
  const tt_backend *backend = tt_backends(&count);
  if (backend->device_kind != TAILCUT_DEVICE_CPU) return; /* checks are the host's */
  for (int n = 0; n < LAYOUTS; n++) {
    const layout *l = &layouts[n];
    const int before_this = refused;
    static call c;
    if (l->dst_at < 0) continue;
    in_arena++;
    call_init(&c, backend, l->ragged);
    for (int by = -1; by <= 1; by += 2) {
      static char arena[8192], before[8192];
      tt_pieces p = pieces_of(l, BY_DST_ROWS, 1);
      const tailcut_rule rule = top(K);
      fill(arena, sizeof arena);
      memcpy(before, arena, sizeof arena);
      p.r.src = arena + 1024 + l->src_at, p.r.dst = arena + 1024 + l->dst_at + by;
      /* A byte in two of both arrays' pieces: none of these lies on itself. */
      uint8_t marks[sizeof arena] = {0};
      int shared = 0;
      cr_assert(tt_mark(&p, 0, 1024 + l->src_at, tt_source_rows(&p), marks, sizeof arena, &shared));
      cr_assert(tt_mark(&p, 1, 1024 + l->dst_at + by, array_rows(l, BY_DST_ROWS), marks,
                        sizeof arena, &shared));
      if (!shared) {
        cr_expect_eq(prune(&c, &rule, &p.r), TAILCUT_OK, "%s, %d byte: %s", l->name, by,
                     tailcut_last_error());
        continue;
      }
      cr_expect_eq(prune(&c, &rule, &p.r), TAILCUT_ERROR_OVERLAP, "%s, %d byte", l->name, by);
      cr_expect(strncmp(tailcut_last_error(), "rows[0].dst ", 12) == 0, "%s", tailcut_last_error());
      cr_expect_eq(compact(&c, &p.r), TAILCUT_ERROR_OVERLAP, "%s, %d byte", l->name, by);
      cr_expect_eq(memcmp(arena, before, sizeof arena), 0, "%s: written", l->name);
      refused++;
    }
    layouts_refused += refused > before_this;
    call_end(&c);
  }
  cr_assert_eq(layouts_refused, in_arena);
  cr_assert_gt(refused, in_arena);
}

/* RATIO: as many as tailcut_kept_count says; groups: as many as there are candidates. */
Test(room, what_dst_rows_0_means) {
  int count;
  const tt_backend *backend = tt_backends(&count);
  static const int32_t groups[2 * B + 1] = {0, 4, T, T + 4, 2 * T, 2 * T + 4, 3 * T};
  if (backend->device_kind != TAILCUT_DEVICE_CPU) return;
  for (int ragged = 0; ragged < 2; ragged++) {
    static call c;
    static char src[B * T * W];
    tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
    rule.detector = TAILCUT_RATIO, rule.ratio = 0.35, rule.round_to = 3;
    call_init(&c, backend, ragged);
    fill(src, sizeof src);
    for (int grouped = 0; grouped < 2; grouped++) {
      if (grouped) c.batch.group_cu_seqlens = groups, c.batch.groups = 2 * B;
      const int64_t room = grouped ? B * N : B * tailcut_kept_count(&rule, N);
      tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
      rows.placement = TAILCUT_PACKED, rows.part_bytes = W, rows.flags = TAILCUT_ROWS_ZERO_TAIL;
      for (int at_end = 0; at_end < 2; at_end++) {
        edge result = edge_new((size_t)room * W, at_end);
        rows.src = src, rows.dst = result.data;
        cr_assert_eq(prune(&c, &rule, &rows), TAILCUT_OK, "%s", tailcut_last_error());
        const int32_t sum = c.new_cu[B];
        cr_assert_gt(sum, 0);
        if (!grouped) cr_assert_eq(sum, room);
        for (int32_t b = 0, at = 0; b < B; b++) {
          for (int32_t j = 0; j < c.counts[b]; j++, at++) {
            const char *wanted = src + (b * T + P + c.kept[b * T + j]) * W;
            cr_expect_eq(memcmp(result.data + at * W, wanted, W), 0, "row %d", at);
          }
        }
        for (int64_t i = sum * W; i < room * W; i++) cr_expect_eq(result.data[i], 0);
        munmap(result.map, result.mapped);
      }
    }
    call_end(&c);
  }
}

/* With roles a result may have every row, candidate or not. */
Test(room, with_roles_every_row_may_be_kept) {
  int count;
  const tt_backend *backend = tt_backends(&count);
  static const uint8_t roles[B * T] = {0}; /* none is a candidate */
  static const tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  static char src[B * T * W];
  static call c;
  if (backend->device_kind != TAILCUT_DEVICE_CPU) return;
  const tailcut_rule rule = top(K);
  call_init(&c, backend, 0);
  c.batch.prefix_rows = 0;
  fill(src, sizeof src);
  for (int way = 0; way < 4; way++) {
    edge result = edge_new(sizeof src, way & 1);
    tailcut_tokens t = tokens;
    tailcut_selection selection = TAILCUT_SELECTION_INITIALIZER;
    tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
    t.data = c.tokens, t.dtype = TAILCUT_F32, t.dim = DIM;
    selection.counts = c.counts;
    rows.placement = way & 2 ? TAILCUT_PACKED : TAILCUT_LOCAL, rows.part_bytes = W;
    rows.src = src, rows.dst = result.data;
    cr_assert_eq(tailcut_prune_sequence(c.handle, &c.batch, &t, roles, NULL, &rule, &selection,
                                        &rows, 1, c.workspace, c.workspace_size, NULL),
                 TAILCUT_OK, "%s", tailcut_last_error());
    cr_expect_eq(memcmp(result.data, src, sizeof src), 0, "way %d", way);
    munmap(result.map, result.mapped);
  }
  call_end(&c);
}

/* A count that does not fit leaves its segment's part of the array as it is; the others are
 * there. */
Test(room, a_count_that_does_not_fit) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  static const int32_t kept[B * T] = {[0] = 1, 3, [T] = 0, 2, 4, 5, [2 * T] = 3, 7, 8};
  static const int32_t counts[B] = {2, 4, 3}, new_cu[B + 1] = {0, 2, 6, 9};
  for (int i = 0; i < count && backends[i].device_kind == TAILCUT_DEVICE_CPU; i++) {
    static call c;
    call_init(&c, &backends[i], 0);
    for (int way = 0; way < 24; way++) {
      const layout *l = &layouts[way & 1 ? 6 : 0]; /* packed, local */
      const int64_t dst_rows = (way & 1 ? 2 : 1) + (way >> 2) % 6;
      tt_pieces p = pieces_of(l, BY_DST_ROWS, way >> 1 & 1);
      p.r.dst_rows = dst_rows;
      static char src[B * T * W];
      fill(src, sizeof src);
      const size_t bytes = bytes_of(&p, 1, dst_rows);
      edge result = edge_new(bytes, way & 2);
      char *wanted = tt_host(bytes);
      memset(wanted, TT_POISON, bytes);
      p.r.src = src, p.r.dst = result.data;
      memcpy(c.kept, kept, sizeof kept);
      memcpy(c.counts, counts, sizeof counts);
      memcpy(c.new_cu, new_cu, sizeof new_cu);
      cr_assert_eq(compact(&c, &p.r), TAILCUT_OK, "%s", tailcut_last_error());
      tt_compact(&p, src, wanted, dst_rows, counts, kept, new_cu);
      cr_expect_eq(memcmp(result.data, wanted, bytes), 0, "%s, %d rows", l->name, (int)dst_rows);
      free(wanted);
      munmap(result.map, result.mapped);
    }
    call_end(&c);
  }
}
