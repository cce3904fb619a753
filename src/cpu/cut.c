/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut: from scores to kept indices, one segment per thread at a time.
 *
 * Steps: rank (rank.c), k (detect.c), clamps and spread (curve.h), then kept indices in ascending
 * order through a byte map. PACKED results need every earlier count, so kept indices are made in
 * place (LOCAL) first and copied after the prefix sum.
 */
#include "cpu.h"

typedef struct cut_space {
  uint64_t *items, *spare;
  int32_t *q;
  int32_t *list; /* roles: rows of the candidates */
  uint8_t *keep; /* by row: 1 kept */
} cut_space;

static cut_space carve(void *scratch, int32_t max_tokens) {
  const size_t n = (size_t)max_tokens;
  cut_space s;
  s.items = scratch;
  s.spare = s.items + n;
  s.q = (int32_t *)(s.spare + n);
  s.list = s.q + n;
  s.keep = (uint8_t *)(s.list + n);
  return s;
}

/* Everything a segment's order shows: curve and ranks where asked for. */
static void report_order(const tc_run *run, int32_t b, const uint64_t *items, int32_t m,
                         const int32_t *list) {
  const tailcut_selection *selection = &run->call->selection;
  const int32_t start = run->start[b];
  if (selection->curve != NULL) {
    for (int32_t r = 0; r < m; r++) selection->curve[start + r] = tc_item_score(items[r]);
  }
  if (selection->ranks != NULL) {
    if (list != NULL) {
      for (int32_t i = 0; i < run->n[b]; i++) selection->ranks[start + i] = -1;
    }
    for (int32_t r = 0; r < m; r++) {
      const uint32_t i = (uint32_t)items[r];
      selection->ranks[start + (list ? list[i] : (int32_t)i)] = r;
    }
  }
}

static void cut_segment(tc_run *run, int32_t b, cut_space space) {
  const tc_call *call = run->call;
  const tailcut_rule *rule = &call->rule;
  const int32_t n = run->n[b], start = run->start[b];
  const uint8_t *roles = call->roles ? call->roles + start : NULL;
  const float *scores = run->in_scores + start;
  const int32_t flags = atomic_load_explicit(&run->flags[b], memory_order_relaxed);
  const int bad = (flags & TAILCUT_FLAG_BAD_REFERENCE) != 0;
  int32_t m = n, kept = 0, whole = 0;
  const uint64_t *items = NULL;
  if (roles != NULL) {
    m = 0;
    for (int32_t i = 0; i < n; i++) {
      space.keep[i] = !(roles[i] & TAILCUT_ROLE_CANDIDATE);
      if (!space.keep[i]) space.list[m++] = i;
    }
  } else {
    memset(space.keep, 0, (size_t)n);
  }
  const int32_t *list = roles ? space.list : NULL;
  if (m == 0) { /* no flag but INVALID */
    atomic_store_explicit(&run->flags[b], flags & TAILCUT_FLAG_INVALID, memory_order_relaxed);
  } else {
    const int32_t usable = tc_rank(scores, list, m, space.items, space.spare, &items);
    const int32_t wanted = tc_detect(rule, items, m, usable, bad, space.q, &whole);
    const int32_t k = tc_clamp_count(rule, wanted, m);
    const tc_spread spread = tc_spread_of(rule->spread, k, usable);
    for (int32_t j = 0; j < k; j++) {
      const int32_t r = j < spread.head ? j : tc_spread_rank(spread, j - spread.head);
      const uint32_t i = (uint32_t)items[r];
      space.keep[list ? list[i] : (int32_t)i] = 1;
    }
    if (usable < m) tc_flag(run, b, TAILCUT_FLAG_NAN);
    if (whole) tc_flag(run, b, TAILCUT_FLAG_WHOLE);
  }
  report_order(run, b, items, m, list);
  /* By way of q, where an element too many does no harm: no branch that cannot be predicted. */
  for (int32_t i = 0; i < n; i++) {
    space.q[kept] = i;
    kept += space.keep[i];
  }
  memcpy(run->kept_local + start, space.q, sizeof(int32_t) * (size_t)kept);
  call->selection.counts[b] = kept;
}

static void prefix_counts(const tc_run *run) {
  const tailcut_selection *selection = &run->call->selection;
  const int32_t segments = run->call->batch.segments;
  int32_t sum = 0;
  for (int32_t b = 0; b < segments; b++) {
    run->new_cu_out[b] = sum;
    sum += selection->counts[b];
    if (selection->host_counts != NULL) selection->host_counts[b] = selection->counts[b];
    if (selection->flags != NULL) {
      selection->flags[b] = atomic_load_explicit(&run->flags[b], memory_order_relaxed);
    }
  }
  run->new_cu_out[segments] = sum;
}

void tc_cut_team(tc_run *run, tc_team team) {
  const tailcut_selection *selection = &run->call->selection;
  const int32_t segments = run->call->batch.segments;
  const cut_space space = carve(tc_scratch(run, team), run->call->batch.max_tokens);
  int32_t b;
  while ((b = tc_task(run, TC_NEXT_CUT)) < segments) {
    cut_segment(run, b, space);
    /* Whoever makes the last count sums them up: a barrier less. */
    if (atomic_fetch_add_explicit(&run->next[TC_CUT_DONE], 1, memory_order_acq_rel) ==
        segments - 1) {
      prefix_counts(run);
    }
  }
  tc_team_barrier(team);
  if (selection->kept == NULL || selection->kept_placement != TAILCUT_PACKED) return;
  while ((b = tc_task(run, TC_NEXT_PACK)) < segments) {
    memcpy(selection->kept + run->new_cu_out[b], run->kept_local + run->start[b],
           sizeof(int32_t) * (size_t)selection->counts[b]);
  }
  tc_team_barrier(team);
}
