/* SPDX-License-Identifier: Apache-2.0 */
/*
 * novelty: how much each candidate differs from those of its window that are chosen before it.
 *
 * Formula: METHOD.md, "Novelty and merging": rows as bytes of their own scale, cosines of bytes as
 * integers of 20 bits, farthest-point order in windows of a group. Strategy: threads take windows
 * one after the other; a window's similarities are words (kernels.h) that fit the first two levels
 * of cache, and are kept where merging wants them. Each window's first row waits for the greatest
 * value of the group: it is marked with a score that nobody has, and found again when all are
 * there. Precision: exact. Limits: a window's words are its rows squared.
 */
#include "cpu.h"

#define TC_FIRST_ROW (-1.0f) /* the mark */

int tc_next_window(tc_job *job, tc_walk *walk, int32_t task, tc_window *out) {
  const int32_t groups = tc_group_count(job);
  while (walk->at < groups) {
    if (walk->windows < 0) {
      walk->group = tc_group_at(job, walk->at);
      const int32_t n = walk->group.segment < 0 ? 0 : walk->group.n;
      walk->windows = (n + walk->size - 1) / walk->size;
    }
    if (task - walk->before < walk->windows) {
      const int64_t n = walk->group.n, b = task - walk->before;
      const int64_t from = b * n / walk->windows, to = (b + 1) * n / walk->windows;
      out->segment = walk->group.segment;
      out->first = walk->group.first + (int32_t)from;
      out->n = (int32_t)(to - from);
      return 1;
    }
    walk->before += walk->windows;
    walk->windows = -1;
    walk->at++;
  }
  return 0;
}

size_t tc_window_scratch(int32_t window) {
  const size_t w = (size_t)window;
  return tc_align(w * w * sizeof(int32_t)) + tc_align(w * TC_NOVELTY_CHUNK * sizeof(int16_t));
}

/* floor(log2(r)), r > 0 and finite. */
static int32_t exponent_of(float r) {
  const int32_t e = (int32_t)(tc_float_bits(r) >> 23);
  return e > 0 ? e - 127 : (int32_t)(tc_float_bits(r * 0x1p32f) >> 23) - 127 - 32;
}

/* The power of two that makes a row's root mean square 16 to 32; 0 for a blank row. */
static float factor_of(float square, int32_t dim) {
  const float r = square / (float)dim;
  if (!(r > 0.0f) || r > 3.402823466e38f) return 0.0f;
  const int32_t e = exponent_of(r);
  const int32_t half = e >= 0 ? e / 2 : (e - 1) / 2; /* rounded down */
  return tc_bits_float((uint32_t)(127 + 4 - half) << 23);
}

void tc_window_words(const tc_job *job, const tc_window *window, void *scratch, int32_t *words,
                     tc_likeness *out) {
  const tailcut_tokens *tokens = &job->call->tokens;
  const int64_t stride = tokens->row_stride * tc_dtype_size(tokens->dtype);
  const char *row0 = tc_token_row(job, window->segment, window->first);
  const int32_t n = window->n, type = tokens->dtype - 1;
  float factors[TC_MOST_WINDOW], lengths[TC_MOST_WINDOW];
  const int32_t pitch = tc_word_pitch(n);
  job->kernels->score_rows[type](row0, stride, n, tokens->dim, NULL, NULL, out->squares);
  out->blank_count = 0;
  for (int32_t i = 0; i < n; i++) {
    factors[i] = factor_of(out->squares[i], tokens->dim);
    out->blank[i] = factors[i] == 0.0f;
    out->blank_count += out->blank[i];
  }
  job->kernels->grams[type](row0, stride, n, tokens->dim, factors, scratch, words, pitch);
  for (int32_t i = 0; i < pitch; i++) {
    lengths[i] = i >= n || out->blank[i] ? 1.0f : sqrtf((float)words[i * pitch + i]);
  }
  job->kernels->words(words, pitch, n, lengths);
  for (int32_t j = 0; j < n && out->blank_count > 0; j++) {
    if (!out->blank[j]) continue;
    for (int32_t i = 0; i < n; i++) words[i * pitch + j] = words[j * pitch + i] = TC_NO_WORD;
  }
}

/* The scores of one window; its first row's is the mark. */
static void score_window(tc_job *job, const tc_window *window, void *scratch) {
  const int64_t at = (int64_t)job->start[window->segment] + window->first;
  const int32_t size = job->call->reference.window, n = window->n;
  int32_t nearest[TC_MOST_WINDOW], values[TC_MOST_WINDOW], first = 0;
  char *q = (char *)scratch + tc_align(sizeof(int32_t) * (size_t)size * (size_t)size);
  int32_t *words = job->words != NULL ? job->words + at * size : scratch;
  float *scores = job->scores + at;
  tc_likeness like;
  tc_window_words(job, window, q, words, &like);
  while (first < n && like.blank[first]) first++;
  if (first < n) {
    job->kernels->farthest(words, tc_word_pitch(n), first, n - like.blank_count - 1, nearest,
                           values);
  }
  for (int32_t i = 0; i < n; i++) {
    const int finite = like.squares[i] / (float)job->call->tokens.dim <= 3.402823466e38f;
    scores[i] = i == first       ? TC_FIRST_ROW
                : !like.blank[i] ? (float)values[i] * 0x1p-22f
                : finite         ? 0.0f
                                 : tc_bits_float(TC_NAN_BITS);
    if (!finite) tc_flag(job, window->segment, TAILCUT_FLAG_NAN);
  }
}

/* First rows come just before all others of the group. */
static void finish_group(tc_job *job, int32_t g) {
  const tc_group group = tc_group_at(job, g);
  if (group.segment < 0) return;
  float *scores = job->scores + job->start[group.segment] + group.first, greatest = 0.0f;
  for (int32_t i = 0; i < group.n; i++) greatest = scores[i] > greatest ? scores[i] : greatest;
  for (int32_t i = 0; i < group.n; i++) {
    if (scores[i] == TC_FIRST_ROW) scores[i] = greatest + 0x1p-22f;
  }
}

void tc_novelty_team(tc_job *job, tc_team team) {
  tc_walk walk = tc_walk_from_start(job->call->reference.window);
  tc_window window;
  int32_t g;
  while (tc_next_window(job, &walk, tc_task(job, TC_NEXT_WINDOW), &window)) {
    score_window(job, &window, tc_scratch(job, team));
  }
  tc_team_barrier(team);
  while ((g = tc_task(job, TC_NEXT_FIRSTS)) < tc_group_count(job)) finish_group(job, g);
  tc_team_barrier(team);
}
