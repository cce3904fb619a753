/* SPDX-License-Identifier: Apache-2.0 */
/* prune-seq: stage 2, the candidates of a sequence against its query rows. */
#include <string.h>

#include "cli.h"

static int load_roles(cli_job *job) {
  const char *path = job->options->roles;
  cli_array *r = &job->roles;
  char shape[CLI_SHAPE_TEXT], wanted[CLI_SHAPE_TEXT];
  const int status = cli_npy_read(path, CLI_ROLES, "roles", r);
  if (status != CLI_OK) return status;
  cli_array expected = {.dims = job->main.dims - 1};
  memcpy(expected.shape, job->main.shape, sizeof expected.shape);
  if (r->dims != expected.dims ||
      memcmp(r->shape, expected.shape, (size_t)r->dims * sizeof r->shape[0]) != 0)
    return cli_fail(CLI_FAILED, "%s: has the shape %s, expected %s", path, cli_shape_text(r, shape),
                    cli_shape_text(&expected, wanted));
  const uint8_t *role = r->data;
  for (int64_t i = 0; i < r->count; i++)
    if (role[i] > 3)
      return cli_fail(CLI_FAILED, "%s: role %d of row %lld is none of 0, 1, 2, 3", path,
                      (int)role[i], (long long)i);
  return CLI_OK;
}

int cli_prune_seq(const cli_options *options) {
  const tailcut_relevance_options relevance = TAILCUT_RELEVANCE_OPTIONS_INITIALIZER;
  cli_job job;
  memset(&job, 0, sizeof job);
  job.options = options;
  job.call = TAILCUT_CALL_PRUNE_SEQUENCE;
  job.rule = options->rule;
  job.relevance = relevance;
  job.relevance.policy = options->relevance;
  int status = cli_job_load_tokens(&job, options->hidden, 0);
  if (status == CLI_OK) status = load_roles(&job);
  if (status == CLI_OK) status = cli_job_execute(&job);
  cli_job_free(&job);
  return status;
}
