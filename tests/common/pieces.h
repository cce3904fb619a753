/* SPDX-License-Identifier: Apache-2.0 */
/* pieces: a row array said independently of the library: where each part of each row stands, and
 * what compaction leaves there, as plain loops. Without slots. */
#ifndef TAILCUT_TESTS_PIECES_H_
#define TAILCUT_TESTS_PIECES_H_

#include <string.h>
#include <tailcut.h>

enum { TT_SEGMENTS_MOST = 8 };

/* A batch with its lengths, and an entry of tailcut_rows for it. */
typedef struct tt_pieces {
  int32_t segments, max_tokens, prefix, ragged;
  int32_t rows[TT_SEGMENTS_MOST],
      start[TT_SEGMENTS_MOST + 1]; /* of each segment, prefix included */
  tailcut_rows r;
} tt_pieces;

static inline int64_t tt_or(int64_t value, int64_t fallback) { return value ? value : fallback; }

/* Byte offset of part `part` of row `row` of segment b; new_cu is for PACKED destinations. */
static inline int64_t tt_piece(const tt_pieces *p, int is_dst, int32_t b, int64_t row, int32_t part,
                               const int32_t *new_cu) {
  const tailcut_rows *r = &p->r;
  const int64_t width = r->part_bytes * r->parts;
  const int64_t parts = tt_or(is_dst ? r->dst_part_stride : r->src_part_stride, r->part_bytes);
  const int64_t rows = tt_or(is_dst ? r->dst_row_stride : r->src_row_stride, width);
  const int64_t room =
      is_dst && r->dst != r->src ? tt_or(r->dst_rows, p->max_tokens) : p->max_tokens;
  const int64_t segments =
      tt_or(is_dst ? r->dst_segment_stride : r->src_segment_stride, room * rows);
  if (is_dst && r->placement == TAILCUT_PACKED) return (new_cu[b] + row) * rows + part * parts;
  if (p->ragged) return (p->start[b] + row) * rows + part * parts;
  return b * segments + row * rows + part * parts;
}

/* Candidates of segment b. */
static inline int32_t tt_candidates(const tt_pieces *p, int32_t b) {
  return p->rows[b] > p->prefix ? p->rows[b] - p->prefix : 0;
}

/* Compacts src to dst; room: the rows that dst has (dst_rows, or its default). kept: by segment,
 * max_tokens each. */
static inline void tt_compact(const tt_pieces *p, const char *src, char *dst, int64_t room,
                              const int32_t *counts, const int32_t *kept, const int32_t *new_cu) {
  const tailcut_rows *r = &p->r;
  const int packed = r->placement == TAILCUT_PACKED;
  int64_t candidates = 0;
  for (int32_t b = 0; b < p->segments; b++) {
    const int32_t n = tt_candidates(p, b);
    const int fits = (packed ? new_cu[b] : 0) + (int64_t)counts[b] <= room;
    const int32_t k = fits ? counts[b] : 0;
    candidates += n;
    for (int32_t part = 0; part < r->parts; part++) {
      for (int32_t j = 0; j < k; j++) {
        const int32_t row = kept[b * p->max_tokens + j] + p->prefix;
        memcpy(dst + tt_piece(p, 1, b, j, part, new_cu), src + tt_piece(p, 0, b, row, part, NULL),
               (size_t)r->part_bytes);
      }
      for (int64_t j = k; j < n && j < room && !packed && r->flags; j++) {
        memset(dst + tt_piece(p, 1, b, j, part, new_cu), 0, (size_t)r->part_bytes);
      }
    }
  }
  for (int64_t j = new_cu[p->segments]; j < candidates && j < room && packed && r->flags; j++) {
    for (int32_t part = 0; part < r->parts; part++) {
      memset(dst + tt_piece(p, 1, 0, j, part, (const int32_t[]){0}), 0, (size_t)r->part_bytes);
    }
  }
}

/* Rows of the source: of a segment, or of all where they are one run. */
static inline int64_t tt_source_rows(const tt_pieces *p) {
  return p->ragged ? p->segments * p->max_tokens : p->max_tokens;
}

/* Counts in bytes[size] what each byte is in of one side's pieces, `rows` rows (of a segment, or of
 * all where they are one run) at `base`. 0 where that does not fit; *twice: a byte is in two. */
static inline int tt_mark(const tt_pieces *p, int is_dst, int64_t base, int64_t rows,
                          uint8_t *bytes, int64_t size, int *twice) {
  static const int32_t zeros[TT_SEGMENTS_MOST + 1] = {0};
  const int flat = p->ragged || (is_dst && p->r.placement == TAILCUT_PACKED);
  tt_pieces q = *p;
  memset(q.start, 0, sizeof q.start);
  for (int32_t b = 0; b < (flat ? 1 : p->segments); b++) {
    for (int64_t row = 0; row < rows; row++) {
      for (int32_t part = 0; part < p->r.parts; part++) {
        const int64_t at = base + tt_piece(&q, is_dst, b, row, part, zeros);
        if (at + p->r.part_bytes > size) return 0;
        for (int64_t i = at; i < at + p->r.part_bytes; i++) {
          if (bytes[i]++) *twice = 1;
        }
      }
    }
  }
  return 1;
}

#endif /* TAILCUT_TESTS_PIECES_H_ */
