/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench: what the files of `tailcut bench` share.
 *
 * A case (cases.c) is a step at one size. A suite is a device: it opens a case as a scene, that is
 * the data, checked outputs, and the rows to be timed. measure.c times the rows of a scene in
 * interleaved rounds, the suite's format (report.c: the CPU's) prints them. A further device is a
 * further bench_suite: one file bench/<device>.c and one line in bench.c.
 */
#ifndef TAILCUT_BENCH_H_
#define TAILCUT_BENCH_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cpu/team.h"
#include "tailcut.h"

/* One line of cases.c. */
typedef struct bench_case {
  const char *step;
  int32_t segments, tokens, dim; /* dim 0: the step sees scores only */
  int32_t dtype;                 /* tailcut_dtype of the tokens */
  bool quick;                    /* also with --quick */
  /* prune_sequence (sequence.h): rows of text behind the tokens, K and V of earlier layers. */
  int32_t text, layers, kv_heads;
  bool paged;
} bench_case;

/* A sequence: image rows, rows of text, width, type, layers of K/V with so many heads, in pages. */
#define BENCH_SEQUENCE(tokens, text, dim, dtype, layers, heads, paged, quick) \
  { "prune_sequence", 1, tokens, dim, TAILCUT_##dtype, quick, text, layers, heads, paged }

extern const bench_case bench_cases[]; /* cases.c: the CPU's */
extern const int bench_case_count;

/* One timed thing. */
typedef struct bench_row {
  const char *name;       /* the step; with a variant, such as "prune_visual packed" */
  int32_t threads;        /* CPU; 0 for other devices */
  const char *cache;      /* CUDA: "hot" or "cold", the L2 before the call; otherwise NULL */
  int calls_fixed;        /* calls of one sample: a graph's nodes; 0: measure.c finds how many */
  double bytes;           /* that one call must read and write */
  int (*call)(void *of);  /* what is timed; nonzero: it failed, with a message on stderr */
  int (*reset)(void *of); /* before every call, not timed; NULL: nothing to do */
  void *of;
  int yardstick; /* the row of this scene whose GB/s is 100%, or -1 */
  /* Filled in by measure.c. */
  int samples, calls_per_sample;
  double us, least_us; /* median and least time of one call */
  double noise;        /* robust relative standard deviation of the samples */
  double gbs;
  double share; /* of the yardstick's GB/s: median of the rounds' ratios; 0: no yardstick */
} bench_row;

#define BENCH_MOST_ROWS 12

typedef struct bench_scene {
  const bench_case *what;
  int32_t threads; /* CPU: of the rows on several threads; 0: all cores */
  bench_row row[BENCH_MOST_ROWS];
  int rows;
  bool brief;   /* one round will do: a simulator's times mean nothing */
  int64_t kept; /* rows that a call keeps, all segments together; 0 where nothing is cut */
  void *data;   /* the suite's own */
} bench_scene;

/* The table on stdout and the JSON file. */
typedef struct bench_report {
  FILE *json; /* or NULL */
  int rows;
} bench_report;

typedef struct bench_format {
  void (*open)(bench_report *report);
  void (*scene)(bench_report *report, const char *device, const bench_scene *scene);
  void (*close)(bench_report *report);
} bench_format;

typedef struct bench_suite {
  const char *device;
  const bench_format *format;
  /* Takes device `index`; fails with a message on stderr when it is not here. NULL: nothing to do.
   * stop is called in either case. */
  int (*start)(int index);
  void (*stop)(void);
  /* The cases. Before start: those of a real device. */
  const bench_case *(*cases)(bool quick, int *count);
  /* Makes the data of scene->what, checks every output (against the scalar level, parts against
   * fused, ...) and adds the rows. No rows: this device does not do the case. */
  int (*open)(bench_scene *scene);
  void (*close)(bench_scene *scene);
  /* Runs `calls` calls of the row (reset before each), *us their mean time. NULL: wall clock. */
  int (*time)(const bench_row *row, int calls, double *us);
  /* After the timing: are the outputs still right? NULL: not asked. */
  int (*check)(bench_scene *scene);
} bench_suite;

extern const bench_suite bench_suite_cpu;
#if defined(TAILCUT_HAVE_CUDA)
extern const bench_suite bench_suite_cuda;
#endif

/* measure.c */
/* Rounds for budget_us, and a few however long these take. */
double bench_budget_us(const bench_scene *scene, bool quick);
int bench_measure(const bench_suite *suite, bench_scene *scene, double budget_us);
double bench_now_us(void);

/* report.c */
extern const bench_format bench_format_cpu;
/* step/8x576x1024/f16; of a sequence step/1x576+64x4096/f16/LAYERSxHEADS, then perhaps /paged */
void bench_case_name(const bench_case *c, char *text, size_t size);
/* What its table shows: the row's name, with LAYERSxHEADS and p for paged; the number of tokens. */
typedef struct bench_columns {
  char name[40], tokens[24];
} bench_columns;
bench_columns bench_columns_of(const bench_case *c, const bench_row *row);
/* What the JSON rows of a sequence have besides; nothing of others. */
void bench_case_json(const bench_case *c, FILE *json);
const char *bench_dtype_name(int32_t dtype);
int bench_failed(const bench_case *c, const char *what); /* CLI_FAILED, said on stderr */
int bench_done(tailcut_status status);                   /* CLI_OK, or why not on stderr */

/* data.c: rows of +-[0.5, 1); one in four agrees with row 0 in most signs: the curve has a head. */
void bench_fill_tokens(void *tokens, int32_t dtype, int64_t rows, int64_t dim);
void *bench_allocate(size_t bytes); /* aligned, touched; ends the program when there is none */

/* plain_sum.c: the yardstick. Adds up the buffer's bytes as integers, widest registers first. */
uint64_t bench_plain_sum(const void *data, size_t bytes, tc_pool *pool);

/* cpu_handles.c: the CPU's handles, each with a workspace for calls of kinds first..last
 * (tailcut_call) within `limits`. */
enum { BENCH_SCALAR, BENCH_ONE, BENCH_ALL, BENCH_HANDLES }; /* the scalar level; one thread; all */
typedef struct bench_cpu {
  tailcut_handle handle[BENCH_HANDLES];
  void *workspace[BENCH_HANDLES];
  size_t bytes[BENCH_HANDLES];
} bench_cpu;
int bench_cpu_open(bench_cpu *cpu, const tailcut_limits *limits, int32_t first, int32_t last,
                   int32_t threads);
void bench_cpu_close(bench_cpu *cpu);

/* cpu_sequence.c: scenes of prune_sequence on the CPU. */
int bench_cpu_sequence_open(bench_scene *scene);
void bench_cpu_sequence_close(bench_scene *scene);

/* busy.c: one image with and without busy loops on every core, as a table on stdout. */
int bench_busy(int32_t threads, bool quick);

static inline int64_t bench_dtype_size(int32_t dtype) { return dtype == TAILCUT_F32 ? 4 : 2; }

#endif /* TAILCUT_BENCH_H_ */
