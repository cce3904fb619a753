/* SPDX-License-Identifier: Apache-2.0 */
/* overlap: random row arrays in one small arena against sets of bytes. What the library accepts has
 * no byte in two pieces of the destination and none that is both source and destination, unless it
 * is exactly in place; and it leaves what plain loops leave. What it refuses is told apart: nested
 * strides that share no byte must have been accepted. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "data.h"
#include "pieces.h"

enum { ARENA = 4096, MOST = 6 };

/* A stride that has a chance to fit beside what is there already: a multiple of what lies inside
 * it, with or without a gap, or anything. */
static int64_t stride(tt_random *random, int64_t inside) {
  switch (tt_below(random, 6)) {
    case 0:
      return inside;
    case 1:
      return 2 * inside;
    case 2:
      return inside + 1 + tt_below(random, 8);
    case 3:
      return 1 + tt_below(random, 60);
    case 4:
      return inside * (1 + tt_below(random, 4));
    default:
      return 0;
  }
}

static void make(tt_random *random, tt_pieces *p) {
  static const tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  memset(p, 0, sizeof *p);
  p->segments = 1 + tt_below(random, 3);
  p->max_tokens = 1 + tt_below(random, MOST);
  p->prefix = tt_below(random, 3) == 0;
  p->ragged = tt_below(random, 3) == 0;
  for (int32_t b = 0; b < p->segments; b++) {
    p->rows[b] = p->max_tokens;
    p->start[b + 1] = p->start[b] + p->rows[b];
  }
  tailcut_rows *r = &p->r;
  *r = rows;
  r->part_bytes = 1 + tt_below(random, 4);
  r->parts = 1 + tt_below(random, 3);
  r->placement = tt_below(random, 3) ? TAILCUT_LOCAL : TAILCUT_PACKED;
  r->flags = tt_below(random, 2) ? TAILCUT_ROWS_ZERO_TAIL : 0;
  r->dst_rows = tt_below(random, 2) ? 0 : 1 + tt_below(random, MOST);
  const int packed = r->placement == TAILCUT_PACKED;
  const int64_t width = r->part_bytes * r->parts;
  if (tt_below(random, 3) == 0) { /* planes: rows inside parts */
    const int64_t row = tt_or(stride(random, r->part_bytes), width);
    r->src_row_stride = row, r->dst_row_stride = row;
    r->src_part_stride = stride(random, row * p->max_tokens);
    r->dst_part_stride = tt_below(random, 2) ? r->src_part_stride : stride(random, 3 * row);
  } else {
    r->src_part_stride = stride(random, r->part_bytes);
    r->dst_part_stride = tt_below(random, 2) ? r->src_part_stride : stride(random, r->part_bytes);
    r->src_row_stride = stride(random, tt_or(r->src_part_stride, r->part_bytes) * r->parts);
    r->dst_row_stride = tt_below(random, 2) ? r->src_row_stride : stride(random, width);
  }
  if (p->ragged) return;
  r->src_segment_stride = stride(random, tt_or(r->src_row_stride, width) * p->max_tokens);
  if (packed) return;
  r->dst_segment_stride = tt_below(random, 2) ? r->src_segment_stride
                                              : stride(random, r->dst_row_stride * p->max_tokens);
}

/* Whether each stride steps over what the smaller ones span: what the library decides exactly. */
static int nests(int64_t part_bytes, const int64_t *counts, const int64_t *strides) {
  int64_t reach = part_bytes, last = 0;
  for (int done = 0; done < 3; done++) {
    int least = -1;
    for (int d = 0; d < 3; d++) {
      if (counts[d] > 1 && strides[d] > last && (least < 0 || strides[d] < strides[least])) {
        least = d;
      }
    }
    if (least < 0) break;
    if (strides[least] < reach) return 0;
    last = strides[least];
    reach += (counts[least] - 1) * last;
  }
  for (int d = 0; d < 3; d++) {
    for (int e = 0; e < d; e++) {
      if (counts[d] > 1 && counts[e] > 1 && strides[d] == strides[e]) return 0;
    }
  }
  return 1;
}

/* A random array, where it stands in the arena, and what marking its bytes says. */
typedef struct turn {
  tt_pieces p;
  int64_t src_at, dst_at;
  int64_t dst_rows;          /* of the array: of a segment, or of all where it is flat */
  int64_t room;              /* that results may use: of a segment, or PACKED of all */
  int twice, shared, behind; /* behind: one side ends before the other begins */
  int32_t counts[TT_SEGMENTS_MOST], kept[TT_SEGMENTS_MOST * MOST], new_cu[TT_SEGMENTS_MOST + 1];
} turn;

static char arena[ARENA];

static int is_packed(const turn *t) { return t->p.r.placement == TAILCUT_PACKED; }
static int is_flat(const turn *t) { return t->p.ragged || is_packed(t); }

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* 0 where the array does not fit in the arena. */
static int draw(tt_random *random, turn *t) {
  uint8_t src_bytes[ARENA] = {0}, dst_bytes[ARENA] = {0};
  int ignored = 0;
  tt_pieces *p = &t->p;
  memset(t, 0, sizeof *t);
  make(random, p);
  t->src_at = tt_below(random, 200);
  t->dst_at = tt_below(random, 4) ? tt_below(random, 300) : t->src_at;
  p->r.src = arena + t->src_at, p->r.dst = arena + t->dst_at;
  const int32_t total = p->segments * p->max_tokens, n = p->max_tokens - p->prefix;
  const int64_t said = p->r.dst_rows != 0 ? p->r.dst_rows : INT64_MAX;
  const int64_t candidates =
      p->ragged ? least(total - p->prefix, p->segments * n) : p->segments * n;
  t->room = least(said, is_packed(t) ? candidates : n);
  t->dst_rows = is_flat(t) && !is_packed(t) ? total - p->prefix : t->room;
  if (!tt_mark(p, 0, t->src_at, tt_source_rows(p), src_bytes, ARENA, &ignored)) return 0;
  if (!tt_mark(p, 1, t->dst_at, t->dst_rows, dst_bytes, ARENA, &t->twice)) return 0;
  int64_t first[2] = {ARENA, ARENA}, last[2] = {-1, -1};
  for (int64_t i = 0; i < ARENA; i++) {
    t->shared |= src_bytes[i] && dst_bytes[i];
    for (int side = 0; side < 2; side++) {
      if (!(side ? dst_bytes : src_bytes)[i]) continue;
      first[side] = least(i, first[side]);
      last[side] = i;
    }
  }
  t->behind = first[1] > last[0] || last[1] < first[0];
  for (int32_t b = 0; b < p->segments; b++) { /* a list that keeps about half */
    for (int32_t i = 0; i < n; i++) {
      if (tt_below(random, 2)) t->kept[b * p->max_tokens + t->counts[b]++] = i;
    }
    t->new_cu[b + 1] = t->new_cu[b] + t->counts[b];
  }
  return 1;
}

/* Whether each row of the result stands where that row of the source does. */
static int is_in_place(const turn *t) {
  const tt_pieces *p = &t->p;
  if (is_packed(t) || p->r.src != p->r.dst) return 0;
  for (int32_t b = 0; b < p->segments; b++) {
    for (int64_t row = 0; row < least(t->dst_rows, p->max_tokens); row++) {
      for (int32_t part = 0; part < p->r.parts; part++) {
        if (tt_piece(p, 0, b, row, part, NULL) != tt_piece(p, 1, b, row, part, NULL)) return 0;
      }
    }
  }
  return 1;
}

/* What the library promises to accept: a destination whose strides nest, all before or behind. A
 * source that lies on itself by default is another mistake. */
static int must_be_accepted(const turn *t) {
  static const int32_t none[TT_SEGMENTS_MOST + 1] = {0};
  const tt_pieces *p = &t->p;
  const int64_t counts[3] = {p->r.parts, t->dst_rows, is_flat(t) ? 1 : p->segments};
  const int64_t strides[3] = {tt_piece(p, 1, 0, 0, 1, none), tt_piece(p, 1, 0, 1, 0, none),
                              is_flat(t) ? 0 : tt_piece(p, 1, 1, 0, 0, none)};
  return !t->twice && !t->shared && t->behind && nests(p->r.part_bytes, counts, strides) &&
         strstr(tailcut_last_error(), "src_segment_stride is not set") == NULL;
}

static tailcut_status compact(tailcut_handle handle, const turn *t) {
  static _Alignas(TAILCUT_WORKSPACE_ALIGNMENT) char workspace[65536];
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  batch.segments = t->p.segments, batch.max_tokens = t->p.max_tokens;
  batch.prefix_rows = t->p.prefix;
  if (t->p.ragged) batch.cu_seqlens = t->p.start;
  return tailcut_compact(handle, &batch, t->kept, TAILCUT_LOCAL, t->counts, t->new_cu, &t->p.r, 1,
                         workspace, sizeof workspace, NULL);
}

Test(overlap, what_is_accepted_shares_no_byte) {
  int count;
  const tt_backend *backend = tt_backends(&count);
  if (backend->device_kind != TAILCUT_DEVICE_CPU) return; /* checks are the host's */
  tailcut_handle handle = tt_create(backend);
  tt_random random = {91};
  int accepted = 0, in_place = 0, among = 0, refused = 0, missed = 0, own = 0;
  for (int n = 0; n < 100000; n++) {
    static char wanted[ARENA], before[ARENA];
    static turn t;
    if (!draw(&random, &t)) continue;
    for (int i = 0; i < ARENA; i++) before[i] = (char)(i * 37 + i / 64 + 1);
    memcpy(arena, before, ARENA);
    memcpy(wanted, before, ARENA);
    if (compact(handle, &t) == TAILCUT_OK) {
      cr_assert(!t.twice, "turn %d: the destination lies on itself", n);
      cr_assert(!t.shared || is_in_place(&t), "turn %d: accepted, and bytes are shared", n);
      tt_compact(&t.p, before + t.src_at, wanted + t.dst_at, t.room, t.counts, t.kept, t.new_cu);
      cr_assert_eq(memcmp(arena, wanted, ARENA), 0, "turn %d: other bytes than plain loops", n);
      accepted++;
      in_place += t.shared;
      among += !t.shared && !t.behind;
    } else {
      cr_assert_eq(memcmp(arena, before, ARENA), 0, "turn %d: refused, but written", n);
      cr_assert(!must_be_accepted(&t), "turn %d: %s", n, tailcut_last_error());
      refused++;
      own += t.twice;
      missed += !t.twice && !t.shared;
    }
  }
  tailcut_destroy(handle);
  printf(
      "accepted %d (%d in place, %d among each other's rows); refused %d (%d lie on themselves, "
      "%d share nothing)\n",
      accepted, in_place, among, refused, own, missed);
  cr_assert_gt(accepted, 20000);
  cr_assert_gt(in_place, 2000);
  cr_assert_gt(among, 4000);
  cr_assert_gt(refused, 20000);
}
