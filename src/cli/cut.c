/* SPDX-License-Identifier: Apache-2.0 */
/* cut: the cut alone, on scores from anywhere. */
#include <string.h>

#include "cli.h"

int cli_cut_load(cli_job *job, const cli_options *options) {
  memset(job, 0, sizeof *job);
  job->options = options;
  job->call = TAILCUT_CALL_CUT;
  job->rule = options->rule;
  job->main_path = options->scores;
  const int status = cli_npy_read(options->scores, CLI_SCORES, "scores", &job->main);
  if (status != CLI_OK) return status;
  return cli_job_segments(job, 0, 0);
}

int cli_cut(const cli_options *options) {
  cli_job job;
  int status = cli_cut_load(&job, options);
  if (status == CLI_OK) status = cli_job_execute(&job);
  cli_job_free(&job);
  return status;
}
