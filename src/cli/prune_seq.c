/* SPDX-License-Identifier: Apache-2.0 */
/* prune-seq: stage 2, the candidates of a sequence against its query rows. */
#include <string.h>

#include "cli.h"

#define MAX_HEAD_DIM 1024 /* as tailcut_relevance_options says */

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
    if (role[i] > 7)
      return cli_fail(CLI_FAILED,
                      "%s: role %d of row %lld is not 0 to 7 (1 candidate, 2 query, "
                      "4 absent)",
                      path, (int)role[i], (long long)i);
  return CLI_OK;
}

/* Heads of every row: the main array's shape without D, then heads and channels. */
static int load_heads(cli_job *job, const char *path, const char *what, cli_array *a,
                      int32_t *heads) {
  const int outer = job->main.dims - 1;
  char shape[CLI_SHAPE_TEXT], wanted[CLI_SHAPE_TEXT];
  const int status = cli_npy_read(path, CLI_FEATURES, what, a);
  if (status != CLI_OK) return status;
  cli_array rows = {.dims = outer};
  memcpy(rows.shape, job->main.shape, sizeof rows.shape);
  if (a->dims != outer + 2 || memcmp(a->shape, rows.shape, (size_t)outer * sizeof a->shape[0]) != 0)
    return cli_fail(CLI_FAILED, "%s: has the shape %s, expected the rows %s of %s, then [heads, d]",
                    path, cli_shape_text(a, shape), cli_shape_text(&rows, wanted), job->main_path);
  if (a->shape[outer] < 1 || a->shape[outer] > INT32_MAX)
    return cli_fail(CLI_FAILED, "%s: has %lld heads", path, (long long)a->shape[outer]);
  if (a->shape[outer + 1] < 1 || a->shape[outer + 1] > MAX_HEAD_DIM)
    return cli_fail(CLI_FAILED, "%s: has %lld channels in a head, expected 1 to %d", path,
                    (long long)a->shape[outer + 1], MAX_HEAD_DIM);
  *heads = (int32_t)a->shape[outer];
  return CLI_OK;
}

static int load_attention(cli_job *job) {
  const cli_options *o = job->options;
  tailcut_relevance_options *r = &job->relevance;
  int status = load_heads(job, o->q, "queries", &job->q, &r->q_heads);
  if (status == CLI_OK) status = load_heads(job, o->keys, "keys", &job->keys, &r->k_heads);
  if (status == CLI_OK) status = cli_job_dtype(job, o->q, &job->q, &r->dtype);
  if (status != CLI_OK) return status;
  const int last = job->q.dims - 1;
  if (job->keys.type != job->q.type)
    return cli_fail(CLI_FAILED, "%s: is %s, but the queries in %s are %s", o->keys,
                    cli_type_name(job->keys.type), o->q, cli_type_name(job->q.type));
  if (job->keys.shape[last] != job->q.shape[last])
    return cli_fail(CLI_FAILED, "%s: has %lld channels in a head, but %s has %lld", o->keys,
                    (long long)job->keys.shape[last], o->q, (long long)job->q.shape[last]);
  if (r->q_heads % r->k_heads != 0)
    return cli_fail(CLI_FAILED, "%s: has %d heads, of which the %d heads of %s are no multiple",
                    o->keys, (int)r->k_heads, (int)r->q_heads, o->q);
  r->head_dim = (int32_t)job->q.shape[last];
  r->causal = o->causal;
  r->last_query = o->last_query;
  r->head_reduction = o->head_reduction;
  r->query_reduction = o->query_reduction;
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
  if (status == CLI_OK && options->relevance == TAILCUT_ATTENTION) status = load_attention(&job);
  if (status == CLI_OK) status = cli_job_execute(&job);
  cli_job_free(&job);
  return status;
}
