/* SPDX-License-Identifier: Apache-2.0 */
/* validate_rows: host checks of the row arrays that compaction moves: strides, extents, overlap. */
#include <string.h>

#include "check.h"

static tailcut_status fail(tailcut_status status, int32_t i, const char *field, int64_t value,
                           const char *expected) {
  return tc_fail(status, "rows[%d].%s is %lld; expected %s", (int)i, field, (long long)value,
                 expected);
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

tailcut_rows tc_rows_at(const tc_call *call, int32_t i) {
  tailcut_rows r = TAILCUT_ROWS_INITIALIZER;
  memcpy(&r, entry(call->rows, i), call->rows->struct_size);
  const int64_t dst_rows = r.dst_rows != 0 ? r.dst_rows : call->batch.max_tokens;
  if (r.src_part_stride == 0) r.src_part_stride = r.part_bytes;
  if (r.dst_part_stride == 0) r.dst_part_stride = r.part_bytes;
  if (r.src_row_stride == 0) r.src_row_stride = r.part_bytes * r.parts;
  if (r.dst_row_stride == 0) r.dst_row_stride = r.part_bytes * r.parts;
  if (r.src_segment_stride == 0) {
    r.src_segment_stride = saturated(call->batch.max_tokens, r.src_row_stride);
  }
  if (r.dst_segment_stride == 0) r.dst_segment_stride = saturated(dst_rows, r.dst_row_stride);
  if (r.dst_rows == 0) {
    r.dst_rows = r.placement == TAILCUT_PACKED ? call->room_packed : call->room_local;
  }
  return r;
}

/* One side of an array as bytes: base + segment * s + row * r + part * p + 0..part_bytes-1. */
typedef struct side {
  uintptr_t base;
  int64_t part_bytes;
  struct {
    int64_t count, stride;
    const char *name;
  } dim[3]; /* parts, rows, segments */
} side;

static side side_of(const tailcut_rows *r, const tc_call *call, int is_dst) {
  const tailcut_batch *batch = &call->batch;
  const int packed = is_dst && r->placement == TAILCUT_PACKED;
  const int flat = batch->cu_seqlens != NULL || packed;
  side s = {(uintptr_t)(is_dst ? r->dst : r->src),
            r->part_bytes,
            {{r->parts, is_dst ? r->dst_part_stride : r->src_part_stride, "part_stride"},
             {flat ? batch->total_tokens : batch->max_tokens,
              is_dst ? r->dst_row_stride : r->src_row_stride, "row_stride"},
             {flat ? 1 : batch->segments, is_dst ? r->dst_segment_stride : r->src_segment_stride,
              "segment_stride"}}};
  if (is_dst) {
    /* LOCAL and ragged: result j of a segment stands at its start + j, j below its candidates. */
    const int64_t behind = call->roles != NULL ? 0 : batch->prefix_rows;
    const int64_t candidates = s.dim[1].count > behind ? s.dim[1].count - behind : 0;
    const int64_t room = packed || !flat ? r->dst_rows : INT64_MAX;
    s.dim[1].count = packed ? room : room < candidates ? room : candidates;
  }
  return s;
}

/* Bytes from the base to the end of the last row, or -1 when that does not fit in 62 bits. */
static int64_t extent(const side *s) {
  int64_t end = s->part_bytes;
  for (int d = 0; d < 3; d++) {
    int64_t reach;
    if (s->dim[d].count <= 0) return 0;
    if (__builtin_mul_overflow(s->dim[d].stride, s->dim[d].count - 1, &reach) ||
        __builtin_add_overflow(end, reach, &end) || end > INT64_MAX / 2) {
      return -1;
    }
  }
  return end;
}

/* The stride at which pieces of a destination lie on each other, or NULL. Pieces are apart where the
 * strides nest: each reaches over all that the smaller ones span. */
static const char *stride_on_itself(const side *s, int64_t *stride) {
  int order[3] = {0, 1, 2};
  int64_t reach = s->part_bytes;
  for (int d = 0; d < 3; d++) {
    if (s->dim[d].count <= 0) return NULL; /* there are no pieces */
  }
  for (int i = 0; i < 3; i++) {
    for (int j = i + 1; j < 3; j++) {
      if (s->dim[order[j]].stride < s->dim[order[i]].stride) {
        const int swap = order[i];
        order[i] = order[j];
        order[j] = swap;
      }
    }
  }
  for (int i = 0; i < 3; i++) {
    const int d = order[i];
    if (s->dim[d].count <= 1) continue;
    *stride = s->dim[d].stride;
    if (*stride < reach) return s->dim[d].name;
    reach += saturated(s->dim[d].count - 1, *stride);
  }
  return NULL;
}

static int64_t gcd(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

/* Whether two sides share no byte: one ends before the other begins, or their pieces interleave: all
 * strides are multiples of one number, modulo which the pieces of either side are one place. */
static int apart(const side *a, int64_t a_bytes, const side *b, int64_t b_bytes) {
  int64_t unit = 0;
  if (a_bytes == 0 || b_bytes == 0) return 1;
  if (a->base + (uint64_t)a_bytes <= b->base || b->base + (uint64_t)b_bytes <= a->base) return 1;
  for (int d = 0; d < 3; d++) {
    if (a->dim[d].count > 1) unit = gcd(unit, a->dim[d].stride);
    if (b->dim[d].count > 1) unit = gcd(unit, b->dim[d].stride);
  }
  if (unit < a->part_bytes + b->part_bytes) return 0;
  const uint64_t modulus = (uint64_t)unit;
  const uint64_t ahead = b->base >= a->base ? (b->base - a->base) % modulus
                                            : modulus - 1 - (a->base - b->base - 1) % modulus;
  return ahead >= (uint64_t)a->part_bytes && ahead + (uint64_t)b->part_bytes <= modulus;
}

static tailcut_status check_side(const tailcut_rows *raw, const tailcut_rows *r, int32_t i,
                                 const tc_call *call, int is_dst, side *s, int64_t *bytes) {
  static const char *const names[2][3] = {
      {"src_part_stride", "src_row_stride", "src_segment_stride"},
      {"dst_part_stride", "dst_row_stride", "dst_segment_stride"}};
  const tailcut_batch *batch = &call->batch;
  const void *slots = is_dst ? r->dst_slots : r->src_slots;
  const int64_t raw_segment = is_dst ? raw->dst_segment_stride : raw->src_segment_stride;
  const int packed = is_dst && r->placement == TAILCUT_PACKED;
  *s = side_of(r, call, is_dst);
  if (s->base == 0 && batch->total_tokens > 0) {
    return tc_fail(TAILCUT_ERROR_NULL, "rows[%d].%s is NULL; expected an array", (int)i,
                   is_dst ? "dst" : "src");
  }
  for (int d = 0; d < 3; d++) {
    if (s->dim[d].stride < 0) {
      return fail(TAILCUT_ERROR_RANGE, i, names[is_dst][d], s->dim[d].stride, "no negative stride");
    }
  }
  if (raw_segment != 0 && (batch->cu_seqlens != NULL || slots != NULL || packed)) {
    return fail(TAILCUT_ERROR_CONFLICT, i, names[is_dst][2], raw_segment,
                "0 with cu_seqlens, slots or PACKED");
  }
  *bytes = extent(s);
  if (*bytes < 0) {
    int widest = 0;
    for (int d = 1; d < 3; d++) {
      if (saturated(s->dim[d].count, s->dim[d].stride) >
          saturated(s->dim[widest].count, s->dim[widest].stride)) {
        widest = d;
      }
    }
    return fail(TAILCUT_ERROR_RANGE, i, names[is_dst][widest], s->dim[widest].stride,
                "strides whose extent fits in 62 bits");
  }
  if (is_dst) {
    side own = *s;
    int64_t stride = 0;
    if (slots != NULL) { /* the rows of a page; the rest is unknown here */
      own.dim[1].count = r->page_rows ? r->page_rows : 1;
      own.dim[2].count = 1;
    }
    const char *name = stride_on_itself(&own, &stride);
    if (name != NULL) {
      char field[32];
      snprintf(field, sizeof field, "dst_%s", name);
      return fail(TAILCUT_ERROR_OVERLAP, i, field, stride,
                  "rows, parts and segments that do not lie on each other");
    }
  }
  char where[48];
  snprintf(where, sizeof where, "rows[%d].%s", (int)i, is_dst ? "dst_slots" : "src_slots");
  return tc_check_pointer(slots, (size_t)r->slot_bytes, where);
}

static tailcut_status check_overlap(const tailcut_rows *r, int32_t i, const side *src,
                                    int64_t src_bytes, const side *dst, int64_t dst_bytes) {
  const int both_slots = r->src_slots != NULL && r->dst_slots != NULL;
  const int any_slots = r->src_slots != NULL || r->dst_slots != NULL;
  if (src->base == dst->base && r->placement == TAILCUT_LOCAL) {
    const int segments_agree =
        src->dim[2].count <= 1 || r->src_segment_stride == r->dst_segment_stride;
    if (r->src_part_stride == r->dst_part_stride && r->src_row_stride == r->dst_row_stride &&
        (any_slots ? both_slots && r->src_slots == r->dst_slots : segments_agree)) {
      return TAILCUT_OK;
    }
    if (src_bytes == 0 || dst_bytes == 0 || both_slots) return TAILCUT_OK;
    return tc_fail(TAILCUT_ERROR_OVERLAP,
                   "rows[%d].dst is src with other strides; expected equal strides in place",
                   (int)i);
  }
  if (any_slots || apart(src, src_bytes, dst, dst_bytes)) return TAILCUT_OK;
  return tc_fail(TAILCUT_ERROR_OVERLAP,
                 "rows[%d].dst %p (%lld bytes) shares bytes with src %p (%lld bytes); expected %s",
                 (int)i, r->dst, (long long)dst_bytes, (void *)(uintptr_t)r->src,
                 (long long)src_bytes,
                 r->placement == TAILCUT_PACKED ? "separate memory for a PACKED result"
                                                : "dst == src or separate memory");
}

/* What needs nothing but the entry itself. */
static tailcut_status check_fields(const tailcut_rows *raw, int32_t i, const tailcut_batch *batch) {
  const int renumber = (raw->flags & TAILCUT_ROWS_RENUMBER) != 0;
  int64_t product;
  if (raw->part_bytes < 1 || raw->part_bytes > INT32_MAX) {
    if (raw->part_bytes == 0) {
      return tc_fail(TAILCUT_ERROR_RANGE, "rows[%d].part_bytes is not set", (int)i);
    }
    return fail(TAILCUT_ERROR_RANGE, i, "part_bytes", raw->part_bytes, "1 to 2147483647");
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
  if (raw->page_rows < 0) {
    return fail(TAILCUT_ERROR_RANGE, i, "page_rows", raw->page_rows, "at least 0");
  }
  if (raw->page_stride < 0) {
    return fail(TAILCUT_ERROR_RANGE, i, "page_stride", raw->page_stride, "at least 0");
  }
  if (renumber && raw->part_bytes != 4 && raw->part_bytes != 8) {
    return fail(TAILCUT_ERROR_RANGE, i, "part_bytes", raw->part_bytes,
                "4 or 8 with TAILCUT_ROWS_RENUMBER");
  }
  if (__builtin_mul_overflow(raw->part_bytes * raw->parts, (int64_t)batch->max_tokens + 1,
                             &product)) {
    return fail(TAILCUT_ERROR_RANGE, i, "parts", raw->parts, "a smaller row");
  }
  return TAILCUT_OK;
}

/* The fields that older entries lack. */
static tailcut_status check_new_fields(const tailcut_rows *r, int32_t i) {
  if (r->dst_rows < 0) return fail(TAILCUT_ERROR_RANGE, i, "dst_rows", r->dst_rows, "at least 0");
  if (r->renumber_base == NULL) return TAILCUT_OK;
  char name[48];
  if (!(r->flags & TAILCUT_ROWS_RENUMBER)) {
    return tc_fail(TAILCUT_ERROR_CONFLICT,
                   "rows[%d].renumber_base is given; expected with TAILCUT_ROWS_RENUMBER", (int)i);
  }
  snprintf(name, sizeof name, "rows[%d].renumber_base", (int)i);
  return tc_check_pointer(r->renumber_base, (size_t)r->part_bytes, name);
}

/* What a destination has room for where the caller does not say. */
static void find_room(tc_call *call, int fused) {
  const tailcut_batch *batch = &call->batch;
  const int64_t prefix = batch->prefix_rows;
  const int64_t most = batch->max_tokens > prefix ? batch->max_tokens - prefix : 0;
  call->room_local = most;
  call->room_packed = batch->cu_seqlens == NULL      ? batch->segments * most
                      : batch->total_tokens > prefix ? batch->total_tokens - prefix
                                                     : 0;
  if (!fused || call->roles != NULL || batch->group_cu_seqlens != NULL) return;
  const int64_t kept = tc_kept_count(&call->rule, (int32_t)most);
  call->room_local = kept;
  if (batch->segments * kept < call->room_packed) call->room_packed = batch->segments * kept;
}

tailcut_status tc_check_rows(tc_call *call, const tailcut_rows *rows, int32_t num_rows) {
  find_room(call, call->rule.struct_size != 0);
  if (num_rows < 0) {
    return tc_fail(TAILCUT_ERROR_RANGE, "num_rows is %d; expected at least 0", (int)num_rows);
  }
  if (num_rows > 0 && rows == NULL) {
    return tc_fail(TAILCUT_ERROR_NULL, "rows is NULL; expected %d descriptors", (int)num_rows);
  }
  call->rows = rows;
  call->num_rows = num_rows;
  for (int32_t i = 0; i < num_rows; i++) {
    const tailcut_rows *raw = entry(rows, i);
    int64_t src_bytes = 0, dst_bytes = 0;
    side src, dst;
    if (raw->struct_size == 0) {
      return tc_fail(TAILCUT_ERROR_STRUCT_SIZE,
                     "rows[%d].struct_size is not set; start from TAILCUT_ROWS_INITIALIZER",
                     (int)i);
    }
    if (raw->struct_size < TC_MIN_SIZE_rows || raw->struct_size > sizeof *raw ||
        raw->struct_size != rows->struct_size) {
      return tc_fail(TAILCUT_ERROR_STRUCT_SIZE,
                     "rows[%d].struct_size is %zu; this library knows %zu to %zu, the same for all",
                     (int)i, raw->struct_size, TC_MIN_SIZE_rows, sizeof *raw);
    }
    TC_TRY(check_fields(raw, i, &call->batch));
    const tailcut_rows r = tc_rows_at(call, i);
    TC_TRY(check_new_fields(&r, i));
    TC_TRY(check_side(raw, &r, i, call, 1, &dst, &dst_bytes));
    if (r.flags & TAILCUT_ROWS_RENUMBER) continue;
    TC_TRY(check_side(raw, &r, i, call, 0, &src, &src_bytes));
    TC_TRY(check_overlap(&r, i, &src, src_bytes, &dst, dst_bytes));
  }
  return TAILCUT_OK;
}
