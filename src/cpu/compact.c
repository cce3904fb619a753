/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact: moves the kept rows of any number of row arrays, or sums what merges into them.
 *
 * In place is safe because kept indices increase strictly: destination j <= source kept[j], so a
 * sweep in ascending order reads each row before anything is written over it. Threads share arrays
 * and segments and, where those are few, rows: those that a thread has scored tend to be in its own
 * cache, and fetching them from another core's costs several times the copy. In place a thread then
 * writes result row j only when all threads before it have read their sources up to row j, which
 * they publish. That needs a list that is known to increase; lists from outside and zeroed tails
 * share columns instead (byte ranges of every row, whole parts where those are turned). Arrays with
 * a rotation come before all others: those may hold the positions. Arrays that are merged read all
 * rows of a window for its results: in place those results wait together, some columns at a time.
 * Precision: bytes are copied; rotate.c for keys that are turned.
 */
#include "cpu.h"

enum { LEAST_AHEAD = 1024 /* bytes that are worth prefetching */ };

static int64_t slot_of(const void *slots, int32_t bytes, int64_t i) {
  return bytes == 8 ? ((const int64_t *)slots)[i] : ((const int32_t *)slots)[i];
}

/* Byte offset of a row: number `flat` of the batch, row `r` of segment b; -1: no such row. */
static int64_t offset_of(const tailcut_rows *a, const tailcut_batch *batch, int is_dst, int32_t b,
                         int64_t start, int64_t r, int flat) {
  const void *slots = is_dst ? a->dst_slots : a->src_slots;
  const int64_t row = is_dst ? a->dst_row_stride : a->src_row_stride;
  const int64_t segment = is_dst ? a->dst_segment_stride : a->src_segment_stride;
  if (slots != NULL) {
    const int64_t slot = slot_of(slots, a->slot_bytes, start + r);
    if (slot < 0) return -1;
    if (a->page_rows == 0) return slot * row;
    return slot / a->page_rows * a->page_stride + slot % a->page_rows * row;
  }
  if (flat || batch->cu_seqlens != NULL) return (start + r) * row;
  return b * segment + r * row;
}

typedef struct range {
  int64_t from, to;
} range;

/* Slices of a row's bytes, in whole multiples of `unit`, and of the rows [first, last). */
static range columns_of(int64_t width, int64_t unit, int32_t slice, int32_t slices) {
  const int64_t piece = (width / slices + unit - 1) / unit * unit;
  const int64_t from = piece * slice < width ? piece * slice : width;
  return (range){from, slice == slices - 1 || from + piece > width ? width : from + piece};
}

static range rows_of(int64_t first, int64_t last, int32_t slice, int32_t slices) {
  const int64_t rows = last - first;
  return (range){first + rows * slice / slices, first + rows * (slice + 1) / slices};
}

/* Where a row goes, and where it is; NULL: zeros. */
typedef struct move {
  char *dst;
  const char *src;
} move;

/* The given bytes of a row seen as its parts one after the other. next: the move after this one. */
static void copy_columns(const tc_job *job, const tailcut_rows *a, move row, move next,
                         range columns) {
  int64_t from = columns.from;
  while (from < columns.to) {
    const int64_t part = from / a->part_bytes, at = from % a->part_bytes;
    const int64_t left = columns.to - from;
    const int64_t size = left < a->part_bytes - at ? left : a->part_bytes - at;
    const int64_t to = part * a->dst_part_stride + at, of = part * a->src_part_stride + at;
    if (row.src == NULL) {
      memset(row.dst + to, 0, (size_t)size);
    } else if (size < LEAST_AHEAD) {
      memcpy(row.dst + to, row.src + of, (size_t)size);
    } else {
      job->kernels->copy(row.dst + to, row.src + of, size, next.dst + to, next.src + of);
    }
    from += size;
  }
}

/* Result row j of segment b, of whose bytes `columns` have been moved to dst: its keys turn. */
static void turn_columns(const tc_job *job, const tailcut_rows *a, const tailcut_rotation *rotation,
                         char *dst, range columns, int32_t b, int64_t r, int64_t j) {
  tc_turn turns[TC_MOST_ROTARY / 2];
  if (!tc_turns_find(turns, rotation, b, job->start[b] + r, r, j)) return;
  for (int64_t at = columns.from; at < columns.to; at += a->part_bytes) {
    tc_turn_part(turns, rotation, job->kernels, dst + at / a->part_bytes * a->dst_part_stride);
  }
}

/* Position j of segment b, renumbered from its base; sums wrap. */
static void write_position(const tailcut_rows *a, char *dst, int32_t b, uint64_t j) {
  if (a->renumber_base != NULL) {
    j += a->part_bytes == 8 ? (uint64_t)((const int64_t *)a->renumber_base)[b]
                            : (uint64_t)((const int32_t *)a->renumber_base)[b];
  }
  const uint32_t narrow = (uint32_t)j;
  for (int32_t p = 0; p < a->parts; p++) {
    memcpy(dst + p * a->dst_part_stride, a->part_bytes == 8 ? (void *)&j : (void *)&narrow,
           (size_t)a->part_bytes);
  }
}

/* The rows of segment b's result; a count that does not fit counts as 0. A damaged count or list of
 * offsets must not lead outside the destination. */
static int32_t result_rows(const tc_job *job, const tailcut_rows *a, int32_t b) {
  const int32_t k = job->counts[b];
  if (k < 0 || k > job->n[b]) return 0;
  if (a->placement == TAILCUT_LOCAL) return k <= a->dst_rows ? k : 0;
  return job->new_cu[b] >= 0 && job->new_cu[b] + (int64_t)k <= a->dst_rows ? k : 0;
}

/* Progress of the threads through rows shared in place: the number of the array's segment in the
 * upper half, the next row to be read in the lower. Whoever waits waits for threads before it only,
 * and those never wait for it, so all get on. */
static void publish(tc_job *job, int32_t thread, int64_t pair, int64_t next_row) {
  atomic_store_explicit(&job->progress[thread].at, pair << 32 | next_row, memory_order_release);
}

/* The first row of `pair` that a thread before this one may still read; a wait until it is above
 * `row`. */
static int64_t wait_for_reads(tc_job *job, int32_t thread, int64_t pair, int64_t row) {
  for (int spins = 0;; spins++) {
    int64_t least = INT64_MAX;
    for (int32_t t = 0; t < thread; t++) {
      const int64_t at = atomic_load_explicit(&job->progress[t].at, memory_order_acquire);
      least = at < least ? at : least;
    }
    if (least > (pair << 32 | row)) return least - (pair << 32);
    tc_team_relax(spins);
  }
}

/* Columns of the mean that kept row i of segment b becomes; where merging is not asked for, or
 * nobody has joined it, of the row itself. dst: where they go; src: the row. */
static void make_columns(const tc_job *job, const tailcut_rows *a, int32_t b, int32_t i, char *dst,
                         const char *src, range columns) {
  const tailcut_batch *batch = &job->call->batch;
  const int32_t start = job->start[b];
  const char *rows[TC_MOST_WINDOW];
  float weights[TC_MOST_WINDOW], total = 0.0f;
  int32_t count = 0;
  const tc_merged *row = a->flags & TAILCUT_ROWS_MERGE ? &job->merged[start + i] : NULL;
  for (int32_t e = 0; row != NULL && row->count > 1 && e < row->count; e++) {
    const int64_t member = (int64_t)start + row->first + e;
    const int64_t r = (int64_t)job->members[member] + batch->prefix_rows;
    const int64_t at = offset_of(a, batch, 0, b, start, r, 0);
    if (at < 0) continue;
    rows[count] = (const char *)a->src + at + columns.from;
    weights[count] = job->weights[member];
    total += weights[count++];
  }
  if (count < 2) {
    memcpy(dst, src + columns.from, (size_t)(columns.to - columns.from));
    return;
  }
  job->kernels->merge[a->dtype - 1](rows, weights, count, total, dst,
                                    (columns.to - columns.from) / tc_dtype_size(a->dtype));
}

/* The candidate that result row j of segment b is made of; -1 where the list is damaged. */
static int32_t followed(const tc_job *job, int32_t b, const int32_t *kept, int32_t j) {
  const int32_t i = kept[j];
  if (i < j || i >= job->n[b]) return -1;
  if (job->call->merge.window > 0) return job->merged[job->start[b] + i].result == j ? i : -1;
  return j > 0 && i <= kept[j - 1] ? -1 : i;
}

/* Columns of the results [j0, j1) of one window in place: made in `space`, where those of all are
 * before any is written. */
static void make_window(const tc_job *job, const tailcut_rows *a, int32_t b, const int32_t *kept,
                        int32_t j0, int32_t j1, char *space, range columns) {
  const tailcut_batch *batch = &job->call->batch;
  const int32_t start = job->start[b];
  for (int64_t from = columns.from; from < columns.to; from += TC_MERGE_BYTES) {
    const int64_t left = columns.to - from, bytes = left < TC_MERGE_BYTES ? left : TC_MERGE_BYTES;
    for (int write = 0; write < 2; write++) {
      char *made = space;
      for (int32_t j = j0; j < j1; j++) {
        const int32_t i = followed(job, b, kept, j);
        if (i < 0) continue;
        const int64_t src = offset_of(a, batch, 0, b, start, (int64_t)i + batch->prefix_rows, 0);
        const int64_t dst = offset_of(a, batch, 1, b, start, j, 0);
        if (src < 0 || dst < 0) continue;
        if (write) {
          memcpy((char *)a->dst + dst + from, made, (size_t)bytes);
        } else {
          make_columns(job, a, b, i, made, (const char *)a->src + src, (range){from, from + bytes});
        }
        made += TC_MERGE_BYTES;
      }
    }
  }
}

/* The k results of segment b in place: a window's are written together. */
static void merge_in_place(const tc_job *job, const tailcut_rows *a, int32_t b, const int32_t *kept,
                           int32_t k, char *space, range columns) {
  const tc_merged *merged = job->merged + job->start[b];
  int32_t j = 0;
  while (j < k) {
    const int32_t i = followed(job, b, kept, j);
    int32_t end = j + 1;
    for (; i >= 0 && end < k; end++) {
      const int32_t other = followed(job, b, kept, end);
      if (other >= 0 && merged[other].window != merged[i].window) break;
    }
    if (i >= 0) make_window(job, a, b, kept, j, end, space, columns);
    j = end;
  }
}

/* Slice `slice` of `slices` of one array's segment. pair >= 0: in place, shared by rows; the slice
 * is the thread then. */
static void compact_segment(tc_job *job, tc_team team, const tailcut_rows *a, int32_t b,
                            int32_t slice, int32_t slices, int64_t pair) {
  const tc_call *call = job->call;
  const tailcut_batch *batch = &call->batch;
  const int32_t n = job->n[b], start = job->start[b];
  const int32_t k = result_rows(job, a, b);
  const int packed = a->placement == TAILCUT_PACKED;
  const int64_t dst_start = packed ? job->new_cu[b] : start;
  const int32_t *kept =
      job->kept + (job->kept_placement == TAILCUT_PACKED ? job->new_cu[b] : start);
  const int64_t width = a->part_bytes * a->parts;
  const int by_columns = a->src == a->dst && pair < 0;
  const int turns = a->rotation != NULL;
  const int64_t unit = turns ? a->part_bytes : 64; /* a cache line */
  const range columns = by_columns ? columns_of(width, unit, slice, slices) : (range){0, width};
  const range results = by_columns ? (range){0, k} : rows_of(0, k, slice, slices);
  const int64_t room = a->dst_rows < n ? a->dst_rows : n; /* LOCAL: >= k */
  const range zeros = by_columns ? (range){k, room} : rows_of(k, room, slice, slices);
  const tailcut_rotation rotation =
      turns ? tc_rotation_of(a) : (tailcut_rotation)TAILCUT_ROTATION_INITIALIZER;
  int64_t free_rows = pair < 0 || slice == 0 ? INT64_MAX : 0; /* may be written */
  if (job->kept_placement == TAILCUT_PACKED &&
      (job->new_cu[b] < 0 || (int64_t)job->new_cu[b] + k > batch->total_tokens)) {
    return;
  }
  if (columns.from == columns.to) return;
  if (by_columns && (a->flags & TAILCUT_ROWS_MERGE)) {
    merge_in_place(job, a, b, kept, k, tc_scratch(job, team), columns);
  }
  const int made = by_columns && (a->flags & TAILCUT_ROWS_MERGE) != 0;
  for (int32_t j = made ? k : (int32_t)results.from; j < results.to; j++) {
    const int64_t dst = offset_of(a, batch, 1, b, dst_start, j, packed);
    if (dst < 0) continue;
    if (a->flags & TAILCUT_ROWS_RENUMBER) {
      if (columns.from == 0)
        write_position(a, (char *)a->dst + dst, b, (uint64_t)j); /* one slice's */
      continue;
    }
    const int32_t i = followed(job, b, kept, j);
    if (i < 0) continue;
    const int64_t r = (int64_t)i + batch->prefix_rows;
    const int64_t src = offset_of(a, batch, 0, b, start, r, 0);
    const int stays = src == dst && a->src == a->dst;
    if (src < 0 || (stays && !turns)) continue;
    if (free_rows <= j) free_rows = wait_for_reads(job, slice, pair, j);
    if (a->flags & TAILCUT_ROWS_MERGE) {
      make_columns(job, a, b, i, (char *)a->dst + dst, (const char *)a->src + src, columns);
    } else if (!stays) {
      const move row = {(char *)a->dst + dst, (const char *)a->src + src};
      move next = row;
      if (a->part_bytes >= LEAST_AHEAD && j + 1 < results.to && kept[j + 1] >= 0 &&
          kept[j + 1] < n) {
        const int64_t r1 = (int64_t)kept[j + 1] + batch->prefix_rows;
        const int64_t src1 = offset_of(a, batch, 0, b, start, r1, 0);
        const int64_t dst1 = offset_of(a, batch, 1, b, dst_start, j + 1, packed);
        if (src1 >= 0 && dst1 >= 0) {
          next = (move){(char *)a->dst + dst1, (const char *)a->src + src1};
        }
      }
      copy_columns(job, a, row, next, columns);
    }
    if (turns) turn_columns(job, a, &rotation, (char *)a->dst + dst, columns, b, r, j);
    if (pair >= 0 && j % 4 == 0) publish(job, slice, pair, (int64_t)i + 1);
  }
  if (!(a->flags & TAILCUT_ROWS_ZERO_TAIL) || packed) return;
  for (int64_t j = zeros.from; j < zeros.to; j++) {
    const int64_t dst = offset_of(a, batch, 1, b, dst_start, j, 0);
    if (dst >= 0)
      copy_columns(job, a, (move){(char *)a->dst + dst, NULL}, (move){NULL, NULL}, columns);
  }
}

/* PACKED with ZERO_TAIL: the rows behind the last result, shared among the team. */
static void zero_packed_tail(const tc_job *job, const tailcut_rows *a, tc_team team) {
  const tailcut_batch *batch = &job->call->batch;
  const int64_t first = job->new_cu[batch->segments];
  const int64_t candidates = job->cum[batch->segments];
  const int64_t last = candidates < a->dst_rows ? candidates : a->dst_rows;
  if (first < 0) return;
  for (int64_t j = first + team.id; j < last; j += team.size) {
    const int64_t dst = offset_of(a, batch, 1, 0, 0, j, 1);
    if (dst < 0) continue;
    copy_columns(job, a, (move){(char *)a->dst + dst, NULL}, (move){NULL, NULL},
                 (range){0, a->part_bytes * a->parts});
  }
}

/* The arrays that turn, or all others. *before: arrays that the team has met; one more for each. */
static void compact_arrays(tc_job *job, tc_team team, int turning, int32_t slices,
                           int64_t *before) {
  const tc_call *call = job->call;
  for (int32_t i = 0; i < call->num_rows; i++) {
    const tailcut_rows a = tc_rows_at(call, i);
    const int64_t tasks = (int64_t)(call->batch.segments - job->images) * slices;
    const int by_rows =
        slices > 1 && a.src == a.dst && job->kind != TAILCUT_CALL_COMPACT &&
        job->kind != TAILCUT_CALL_MERGE &&
        !(a.flags & (TAILCUT_ROWS_ZERO_TAIL | TAILCUT_ROWS_RENUMBER | TAILCUT_ROWS_MERGE));
    /* Whole segments: each array begins with another thread, so that arrays of few segments spread
     * over the team. Slices: slice t is thread t's. Fixed, so no counter. */
    const int32_t first = slices > 1 ? 0 : i % team.size;
    if ((a.rotation != NULL) != turning) continue;
    for (int64_t task = (team.id + team.size - first) % team.size; task < tasks;
         task += team.size) {
      const int32_t b = job->images + (int32_t)(task / slices);
      const int64_t pair = by_rows ? *before * call->batch.segments + b : -1;
      compact_segment(job, team, &a, b, (int32_t)(task % slices), slices, pair);
      if (by_rows) publish(job, team.id, pair + 1, 0);
    }
    if (a.placement == TAILCUT_PACKED && (a.flags & TAILCUT_ROWS_ZERO_TAIL)) {
      zero_packed_tail(job, &a, team);
    }
    ++*before;
  }
}

void tc_compact_segment(tc_job *job, tc_team team, int32_t b) {
  for (int32_t i = 0; i < job->call->num_rows; i++) {
    const tailcut_rows a = tc_rows_at(job->call, i);
    compact_segment(job, team, &a, b, 0, 1, -1);
  }
}

void tc_compact_team(tc_job *job, tc_team team) {
  const tc_call *call = job->call;
  const int64_t pairs = (int64_t)call->num_rows * (call->batch.segments - job->images);
  const int32_t slices = pairs >= 4 * (int64_t)team.size ? 1 : team.size;
  int64_t before = 0;
  if (pairs == 0) return;
  if (call->rotations > 0) {
    compact_arrays(job, team, 1, slices, &before);
    tc_team_barrier(team); /* positions may be among the others */
  }
  if (call->rotations < call->num_rows) compact_arrays(job, team, 0, slices, &before);
}
