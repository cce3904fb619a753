/* SPDX-License-Identifier: Apache-2.0 */
/*
 * debug: TAILCUT_DEBUG=slots, read at create: whether two slots of a call name one row.
 *
 * A row here is the address that a slot stands for. Two rows of a call at one address lose
 * something where either is written: two results in one place, a result on top of a source that is
 * read later, arrays that lie on each other. Two sources in one place lose nothing, and in place a
 * row's own source and result are one. Looked at is what may be read or written as far as that is
 * known before the call runs: with kept and counts (tailcut_compact) exactly, else every row that
 * is not ABSENT, and as many results as the rule can keep.
 *
 * Tables, offsets and roles are copied from the device by the backend's `read`, so a call may
 * allocate and wait here. Limits: rows that share some bytes but not the first are not found, nor
 * are rows shared with an array without slots. Sorting takes n log n in all slots of the call.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "curve.h"
#include "overlap.h"

tailcut_status tc_debug_open(tailcut_handle handle) {
  const char *value = getenv("TAILCUT_DEBUG");
  handle->debug_slots = 0;
  if (value == NULL || value[0] == '\0') return TAILCUT_OK;
  if (strcmp(value, "slots") != 0) {
    return tc_fail(TAILCUT_ERROR_ENUM, "TAILCUT_DEBUG is '%s'; expected slots", value);
  }
  handle->debug_slots = 1;
  return TAILCUT_OK;
}

/* A row that a slot names. */
typedef struct place {
  uintptr_t at;
  int64_t slot;
  int32_t array, row; /* rows[array], row number in the batch or, of a PACKED result, in all */
  int8_t is_dst;      /* by dst_slots; in place by one table: 0 */
  int8_t is_packed;
  int8_t is_written;
} place;

/* A call as far as it is known before it runs. */
typedef struct scan {
  tailcut_handle handle;
  const tc_call *call;
  void *memory[8]; /* freed at the end */
  int blocks;
  int32_t *start, *n, *most; /* [segments]: first row, candidates, results at most */
  int32_t *new_cu;           /* [segments + 1] of a compact; NULL: not known yet */
  uint8_t *is_read;          /* [rows] may be a source */
  uint8_t *is_written;       /* [rows] of the array at hand */
  char *table;               /* [rows] slots of 8 bytes at most */
  int64_t candidates;        /* of all segments */
  place *places;
  size_t count, room;
} scan;

static tailcut_status no_memory(size_t bytes) {
  return tc_fail(TAILCUT_ERROR_MEMORY, "TAILCUT_DEBUG=slots: cannot allocate %zu bytes", bytes);
}

/* Zeroed memory that lives as long as the scan. */
static tailcut_status take(scan *s, size_t bytes, void *pointer) {
  void *block = calloc(1, bytes + 1);
  if (block == NULL) return no_memory(bytes);
  s->memory[s->blocks++] = block;
  memcpy(pointer, &block, sizeof block);
  return TAILCUT_OK;
}

static tailcut_status fetch(scan *s, void *host, const void *device, size_t bytes) {
  if (bytes == 0) return TAILCUT_OK;
  return s->handle->backend->read(s->handle, host, device, bytes, s->call->stream);
}

/* Where segments start and how many candidates they have; invalid ones have none, as in every
 * backend. (One whose ends are no offsets of groups counts as valid here.) */
static tailcut_status find_segments(scan *s) {
  const tailcut_batch *batch = &s->call->batch;
  const size_t segments = (size_t)batch->segments;
  int32_t *shape = NULL;
  int64_t highest = 0;
  TC_TRY(take(s, 4 * segments, &s->start));
  TC_TRY(take(s, 4 * segments, &s->n));
  TC_TRY(take(s, 4 * segments, &s->most));
  TC_TRY(take(s, 4 * (segments + 1), &shape));
  if (batch->cu_seqlens != NULL) TC_TRY(fetch(s, shape, batch->cu_seqlens, 4 * (segments + 1)));
  if (batch->lengths != NULL) TC_TRY(fetch(s, shape, batch->lengths, 4 * segments));
  for (int32_t b = 0; b < batch->segments; b++) {
    int64_t start = (int64_t)b * batch->max_tokens, length = batch->max_tokens;
    int valid = 1;
    if (batch->cu_seqlens != NULL) {
      start = shape[b];
      length = (int64_t)shape[b + 1] - start;
      valid = start >= highest && length >= 0 && shape[b + 1] <= batch->total_tokens;
      if (start > highest) highest = start;
    } else if (batch->lengths != NULL) {
      length = shape[b];
    }
    if (!valid || length < 0 || length > batch->max_tokens) continue;
    s->start[b] = (int32_t)start;
    s->n[b] = length > batch->prefix_rows ? (int32_t)(length - batch->prefix_rows) : 0;
    s->candidates += s->n[b];
  }
  return TAILCUT_OK;
}

/* Before a cut: every row but absent ones may be kept, of the candidates as many as the rule says.
 */
static tailcut_status plan_cut(scan *s) {
  const tc_call *call = s->call;
  uint8_t *roles = NULL;
  if (call->roles != NULL) {
    TC_TRY(take(s, (size_t)call->batch.total_tokens, &roles));
    TC_TRY(fetch(s, roles, call->roles, (size_t)call->batch.total_tokens));
  }
  for (int32_t b = 0; b < call->batch.segments; b++) {
    const int64_t first = (int64_t)s->start[b] + call->batch.prefix_rows;
    int32_t candidates = 0, others = 0;
    for (int64_t r = first; r < first + s->n[b]; r++) {
      const uint8_t role = roles != NULL ? roles[r] : TAILCUT_ROLE_CANDIDATE;
      if (tc_is_absent(role)) continue;
      s->is_read[r] = 1;
      if (tc_is_candidate(role)) {
        candidates++;
      } else {
        others++;
      }
    }
    /* Groups are cut by themselves; together they keep all at most. */
    s->most[b] =
        others + (call->batch.group_cu_seqlens != NULL ? candidates
                                                       : tc_kept_count(&call->rule, candidates));
  }
  return TAILCUT_OK;
}

/* A compact: its lists say it all. */
static tailcut_status plan_compact(scan *s) {
  const tc_call *call = s->call;
  const size_t segments = (size_t)call->batch.segments;
  const int packed = call->kept_placement == TAILCUT_PACKED;
  int32_t *kept = NULL;
  int64_t listed = 0;
  TC_TRY(fetch(s, s->most, call->counts, 4 * segments));
  if (call->new_cu_seqlens != NULL) {
    TC_TRY(take(s, 4 * (segments + 1), &s->new_cu));
    TC_TRY(fetch(s, s->new_cu, call->new_cu_seqlens, 4 * (segments + 1)));
  }
  for (int32_t b = 0; b < call->batch.segments; b++) {
    const int64_t at = packed ? s->new_cu[b] : s->start[b];
    if (s->most[b] < 0 || s->most[b] > s->n[b]) s->most[b] = 0;
    if (at < 0 || at + s->most[b] > call->batch.total_tokens) s->most[b] = 0;
    if (s->most[b] > 0 && at + s->most[b] > listed) listed = at + s->most[b];
  }
  TC_TRY(take(s, 4 * (size_t)listed, &kept));
  TC_TRY(fetch(s, kept, call->kept, 4 * (size_t)listed));
  for (int32_t b = 0; b < call->batch.segments; b++) {
    const int32_t *list = kept + (packed ? s->new_cu[b] : s->start[b]);
    for (int32_t j = 0; j < s->most[b]; j++) {
      if (list[j] < j || list[j] >= s->n[b] || (j > 0 && list[j] <= list[j - 1])) continue;
      s->is_read[(int64_t)s->start[b] + call->batch.prefix_rows + list[j]] = 1;
    }
  }
  return TAILCUT_OK;
}

/* Marks result rows [from, to) of the array at hand as far as it has them. */
static void mark(scan *s, const tailcut_rows *r, int64_t from, int64_t to) {
  const int64_t total = s->call->batch.total_tokens;
  if (r->placement == TAILCUT_PACKED && to > r->dst_rows) to = r->dst_rows;
  if (to > total) to = total;
  for (int64_t i = from > 0 ? from : 0; i < to; i++) s->is_written[i] = 1;
}

static void mark_written(scan *s, const tailcut_rows *r) {
  const tailcut_batch *batch = &s->call->batch;
  const int tail = (r->flags & TAILCUT_ROWS_ZERO_TAIL) != 0;
  int64_t results = 0;
  memset(s->is_written, 0, (size_t)batch->total_tokens);
  for (int32_t b = 0; b < batch->segments; b++) {
    const int64_t rows = tail ? s->n[b] : s->most[b];
    results += s->most[b];
    if (r->placement == TAILCUT_LOCAL) {
      mark(s, r, s->start[b], s->start[b] + (rows < r->dst_rows ? rows : r->dst_rows));
    } else if (s->new_cu != NULL && s->new_cu[b] >= 0) {
      mark(s, r, s->new_cu[b], (int64_t)s->new_cu[b] + s->most[b]);
    }
  }
  if (r->placement == TAILCUT_LOCAL) return;
  if (s->new_cu == NULL) mark(s, r, 0, tail ? s->candidates : results);
  if (s->new_cu != NULL && tail) mark(s, r, s->new_cu[batch->segments], s->candidates);
}

/* Adds the rows of one table. in_place: it is both. */
static tailcut_status add_table(scan *s, const tailcut_rows *r, int32_t array, int is_dst,
                                int in_place) {
  const char *name = is_dst ? "dst_slots" : "src_slots";
  const int64_t stride = is_dst ? r->dst_row_stride : r->src_row_stride;
  const int64_t page_rows = r->page_rows > 0 ? r->page_rows : INT64_MAX;
  int64_t last = s->call->batch.total_tokens;
  while (last > 0 && !(is_dst ? s->is_written[last - 1]
                              : s->is_read[last - 1] || (in_place && s->is_written[last - 1]))) {
    last--;
  }
  TC_TRY(fetch(s, s->table, is_dst ? r->dst_slots : r->src_slots, (size_t)(last * r->slot_bytes)));
  for (int64_t i = 0; i < last; i++) {
    const int written = (is_dst || in_place) && s->is_written[i];
    if (!written && (is_dst || !s->is_read[i])) continue;
    const int64_t slot = r->slot_bytes == 8 ? ((const int64_t *)(const void *)s->table)[i]
                                            : ((const int32_t *)(const void *)s->table)[i];
    if (slot == -1) continue;
    const int64_t offset = slot < 0 ? -1
                                    : tc_plus(tc_times(slot / page_rows, r->page_stride),
                                              tc_times(slot % page_rows, stride));
    if (offset < 0 || offset > INT64_MAX / 2) {
      return tc_fail(TAILCUT_ERROR_RANGE,
                     "rows[%d].%s: row %lld has slot %lld; expected -1, or one of the array's",
                     (int)array, name, (long long)i, (long long)slot);
    }
    if (s->count == s->room) {
      const size_t room = s->room > 0 ? 2 * s->room : 4096;
      place *more = realloc(s->places, room * sizeof *more);
      if (more == NULL) return no_memory(room * sizeof *more);
      s->places = more, s->room = room;
    }
    s->places[s->count++] = (place){(uintptr_t)(is_dst ? r->dst : r->src) + (uintptr_t)offset,
                                    slot,
                                    array,
                                    (int32_t)i,
                                    (int8_t)is_dst,
                                    (int8_t)(is_dst && r->placement == TAILCUT_PACKED),
                                    (int8_t)written};
  }
  return TAILCUT_OK;
}

static int by_address(const void *left, const void *right) {
  const place *a = left, *b = right;
  if (a->at != b->at) return a->at < b->at ? -1 : 1;
  if (a->array != b->array) return a->array < b->array ? -1 : 1;
  if (a->is_dst != b->is_dst) return a->is_dst < b->is_dst ? -1 : 1;
  return a->row < b->row ? -1 : a->row > b->row;
}

/* In place by two tables a row's source is also where its result goes. */
static int are_one(const place *a, const place *b) {
  if (a == b) return 1;
  return a->array == b->array && a->row == b->row && !a->is_packed && !b->is_packed;
}

static tailcut_status find_shared(scan *s) {
  size_t end;
  if (s->count > 1) qsort(s->places, s->count, sizeof *s->places, by_address);
  for (size_t first = 0; first < s->count; first = end) {
    const place *group = s->places + first, *written = NULL;
    for (end = first; end < s->count && s->places[end].at == group->at; end++) {
      if (written == NULL && s->places[end].is_written) written = &s->places[end];
    }
    for (const place *p = group; written != NULL && p < s->places + end; p++) {
      if (are_one(p, written)) continue;
      const place *a = p < written ? p : written, *b = p < written ? written : p;
      return tc_fail(TAILCUT_ERROR_OVERLAP,
                     "rows[%d].%s: row %d has slot %lld, the place of row %d by rows[%d].%s, slot "
                     "%lld; expected a place for each, as one is written",
                     (int)b->array, b->is_dst ? "dst_slots" : "src_slots", (int)b->row,
                     (long long)b->slot, (int)a->row, (int)a->array,
                     a->is_dst ? "dst_slots" : "src_slots", (long long)a->slot);
    }
  }
  return TAILCUT_OK;
}

static int has_slots(const tailcut_rows *r) {
  return r->dst_slots != NULL || (r->src_slots != NULL && !(r->flags & TAILCUT_ROWS_RENUMBER));
}

static tailcut_status look(scan *s) {
  const tc_call *call = s->call;
  const size_t total = (size_t)call->batch.total_tokens;
  TC_TRY(find_segments(s));
  TC_TRY(take(s, 2 * total, &s->is_read));
  s->is_written = s->is_read + total;
  TC_TRY(take(s, 8 * total, &s->table));
  TC_TRY(call->kept != NULL ? plan_compact(s) : plan_cut(s));
  for (int32_t i = 0; i < call->num_rows; i++) {
    const tailcut_rows r = tc_rows_at(call, i);
    if (!has_slots(&r)) continue;
    const int in_place =
        r.src == r.dst && r.src_slots == r.dst_slots && r.src_row_stride == r.dst_row_stride;
    mark_written(s, &r);
    if (r.flags & TAILCUT_ROWS_RENUMBER) {
      TC_TRY(add_table(s, &r, i, 1, 0));
      continue;
    }
    if (r.src_slots != NULL) {
      TC_TRY(add_table(s, &r, i, 0, in_place && r.placement == TAILCUT_LOCAL));
    }
    if (r.dst_slots != NULL && !(in_place && r.placement == TAILCUT_LOCAL)) {
      TC_TRY(add_table(s, &r, i, 1, 0));
    }
  }
  return find_shared(s);
}

tailcut_status tc_debug_check_slots(tailcut_handle handle, const tc_call *call) {
  scan s = {.handle = handle, .call = call};
  int some = 0;
  for (int32_t i = 0; i < call->num_rows && !some; i++) {
    const tailcut_rows r = tc_rows_at(call, i);
    some = has_slots(&r);
  }
  if (!some || call->batch.segments == 0 || call->batch.total_tokens == 0) return TAILCUT_OK;
  tailcut_status status = look(&s);
  for (int i = 0; i < s.blocks; i++) free(s.memory[i]);
  free(s.places);
  if (status != TAILCUT_ERROR_UNSUPPORTED) return status;
  tc_log(handle, TC_LOG_INFO, "TAILCUT_DEBUG=slots: not checked: %s", tailcut_last_error());
  tc_clear_error();
  return TAILCUT_OK;
}
