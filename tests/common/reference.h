/* SPDX-License-Identifier: Apache-2.0 */
/* reference: every exact step once more, naively, from the specification and not from the library's
 * code. Arguments are the library's structs with host pointers, valid and in host memory. */
#ifndef TAILCUT_TESTS_REFERENCE_H_
#define TAILCUT_TESTS_REFERENCE_H_

#include <stdint.h>
#include <tailcut.h>

typedef struct ref_segment {
  int64_t start; /* row number of its first row */
  int64_t end;   /* of the row behind its last; uniform: whatever its length */
  int32_t n;     /* candidates (with roles: rows); 0 where invalid */
  int valid;
} ref_segment;

/* Segment b, from lengths or offsets, and the group offsets where there are any. */
ref_segment ref_segment_of(const tailcut_batch *batch, int32_t b);
int64_t ref_total(const tailcut_batch *batch); /* rows, valid or not */

/* Row r of segment b counted from its first row, widened. */
void ref_row(const tailcut_batch *batch, const tailcut_tokens *tokens, int32_t b, int64_t r,
             float *out);

/* The dot product in the specified order. */
float ref_dot(const float *a, const float *b, int32_t dim);
/* <x,c> / (max(|x|, 1e-8) * max(|c|, 1e-8)), clamped. */
float ref_cosine(float dot, float norm_x, float norm_c);

/* What a row is, by its role. */
int ref_is_candidate(uint8_t role);
int ref_is_query(uint8_t role);

/* As tailcut_score, tailcut_mean_direction and tailcut_relevance with MEAN_COSINE. Elements of no
 * candidate are left alone; flags may be NULL. */
void ref_score(const tailcut_batch *batch, const tailcut_tokens *tokens,
               const tailcut_reference *reference, float *scores, int32_t *flags);
void ref_mean_direction(const tailcut_batch *batch, const tailcut_tokens *tokens,
                        const uint8_t *roles, float *direction);
void ref_relevance(const tailcut_batch *batch, const tailcut_tokens *tokens, const uint8_t *roles,
                   float *scores, int32_t *flags);

/* tailcut_score with NOVELTY; the same rules hold. */
void ref_novelty(const tailcut_batch *batch, const tailcut_tokens *tokens, int32_t window,
                 float *scores, int32_t *flags);
/* The candidates of segment s (number b) that are in group g (without groups: g is b): *first and
 * how many. */
int32_t ref_part_of(const tailcut_batch *batch, const ref_segment *s, int32_t b, int32_t g,
                    int32_t *first);

/* k of a curve of n scores (any order), before the clamps; *whole as in flag 1. Knows nothing of
 * rule.order and rule.group_k: ref_cut hands it what they make of scores, tau and k. */
int64_t ref_detect(const tailcut_rule *rule, int auto_scale, const float *scores, int32_t n,
                   int bad_reference, int *whole);
int64_t ref_clamp(const tailcut_rule *rule, int64_t k, int32_t n);
int64_t ref_ratio(const tailcut_rule *rule, int32_t n);
/* As tailcut_kept_count. */
int32_t ref_kept_count(const tailcut_rule *rule, int32_t n);

/* As tailcut_cut. counts, kept (LOCAL or PACKED), new_cu_seqlens and flags must be given; curve,
 * ranks, host_counts, mask and group_counts may be NULL. */
void ref_cut(const tailcut_batch *batch, const float *scores, const uint8_t *roles,
             const int32_t *input_flags, const tailcut_rule *rule, int auto_scale,
             const tailcut_selection *selection);

/* Which kept row each candidate joins. */
typedef struct ref_plan {
  int32_t *result; /* by candidate: the result row it is kept as, -1: it is not */
  int32_t *joins;  /* the candidate that it joins, itself where it is kept; -1: it is lost */
  float *weight;
} ref_plan;
/* As tailcut_merge, up to the arrays; writes sizes_out and joins_out. */
void ref_plan_merge(const tailcut_batch *batch, const tailcut_tokens *tokens,
                    const tailcut_merge_options *options, const int32_t *kept,
                    int32_t kept_placement, const int32_t *counts, const int32_t *new_cu_seqlens,
                    ref_plan *plan);
void ref_plan_free(ref_plan *plan);

/* As tailcut_compact for one array (dst_rows 0: room for all candidates; REF_NO_ROOM: for none)
 * whose dst is host memory that holds what stood there before (in place: dst == src). `open`: as
 * large as dst, set to REF_OPEN where the result is unspecified, to REF_OPEN + dtype where it is a
 * value of that dtype which has turned: those are close, not exact. With a plan as tailcut_merge.
 */
#define REF_NO_ROOM (-1)
#define REF_OPEN 1
void ref_compact(const tailcut_batch *batch, const int32_t *kept, int32_t kept_placement,
                 const int32_t *counts, const int32_t *new_cu_seqlens, const tailcut_rows *rows,
                 uint8_t *open, const ref_plan *plan);

/* The rotary_dim values of a part of result row j of segment b, whose source is its row r, number
 * `number` of the batch, as they turn. 0: the bits stay. */
int ref_turn(const tailcut_rotation *rotation, int32_t b, int64_t number, int64_t r, int64_t j,
             const void *part, long double *values);
/* Whether byte i of an output is not what it must be: `open` is ref_compact's or NULL. Values that
 * have turned may be the next number to the one wanted. */
int ref_differs(const uint8_t *got, const uint8_t *want, const uint8_t *open, size_t i);

#endif /* TAILCUT_TESTS_REFERENCE_H_ */
