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
#include "../turn.h"
#include "kernels.h"
#include "team.h"

#define TC_DIRECTIONS 64  /* mean directions held at a time */
#define TC_SCORE_CHUNK 64 /* rows scored between two passes over their norms */
#define TC_BLOCK 64       /* rows per block of the mean direction: METHOD.md */
#define TC_PAIRS 32       /* pairs of a query row and a head whose attention is held at a time */

/* What a handle of this backend has. */
typedef struct tc_cpu {
  const tc_kernels *kernels;
  tc_pool *pool;     /* NULL: the calling thread alone */
  int images_always; /* image by image whatever the batch's size: for tests */
} tc_cpu;

typedef enum tc_counter {
  TC_NEXT_IMAGE,
  TC_NEXT_CUT,
  TC_CUT_DONE, /* groups whose count is there */
  TC_NEXT_PACK,
  TC_NEXT_RELEVANCE,
  TC_NEXT_WINDOW,
  TC_NEXT_FIRSTS,
  TC_NEXT_MARK,
  TC_NEXT_PLAN,
  TC_NEXTS
} tc_counter;

/* How far a thread has come in what others wait for; alone on its cache line. */
typedef struct tc_progress {
  _Atomic int64_t at;
  char rest_of_line[56];
} tc_progress;

/* What merging makes of a candidate: where it is kept, the run of members that it stands for. */
typedef struct tc_merged {
  int32_t
      result; /* its place among its segment's results; -1: not kept. The rest is undefined then */
  int32_t first, count; /* of its segment's members, itself among them, ascending */
  int32_t window;       /* the first row of its window */
} tc_merged;

typedef struct tc_job {
  const tc_call *call;
  const tc_kernels *kernels;
  int32_t kind;
  int32_t images;            /* the first ones, done by tc_images_team; what the steps begin with */
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
  float *weights;        /* by row number: 1 / max(|t|, 1e-8); merging: of each member */
  tc_merged *merged;     /* merging: by candidate, */
  int32_t *members;      /* the rows of each window in the order of those they join */
  float *directions;     /* [TC_DIRECTIONS, dim] */
  int32_t *query_counts; /* [TC_DIRECTIONS] */
  int32_t *words;        /* NOVELTY that merging follows: row r's window from r * window on */
  tc_progress *taken;    /* [threads]; score: rows of each share that somebody has */
  tc_progress *progress; /* [threads]; compact */
  float *pairs;          /* ATTENTION: [TC_PAIRS, max_tokens] */
  double *over_heads;    /* ATTENTION: [max_tokens], of the query row that is on its way */
  double *over_queries;  /* ATTENTION: [max_tokens] */
  char *scratch;
  size_t scratch_stride;
} tc_job;

static inline void *tc_scratch(const tc_job *job, tc_team team) {
  return job->scratch + (size_t)team.id * job->scratch_stride;
}
static inline int32_t tc_task(tc_job *job, tc_counter which) {
  return atomic_fetch_add_explicit(&job->next[which], 1, memory_order_relaxed);
}

/* Bits by row or candidate, in words of 64. */
static inline size_t tc_words(int32_t n) { return ((size_t)n + 63) / 64; }
static inline void tc_set_bit(uint64_t *bits, int32_t i) { bits[i / 64] |= (uint64_t)1 << i % 64; }
static inline int32_t tc_lowest_bit(uint64_t bits) {
#if defined(__GNUC__)
  return __builtin_ctzll(bits);
#else
  int32_t i = 0;
  for (; !(bits & 1); bits >>= 1) i++;
  return i;
#endif
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

/* images.c: how many images are done one by one, and those. */
int32_t tc_images_of(const tc_cpu *cpu, int32_t threads, const tc_call *call);
void tc_images_team(tc_job *job, tc_team team);
/* What it does with each. tc_is_cut: whether its count is there. */
void tc_score_segment(tc_job *job, tc_team team, int32_t b);
void tc_cut_segment(tc_job *job, tc_team team, int32_t b);
int tc_is_cut(const tc_job *job, int32_t b);
void tc_compact_segment(tc_job *job, tc_team team, int32_t b);

/* The steps. */
void tc_score_team(tc_job *job, tc_team team);
void tc_direction_team(tc_job *job, tc_team team, int32_t first, int32_t count, float *out);
void tc_relevance_team(tc_job *job, tc_team team);
void tc_attention_team(tc_job *job, tc_team team);
void tc_cut_team(tc_job *job, tc_team team);
void tc_merge_team(tc_job *job, tc_team team);
void tc_compact_team(tc_job *job, tc_team team);

/* Scores candidates [i0, i1) of segment b against `ref`; ref_norm 1 for a mean direction (stage 2).
 * Returns whether one is NaN among those that count. */
int tc_score_range(const tc_job *job, int32_t b, int32_t i0, int32_t i1, const float *ref,
                   float ref_norm, const uint8_t *roles, float *scores);
float tc_norm(const tc_job *job, const float *v, int32_t dim);

/* novelty.c */
enum { TC_MOST_WINDOW = TC_NOVELTY_ROWS };
void tc_novelty_team(tc_job *job, tc_team team);
/* Candidates first .. first + n - 1 of a segment. */
typedef struct tc_window {
  int32_t segment, first, n;
} tc_window;
/* Where a thread is in the list of all groups' windows. */
typedef struct tc_walk {
  int32_t size;            /* rows of a window at most */
  int32_t at;              /* group */
  int32_t before, windows; /* windows of the groups before it, and of itself; -1: not known */
  tc_group group;
} tc_walk;
static inline tc_walk tc_walk_from_start(int32_t size) {
  const tc_walk walk = {size, 0, 0, -1, {-1, 0, 0, 0, 0}};
  return walk;
}
/* Window number `task`, which never falls from call to call. 0: there are no more. */
int tc_next_window(tc_job *job, tc_walk *walk, int32_t task, tc_window *out);
/* What a window's rows are like. */
typedef struct tc_likeness {
  float squares[TC_MOST_WINDOW]; /* squared norms */
  uint8_t blank[TC_MOST_WINDOW]; /* METHOD.md */
  int32_t blank_count;
} tc_likeness;
static inline int32_t tc_word_pitch(int32_t n) { return (n + 15) & ~15; }
/* Row i's words begin at i * tc_word_pitch(n); TC_NO_WORD in the rows and columns of blank ones.
 * scratch: room for `n` rows of TC_NOVELTY_CHUNK, up to a multiple of 4. */
void tc_window_words(const tc_job *job, const tc_window *window, void *scratch, int32_t *words,
                     tc_likeness *out);
/* Room for the words of a window, then for that scratch. */
size_t tc_window_scratch(int32_t window);
enum { TC_MERGE_BYTES = 1024 }; /* columns of a window's results that wait for others, of each */

/* rank.c: sorts m scores (those at list[i], or at i when list is NULL), negated where `low`. items:
 * m keys<<32 | i, best first; spare: m more. Returns the number that are not NaN. */
int32_t tc_rank(const float *scores, const int32_t *list, int32_t m, int low, uint64_t *items,
                uint64_t *spare, const uint64_t **sorted);
/* The sort alone: items whose keys but the NaN's, `usable` of them, are first..last. Returns items
 * or spare, whichever has the result. */
const uint64_t *tc_sort(uint64_t *items, uint64_t *spare, int32_t m, int32_t usable, uint32_t first,
                        uint32_t last);
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

/* select.c: candidates in bins of their curve values, for rules that need their order in part. */
enum { TC_MOST_BINS = 1024 };
typedef struct tc_bins {
  const tc_kernels *kernels;
  const float *scores;      /* [m] as ordered */
  int32_t m;                /* candidates */
  int32_t *offset;          /* [m, in 64s] the greatest p less the candidate's */
  uint64_t *items, *spare;  /* [m] each */
  uint64_t *chosen, *other; /* a bit for each candidate, in words */
  int32_t count, shift;     /* bins; a bin's width is 1 << shift */
  int32_t first, end;       /* the ranks in `sorted`; chosen has those before them */
  const uint64_t *sorted;
  uint64_t before[TC_MOST_BINS + 1]; /* what ranks before each: count above, sum of offsets below */
} tc_bins;
/* Whether this is the way for a rule and m candidates of whose order nothing else is asked. */
int tc_can_select(const tailcut_rule *rule, int32_t m);
/* Fills the bins, of which all up to `chosen` and `other` is set. Zero where a score is not finite
 * or this is not the way for another reason. */
int tc_bins_fill(tc_bins *bins, const tailcut_rule *rule);
/* k before the clamps. */
int32_t tc_bins_detect(tc_bins *bins, const tailcut_rule *rule, int32_t group);
/* Makes `chosen` the k best-ranked. */
void tc_bins_choose(tc_bins *bins, int32_t k);

/* rotate.c: by how much the rotary_dim/2 pairs of result row j of segment b turn, whose source is
 * the segment's row r, number `number` of the batch. 0: its bits stay. */
int tc_turns_find(tc_turn *turns, const tailcut_rotation *rotation, int32_t b, int64_t number,
                  int64_t r, int64_t j);
/* Turns one part of the row. */
void tc_turn_part(const tc_turn *turns, const tailcut_rotation *rotation, const tc_kernels *kernels,
                  char *part);

static inline size_t tc_align(size_t bytes) { return (bytes + 63) & ~(size_t)63; }
/* Takes `bytes` from the workspace; with base NULL only counts them. */
static inline void *tc_take(char *base, size_t *used, size_t bytes) {
  void *p = base ? base + *used : NULL;
  *used += tc_align(bytes);
  return p;
}
/* The scratch of tc_cut_team, per thread. */
size_t tc_cut_scratch(int32_t max_tokens);

#endif /* TAILCUT_CPU_H_ */
