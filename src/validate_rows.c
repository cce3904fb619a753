/* SPDX-License-Identifier: Apache-2.0 */
/* validate_rows: host checks of the row arrays that compaction moves: fields, extents, overlap. */
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

tailcut_rows tc_rows_at(const tc_call *call, int32_t i) {
  tailcut_rows r = TAILCUT_ROWS_INITIALIZER;
  memcpy(&r, entry(call->rows, i), call->rows->struct_size);
  const int64_t dst_rows = r.dst_rows != 0 && r.dst != r.src ? r.dst_rows : call->batch.max_tokens;
  if (r.src_part_stride == 0) r.src_part_stride = r.part_bytes;
  if (r.dst_part_stride == 0) r.dst_part_stride = r.part_bytes;
  if (r.src_row_stride == 0) r.src_row_stride = r.part_bytes * r.parts;
  if (r.dst_row_stride == 0) r.dst_row_stride = r.part_bytes * r.parts;
  if (r.src_segment_stride == 0) {
    r.src_segment_stride = tc_times(call->batch.max_tokens, r.src_row_stride);
  }
  if (r.dst_segment_stride == 0) r.dst_segment_stride = tc_times(dst_rows, r.dst_row_stride);
  if (r.dst_rows == 0) {
    r.dst_rows = r.placement == TAILCUT_PACKED ? call->room_packed
                 : r.dst == r.src              ? call->most_local /* in place it has them all */
                                               : call->room_local;
  }
  return r;
}

static tc_side side_of(const tailcut_rows *r, const tc_call *call, int is_dst) {
  const tailcut_batch *batch = &call->batch;
  const int packed = is_dst && r->placement == TAILCUT_PACKED;
  const int flat = batch->cu_seqlens != NULL || packed;
  tc_side s = {
      (uintptr_t)(is_dst ? r->dst : r->src),
      r->part_bytes,
      {{r->parts, is_dst ? r->dst_part_stride : r->src_part_stride},
       {flat ? batch->total_tokens : batch->max_tokens,
        is_dst ? r->dst_row_stride : r->src_row_stride},
       {flat ? 1 : batch->segments, is_dst ? r->dst_segment_stride : r->src_segment_stride}}};
  if (is_dst) {
    /* No result is behind as many rows as there are candidates. LOCAL and ragged: result j of a
     * segment stands at its start + j, so dst_rows does not bound the array. */
    const int64_t rows = s.dim[TC_ROWS].count;
    const int64_t prefix = batch->prefix_rows < rows ? batch->prefix_rows : rows;
    const int64_t candidates = packed ? call->most_packed : rows - prefix;
    const int64_t room = packed || !flat ? r->dst_rows : INT64_MAX;
    s.dim[TC_ROWS].count = room < candidates ? room : candidates;
  }
  return s;
}

static const char *const stride_names[2][TC_DIMS] = {
    {"src_part_stride", "src_row_stride", "src_segment_stride"},
    {"dst_part_stride", "dst_row_stride", "dst_segment_stride"}};

/* The array does not fit in 62 bits: names what the caller set that is the cause. */
static tailcut_status fail_extent(const tailcut_rows *raw, const tailcut_rows *r, int32_t i,
                                  const tc_call *call, int is_dst, const tc_side *s) {
  static const char expected[] = "strides whose extent fits in 62 bits";
  const int64_t set[TC_DIMS] = {is_dst ? raw->dst_part_stride : raw->src_part_stride,
                                is_dst ? raw->dst_row_stride : raw->src_row_stride,
                                is_dst ? raw->dst_segment_stride : raw->src_segment_stride};
  int widest = 0;
  for (int d = 1; d < TC_DIMS; d++) {
    if (tc_times(s->dim[d].count - 1, s->dim[d].stride) >
        tc_times(s->dim[widest].count - 1, s->dim[widest].stride)) {
      widest = d;
    }
  }
  if (widest == TC_SEGMENTS && set[TC_SEGMENTS] == 0) {
    if (is_dst && r->dst_rows > call->batch.max_tokens) {
      return fail(TAILCUT_ERROR_RANGE, i, "dst_rows", r->dst_rows, "rows that fit in 62 bits");
    }
    widest = TC_ROWS; /* the segment stride follows from it */
  }
  if (set[widest] == 0) {
    return fail(TAILCUT_ERROR_RANGE, i, "parts", r->parts, "rows that fit in 62 bits");
  }
  return fail(TAILCUT_ERROR_RANGE, i, stride_names[is_dst][widest], set[widest], expected);
}

/* A destination must not lie on itself. A source may, but not by a default: that of K/V
 * [B, H, T, d], whose segment stride must be said. */
static tailcut_status check_itself(const tailcut_rows *raw, const tailcut_rows *r, int32_t i,
                                   int is_dst, const tc_side *s) {
  const int slots = (is_dst ? r->dst_slots : r->src_slots) != NULL;
  tc_side own = *s;
  int64_t least = 0;
  if (slots) { /* the rows of a page, and a page behind it; the rest is unknown here */
    own.dim[TC_ROWS].count = r->page_rows > 0 ? r->page_rows : 2;
    own.dim[TC_SEGMENTS].count = r->page_rows > 0 ? 2 : 1;
    own.dim[TC_SEGMENTS].stride = r->page_stride;
  }
  const int d = tc_side_on_itself(&own, &least);
  if (d < 0 || (!slots && tc_side_bytes(s) == 0)) return TAILCUT_OK;
  if (is_dst) {
    return tc_fail(TAILCUT_ERROR_OVERLAP,
                   "rows[%d].%s is %lld; expected at least %lld, so that no rows, parts or "
                   "segments lie on each other (row stride %lld)",
                   (int)i, slots && d == TC_SEGMENTS ? "page_stride" : stride_names[1][d],
                   (long long)own.dim[d].stride, (long long)least,
                   (long long)own.dim[TC_ROWS].stride);
  }
  if (slots || d != TC_SEGMENTS || raw->src_segment_stride != 0) return TAILCUT_OK;
  return tc_fail(TAILCUT_ERROR_RANGE,
                 "rows[%d].src_segment_stride is not set; expected at least %lld with these parts",
                 (int)i, (long long)least);
}

static tailcut_status check_side(const tailcut_rows *raw, const tailcut_rows *r, int32_t i,
                                 const tc_call *call, int is_dst, tc_side *s) {
  const tailcut_batch *batch = &call->batch;
  const void *slots = is_dst ? r->dst_slots : r->src_slots;
  const int64_t raw_segment = is_dst ? raw->dst_segment_stride : raw->src_segment_stride;
  const int packed = is_dst && r->placement == TAILCUT_PACKED;
  char where[48];
  *s = side_of(r, call, is_dst);
  if (s->base == 0 && batch->total_tokens > 0) {
    return tc_fail(TAILCUT_ERROR_NULL, "rows[%d].%s is NULL; expected an array", (int)i,
                   is_dst ? "dst" : "src");
  }
  for (int d = 0; d < TC_DIMS; d++) {
    if (s->dim[d].stride < 0) {
      return fail(TAILCUT_ERROR_RANGE, i, stride_names[is_dst][d], s->dim[d].stride,
                  "no negative stride");
    }
  }
  if (raw_segment != 0 && (batch->cu_seqlens != NULL || slots != NULL || packed)) {
    return fail(TAILCUT_ERROR_CONFLICT, i, stride_names[is_dst][TC_SEGMENTS], raw_segment,
                "0 with cu_seqlens, slots or PACKED");
  }
  if (tc_side_bytes(s) < 0) return fail_extent(raw, r, i, call, is_dst, s);
  TC_TRY(check_itself(raw, r, i, is_dst, s));
  snprintf(where, sizeof where, "rows[%d].%s", (int)i, is_dst ? "dst_slots" : "src_slots");
  return tc_check_pointer(slots, (size_t)r->slot_bytes, where);
}

/* dst == src: strides and slots must be the same. */
static tailcut_status check_in_place(const tailcut_rows *r, int32_t i, const tc_side *src,
                                     const tc_side *dst) {
  int64_t least = 0;
  if (tc_side_bytes(src) == 0 || tc_side_bytes(dst) == 0) return TAILCUT_OK;
  if ((r->src_slots == NULL) != (r->dst_slots == NULL)) {
    return tc_fail(TAILCUT_ERROR_OVERLAP,
                   "rows[%d].%s is NULL; expected slots for both or neither of src and dst in "
                   "place",
                   (int)i, r->src_slots == NULL ? "src_slots" : "dst_slots");
  }
  if (r->src_slots != NULL) return TAILCUT_OK; /* other tables or pages: unknown here */
  for (int d = 0; d < TC_DIMS; d++) {
    if (src->dim[d].stride == dst->dim[d].stride) continue;
    if (d == TC_SEGMENTS && src->dim[d].count <= 1) continue;
    return tc_fail(TAILCUT_ERROR_OVERLAP, "rows[%d].%s is %lld; expected %s %lld, as dst is src",
                   (int)i, stride_names[1][d], (long long)dst->dim[d].stride, stride_names[0][d],
                   (long long)src->dim[d].stride);
  }
  /* The source has more rows than the destination, and those are read late. */
  const int d = tc_side_on_itself(src, &least);
  if (d < 0) return TAILCUT_OK;
  return tc_fail(TAILCUT_ERROR_OVERLAP,
                 "rows[%d].%s is %lld; expected at least %lld in place, so that no rows, parts or "
                 "segments lie on each other",
                 (int)i, stride_names[0][d], (long long)src->dim[d].stride, (long long)least);
}

static tailcut_status check_overlap(const tailcut_rows *r, int32_t i, const tc_side *src,
                                    const tc_side *dst) {
  if (src->base == dst->base && r->placement == TAILCUT_LOCAL) {
    return check_in_place(r, i, src, dst);
  }
  if (r->src_slots != NULL || r->dst_slots != NULL || tc_sides_apart(src, dst)) return TAILCUT_OK;
  return tc_fail(TAILCUT_ERROR_OVERLAP,
                 "rows[%d].dst %p (%lld bytes) shares bytes with src %p (%lld bytes); expected %s",
                 (int)i, r->dst, (long long)tc_side_bytes(dst), (void *)(uintptr_t)r->src,
                 (long long)tc_side_bytes(src),
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
  if (raw->flags & ~(TAILCUT_ROWS_ZERO_TAIL | TAILCUT_ROWS_RENUMBER | TAILCUT_ROWS_MERGE)) {
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
  if (raw->page_rows > 0 && raw->page_stride == 0 &&
      (raw->src_slots != NULL || raw->dst_slots != NULL)) {
    return tc_fail(TAILCUT_ERROR_RANGE, "rows[%d].page_stride is not set; expected with page_rows",
                   (int)i);
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

static tailcut_status check_merged(const tailcut_rows *r, int32_t i, const tc_call *call) {
  if (!(r->flags & TAILCUT_ROWS_MERGE)) {
    if (r->dtype == 0) return TAILCUT_OK;
    return fail(TAILCUT_ERROR_CONFLICT, i, "dtype", r->dtype, "0 without TAILCUT_ROWS_MERGE");
  }
  if (call->merge.window == 0) {
    return fail(TAILCUT_ERROR_CONFLICT, i, "flags", r->flags,
                "TAILCUT_ROWS_MERGE with selection->merge of tailcut_prune_visual, or in "
                "tailcut_merge");
  }
  if (r->flags & TAILCUT_ROWS_RENUMBER) {
    return fail(TAILCUT_ERROR_CONFLICT, i, "flags", r->flags,
                "one of TAILCUT_ROWS_MERGE and TAILCUT_ROWS_RENUMBER");
  }
  if (r->rotation != NULL) {
    return tc_fail(TAILCUT_ERROR_CONFLICT,
                   "rows[%d].rotation is given; expected NULL with TAILCUT_ROWS_MERGE", (int)i);
  }
  if (r->dtype == 0) {
    return tc_fail(TAILCUT_ERROR_ENUM,
                   "rows[%d].dtype is not set; expected with TAILCUT_ROWS_MERGE", (int)i);
  }
  if (r->dtype < TAILCUT_F16 || r->dtype > TAILCUT_F32) {
    return fail(TAILCUT_ERROR_ENUM, i, "dtype", r->dtype, "a tailcut_dtype");
  }
  if (r->parts != 1) {
    return fail(TAILCUT_ERROR_RANGE, i, "parts", r->parts, "1 with TAILCUT_ROWS_MERGE");
  }
  if (r->part_bytes % tc_dtype_size(r->dtype) != 0) {
    return fail(TAILCUT_ERROR_RANGE, i, "part_bytes", r->part_bytes, "a multiple of dtype's size");
  }
  return TAILCUT_OK;
}

/* The fields that older entries lack. */
static tailcut_status check_new_fields(const tailcut_rows *r, int32_t i, const tc_call *call) {
  TC_TRY(check_merged(r, i, call));
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
  const int64_t rows = batch->total_tokens > prefix ? batch->total_tokens - prefix : 0;
  call->room_local = call->most_local = most;
  call->most_packed = batch->segments * most;
  if (batch->cu_seqlens != NULL && rows < call->most_packed) call->most_packed = rows;
  call->room_packed = call->most_packed;
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
    tc_side src, dst;
    char name[48];
    snprintf(name, sizeof name, "rows[%d].struct_size", (int)i);
    TC_TRY(tc_check_struct_size(name, raw->struct_size, TC_MIN_SIZE_rows, sizeof *raw));
    if (raw->struct_size != rows->struct_size) {
      return tc_fail(TAILCUT_ERROR_STRUCT_SIZE, "%s is %zu; expected that of rows[0], %zu", name,
                     raw->struct_size, rows->struct_size);
    }
    TC_TRY(check_fields(raw, i, &call->batch));
    const tailcut_rows r = tc_rows_at(call, i);
    TC_TRY(check_new_fields(&r, i, call));
    TC_TRY(check_side(raw, &r, i, call, 1, &dst));
    TC_TRY(tc_check_rotation(&r, i, &call->batch, &dst));
    call->rotations += r.rotation != NULL;
    if (r.flags & TAILCUT_ROWS_RENUMBER) continue;
    TC_TRY(check_side(raw, &r, i, call, 0, &src));
    TC_TRY(check_overlap(&r, i, &src, &dst));
  }
  return TAILCUT_OK;
}

/* Rows [0, rows) of `dim` elements of every segment as bytes. */
static tc_side vectors(const tc_call *call, const void *data, int32_t dtype, int64_t rows,
                       int64_t row_stride, int64_t segment_stride) {
  const int64_t size = tc_dtype_size(dtype);
  const int through = call->batch.cu_seqlens != NULL && rows > 1;
  tc_side s = {(uintptr_t)data,
               call->tokens.dim * size,
               {{1, 0},
                {through ? call->batch.total_tokens : rows, row_stride * size},
                {through ? 1 : call->batch.segments, segment_stride * size}}};
  return s;
}

int tc_rows_keep_apart(const tc_call *call, int32_t i) {
  const tailcut_tokens *t = &call->tokens;
  const tailcut_reference *ref = &call->reference;
  const tailcut_rows r = tc_rows_at(call, i);
  if (r.dst_slots != NULL) return 0; /* what they write to is not known here */
  const tc_side written = side_of(&r, call, 1);
  const tc_side scored =
      vectors(call, t->data, t->dtype, call->batch.max_tokens, t->row_stride, t->segment_stride);
  /* Inside the segment's own rows? */
  const int64_t row = scored.dim[TC_ROWS].stride;
  const int64_t inside = (int64_t)((uintptr_t)r.dst - (uintptr_t)t->data);
  const int own =
      r.placement == TAILCUT_LOCAL && r.parts == 1 && r.dst_row_stride == row && inside >= 0 &&
      inside + r.part_bytes <= row &&
      (call->batch.cu_seqlens != NULL || r.dst_segment_stride == scored.dim[TC_SEGMENTS].stride);
  if (!own && !tc_sides_apart(&written, &scored)) return 0;
  if (ref->source != TAILCUT_REFERENCE_GIVEN) return 1; /* among the segment's own rows */
  const tc_side given = vectors(call, ref->data, ref->dtype, 1, 0, ref->segment_stride);
  return tc_sides_apart(&written, &given);
}
