/* SPDX-License-Identifier: Apache-2.0 */
/*
 * merge: which kept row each dropped one joins, and with what weight; compact.c makes the rows.
 *
 * Formula: METHOD.md, "Novelty and merging", 7, 8 and 10. Strategy: marks where each kept row's
 * result is, segment by segment; then threads take windows: the likest kept row of each dropped one
 * from the words of NOVELTY, which scoring has left or which are made here, and the window's rows
 * sorted by the row they join, so that each result is one run of a list. Precision: exact. Limits:
 * nothing is written to row arrays here: sums read rows that in place compaction writes over.
 */
#include "cpu.h"

/* Marks the rows of segment b that its list names. */
static void mark_kept(const tc_job *job, int32_t b) {
  const int32_t n = job->n[b], start = job->start[b];
  const int packed = job->kept_placement == TAILCUT_PACKED;
  const int32_t *kept = job->kept + (packed ? job->new_cu[b] : start);
  tc_merged *rows = job->merged + start;
  int32_t k = job->counts[b], before = -1;
  if (k < 0 || k > n) k = 0;
  if (packed && (job->new_cu[b] < 0 || (int64_t)job->new_cu[b] + k > job->call->batch.total_tokens))
    k = 0;
  for (int32_t i = 0; i < n; i++) rows[i].result = -1;
  for (int32_t j = 0; j < k; j++) {
    if (kept[j] < j || kept[j] >= n || kept[j] <= before) continue;
    before = kept[j];
    rows[before].result = j;
  }
}

/* p as a weight. */
static float weight_of(int32_t p, int32_t power) {
  const float c = (float)(p > 0 ? p : 0) * 0x1p-20f;
  return power == TAILCUT_MERGE_MEAN ? 1.0f : (c * c) * (c * c);
}

static int32_t size_of(const tc_job *job, const tc_window *window, int32_t i) {
  const int32_t *sizes = job->call->merge.sizes_in;
  const int64_t row = (int64_t)job->start[window->segment] + job->call->batch.prefix_rows;
  const int32_t size = sizes != NULL ? sizes[row + window->first + i] : 1;
  return size > 1 ? size : 1;
}

/* For each of the window's rows the kept one that it joins or is, -1: it is lost; and its weight.
 * kept: m rows. */
static void join_rows(const tc_job *job, const tc_window *window, const int32_t *words,
                      const int32_t *kept, int32_t m, int32_t *joins, float *weights) {
  const tailcut_merge_options *options = &job->call->merge;
  const int32_t pitch = tc_word_pitch(window->n);
  for (int32_t k = 0; k < m; k++) joins[kept[k]] = k;
  for (int32_t i = 0; i < window->n; i++) {
    const int32_t *row = words + i * pitch;
    int32_t best = -1;
    weights[i] = 1.0f;
    if (joins[i] < 0) {
      for (int32_t k = 0; k < m; k++) { /* words of one row differ by likeness, then by number */
        const int32_t p = row[kept[k]] >> 8;
        if (row[kept[k]] == TC_NO_WORD || p <= best) continue;
        best = p;
        joins[i] = k;
      }
      if (joins[i] < 0) continue;
      weights[i] = weight_of(best - (1 << 20), options->power);
    }
    if (options->sizes_in != NULL) weights[i] *= (float)size_of(job, window, i);
  }
}

/* Of one result, placed as the caller's `kept` is. */
static void report_size(const tc_job *job, const tc_window *window, const tc_merged *row) {
  const tc_call *call = job->call;
  const int32_t b = window->segment, start = job->start[b];
  const int fused = job->kind == TAILCUT_CALL_PRUNE_VISUAL;
  const int32_t placement = fused ? call->selection.kept_placement : call->kept_placement;
  uint32_t size = 0;
  for (int32_t e = 0; e < row->count; e++) {
    size += (uint32_t)size_of(job, window, job->members[start + row->first + e] - window->first);
  }
  call->merge.sizes_out[(placement == TAILCUT_PACKED ? job->new_cu[b] : start) + row->result] =
      (int32_t)size;
}

static void plan_window(const tc_job *job, const tc_window *window, const int32_t *words) {
  const int32_t n = window->n, b = window->segment, start = job->start[b];
  const int64_t at = (int64_t)start + window->first;
  int32_t kept[TC_MOST_WINDOW], joins[TC_MOST_WINDOW], ends[TC_MOST_WINDOW], m = 0, sum = 0;
  float weights[TC_MOST_WINDOW];
  tc_merged *rows = job->merged + at;
  for (int32_t i = 0; i < n; i++) {
    joins[i] = -1;
    if (rows[i].result >= 0) kept[m++] = i;
  }
  join_rows(job, window, words, kept, m, joins, weights);
  for (int32_t k = 0; k < m; k++) rows[kept[k]].count = 0;
  for (int32_t i = 0; i < n; i++) {
    if (joins[i] >= 0) rows[kept[joins[i]]].count++;
  }
  for (int32_t k = 0; k < m; k++) {
    tc_merged *row = &rows[kept[k]];
    row->first = window->first + sum;
    row->window = window->first;
    ends[k] = sum;
    sum += row->count;
  }
  for (int32_t i = 0; i < n; i++) {
    if (joins[i] < 0) continue;
    const int64_t to = at + ends[joins[i]]++;
    job->members[to] = window->first + i;
    job->weights[to] = weights[i];
  }
  int32_t *joins_out = job->call->merge.joins_out;
  for (int32_t i = 0; i < n && joins_out != NULL; i++) {
    joins_out[at + i] = joins[i] < 0 ? -1 : window->first + kept[joins[i]];
  }
  if (job->call->merge.sizes_out == NULL) return;
  for (int32_t k = 0; k < m; k++) report_size(job, window, &rows[kept[k]]);
}

void tc_merge_team(tc_job *job, tc_team team) {
  const int32_t size = job->call->merge.window, segments = job->call->batch.segments;
  tc_walk walk = tc_walk_from_start(size);
  tc_window window;
  int32_t b;
  while ((b = tc_task(job, TC_NEXT_MARK)) < segments) mark_kept(job, b);
  tc_team_barrier(team);
  while (tc_next_window(job, &walk, tc_task(job, TC_NEXT_PLAN), &window)) {
    const int64_t at = (int64_t)job->start[window.segment] + window.first;
    int32_t *words = tc_scratch(job, team);
    if (job->words != NULL) {
      words = job->words + at * size;
    } else {
      tc_likeness like;
      char *q = (char *)words + tc_align(sizeof *words * (size_t)size * (size_t)size);
      tc_window_words(job, &window, q, words, &like);
    }
    plan_window(job, &window, words);
  }
  tc_team_barrier(team);
}
