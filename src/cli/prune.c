/* SPDX-License-Identifier: Apache-2.0 */
/* prune: stage 1, visual tokens against a reference vector. */
#include <stdlib.h>
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

/* Sizes of the candidates, put where their rows' are. */
static int load_sizes(cli_job *job) {
  const char *path = job->options->sizes_in;
  char shape[CLI_SHAPE_TEXT];
  cli_array *a = &job->sizes;
  int status = cli_npy_read(path, CLI_NUMBERS, "sizes", a);
  if (status != CLI_OK) return status;
  const bool each = a->dims == 2 && job->batch.cu_seqlens == NULL &&
                    a->shape[0] == job->batch.segments; /* [B, candidates of a segment] */
  if ((a->dims != 1 && !each) || a->count != job->candidates)
    return cli_fail(CLI_FAILED, "%s: has the shape %s, expected one for each candidate, [%lld]",
                    path, cli_shape_text(a, shape), (long long)job->candidates);
  const int32_t *size = a->data;
  const int64_t rows = job->starts[job->batch.segments];
  int32_t *by_row = malloc((size_t)(rows > 0 ? rows : 1) * sizeof *by_row);
  if (by_row == NULL) return cli_fail(CLI_FAILED, "%s: out of memory", path);
  for (int64_t r = 0; r < rows; r++) by_row[r] = 1;
  int64_t at = 0;
  for (int32_t b = 0; b < job->batch.segments; b++) {
    const int64_t first = job->starts[b] + job->batch.prefix_rows;
    for (int64_t i = 0; i < cli_job_candidates(job, b); i++, at++) {
      if (size[at] < 1 && status == CLI_OK)
        status = cli_fail(CLI_FAILED, "%s: size %lld is %d, expected at least 1", path,
                          (long long)at, (int)size[at]);
      by_row[first + i] = size[at];
    }
  }
  free(a->data);
  a->data = by_row;
  a->bytes = (size_t)rows * sizeof *by_row;
  return status;
}

int cli_prune_load(cli_job *job, const cli_options *options) {
  const tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  memset(job, 0, sizeof *job);
  job->options = options;
  job->call = TAILCUT_CALL_PRUNE_VISUAL;
  job->rule = options->rule;
  job->reference = reference;
  int status = cli_job_load_tokens(job, options->tokens, options->prefix);
  if (status == CLI_OK && (options->novelty > 0 || options->merges) &&
      job->tokens.dim > TAILCUT_MAX_NOVELTY_DIM)
    return cli_fail(CLI_FAILED,
                    "%s: has %d channels in a row, at most %d with --novelty or --merge",
                    options->tokens, (int)job->tokens.dim, TAILCUT_MAX_NOVELTY_DIM);
  if (status == CLI_OK && options->sizes_in != NULL) status = load_sizes(job);
  if (status != CLI_OK) return status;
  if (options->cls != NULL) return load_reference(job);
  job->reference.source = options->novelty > 0 ? TAILCUT_REFERENCE_NOVELTY
                          : options->lag > 0   ? TAILCUT_REFERENCE_LAG
                          : options->cls_row   ? TAILCUT_REFERENCE_ROW
                                               : TAILCUT_REFERENCE_MEAN;
  job->reference.lag = options->lag;
  job->reference.window = options->novelty;
  return CLI_OK;
}

int cli_prune(const cli_options *options) {
  cli_job job;
  int status = cli_prune_load(&job, options);
  if (status == CLI_OK) status = cli_job_execute(&job);
  cli_job_free(&job);
  return status;
}
