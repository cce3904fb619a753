/* SPDX-License-Identifier: Apache-2.0 */
/* validate_rows: host checks of the row arrays that compaction moves: strides, extents, overlap. */
#include <string.h>

#include "internal.h"

#define TC_ROWS_NAME "rows[%d].%s"

static tailcut_status fail(tailcut_status status, int32_t i, const char *field, long long value,
                           const char *expected) {
  return tc_fail(status, TC_ROWS_NAME " is %lld; expected %s", (int)i, field, value, expected);
}

static const tailcut_rows *entry(const tailcut_rows *rows, int32_t i) {
  /* All entries have the first one's size: an older caller's array is walked with its stride. */
  return (const tailcut_rows *)(const void *)((const char *)rows + (size_t)i * rows->struct_size);
}

/* rows * stride; what overflows is refused by check_side for its row stride. */
static int64_t saturated(int64_t rows, int64_t stride) {
  int64_t bytes;
  return __builtin_mul_overflow(rows, stride, &bytes) ? INT64_MAX : bytes;
}

tailcut_rows tc_rows_at(const tailcut_rows *rows, int32_t i, const tailcut_batch *batch) {
  tailcut_rows r = TAILCUT_ROWS_INITIALIZER;
  memcpy(&r, entry(rows, i), rows->struct_size);
  if (r.src_part_stride == 0) r.src_part_stride = r.part_bytes;
  if (r.dst_part_stride == 0) r.dst_part_stride = r.part_bytes;
  if (r.src_row_stride == 0) r.src_row_stride = r.part_bytes * r.parts;
  if (r.dst_row_stride == 0) r.dst_row_stride = r.part_bytes * r.parts;
  if (r.src_segment_stride == 0) {
    r.src_segment_stride = saturated(batch->max_tokens, r.src_row_stride);
  }
  if (r.dst_segment_stride == 0) {
    r.dst_segment_stride = saturated(batch->max_tokens, r.dst_row_stride);
  }
  return r;
}

/* Bytes from the base to the end of the last row, or -1 when that does not fit in 62 bits. */
static int64_t extent(const tailcut_rows *r, const tailcut_batch *batch, int64_t part_stride,
                      int64_t row_stride, int64_t segment_stride, int packed) {
  const int flat = batch->cu_seqlens != NULL || packed;
  const int64_t rows = flat ? batch->total_tokens : batch->max_tokens;
  const int64_t segments = flat ? 1 : batch->segments;
  int64_t parts_end, rows_end, segments_end, end;
  if (rows == 0 || segments == 0) return 0;
  if (__builtin_mul_overflow(part_stride, (int64_t)r->parts - 1, &parts_end) ||
      __builtin_mul_overflow(row_stride, rows - 1, &rows_end) ||
      __builtin_mul_overflow(segment_stride, segments - 1, &segments_end) ||
      __builtin_add_overflow(parts_end, rows_end, &end) ||
      __builtin_add_overflow(end, segments_end, &end) ||
      __builtin_add_overflow(end, r->part_bytes, &end) || end > INT64_MAX / 2) {
    return -1;
  }
  return end;
}

/* Pieces of one array must not lie on each other: planes of rows, or rows of parts. */
static int self_overlaps(const tailcut_rows *r, int64_t rows, int64_t part_stride,
                         int64_t row_stride) {
  if (rows > 1 && row_stride < r->part_bytes) return 1;
  if (r->parts == 1) return 0;
  if (part_stride < r->part_bytes) return 1;
  if (rows <= 1) return 0;
  /* stride < reach + part_bytes, without the sum that may overflow: a stride is >= part_bytes. */
  return part_stride - r->part_bytes < saturated(rows - 1, row_stride) &&
         row_stride - r->part_bytes < saturated(r->parts - 1, part_stride);
}

static tailcut_status check_side(const tailcut_rows *raw, const tailcut_rows *r, int32_t i,
                                 const tailcut_batch *batch, int is_dst, int64_t *bytes) {
  const char *base = is_dst ? (const char *)r->dst : (const char *)r->src;
  const void *slots = is_dst ? r->dst_slots : r->src_slots;
  const int64_t part = is_dst ? r->dst_part_stride : r->src_part_stride;
  const int64_t row = is_dst ? r->dst_row_stride : r->src_row_stride;
  const int64_t segment = is_dst ? r->dst_segment_stride : r->src_segment_stride;
  const int64_t raw_segment = is_dst ? raw->dst_segment_stride : raw->src_segment_stride;
  const int packed = is_dst && r->placement == TAILCUT_PACKED;
  const int64_t rows = slots                         ? (r->page_rows ? r->page_rows : 1)
                       : batch->cu_seqlens || packed ? batch->total_tokens
                                                     : batch->max_tokens;
  if (base == NULL && batch->total_tokens > 0) {
    return tc_fail(TAILCUT_ERROR_NULL, "rows[%d].%s is NULL", (int)i, is_dst ? "dst" : "src");
  }
  if (part < 0 || row < 0 || segment < 0) {
    return fail(TAILCUT_ERROR_RANGE, i, is_dst ? "dst strides" : "src strides",
                (long long)(part < 0  ? part
                            : row < 0 ? row
                                      : segment),
                "no negative stride");
  }
  if (raw_segment != 0 && (batch->cu_seqlens != NULL || slots != NULL || packed)) {
    return fail(TAILCUT_ERROR_CONFLICT, i, is_dst ? "dst_segment_stride" : "src_segment_stride",
                (long long)raw_segment, "0 with cu_seqlens, slots or PACKED");
  }
  *bytes = extent(r, batch, part, row, segment, packed);
  if (*bytes < 0) {
    return fail(TAILCUT_ERROR_RANGE, i, is_dst ? "dst_row_stride" : "src_row_stride",
                (long long)row, "strides whose extent fits in 62 bits");
  }
  if (is_dst && self_overlaps(r, rows, part, row)) {
    return fail(TAILCUT_ERROR_OVERLAP, i, "dst_row_stride", (long long)row,
                "rows and parts that do not lie on each other");
  }
  return tc_check_pointer(slots, (size_t)r->slot_bytes,
                          is_dst ? "rows[].dst_slots" : "rows[].src_slots");
}

static tailcut_status check_overlap(const tailcut_rows *r, int32_t i, int64_t src_bytes,
                                    int64_t dst_bytes) {
  const uintptr_t src = (uintptr_t)r->src, dst = (uintptr_t)r->dst;
  const int both_slots = r->src_slots != NULL && r->dst_slots != NULL;
  const int any_slots = r->src_slots != NULL || r->dst_slots != NULL;
  if (src == dst && r->placement == TAILCUT_LOCAL) {
    if (r->src_part_stride == r->dst_part_stride && r->src_row_stride == r->dst_row_stride &&
        (any_slots ? both_slots && r->src_slots == r->dst_slots
                   : r->src_segment_stride == r->dst_segment_stride)) {
      return TAILCUT_OK;
    }
    if (src_bytes == 0 || dst_bytes == 0 || both_slots) return TAILCUT_OK;
    return tc_fail(TAILCUT_ERROR_OVERLAP,
                   "rows[%d].dst is src with other strides; expected equal strides in place",
                   (int)i);
  }
  if (any_slots || src_bytes == 0 || dst_bytes == 0) return TAILCUT_OK;
  if (src + (uint64_t)src_bytes <= dst || dst + (uint64_t)dst_bytes <= src) return TAILCUT_OK;
  return tc_fail(TAILCUT_ERROR_OVERLAP, "rows[%d].dst %p overlaps src %p; expected %s", (int)i,
                 r->dst, (void *)(uintptr_t)r->src,
                 r->placement == TAILCUT_PACKED ? "separate memory for a PACKED result"
                                                : "dst == src or separate memory");
}

tailcut_status tc_check_rows(const tailcut_rows *rows, int32_t num_rows,
                             const tailcut_batch *batch) {
  if (num_rows < 0) {
    return tc_fail(TAILCUT_ERROR_RANGE, "num_rows is %d; expected at least 0", (int)num_rows);
  }
  if (num_rows > 0 && rows == NULL) {
    return tc_fail(TAILCUT_ERROR_NULL, "rows is NULL; expected %d descriptors", (int)num_rows);
  }
  for (int32_t i = 0; i < num_rows; i++) {
    const tailcut_rows *raw = entry(rows, i);
    int64_t src_bytes = 0, dst_bytes = 0, product;
    tailcut_status status;
    if (raw->struct_size != sizeof(tailcut_rows)) {
      return fail(TAILCUT_ERROR_STRUCT_SIZE, i, "struct_size", (long long)raw->struct_size,
                  "sizeof(tailcut_rows) (set by TAILCUT_ROWS_INITIALIZER)");
    }
    if (raw->part_bytes < 1 || raw->part_bytes > INT32_MAX) {
      return fail(TAILCUT_ERROR_RANGE, i, "part_bytes", (long long)raw->part_bytes,
                  "1 to 2147483647");
    }
    if (raw->parts < 1) return fail(TAILCUT_ERROR_RANGE, i, "parts", raw->parts, "at least 1");
    if (raw->placement != TAILCUT_LOCAL && raw->placement != TAILCUT_PACKED) {
      return fail(TAILCUT_ERROR_ENUM, i, "placement", raw->placement, "LOCAL (1) or PACKED (2)");
    }
    if (raw->flags & ~(TAILCUT_ROWS_ZERO_TAIL | TAILCUT_ROWS_RENUMBER)) {
      return fail(TAILCUT_ERROR_ENUM, i, "flags", raw->flags, "TAILCUT_ROWS_* bits");
    }
    if (raw->slot_bytes != 4 && raw->slot_bytes != 8) {
      return fail(TAILCUT_ERROR_RANGE, i, "slot_bytes", raw->slot_bytes, "4 or 8");
    }
    if (raw->page_rows < 0 || raw->page_stride < 0) {
      return fail(TAILCUT_ERROR_RANGE, i, raw->page_rows < 0 ? "page_rows" : "page_stride",
                  (long long)(raw->page_rows < 0 ? raw->page_rows : raw->page_stride),
                  "at least 0");
    }
    if ((raw->flags & TAILCUT_ROWS_RENUMBER) && raw->part_bytes != 4 && raw->part_bytes != 8) {
      return fail(TAILCUT_ERROR_RANGE, i, "part_bytes", (long long)raw->part_bytes,
                  "4 or 8 with TAILCUT_ROWS_RENUMBER");
    }
    if (__builtin_mul_overflow(raw->part_bytes * raw->parts, (int64_t)batch->max_tokens + 1,
                               &product)) {
      return fail(TAILCUT_ERROR_RANGE, i, "parts", raw->parts, "a smaller row");
    }
    const tailcut_rows r = tc_rows_at(rows, i, batch);
    status = check_side(raw, &r, i, batch, 1, &dst_bytes);
    if (status != TAILCUT_OK) return status;
    if (r.flags & TAILCUT_ROWS_RENUMBER) continue;
    status = check_side(raw, &r, i, batch, 0, &src_bytes);
    if (status != TAILCUT_OK) return status;
    status = check_overlap(&r, i, src_bytes, dst_bytes);
    if (status != TAILCUT_OK) return status;
  }
  return TAILCUT_OK;
}
