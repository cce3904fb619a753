/* SPDX-License-Identifier: Apache-2.0 */
/* cases: one table of inputs that every backend is run on. A row says what is different from the
 * defaults (0 or NULL means the default); problem.c makes the data from the row's seed. */
#ifndef TAILCUT_TESTS_CASES_H_
#define TAILCUT_TESTS_CASES_H_

#include <stdint.h>
#include <tailcut.h>

typedef enum tt_kind {
  TT_VISUAL = 1,   /* score, cut, compact and prune_visual */
  TT_CUT = 2,      /* cut and compact on scores from anywhere */
  TT_SEQUENCE = 4, /* relevance, cut, compact and prune_sequence */
  TT_ALL_KINDS = 7
} tt_kind;

typedef enum tt_layout { TT_UNIFORM, TT_LENGTHS, TT_RAGGED } tt_layout;

/* Scores of a TT_CUT case. */
typedef enum tt_curve {
  TT_NORMAL,     /* any floats around 0 */
  TT_COSINES,    /* an exponential tail inside [-1,1] */
  TT_STEP,       /* two plateaus with noise */
  TT_FEW_VALUES, /* many ties */
  TT_FLAT,
  TT_NAN_SOME,
  TT_NAN_ALL,
  TT_NAN_BUT_TWO,
  TT_INFINITE, /* some +-inf */
  TT_LARGE,    /* up to FLT_MAX */
  TT_SMALL,    /* denormals */
  TT_ZEROS,    /* +0, -0 and a few others */
  TT_RISING,   /* sorted the wrong way round */
  TT_NAN_RUNS, /* whole groups of them */
  TT_CURVES
} tt_curve;

/* Cut offsets of a case. All but the first two sorts are made of SOME. */
typedef enum tt_groups {
  TT_GROUPS_NONE,
  TT_GROUPS_SEGMENTS, /* as without groups */
  TT_GROUPS_ROWS,     /* a group for each row */
  TT_GROUPS_SOME,     /* random ones, some empty; the last offset repeated */
  TT_GROUPS_BACK,     /* one is below the one before it: every segment is invalid */
  TT_GROUPS_FAR,      /* the last is behind the rows: the same */
  TT_GROUPS_NEGATIVE, /* the first is -1: the same */
  TT_GROUPS_MISSING,  /* where segment 2 starts there is none */
  TT_GROUPS_SHORT,    /* the last segment's end is missing */
  TT_GROUPS_ALL
} tt_groups;

/* Row arrays of a case (problem.c). 0 means TOKENS (where there are any) and PACKED. */
enum {
  TT_ROWS_TOKENS = 1,      /* the scored matrix itself, in place */
  TT_ROWS_PACKED = 2,      /* 24 bytes a row, to separate rows of 40; zero tail */
  TT_ROWS_MASK = 4,        /* one byte a row, LOCAL to other memory; zero tail */
  TT_ROWS_PLANES = 8,      /* M-RoPE [3,total] int64 in place */
  TT_ROWS_HEADS = 16,      /* [B,H,T,d] in place; zero tail */
  TT_ROWS_RENUMBER = 32,   /* int32 positions, LOCAL, zero tail */
  TT_ROWS_RENUMBER64 = 64, /* int64 positions, PACKED */
  TT_ROWS_PAGED = 128,     /* through int32 slots, in place, some -1 */
  TT_ROWS_PAGED_OUT = 256, /* dense to int64 slots, PACKED, zero tail */
  TT_ROWS_WIDE = 512,      /* 4133 bytes a row, odd addresses, in place */
  TT_ROWS_FITS =
      1024, /* [B,H,k,d], or [H,total,d] ragged: dst_rows is the largest count; zero tail */
  TT_ROWS_SMALL = 2048,        /* LOCAL, room for half of that; zero tail */
  TT_ROWS_SMALL_PACKED = 4096, /* PACKED through slots, room for two thirds of the sum; zero tail */
  TT_ROWS_ALL = 8191,
  TT_ROWS_BASE = 8192,    /* int32 positions from a base, LOCAL, zero tail */
  TT_ROWS_BASE64 = 16384, /* [3, k] int64 positions from a base, PACKED */
  TT_ROWS_AND_BASE = 32767,
  TT_ROWS_KEYS = 1 << 15,       /* [B,H,T,d] f16 in place, turned by positions that are an array of
                                   the same call, compacted in place */
  TT_ROWS_KEYS_PAGED = 1 << 16, /* bf16, K beside V in pages, in place, interleaved pairs, from a
                                   base, no positions */
  TT_ROWS_KEYS_TABLE = 1 << 17, /* f32, PACKED, turned by a table that some positions are not in;
                                   zero tail */
  TT_ROWS_KEYS_ALL = 7 << 15,
  /* Merged, and so in cases that merge only; TOKENS then is too. */
  TT_ROWS_MERGED = 1 << 18,      /* 23 values of bf16, PACKED to separate rows; zero tail */
  TT_ROWS_MERGED_IN = 1 << 19,   /* 301 values of f32 at odd addresses, in place; zero tail */
  TT_ROWS_MERGED_PAGED = 1 << 20 /* 9 values of fp16 through int32 slots, in place, some -1 */
};

typedef struct tt_case {
  const char *name;
  tt_kind kind;
  tt_layout layout;
  int32_t segments;      /* default 3 */
  int32_t max_tokens;    /* default 37 */
  const int32_t *shape;  /* lengths [segments] or offsets [segments + 1]; NULL: seeded */
  int32_t total;         /* ragged with a shape: total_tokens; default the last offset */
  int32_t dtype;         /* default F16 */
  int32_t dim;           /* default 48 */
  int32_t row_extra;     /* elements between rows */
  int32_t segment_extra; /* rows between uniform segments */
  int32_t prefix_rows;
  tt_groups groups;
  int32_t source; /* tailcut_reference_source, default GIVEN */
  int32_t lag;
  int32_t novelty; /* window of NOVELTY, default 64 */
  int32_t reference_f32;
  int32_t reference_each;
  int32_t zero_reference;
  unsigned spikes; /* tt_spikes */
  tt_curve curve;
  int32_t roles; /* TT_CUT: with roles. 2: no queries, 3: no candidates */
  int32_t input_flags;
  /* The rule. */
  int32_t detector, scale, k, rounding, percent, window;
  double ratio, lambda, mass;
  float tau;
  int32_t min_keep; /* -1: 0 */
  int32_t max_keep; /* -2: 0 */
  int32_t round_to;
  double lo, hi, spread;
  int32_t order;   /* tailcut_order, default HIGH */
  int32_t group_k; /* TOPK: with counts of the groups, at most k */
  int32_t mask;    /* asked for even of a backend that refuses it; of others it always is */
  int32_t packed;  /* placement of kept */
  int32_t rows;
  int32_t merge;        /* 1: by tailcut_merge's MEAN, 2: by its COS4 */
  int32_t merge_window; /* default that of NOVELTY, or 64 */
  int32_t sizes;        /* with sizes in */
  int32_t heavy;        /* too slow for a simulated device */
} tt_case;

int tt_case_count(void);
const tt_case *tt_case_at(int i);
extern const tt_case tt_option_cases[]; /* the table's second half */
extern const int tt_option_case_count;
extern const tt_case tt_novelty_cases[]; /* and what is behind it */
extern const int tt_novelty_case_count;

/* The rule of a row, ready to be passed but for group_k. */
tailcut_rule tt_rule_of(const tt_case *c);

#endif /* TAILCUT_TESTS_CASES_H_ */
