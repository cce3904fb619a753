/* SPDX-License-Identifier: Apache-2.0 */
/* validate_rotation: host checks of a row array's rotation. */
#include "check.h"

static const char *field(char *name, size_t size, int32_t i, const char *what) {
  snprintf(name, size, "rows[%d].rotation->%s", (int)i, what);
  return name;
}
#define FIELD(what) field(name, sizeof name, i, what)

static tailcut_status check_values(const tailcut_rotation *t, const tailcut_rows *r, int32_t i) {
  char name[64];
  TC_TRY(tc_check_enum(FIELD("dtype"), t->dtype, TAILCUT_F16, TAILCUT_F32));
  TC_TRY(tc_check_enum(FIELD("pairing"), t->pairing, TAILCUT_ROPE_NEOX, TAILCUT_ROPE_INTERLEAVED));
  const int64_t size = tc_dtype_size(t->dtype);
  if (r->part_bytes % size != 0) {
    return tc_fail(TAILCUT_ERROR_RANGE,
                   "rows[%d].part_bytes is %lld; expected a multiple of %lld, the size of "
                   "rotation->dtype",
                   (int)i, (long long)r->part_bytes, (long long)size);
  }
  if (t->rotary_dim == 0) {
    return tc_fail(TAILCUT_ERROR_RANGE, "%s is not set", FIELD("rotary_dim"));
  }
  if (t->rotary_dim < 2 || t->rotary_dim > TC_MOST_ROTARY || t->rotary_dim % 2 != 0) {
    return tc_fail(TAILCUT_ERROR_RANGE, "%s is %d; expected an even number, 2 to %d",
                   FIELD("rotary_dim"), (int)t->rotary_dim, TC_MOST_ROTARY);
  }
  const int64_t values = r->part_bytes / size;
  if (t->rotary_dim > values) {
    return tc_fail(
        TAILCUT_ERROR_RANGE, "%s is %d; expected at most %lld, the values of part_bytes %lld",
        FIELD("rotary_dim"), (int)t->rotary_dim, (long long)values, (long long)r->part_bytes);
  }
  return tc_check_int(FIELD("rotary_offset"), t->rotary_offset, 0, values - t->rotary_dim);
}

/* Where angles come from. */
static tailcut_status check_tables(const tailcut_rotation *t, int32_t i) {
  char name[64];
  if (t->position_bytes != 4 && t->position_bytes != 8) {
    return tc_fail(TAILCUT_ERROR_RANGE, "%s is %d; expected 4 or 8", FIELD("position_bytes"),
                   (int)t->position_bytes);
  }
  TC_TRY(tc_check_pointer(t->positions, (size_t)t->position_bytes, FIELD("positions")));
  TC_TRY(tc_check_pointer(t->new_base, (size_t)t->position_bytes, FIELD("new_base")));
  TC_TRY(tc_check_pointer(t->inv_freq, 4, FIELD("inv_freq")));
  TC_TRY(tc_check_pointer(t->cos_sin, 4, FIELD("cos_sin")));
  if (t->inv_freq == NULL && t->cos_sin == NULL) {
    return tc_fail(TAILCUT_ERROR_NULL, "%s is NULL; expected it or cos_sin", FIELD("inv_freq"));
  }
  if (t->inv_freq != NULL && t->cos_sin != NULL) {
    return tc_fail(TAILCUT_ERROR_CONFLICT, "%s and inv_freq are both given; expected one",
                   FIELD("cos_sin"));
  }
  if (t->cos_sin == NULL && t->table_rows != 0) {
    return tc_fail(TAILCUT_ERROR_CONFLICT, "%s is %d; expected 0 without cos_sin",
                   FIELD("table_rows"), (int)t->table_rows);
  }
  if (t->cos_sin != NULL && t->table_rows == 0) {
    return tc_fail(TAILCUT_ERROR_RANGE, "%s is not set; expected with cos_sin",
                   FIELD("table_rows"));
  }
  if (t->cos_sin == NULL) return TAILCUT_OK;
  return tc_check_int(FIELD("table_rows"), t->table_rows, 1, INT32_MAX);
}

/* Values at multiples of their size. */
static tailcut_status check_alignment(const tailcut_rotation *t, const tailcut_rows *r, int32_t i,
                                      int uniform) {
  char name[64];
  const int64_t size = tc_dtype_size(t->dtype);
  const int packed = r->placement == TAILCUT_PACKED;
  const int paged = (r->src_slots != NULL || r->dst_slots != NULL) && r->page_rows > 0;
  const struct {
    const char *name;
    int64_t stride;
    int used;
  } strides[] = {
      {"src_part_stride", r->src_part_stride, r->parts > 1},
      {"dst_part_stride", r->dst_part_stride, r->parts > 1},
      {"src_row_stride", r->src_row_stride, 1},
      {"dst_row_stride", r->dst_row_stride, 1},
      {"src_segment_stride", r->src_segment_stride, uniform && r->src_slots == NULL},
      {"dst_segment_stride", r->dst_segment_stride, uniform && r->dst_slots == NULL && !packed},
      {"page_stride", r->page_stride, paged}};
  snprintf(name, sizeof name, "rows[%d].src", (int)i);
  TC_TRY(tc_check_pointer(r->src, (size_t)size, name));
  snprintf(name, sizeof name, "rows[%d].dst", (int)i);
  TC_TRY(tc_check_pointer(r->dst, (size_t)size, name));
  for (size_t s = 0; s < sizeof strides / sizeof strides[0]; s++) {
    if (!strides[s].used || strides[s].stride % size == 0) continue;
    return tc_fail(TAILCUT_ERROR_RANGE,
                   "rows[%d].%s is %lld; expected a multiple of %lld, the size of rotation->dtype",
                   (int)i, strides[s].name, (long long)strides[s].stride, (long long)size);
  }
  return TAILCUT_OK;
}

/* What angles are made of must not be overwritten by what they turn. */
static tailcut_status check_apart(const tailcut_rotation *t, const tailcut_batch *batch, int32_t i,
                                  const tc_side *dst) {
  const struct {
    const char *name;
    const void *base;
    int64_t elements, size;
  } tables[] = {{"positions", t->positions, batch->total_tokens, t->position_bytes},
                {"new_base", t->new_base, batch->segments, t->position_bytes},
                {"inv_freq", t->inv_freq, t->rotary_dim / 2, 4},
                {"cos_sin", t->cos_sin, t->table_rows, (int64_t)t->rotary_dim * 4}};
  for (size_t s = 0; s < sizeof tables / sizeof tables[0]; s++) {
    const tc_side table = {(uintptr_t)tables[s].base,
                           tables[s].size,
                           {{1, 0}, {tables[s].elements, tables[s].size}, {1, 0}}};
    if (tables[s].base == NULL || tc_sides_apart(&table, dst)) continue;
    return tc_fail(TAILCUT_ERROR_OVERLAP,
                   "rows[%d].rotation->%s %p shares bytes with rows[%d].dst; expected separate "
                   "memory",
                   (int)i, tables[s].name, (void *)(uintptr_t)tables[s].base, (int)i);
  }
  return TAILCUT_OK;
}

tailcut_status tc_check_rotation(const tailcut_rows *r, int32_t i, const tailcut_batch *batch,
                                 const tc_side *dst) {
  char name[64];
  if (r->rotation == NULL) return TAILCUT_OK;
  if (r->flags & TAILCUT_ROWS_RENUMBER) {
    return tc_fail(TAILCUT_ERROR_CONFLICT,
                   "rows[%d].rotation is given; expected NULL with TAILCUT_ROWS_RENUMBER", (int)i);
  }
  TC_TRY(tc_check_struct_size(FIELD("struct_size"), r->rotation->struct_size, TC_MIN_SIZE_rotation,
                              sizeof *r->rotation));
  const tailcut_rotation t = tc_rotation_of(r);
  TC_TRY(check_values(&t, r, i));
  TC_TRY(check_tables(&t, i));
  TC_TRY(check_alignment(&t, r, i, batch->cu_seqlens == NULL));
  return r->dst_slots != NULL ? TAILCUT_OK : check_apart(&t, batch, i, dst);
}
