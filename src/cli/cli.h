/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the `tailcut` command share. The command uses the public header and
 * the list of detectors (detectors.h) only.
 *
 * Functions that can fail return an exit status: CLI_OK, or CLI_FAILED / CLI_USAGE after they have
 * printed the one line that says why (cli_fail). Nothing but main() ends the process. */
#ifndef TAILCUT_CLI_H_
#define TAILCUT_CLI_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "tailcut.h"

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

/* Prints "tailcut: <message>" as exactly one line on stderr and returns `status`. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
int cli_fail(int status, const char *format, ...);
/* "prune": the name of the first command in a set of CLI_*. */
const char *cli_command_name(int commands);

/* Control characters and bytes that are no text become '?'. */
void cli_clean_line(char *line);

/* Something to say on stderr besides the result, one line each. Notes wait: cli_notes_print when
 * everything has been read and opened; a command that fails before says only why. */
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
void cli_note(const char *format, ...);
void cli_notes_print(void);

/* ------------------------------------------------------------------------------- options.c -- */

enum {
  CLI_PRUNE = 1,
  CLI_CUT = 2,
  CLI_PRUNE_SEQ = 4,
  CLI_INSPECT = 8,
  CLI_VIEW = 16,
  CLI_INFO = 32,
  CLI_BENCH = 64
};

#define CLI_MAX_BATCHES 16
#define CLI_MAX_OPTIONS 80

typedef struct cli_options {
  int command; /* CLI_PRUNE .. CLI_BENCH */
  bool help;
  /* Files. `scores` is written by prune and prune-seq and read by cut and inspect; `kept` and
   * `counts` are read by view. */
  const char *tokens, *cls, *cu_seqlens, *groups, *hidden, *roles, *q, *keys, *image;
  const char *out, *kept, *counts, *scores, *offsets, *flags, *mask, *group_counts;
  const char *sizes_in, *sizes, *joins; /* joins is read by view */
  int32_t cls_row;                      /* 1: --cls-row 0 was given */
  int32_t cls_mean;
  int32_t lag;                 /* candidates; 0 when not given */
  int32_t novelty;             /* window; 0 when not given */
  int32_t merge, merge_window; /* tailcut_power where merges is set; window, 0 when not given */
  bool merges;
  int32_t prefix; /* rows of a segment that are no candidates */
  int32_t json;
  tailcut_rule rule;
  int32_t dtype;     /* tailcut_dtype, 0 when not given */
  int32_t relevance; /* tailcut_policy */
  int32_t causal, last_query;
  int32_t head_reduction, query_reduction; /* tailcut_reduction */
  int32_t device_kind, device_index;
  int32_t threads, repeat;
  int32_t segment;
  bool to_stdout; /* an output is "-" */
  int32_t force;  /* view: draw whatever the shape of the grid */
  int32_t grid_rows, grid_columns;
  /* bench. What is 0 or NULL was not given. */
  const char *filter, *json_file;
  int32_t quick, busy, seconds;
  int32_t tokens_per_image, dim;
  int32_t batches[CLI_MAX_BATCHES], num_batches;
  bool seen[CLI_MAX_OPTIONS]; /* which rows of the option table were given */
} cli_options;

/* Reads argv[2..] for `command` and checks everything that needs no file. */
int cli_options_parse(cli_options *options, int command, int argc, char **argv);
/* The help text of one command (from the option table), or of the program for 0. */
void cli_print_help(int command);

/* --------------------------------------------------------------------------------- number.c -- */

/* The whole string is one decimal number; no spaces, no hexadecimal, no inf or nan. */
bool cli_parse_int(const char *text, int64_t *value);
bool cli_parse_double(const char *text, double *value);
bool cli_parse_float(const char *text, float *value);

/* ------------------------------------------------------------------------------------ npy.c -- */

typedef enum cli_type {
  CLI_NO_TYPE = 0,
  CLI_F16,
  CLI_F32,
  CLI_U16,
  CLI_U8,
  CLI_I32,
  /* Only in files: an array that was read has none of these. */
  CLI_F64,
  CLI_I8,
  CLI_I16,
  CLI_I64,
  CLI_U32,
  CLI_U64,
  CLI_BOOL,
  CLI_V2 /* as ml_dtypes saves bfloat16 */
} cli_type;
#define CLI_MAX_DIMS 8

typedef struct cli_array {
  cli_type type;
  bool bf16; /* CLI_U16 that the file itself calls bfloat16 (V2) */
  int dims;
  int64_t shape[CLI_MAX_DIMS];
  int64_t count; /* elements */
  size_t bytes;
  void *data; /* malloc'ed, never NULL after a successful read */
} cli_array;

size_t cli_type_size(cli_type type);
const char *cli_type_name(cli_type type);
/* What an array is for, which says the types that it may have and become. */
typedef enum cli_use {
  CLI_FEATURES, /* float16, float32, uint16; float64 becomes float32, V2 bf16 */
  CLI_SCORES,   /* float32; float16 and float64 become that */
  CLI_NUMBERS,  /* int32: offsets, indices, counts; other whole numbers become that */
  CLI_ROLES     /* uint8; other whole numbers and bool become that */
} cli_use;
/* `what` names the contents in messages ("offsets"). "-" is standard input. */
int cli_npy_read(const char *path, cli_use use, const char *what, cli_array *array);
void cli_array_free(cli_array *array);
/* "[3, 4]" for messages; `text` has room for CLI_SHAPE_TEXT bytes. */
#define CLI_SHAPE_TEXT (CLI_MAX_DIMS * 22 + 4)
const char *cli_shape_text(const cli_array *array, char *text);

/* --------------------------------------------------------------------------------- output.c -- */

#define CLI_MAX_OUTPUTS 10

/* Files that become visible together: temporaries beside their destinations, renamed by commit. */
typedef struct cli_outputs {
  int count;
  struct {
    const char *path; /* as the user wrote it, for messages */
    char *target;     /* where the rename goes (symbolic links followed) */
    char *temporary;
    char *old;     /* the file that was there, until all are renamed */
    bool replaces; /* there is one */
    FILE *file;
  } entry[CLI_MAX_OUTPUTS];
} cli_outputs;

/* A file that an option names. */
typedef struct cli_file {
  const char *option, *path;
  bool output;
} cli_file;
/* An output that is an input or another output, and "-" given twice, are wrong usage. */
int cli_files_check(const cli_file *files, int count);
/* The file that an output replaces or makes, symbolic links followed: malloc'ed, NULL without
 * memory. */
char *cli_output_target(const char *path);
/* Opens a temporary for `path` and returns it in *file; for "-" that is stdout, and what is written
 * there cannot be taken back: write it last. */
int cli_outputs_open(cli_outputs *outputs, const char *path, FILE **file);
/* Writes a whole .npy file: header, then `bytes` of data. */
int cli_npy_write(FILE *file, const char *path, cli_type type, const int64_t *shape, int dims,
                  const void *data);
/* Closes all and renames all; on failure removes all. */
int cli_outputs_commit(cli_outputs *outputs);
/* Removes what has not been committed. Safe to call twice. */
void cli_outputs_discard(cli_outputs *outputs);
/* Temporaries are removed when the process is interrupted. */
void cli_install_signal_handlers(void);
/* A descriptor 0, 1 or 2 that is closed would otherwise be that of the next file. */
void cli_guard_streams(void);
/* Flushes stdout; fails when anything printed there was lost. */
int cli_flush_stdout(void);

/* --------------------------------------------------------------------------------- device.c -- */

typedef struct cli_device {
  tailcut_handle handle;
  int32_t kind, index;
  int32_t threads; /* as it runs: never 0 */
} cli_device;

/* Memory of the device; on the CPU `device` and `host` are the same block. */
typedef struct cli_buffer {
  void *host, *device;
  size_t bytes;
  bool borrowed; /* host memory belongs to someone else */
} cli_buffer;

int32_t cli_cores(void); /* that this process may use */
int cli_device_open(cli_device *device, const cli_options *options);
void cli_device_close(cli_device *device);
const char *cli_device_name(const cli_device *device, char text[32]);
int cli_buffer_new(cli_device *device, cli_buffer *buffer, size_t bytes, const char *what);
/* A buffer that holds the bytes of `data`, which must outlive it. */
int cli_buffer_input(cli_device *device, cli_buffer *buffer, void *data, size_t bytes,
                     const char *what);
/* Brings device memory to `host`, and waits for the device: nothing to do on the CPU. */
int cli_buffer_fetch(cli_device *device, cli_buffer *buffer, size_t bytes);
void cli_buffer_free(cli_device *device, cli_buffer *buffer);
int cli_device_wait(cli_device *device);
/* A tailcut call's failure: its status and the library's message. */
int cli_library_failed(const char *call, tailcut_status status);

/* ------------------------------------------------------------------------------------ job.c -- */

/* One run of the library on files: what was read, what is called, what came back. */
typedef struct cli_job {
  const cli_options *options;
  cli_device device;
  int32_t call;          /* TAILCUT_CALL_PRUNE_VISUAL, _PRUNE_SEQUENCE or _CUT */
  const char *main_path; /* tokens, hidden states or scores */
  cli_array main, cls, roles, q, keys, offsets, groups, sizes; /* sizes: by row */
  tailcut_batch batch;
  tailcut_tokens tokens;
  tailcut_reference reference;
  tailcut_relevance_options relevance;
  tailcut_rule rule;
  tailcut_selection selection;
  tailcut_merge_options merge;
  tailcut_rows rows;
  int32_t num_rows;
  int64_t *starts;    /* [segments + 1], host: first row of each segment */
  int64_t candidates; /* of all segments; with roles: all rows */
  int64_t kept_total;
  cli_buffer d_main, d_cls, d_roles, d_q, d_keys, d_offsets, d_groups, d_sizes_in, d_workspace;
  cli_buffer d_counts, d_kept, d_new_offsets, d_flags, d_scores, d_curve, d_out, d_mask,
      d_group_counts, d_sizes, d_joins;
  int32_t *nan_counts; /* [segments]: scores that are NaN; NULL where no segment has one */
  double us_min, us_median;
} cli_job;

/* Rows of segment b that compete (all rows of it where roles are given). */
int64_t cli_job_candidates(const cli_job *job, int32_t b);
/* Sets batch and starts from the main array, whose last `inner` dimensions are not tokens, from
 * --cu-seqlens and --groups. Refuses what the library could not take. */
int cli_job_segments(cli_job *job, int inner, int32_t prefix_rows);
/* The library's dtype for a file of features, q or keys, as --dtype allows it. */
int cli_job_dtype(const cli_job *job, const char *path, const cli_array *array, int32_t *dtype);
/* tokens and main from a file of feature rows. */
int cli_job_load_tokens(cli_job *job, const char *path, int32_t prefix_rows);
/* Opens the device and makes every buffer. */
int cli_job_prepare(cli_job *job, bool want_out, bool want_curve);
/* Runs the call options->repeat times, takes the times and fetches the results. */
int cli_job_run(cli_job *job);
/* prune, cut, prune-seq: prepare, run, write the files, report. */
int cli_job_execute(cli_job *job);
void cli_job_free(cli_job *job);

/* report.c: the JSON object or the line for people. */
int cli_report(const cli_job *job);
/* warn.c: the flags in words, as notes. */
void cli_warn_flags(const cli_job *job);

/* prune.c, cut.c: the inputs alone, for inspect. */
int cli_prune_load(cli_job *job, const cli_options *options);
int cli_cut_load(cli_job *job, const cli_options *options);

/* ------------------------------------------------------------------------------- progress.c -- */

double cli_now(void); /* monotonic seconds */
/* What is being done now: `of` bytes (0: not known) or runs. */
void cli_progress_bytes(const char *what, int64_t of);
void cli_progress_runs(const char *what, int64_t of);
void cli_progress_step(int64_t so_far);
/* Removes the line; before anything else is printed. */
void cli_progress_end(void);
/* The same for a signal handler. */
void cli_progress_interrupted(void);

/* ------------------------------------------------------------------------------------ json.c -- */

void cli_json_int32s(FILE *file, const char *name, const int32_t *values, int64_t count);
/* Least and median of times[0..count-1], which is sorted in place. */
void cli_times_summary(double *times, int32_t count, double *least, double *median);

/* --------------------------------------------------------------------------------- commands -- */

int cli_prune(const cli_options *options);
int cli_cut(const cli_options *options);
int cli_prune_seq(const cli_options *options);
int cli_inspect(const cli_options *options);
int cli_view(const cli_options *options);
int cli_info(const cli_options *options);
int cli_bench(const cli_options *options); /* bench/bench.c */

#endif /* TAILCUT_CLI_H_ */
