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

/* Marks every byte of one side's pieces; 0 where it does not fit in the arena. *twice: a byte is in
 * two pieces. */
static int mark(const tt_pieces *p, int is_dst, int64_t base, int64_t rows, uint8_t *bytes,
                int *twice) {
  const int flat = p->ragged || (is_dst && p->r.placement == TAILCUT_PACKED);
  const int32_t zeros[TT_SEGMENTS_MOST + 1] = {0};
  tt_pieces whole = *p; /* a flat array is one run of rows */
  memset(whole.start, 0, sizeof whole.start);
  for (int32_t b = 0; b < (flat ? 1 : p->segments); b++) {
    for (int64_t row = 0; row < rows; row++) {
      for (int32_t part = 0; part < p->r.parts; part++) {
        const int64_t at = base + tt_piece(&whole, is_dst, b, row, part, zeros);
        if (at + p->r.part_bytes > ARENA) return 0;
        for (int64_t i = at; i < at + p->r.part_bytes; i++) {
          if (bytes[i]++) *twice = 1;
        }
      }
    }
  }
  return 1;
}

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

Test(overlap, what_is_accepted_shares_no_byte) {
  int count;
  const tt_backend *backend = tt_backends(&count);
  if (backend->device_kind != TAILCUT_DEVICE_CPU) return; /* checks are the host's */
  tailcut_handle handle = tt_create(backend);
  tt_random random = {91};
  int accepted = 0, in_place = 0, among = 0, refused = 0, missed = 0, own = 0;
  for (int turn = 0; turn < 100000; turn++) {
    tt_pieces p;
    uint8_t src_bytes[ARENA] = {0}, dst_bytes[ARENA] = {0};
    static char arena[ARENA], wanted[ARENA], before[ARENA];
    make(&random, &p);
    const int64_t src_at = tt_below(&random, 200);
    const int64_t dst_at = tt_below(&random, 4) ? tt_below(&random, 300) : src_at;
    p.r.src = arena + src_at, p.r.dst = arena + dst_at;
    const int packed = p.r.placement == TAILCUT_PACKED, flat = p.ragged || packed;
    const int32_t total = p.segments * p.max_tokens, n = p.max_tokens - p.prefix;
    const int32_t most = p.ragged ? total - p.prefix : p.segments * n; /* PACKED rows */
    int64_t dst_rows = packed ? (most < p.segments * n ? most : p.segments * n)
                       : flat ? total - p.prefix
                              : n;
    if ((packed || !flat) && p.r.dst_rows != 0 && p.r.dst_rows < dst_rows) dst_rows = p.r.dst_rows;
    int ignored = 0, twice = 0, shared = 0;
    if (!mark(&p, 0, src_at, p.ragged ? total : p.max_tokens, src_bytes, &ignored)) continue;
    if (!mark(&p, 1, dst_at, dst_rows, dst_bytes, &twice)) continue;
    int64_t src_end = 0, dst_first = ARENA, dst_end = 0, src_first = ARENA;
    for (int64_t i = 0; i < ARENA; i++) {
      shared |= src_bytes[i] && dst_bytes[i];
      if (src_bytes[i]) src_end = i, src_first = i < src_first ? i : src_first;
      if (dst_bytes[i]) dst_end = i, dst_first = i < dst_first ? i : dst_first;
    }
    /* A list that keeps about half. */
    int32_t counts[TT_SEGMENTS_MOST], kept[TT_SEGMENTS_MOST * MOST] = {0};
    int32_t new_cu[TT_SEGMENTS_MOST + 1] = {0};
    for (int32_t b = 0; b < p.segments; b++) {
      counts[b] = 0;
      for (int32_t i = 0; i < n; i++) {
        if (tt_below(&random, 2)) kept[b * p.max_tokens + counts[b]++] = i;
      }
      new_cu[b + 1] = new_cu[b] + counts[b];
    }
    for (int i = 0; i < ARENA; i++) before[i] = (char)(i * 37 + i / 64 + 1);
    memcpy(arena, before, ARENA);
    memcpy(wanted, before, ARENA);
    tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
    batch.segments = p.segments, batch.max_tokens = p.max_tokens, batch.prefix_rows = p.prefix;
    if (p.ragged) batch.cu_seqlens = p.start;
    static _Alignas(TAILCUT_WORKSPACE_ALIGNMENT) char workspace[65536];
    const tailcut_status status =
        tailcut_compact(handle, &batch, kept, TAILCUT_LOCAL, counts, new_cu, &p.r, 1, workspace,
                        sizeof workspace, NULL);
    if (status == TAILCUT_OK) {
      const int same = p.r.src == p.r.dst && !packed;
      cr_assert(!twice, "turn %d: the destination lies on itself", turn);
      if (shared) {
        cr_assert(same, "turn %d: accepted, and bytes are shared", turn);
        for (int32_t b = 0; b < p.segments; b++) {
          for (int64_t row = 0; row < dst_rows && row < p.max_tokens; row++) {
            for (int32_t part = 0; part < p.r.parts; part++) {
              cr_assert_eq(tt_piece(&p, 0, b, row, part, NULL), tt_piece(&p, 1, b, row, part, NULL),
                           "turn %d: not in place", turn);
            }
          }
        }
        in_place++;
      } else {
        among += dst_first < src_end && src_first < dst_end;
      }
      const int64_t room = packed ? dst_rows : tt_or(p.r.dst_rows, n);
      tt_compact(&p, before + src_at, wanted + dst_at, room, counts, kept, new_cu);
      cr_assert_eq(memcmp(arena, wanted, ARENA), 0, "turn %d: other bytes than plain loops", turn);
      accepted++;
      continue;
    }
    cr_assert_eq(memcmp(arena, before, ARENA), 0, "turn %d: refused, but written", turn);
    refused++;
    if (twice) own++;
    /* Strides as the call has them. */
    const int32_t two[TT_SEGMENTS_MOST + 1] = {0};
    const int64_t counts3[3] = {p.r.parts, dst_rows, flat ? 1 : p.segments};
    const int64_t strides3[3] = {tt_piece(&p, 1, 0, 0, 1, two), tt_piece(&p, 1, 0, 1, 0, two),
                                 flat ? 0 : tt_piece(&p, 1, 1, 0, 0, two)};
    const int nested = nests(p.r.part_bytes, counts3, strides3);
    const int behind = dst_first > src_end || dst_end < src_first;
    if (!twice && !shared && nested && behind &&
        !strstr(tailcut_last_error(), "src_segment_stride is not set")) {
      cr_assert_fail("turn %d: refused, though nested and apart: %s", turn, tailcut_last_error());
    }
    missed += !twice && !shared;
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
