/* SPDX-License-Identifier: Apache-2.0 */
/* prune: stage 1, visual tokens against a reference vector. */
#include <string.h>

#include "cli.h"

static int load_reference(cli_job *job) {
  const char *path = job->options->cls;
  cli_array *c = &job->cls;
  char shape[CLI_SHAPE_TEXT];
  int status = cli_npy_read(path, CLI_FEATURES, "the reference", c);
  if (status != CLI_OK) return status;
  if (c->type != job->main.type && c->type != CLI_F32)
    return cli_fail(
        CLI_FAILED,
        "%s: is %s, but the tokens are %s: the reference must be %s; remedy: .astype(np.float32)",
        path, cli_type_name(c->type), cli_type_name(job->main.type),
        job->main.type == CLI_F32 ? "float32" : "that or float32");
  const int64_t dim = job->main.shape[job->main.dims - 1];
  const bool one = c->dims == 1 && c->shape[0] == dim;
  const bool each = c->dims == 2 && c->shape[0] == job->batch.segments && c->shape[1] == dim;
  if (!one && !each)
    return cli_fail(CLI_FAILED, "%s: has the shape %s, expected [%lld] or [%d, %lld]", path,
                    cli_shape_text(c, shape), (long long)dim, (int)job->batch.segments,
                    (long long)dim);
  job->reference.source = TAILCUT_REFERENCE_GIVEN;
  job->reference.dtype = c->type == job->main.type ? job->tokens.dtype : TAILCUT_F32;
  job->reference.segment_stride = each ? dim : 0;
  return CLI_OK;
}

int cli_prune_load(cli_job *job, const cli_options *options) {
  const tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  memset(job, 0, sizeof *job);
  job->options = options;
  job->call = TAILCUT_CALL_PRUNE_VISUAL;
  job->rule = options->rule;
  job->reference = reference;
  const int status = cli_job_load_tokens(job, options->tokens, options->prefix);
  if (status != CLI_OK) return status;
  if (options->cls != NULL) return load_reference(job);
  job->reference.source = options->lag > 0   ? TAILCUT_REFERENCE_LAG
                          : options->cls_row ? TAILCUT_REFERENCE_ROW
                                             : TAILCUT_REFERENCE_MEAN;
  job->reference.lag = options->lag;
  return CLI_OK;
}

int cli_prune(const cli_options *options) {
  cli_job job;
  int status = cli_prune_load(&job, options);
  if (status == CLI_OK) status = cli_job_execute(&job);
  cli_job_free(&job);
  return status;
}
