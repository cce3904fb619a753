/* SPDX-License-Identifier: Apache-2.0 */
/* problem: a case's data in host memory and what must come out of it, by the reference. */
#ifndef TAILCUT_TESTS_PROBLEM_H_
#define TAILCUT_TESTS_PROBLEM_H_

#include "cases.h"
#include "data.h"
#include "reference.h"

/* A block of bytes: an input, or an output with what it must hold in the end. */
typedef struct tt_block {
  uint8_t *data; /* input, or what stands there before the call; NULL: no such argument */
  uint8_t *want; /* after it; NULL for inputs */
  uint8_t *open; /* 1 where the result is unspecified; NULL: nowhere */
  size_t bytes;
} tt_block;

/* One row array: `rows` holds host pointers into the blocks. */
typedef struct tt_array {
  const char *name;
  tailcut_rows rows;
  tt_block src, dst; /* in place: src.data is NULL */
  tt_block fused;    /* what a fused call leaves in dst: `want` and `open` alone */
  tt_block src_slots, dst_slots, base;
  tailcut_rotation rotation; /* with host pointers; struct_size 0: none */
  tt_block positions, new_base, angles;
  int positions_in; /* 1 + the number of the array, earlier in the list, that has them */
  int in_place, is_tokens;
  size_t misalign;
} tt_array;

enum { TT_ARRAY_KINDS = 21, TT_ARRAYS = TT_ARRAY_KINDS + 1 };

typedef struct tt_problem {
  const tt_case *row;
  tailcut_batch batch; /* host pointers, as everything here */
  tailcut_tokens tokens;
  tailcut_reference reference;
  tailcut_rule rule;
  int auto_scale;
  int64_t total;               /* rows */
  tailcut_merge_options merge; /* host pointers; whether the row merges is in it */
  ref_plan plan;
  tt_block shape, group_offsets, group_k, matrix, vector, roles, in_scores, in_flags, sizes_in;
  /* Outputs. Of the scoring part, then of the cut. */
  tt_block direction, scores, score_flags;
  tt_block counts, kept, new_cu, flags, curve, ranks, host_counts, mask, group_counts, sizes_out,
      joins_out;
  tt_array arrays[TT_ARRAYS];
  int array_count;
} tt_problem;

tt_problem *tt_problem_new(const tt_case *c);
void tt_problem_free(tt_problem *problem);

/* TT_OPTION_ bits (backends.h) that the arguments of a problem's call (tailcut_call) carry. */
unsigned tt_options_of(const tt_problem *problem, int32_t call);

/* Group offsets of a problem whose segments are known; then, with its rule, their counts. */
void tt_make_groups(tt_problem *problem, tt_random *random);
void tt_make_group_k(tt_problem *problem, tt_random *random);
/* The scores of a TT_CUT case. */
void tt_curve_scores(tt_random *random, tt_curve kind, float *scores, int64_t n);
/* Adds array number `kind` (a TT_ROWS_ bit) to a problem whose cut is known. */
void tt_add_array(tt_problem *problem, tt_random *random, int kind);
void tt_block_new(tt_block *block, size_t bytes);

#endif /* TAILCUT_TESTS_PROBLEM_H_ */
