/* SPDX-License-Identifier: Apache-2.0 */
/* segments: where each segment and group starts, how many candidates it has, whether the bounds and
 * offsets read from memory hold. */
#include "cpu.h"

/* Rows of segment b by its place in the batch: for a uniform one max_tokens, whatever its length.
 * */
static int64_t rows_end(const tc_job *job, int32_t b) {
  const tailcut_batch *batch = &job->call->batch;
  return batch->cu_seqlens != NULL ? batch->cu_seqlens[b + 1]
                                   : (int64_t)(b + 1) * batch->max_tokens;
}

static int is_invalid(const tc_job *job, int32_t b) {
  return atomic_load_explicit(&job->flags[b], memory_order_relaxed) & TAILCUT_FLAG_INVALID;
}

static void make_invalid(tc_job *job, int32_t b) {
  job->start[b] = job->n[b] = 0;
  tc_flag(job, b, TAILCUT_FLAG_INVALID);
}

static void resolve_lengths(tc_job *job) {
  const tailcut_batch *batch = &job->call->batch;
  int64_t highest = 0; /* of all offsets so far: one below it would share rows with others */
  for (int32_t b = 0; b < batch->segments; b++) {
    int64_t start = (int64_t)b * batch->max_tokens;
    int64_t length = batch->max_tokens;
    int valid = 1;
    if (batch->cu_seqlens != NULL) {
      const int64_t end = batch->cu_seqlens[b + 1];
      start = batch->cu_seqlens[b];
      length = end - start;
      valid = start >= highest && length >= 0 && end <= batch->total_tokens;
      if (start > highest) highest = start;
    } else if (batch->lengths != NULL) {
      length = batch->lengths[b];
    }
    valid = valid && length >= 0 && length <= batch->max_tokens;
    job->start[b] = (int32_t)start;
    job->n[b] = length > batch->prefix_rows ? (int32_t)(length - batch->prefix_rows) : 0;
    atomic_store_explicit(&job->flags[b], 0, memory_order_relaxed);
    if (!valid) make_invalid(job, b);
  }
}

/* Segments whose boundaries are no offsets of the groups are invalid; all are when the offsets do
 * not ascend inside the rows. Both lists ascend, so one walk finds all boundaries. */
static void check_groups(tc_job *job) {
  const tailcut_batch *batch = &job->call->batch;
  const int32_t *offsets = batch->group_cu_seqlens;
  int ascending = offsets[0] >= 0 && offsets[batch->groups] <= batch->total_tokens;
  int32_t at = 0;
  for (int32_t g = 0; g < batch->groups; g++) ascending &= offsets[g] <= offsets[g + 1];
  for (int32_t b = 0; b < batch->segments; b++) {
    if (is_invalid(job, b)) continue;
    int found = ascending;
    for (int end = 0; end < 2 && found; end++) {
      const int64_t boundary = end ? rows_end(job, b) : job->start[b];
      while (at < batch->groups && offsets[at] < boundary) at++;
      found = offsets[at] == boundary;
    }
    if (!found) make_invalid(job, b);
  }
}

/* The segment of each group that has rows: again one walk. */
static void place_groups(tc_job *job) {
  const tailcut_batch *batch = &job->call->batch;
  const int32_t *offsets = batch->group_cu_seqlens;
  int32_t b = 0;
  for (int32_t g = 0; g < batch->groups; g++) {
    job->group_segment[g] = -1;
    while (b < batch->segments && (is_invalid(job, b) || rows_end(job, b) <= offsets[g])) b++;
    if (b == batch->segments) continue;
    if (offsets[g] < offsets[g + 1] && job->start[b] <= offsets[g]) job->group_segment[g] = b;
  }
}

void tc_segments_resolve(tc_job *job) {
  const tailcut_batch *batch = &job->call->batch;
  const int32_t *passed = job->call->input_flags;
  int32_t sum = 0;
  resolve_lengths(job);
  if (batch->group_cu_seqlens != NULL) check_groups(job);
  for (int32_t b = 0; b < batch->segments; b++) {
    if (passed != NULL && (passed[b] & TAILCUT_FLAG_INVALID)) make_invalid(job, b);
    if (passed != NULL) tc_flag(job, b, passed[b] & TAILCUT_FLAG_BAD_REFERENCE);
    job->cum[b] = sum;
    sum += job->n[b];
  }
  job->cum[batch->segments] = sum;
  if (job->group_segment != NULL) place_groups(job);
}

int32_t tc_group_count(const tc_job *job) {
  return job->group_segment != NULL ? job->call->batch.groups : job->call->batch.segments;
}

tc_group tc_group_at(const tc_job *job, int32_t g) {
  const tailcut_batch *batch = &job->call->batch;
  if (job->group_segment == NULL) {
    const tc_group whole = {is_invalid(job, g) ? -1 : g, 0, job->n[g], job->start[g],
                            rows_end(job, g)};
    return whole;
  }
  tc_group group = {job->group_segment[g], 0, 0, batch->group_cu_seqlens[g],
                    batch->group_cu_seqlens[g + 1]};
  if (group.segment < 0) return group;
  const int64_t first_row = (int64_t)job->start[group.segment] + batch->prefix_rows;
  const int64_t n = job->n[group.segment];
  const int64_t from = group.row0 > first_row ? group.row0 - first_row : 0;
  const int64_t to = group.row1 - first_row < n ? group.row1 - first_row : n;
  group.first = (int32_t)from;
  group.n = to > from ? (int32_t)(to - from) : 0;
  return group;
}

const char *tc_token_row(const tc_job *job, int32_t b, int64_t r) {
  const tailcut_batch *batch = &job->call->batch;
  const tailcut_tokens *tokens = &job->call->tokens;
  const int64_t row = r + batch->prefix_rows;
  const int64_t element = batch->cu_seqlens != NULL
                              ? (job->start[b] + row) * tokens->row_stride
                              : b * tokens->segment_stride + row * tokens->row_stride;
  return (const char *)tokens->data + element * tc_dtype_size(tokens->dtype);
}
