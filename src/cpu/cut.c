/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut: from scores to kept indices, one group per thread at a time.
 *
 * Steps: the order (rank.c) and k (detect.c), or both from bins (select.c) where the order itself
 * is not needed; clamps and spread (curve.h); then kept indices in ascending order through a bit
 * for each row. A segment's list is that of its groups, one behind the other; PACKED results need
 * every earlier count. So each group's indices are made where its first candidate's would stand,
 * joined when all are there, and copied to where the caller wants them.
 */
#include "cpu.h"

/* Among a segment's flags until they are reported: it has candidates; image by image, it is cut. */
#define TC_FLAG_CANDIDATES (1 << 30)
#define TC_FLAG_CUT (1 << 29)

typedef struct cut_space {
  uint64_t *items, *spare;
  int32_t *q;               /* or offsets */
  int32_t *list;            /* roles: rows of the candidates */
  float *ordered;           /* their scores, or all scores negated, one behind the other */
  uint64_t *keep;           /* bits by row: 1 kept */
  uint64_t *chosen, *other; /* bits by candidate */
} cut_space;

/* With scratch NULL only counts. */
static size_t carve(cut_space *s, char *scratch, int32_t max_tokens) {
  const size_t n = tc_words(max_tokens) * 64; /* whole words of bits */
  size_t used = 0;
  s->items = tc_take(scratch, &used, n * sizeof *s->items);
  s->spare = tc_take(scratch, &used, n * sizeof *s->spare);
  s->q = tc_take(scratch, &used, n * sizeof *s->q);
  s->list = tc_take(scratch, &used, n * sizeof *s->list);
  s->ordered = tc_take(scratch, &used, n * sizeof *s->ordered);
  s->keep = tc_take(scratch, &used, n / 8);
  s->chosen = tc_take(scratch, &used, n / 8);
  s->other = tc_take(scratch, &used, n / 8);
  return used;
}

size_t tc_cut_scratch(int32_t max_tokens) {
  cut_space s;
  return carve(&s, NULL, max_tokens);
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

/* The candidates of a group. */
typedef struct candidates {
  int32_t g, segment, m;
  const float *scores; /* candidate i's is at list[i], or at i where list is NULL */
  const int32_t *list;
} candidates;

static int is_whole(const tc_job *job, const candidates *c, int32_t usable) {
  const int32_t flags = atomic_load_explicit(&job->flags[c->segment], memory_order_relaxed);
  return tc_keeps_whole(job->call->rule.detector, usable, flags & TAILCUT_FLAG_BAD_REFERENCE);
}

/* Sets keep's bits of the best of m > 0 by their order, which *items is then. Returns the group's
 * flags. */
static int32_t choose_in_order(const tc_job *job, const candidates *c, cut_space space,
                               const uint64_t **items) {
  const tailcut_rule *rule = &job->call->rule;
  const int low = rule->order == TAILCUT_LOW;
  const int32_t m = c->m;
  const int32_t usable = tc_rank(c->scores, c->list, m, low, space.items, space.spare, items);
  const int whole = is_whole(job, c, usable);
  const tc_curve curve = {rule, *items, m, usable, c->g, space.q};
  const int32_t k = tc_clamp_count(rule, whole ? m : tc_detect(&curve), m);
  const tc_spread spread = tc_spread_of(rule->spread, k, usable);
  for (int32_t j = 0; j < k; j++) {
    const int32_t r = j < spread.head ? j : tc_spread_rank(spread, j - spread.head);
    const uint32_t i = (uint32_t)(*items)[r];
    tc_set_bit(space.keep, c->list ? c->list[i] : (int32_t)i);
  }
  return (whole ? TAILCUT_FLAG_WHOLE : 0) | (usable < m ? TAILCUT_FLAG_NAN : 0) |
         (usable == 0 ? TAILCUT_FLAG_NO_SCORE : 0);
}

/* The same by bins. -1: not this way, and nothing is done. */
static int32_t choose_in_bins(const tc_job *job, const candidates *c, cut_space space) {
  const tailcut_selection *selection = &job->call->selection;
  const tailcut_rule *rule = &job->call->rule;
  const int low = rule->order == TAILCUT_LOW;
  const int32_t m = c->m, *list = c->list;
  if (selection->curve != NULL || selection->ranks != NULL || !tc_can_select(rule, m)) return -1;
  tc_bins bins;
  bins.kernels = job->kernels;
  bins.scores = c->scores;
  bins.m = m;
  bins.offset = space.q;
  bins.items = space.items;
  bins.spare = space.spare;
  bins.chosen = list ? space.chosen : space.keep;
  bins.other = space.other;
  if (list != NULL || low) {
    for (int32_t i = 0; i < m; i++) {
      space.ordered[i] = tc_ordered(c->scores[list ? list[i] : i], low);
    }
    bins.scores = space.ordered;
  }
  if (!tc_bins_fill(&bins, rule)) return -1;
  const int whole = is_whole(job, c, m);
  const int32_t k = whole ? m : tc_bins_detect(&bins, rule, c->g);
  tc_bins_choose(&bins, tc_clamp_count(rule, k, m));
  for (size_t w = 0; list != NULL && w < tc_words(m); w++) {
    for (uint64_t bits = space.chosen[w]; bits != 0; bits &= bits - 1) {
      tc_set_bit(space.keep, list[64 * w + (size_t)tc_lowest_bit(bits)]);
    }
  }
  return whole ? TAILCUT_FLAG_WHOLE : 0;
}

static void cut_group(tc_job *job, int32_t g, cut_space space) {
  const tc_call *call = job->call;
  const tc_group group = tc_group_at(job, g);
  int32_t kept = 0;
  job->group_counts[g] = 0;
  if (group.segment < 0) return;
  const int64_t at = (int64_t)job->start[group.segment] + group.first;
  const uint8_t *roles = call->roles ? call->roles + at : NULL;
  const uint64_t *items = NULL;
  candidates c = {g, group.segment, group.n, job->in_scores + at, roles ? space.list : NULL};
  memset(space.keep, 0, tc_words(group.n) * sizeof *space.keep);
  if (roles != NULL) {
    c.m = 0;
    for (int32_t i = 0; i < group.n; i++) {
      if (tc_is_candidate(roles[i])) {
        space.list[c.m++] = i;
      } else if (!tc_is_absent(roles[i])) {
        tc_set_bit(space.keep, i);
      }
    }
  }
  if (c.m > 0) {
    int32_t flags = choose_in_bins(job, &c, space);
    if (flags < 0) flags = choose_in_order(job, &c, space, &items);
    tc_flag(job, group.segment, TC_FLAG_CANDIDATES | flags);
  }
  report_order(job, &group, at, items, c.m, c.list);
  if (call->selection.mask != NULL) {
    uint8_t *mask = call->selection.mask;
    memset(mask + group.row0, 0, (size_t)(group.row1 - group.row0));
    mask += at + call->batch.prefix_rows;
    for (int32_t i = 0; i < group.n; i++) mask[i] = space.keep[i / 64] >> i % 64 & 1;
  }
  for (int32_t w = 0; 64 * w < group.n; w++) {
    for (uint64_t bits = space.keep[w]; bits != 0; bits &= bits - 1) {
      job->kept_local[at + kept++] = group.first + 64 * w + tc_lowest_bit(bits);
    }
  }
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
    if (b >= job->images) job->new_cu_out[b] = sum; /* else it is there, and read */
    sum += selection->counts[b];
    if (selection->host_counts != NULL) selection->host_counts[b] = selection->counts[b];
    if (selection->flags == NULL) continue;
    selection->flags[b] = flags & TC_FLAG_CANDIDATES ? flags & ~(TC_FLAG_CANDIDATES | TC_FLAG_CUT)
                                                     : flags & TAILCUT_FLAG_INVALID;
  }
  job->new_cu_out[segments] = sum;
}

void tc_cut_segment(tc_job *job, tc_team team, int32_t b) {
  cut_space space;
  carve(&space, tc_scratch(job, team), job->call->batch.max_tokens);
  cut_group(job, b, space);
  atomic_fetch_or_explicit(&job->flags[b], TC_FLAG_CUT, memory_order_release);
}

int tc_is_cut(const tc_job *job, int32_t b) {
  return (atomic_load_explicit(&job->flags[b], memory_order_acquire) & TC_FLAG_CUT) != 0;
}

void tc_cut_team(tc_job *job, tc_team team) {
  const tailcut_selection *selection = &job->call->selection;
  const int32_t segments = job->call->batch.segments, groups = tc_group_count(job);
  const int32_t first = job->images; /* 0 where groups are no segments */
  cut_space space;
  int32_t g, b;
  carve(&space, tc_scratch(job, team), job->call->batch.max_tokens);
  if (groups == 0 && team.id == 0) report_segments(job);
  while ((g = first + tc_task(job, TC_NEXT_CUT)) < groups) {
    cut_group(job, g, space);
    /* Whoever makes the last count sums them up: a barrier less. */
    if (atomic_fetch_add_explicit(&job->next[TC_CUT_DONE], 1, memory_order_acq_rel) ==
        groups - first - 1) {
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
