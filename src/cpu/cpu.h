/* SPDX-License-Identifier: Apache-2.0 */
/* cpu: what the steps of the CPU backend share.
 *
 * A call is one job of a team: every thread walks through the same steps (tc_<step>_team), which
 * share work by static ranges or an atomic counter and end in a barrier. Nothing is allocated: all
 * memory is the workspace. */
#ifndef TAILCUT_CPU_H_
#define TAILCUT_CPU_H_

#include <stdatomic.h>

#include "../curve.h"
#include "../internal.h"
#include "kernels.h"
#include "team.h"

#define TC_DIRECTIONS 64  /* mean directions held at a time */
#define TC_SCORE_CHUNK 64 /* rows scored between two passes over their norms */
#define TC_BLOCK 64       /* rows per block of the mean direction: METHOD.md */

/* What a handle of this backend has. */
typedef struct tc_cpu {
  const tc_kernels *kernels;
  tc_pool *pool; /* NULL: the calling thread alone */
} tc_cpu;

typedef enum tc_counter {
  TC_NEXT_CUT,
  TC_CUT_DONE, /* groups whose count is there */
  TC_NEXT_PACK,
  TC_NEXT_RELEVANCE,
  TC_NEXTS
} tc_counter;

/* How far a thread has come in what others wait for; alone on its cache line. */
typedef struct tc_progress {
  _Atomic int64_t at;
  char rest_of_line[56];
} tc_progress;

typedef struct tc_job {
  const tc_call *call;
  const tc_kernels *kernels;
  int32_t kind;
  atomic_int next[TC_NEXTS]; /* next free task of a step */
  /* Segments, resolved from lengths or offsets. n: candidates (with roles: rows). */
  int32_t *start;
  int32_t *n;
  int32_t *cum; /* [segments + 1] prefix sums of n */
  atomic_int *flags;
  int32_t
      *group_segment; /* [groups]: where each group is, -1: nowhere; NULL: group g is segment g */
  int32_t *group_counts; /* [groups] */
  /* Results on their way: the caller's arrays where given, else the workspace. */
  float *scores;
  const float *in_scores;
  const int32_t *kept;
  int32_t kept_placement;
  int32_t *kept_local;
  const int32_t *counts;
  const int32_t *new_cu;
  int32_t *new_cu_out;
  float *weights;        /* by row number: 1 / max(|t|, 1e-8) */
  float *directions;     /* [TC_DIRECTIONS, dim] */
  int32_t *query_counts; /* [TC_DIRECTIONS] */
  tc_progress *progress; /* [threads]; compact */
  double *head_sums;     /* ATTENTION: [q_heads, max_tokens] */
  char *scratch;
  size_t scratch_stride;
} tc_job;

static inline void *tc_scratch(const tc_job *job, tc_team team) {
  return job->scratch + (size_t)team.id * job->scratch_stride;
}
static inline int32_t tc_task(tc_job *job, tc_counter which) {
  return atomic_fetch_add_explicit(&job->next[which], 1, memory_order_relaxed);
}

/* segments.c */
void tc_segments_resolve(tc_job *job);
/* A group of candidates that are cut together. */
typedef struct tc_group {
  int32_t segment;    /* -1: the group is in no segment, and empty */
  int32_t first, n;   /* its candidates: first .. first + n - 1 of the segment */
  int64_t row0, row1; /* its rows, by row number */
} tc_group;
int32_t tc_group_count(const tc_job *job);
tc_group tc_group_at(const tc_job *job, int32_t g);
/* Row r of segment b counted from its first candidate. */
const char *tc_token_row(const tc_job *job, int32_t b, int64_t r);
static inline void tc_flag(tc_job *job, int32_t b, int32_t bit) {
  atomic_fetch_or_explicit(&job->flags[b], bit, memory_order_relaxed);
}

/* The steps. */
void tc_score_team(tc_job *job, tc_team team);
void tc_direction_team(tc_job *job, tc_team team, int32_t first, int32_t count, float *out);
void tc_relevance_team(tc_job *job, tc_team team);
void tc_attention_team(tc_job *job, tc_team team);
void tc_cut_team(tc_job *job, tc_team team);
void tc_compact_team(tc_job *job, tc_team team);

/* Scores candidates [i0, i1) of segment b against `ref`; ref_norm 1 for a mean direction (stage 2).
 * Returns whether one is NaN among those that count. */
int tc_score_range(const tc_job *job, int32_t b, int32_t i0, int32_t i1, const float *ref,
                   float ref_norm, const uint8_t *roles, float *scores);
float tc_norm(const tc_job *job, const float *v, int32_t dim);

/* rank.c: sorts m scores (those at list[i], or at i when list is NULL), negated where `low`. items:
 * m keys<<32 | i, best first; spare: m more. Returns the number that are not NaN. */
int32_t tc_rank(const float *scores, const int32_t *list, int32_t m, int low, uint64_t *items,
                uint64_t *spare, const uint64_t **sorted);
/* As ordered: negated where `low`. */
static inline float tc_item_score(uint64_t item) { return tc_key_score((uint32_t)(item >> 32)); }

/* detect.c: the sorted scores of a group, as its rule sees them. */
typedef struct tc_curve {
  const tailcut_rule *rule;
  const uint64_t *items; /* [n] in rank order */
  int32_t n;             /* candidates */
  int32_t usable;        /* of them not NaN: the curve */
  int32_t group;         /* its number */
  int32_t *q;            /* room for `usable` integers */
} tc_curve;
/* k before the clamps. */
int32_t tc_detect(const tc_curve *curve);

static inline size_t tc_align(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

#endif /* TAILCUT_CPU_H_ */
