/* SPDX-License-Identifier: Apache-2.0 */
/* groups: the cut offsets of a problem, sound or damaged, and the counts for TOPK of its groups. */
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "problem.h"
#include "reference.h"

/* How often each row number is an offset: the ends of valid segments, and what the kind adds. */
static int32_t *offsets_by_row(const tt_problem *p, tt_random *random, tt_groups kind) {
  int32_t *times = tt_host(sizeof *times * (size_t)(p->total + 1));
  for (int64_t row = 0; row <= p->total; row++) {
    if (kind == TT_GROUPS_ROWS) times[row] = 1;
    if (kind == TT_GROUPS_SEGMENTS || kind == TT_GROUPS_ROWS) continue;
    const int roll = tt_below(random, 24);
    times[row] = roll == 0 ? 3 : roll < 3 ? 1 : 0; /* 3: two empty groups */
  }
  for (int32_t b = 0; b < p->batch.segments; b++) {
    const ref_segment s = ref_segment_of(&p->batch, b);
    if (s.valid && times[s.start] == 0) times[s.start] = 1;
    if (s.valid && times[s.end] == 0) times[s.end] = 1;
  }
  return times;
}

/* Damage to a sound list. */
static void damage(const tt_problem *p, tt_groups kind, int32_t *offsets, int32_t n) {
  switch (kind) {
    case TT_GROUPS_BACK:
      offsets[n / 2] = offsets[n / 2 - 1] - 1;
      break;
    case TT_GROUPS_FAR:
      offsets[n - 1] = (int32_t)p->total + 1;
      break;
    case TT_GROUPS_NEGATIVE:
      offsets[0] = -1;
      break;
    default:
      break;
  }
}

void tt_make_groups(tt_problem *p, tt_random *random) {
  const tt_groups kind = p->row->groups;
  int32_t n = 0;
  if (kind == TT_GROUPS_NONE) return;
  int32_t *times = offsets_by_row(p, random, kind);
  if (kind == TT_GROUPS_MISSING && p->batch.segments > 2) {
    times[ref_segment_of(&p->batch, 2).start] = 0;
  }
  if (kind == TT_GROUPS_SHORT) {
    const int64_t end = ref_segment_of(&p->batch, p->batch.segments - 1).end;
    for (int64_t row = end; row <= p->total; row++) times[row] = 0;
  }
  for (int64_t row = 0; row <= p->total; row++) n += times[row];
  const int32_t padding = kind == TT_GROUPS_SOME ? 4 : 0;
  if (n < 2) { /* two of them are one empty group */
    tt_block_new(&p->group_offsets, 8);
    memset(p->group_offsets.data, 0, 8);
    n = 2;
  } else {
    tt_block_new(&p->group_offsets, 4 * (size_t)(n + padding));
    int32_t *offsets = (int32_t *)(void *)p->group_offsets.data, at = 0;
    for (int64_t row = 0; row <= p->total; row++) {
      for (int32_t i = 0; i < times[row]; i++) offsets[at++] = (int32_t)row;
    }
    damage(p, kind, offsets, n);
    for (int32_t i = 0; i < padding; i++) offsets[n + i] = offsets[n - 1];
    n += padding;
  }
  free(times);
  p->batch.groups = n - 1;
  p->batch.group_cu_seqlens = (const int32_t *)(const void *)p->group_offsets.data;
}

void tt_make_group_k(tt_problem *p, tt_random *random) {
  const int32_t n = p->row->groups ? p->batch.groups : p->batch.segments;
  if (!p->row->group_k) return;
  tt_block_new(&p->group_k, 4 * (size_t)n);
  for (int32_t g = 0; g < n; g++) {
    const int roll = tt_below(random, 8);
    const int32_t k = roll == 0   ? INT32_MIN
                      : roll == 1 ? INT32_MAX
                      : roll == 2 ? -1
                      : roll == 3 ? 0
                                  : tt_below(random, 9);
    memcpy(p->group_k.data + 4 * g, &k, 4);
  }
  p->rule.group_k = (const int32_t *)(const void *)p->group_k.data;
}
