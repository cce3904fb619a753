/* SPDX-License-Identifier: Apache-2.0 */
/* save: runs a job and writes every file that was asked for, all of them or none. */
#include <string.h>

#include "cli.h"

/* Scores, and what candidates join, stand by row number; in the file there are candidates only.
 * Moved down in place. */
static void drop_prefixes(const cli_job *job, void *numbers) {
  int32_t *words = numbers; /* or floats */
  int64_t at = 0;
  for (int32_t b = 0; b < job->batch.segments; b++) {
    const int64_t n = cli_job_candidates(job, b);
    memmove(words + at, words + job->starts[b], (size_t)n * sizeof *words);
    at += n;
  }
}

enum { FILES = 10 };

static int run_and_save(cli_job *job, cli_outputs *outputs) {
  const cli_options *o = job->options;
  const bool has_scores = job->call != TAILCUT_CALL_CUT;
  const char *paths[] = {
      o->out,  o->kept,         o->counts, o->offsets, o->flags, has_scores ? o->scores : NULL,
      o->mask, o->group_counts, o->sizes,  o->joins};
  FILE *file[FILES] = {NULL};
  int status = CLI_OK;
  for (int i = 0; i < FILES && status == CLI_OK; i++)
    if (paths[i] != NULL) status = cli_outputs_open(outputs, paths[i], &file[i]);
  if (status == CLI_OK) status = cli_job_prepare(job, o->out != NULL, false);
  if (status != CLI_OK) return status;
  cli_notes_print();
  status = cli_job_run(job);
  if (status != CLI_OK) return status;

  const int64_t segments = job->batch.segments, offsets = segments + 1;
  const int64_t rows = job->starts[segments], groups = job->batch.groups;
  const int64_t out[2] = {job->kept_total, has_scores ? job->main.shape[job->main.dims - 1] : 0};
  if (paths[5] != NULL) drop_prefixes(job, job->d_scores.host);
  if (o->joins != NULL) drop_prefixes(job, job->d_joins.host);
  const struct {
    cli_type type;
    int dims;
    const int64_t *shape;
    const void *data;
  } what[FILES] = {
      {job->main.type, 2, out, job->d_out.host},
      {CLI_I32, 1, &job->kept_total, job->d_kept.host},
      {CLI_I32, 1, &segments, job->d_counts.host},
      {CLI_I32, 1, &offsets, job->d_new_offsets.host},
      {CLI_I32, 1, &segments, job->d_flags.host},
      {CLI_F32, 1, &job->candidates, job->d_scores.host},
      {CLI_U8, 1, &rows, job->d_mask.host},
      {CLI_I32, 1, &groups, job->d_group_counts.host},
      {CLI_I32, 1, &job->kept_total, job->d_sizes.host},
      {CLI_I32, 1, &job->candidates, job->d_joins.host},
  };
  for (int last = 0; last <= 1; last++) /* what goes to stdout goes there last */
    for (int i = 0; i < FILES && status == CLI_OK; i++)
      if (file[i] != NULL && (file[i] == stdout) == last)
        status = cli_npy_write(file[i], paths[i], what[i].type, what[i].shape, what[i].dims,
                               what[i].data);
  cli_progress_end();
  if (status == CLI_OK) status = cli_report(job);
  return status == CLI_OK ? cli_outputs_commit(outputs) : status;
}

int cli_job_execute(cli_job *job) {
  cli_outputs outputs = {.count = 0};
  const int status = run_and_save(job, &outputs);
  cli_outputs_discard(&outputs);
  if (status == CLI_OK) cli_warn_flags(job);
  return status;
}
