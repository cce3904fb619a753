/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut: from scores to kept indices, one group per thread at a time.
 *
 * Steps: rank (rank.c), k (detect.c), clamps and spread (curve.h), then kept indices in ascending
 * order through a byte map. A segment's list is that of its groups, one behind the other; PACKED
 * results need every earlier count. So each group's indices are made where its first candidate's
 * would stand, joined when all are there, and copied to where the caller wants them.
 */
#include "cpu.h"

/* Among a segment's flags until they are reported: it has candidates. */
#define TC_FLAG_CANDIDATES (1 << 30)

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

/* Everything a group's order shows: curve and ranks where asked for. `at`: the place of its first
 * candidate's score. */
static void report_order(const tc_job *job, const tc_group *group, int64_t at,
                         const uint64_t *items, int32_t m, const int32_t *list) {
  const tailcut_selection *selection = &job->call->selection;
  const int low = job->call->rule.order == TAILCUT_LOW;
  if (selection->curve != NULL) {
    for (int32_t r = 0; r < m; r++) {
      const float s = tc_item_score(items[r]);
      selection->curve[at + r] = low && s == s ? 0.0f - s : s; /* never -0 */
    }
  }
  if (selection->ranks != NULL) {
    if (list != NULL) {
      for (int32_t i = 0; i < group->n; i++) selection->ranks[at + i] = -1;
    }
    for (int32_t r = 0; r < m; r++) {
      const uint32_t i = (uint32_t)items[r];
      selection->ranks[at + (list ? list[i] : (int32_t)i)] = r;
    }
  }
}

/* Sets keep[i] for the best of the m > 0 candidates and the group's flags; items: their order. */
static void choose(tc_job *job, int32_t g, const tc_group *group, const float *scores, int32_t m,
                   const int32_t *list, cut_space space, const uint64_t **items) {
  const tailcut_rule *rule = &job->call->rule;
  const int low = rule->order == TAILCUT_LOW;
  const int32_t usable = tc_rank(scores, list, m, low, space.items, space.spare, items);
  const int32_t flags = atomic_load_explicit(&job->flags[group->segment], memory_order_relaxed);
  const int whole = tc_keeps_whole(rule->detector, usable, flags & TAILCUT_FLAG_BAD_REFERENCE);
  const tc_curve curve = {rule, *items, m, usable, g, space.q};
  const int32_t k = tc_clamp_count(rule, whole ? m : tc_detect(&curve), m);
  const tc_spread spread = tc_spread_of(rule->spread, k, usable);
  for (int32_t j = 0; j < k; j++) {
    const int32_t r = j < spread.head ? j : tc_spread_rank(spread, j - spread.head);
    const uint32_t i = (uint32_t)(*items)[r];
    space.keep[list ? list[i] : (int32_t)i] = 1;
  }
  tc_flag(job, group->segment,
          TC_FLAG_CANDIDATES | (whole ? TAILCUT_FLAG_WHOLE : 0) |
              (usable < m ? TAILCUT_FLAG_NAN : 0) | (usable == 0 ? TAILCUT_FLAG_NO_SCORE : 0));
}

static void cut_group(tc_job *job, int32_t g, cut_space space) {
  const tc_call *call = job->call;
  const tc_group group = tc_group_at(job, g);
  int32_t m = group.n, kept = 0;
  job->group_counts[g] = 0;
  if (group.segment < 0) return;
  const int64_t at = (int64_t)job->start[group.segment] + group.first;
  const uint8_t *roles = call->roles ? call->roles + at : NULL;
  const uint64_t *items = NULL;
  if (roles != NULL) {
    m = 0;
    for (int32_t i = 0; i < group.n; i++) {
      space.keep[i] = !tc_is_candidate(roles[i]) && !tc_is_absent(roles[i]);
      if (tc_is_candidate(roles[i])) space.list[m++] = i;
    }
  } else {
    memset(space.keep, 0, (size_t)group.n);
  }
  const int32_t *list = roles ? space.list : NULL;
  if (m > 0) choose(job, g, &group, job->in_scores + at, m, list, space, &items);
  report_order(job, &group, at, items, m, list);
  if (call->selection.mask != NULL) {
    memset(call->selection.mask + group.row0, 0, (size_t)(group.row1 - group.row0));
    memcpy(call->selection.mask + at + call->batch.prefix_rows, space.keep, (size_t)group.n);
  }
  /* By way of q, where an element too many does no harm: no branch that cannot be predicted. */
  for (int32_t i = 0; i < group.n; i++) {
    space.q[kept] = group.first + i;
    kept += space.keep[i];
  }
  memcpy(job->kept_local + at, space.q, sizeof(int32_t) * (size_t)kept);
  job->group_counts[g] = kept;
}

/* The lists of a segment's groups, one behind the other from the segment's start. */
static void join_groups(tc_job *job) {
  const tailcut_selection *selection = &job->call->selection;
  for (int32_t b = 0; b < job->call->batch.segments; b++) selection->counts[b] = 0;
  for (int32_t g = 0; g < tc_group_count(job); g++) {
    const tc_group group = tc_group_at(job, g);
    if (group.segment < 0) continue;
    int32_t *list = job->kept_local + job->start[group.segment];
    memmove(list + selection->counts[group.segment], list + group.first,
            sizeof *list * (size_t)job->group_counts[g]);
    selection->counts[group.segment] += job->group_counts[g];
  }
}

static void report_segments(tc_job *job) {
  const tailcut_selection *selection = &job->call->selection;
  const int32_t segments = job->call->batch.segments;
  int32_t sum = 0;
  if (job->group_segment != NULL) join_groups(job);
  for (int32_t b = 0; b < segments; b++) {
    const int32_t flags = atomic_load_explicit(&job->flags[b], memory_order_relaxed);
    job->new_cu_out[b] = sum;
    sum += selection->counts[b];
    if (selection->host_counts != NULL) selection->host_counts[b] = selection->counts[b];
    if (selection->flags == NULL) continue;
    selection->flags[b] =
        flags & TC_FLAG_CANDIDATES ? flags & ~TC_FLAG_CANDIDATES : flags & TAILCUT_FLAG_INVALID;
  }
  job->new_cu_out[segments] = sum;
}

void tc_cut_team(tc_job *job, tc_team team) {
  const tailcut_selection *selection = &job->call->selection;
  const int32_t segments = job->call->batch.segments, groups = tc_group_count(job);
  const cut_space space = carve(tc_scratch(job, team), job->call->batch.max_tokens);
  int32_t g, b;
  if (groups == 0 && team.id == 0) report_segments(job);
  while ((g = tc_task(job, TC_NEXT_CUT)) < groups) {
    cut_group(job, g, space);
    /* Whoever makes the last count sums them up: a barrier less. */
    if (atomic_fetch_add_explicit(&job->next[TC_CUT_DONE], 1, memory_order_acq_rel) == groups - 1) {
      report_segments(job);
    }
  }
  tc_team_barrier(team);
  if (selection->kept == NULL || selection->kept == job->kept_local) return;
  const int packed = selection->kept_placement == TAILCUT_PACKED;
  while ((b = tc_task(job, TC_NEXT_PACK)) < segments) {
    memcpy(selection->kept + (packed ? job->new_cu_out[b] : job->start[b]),
           job->kept_local + job->start[b], sizeof(int32_t) * (size_t)selection->counts[b]);
  }
  tc_team_barrier(team);
}
