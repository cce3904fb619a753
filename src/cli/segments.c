/* SPDX-License-Identifier: Apache-2.0 */
/* segments: which rows of the main array compete with each other, and what its elements are. */
#include <stdlib.h>

#include "cli.h"

/* Segments cost a few words each even when they are empty, and a short file can name many. */
#define MAX_SEGMENTS 16777216

static int64_t segment_rows(const cli_job *job, int32_t b) {
  return job->starts[b + 1] - job->starts[b];
}

int64_t cli_job_candidates(const cli_job *job, int32_t b) {
  const int64_t n = segment_rows(job, b) - job->batch.prefix_rows;
  return n > 0 ? n : 0;
}

/* Reads int32 offsets over the rows of the main array: first 0, never falling, last `rows`. */
static int load_offsets(const cli_job *job, const char *path, int64_t rows, cli_array *a) {
  char shape[CLI_SHAPE_TEXT];
  const int status = cli_npy_read(path, CLI_NUMBERS, "offsets", a);
  if (status != CLI_OK) return status;
  if (a->dims != 1 || a->count < 1)
    return cli_fail(CLI_FAILED, "%s: offsets must have the shape [n+1], not %s", path,
                    cli_shape_text(a, shape));
  const int32_t *offset = a->data;
  if (offset[0] != 0)
    return cli_fail(CLI_FAILED, "%s: the first offset is %d, not 0", path, (int)offset[0]);
  for (int64_t b = 1; b < a->count; b++)
    if (offset[b] < offset[b - 1])
      return cli_fail(CLI_FAILED, "%s: offset %lld is %d, below the one before, %d", path,
                      (long long)b, (int)offset[b], (int)offset[b - 1]);
  if (offset[a->count - 1] != rows)
    return cli_fail(CLI_FAILED, "%s: the last offset is %d, but %s has %lld rows", path,
                    (int)offset[a->count - 1], job->main_path, (long long)rows);
  if (a->count - 1 > MAX_SEGMENTS)
    return cli_fail(CLI_FAILED, "%s: has %lld segments, at most %d are possible", path,
                    (long long)(a->count - 1), MAX_SEGMENTS);
  return CLI_OK;
}

/* Cut offsets over all rows. A group lies in one segment: every segment begins at one of them. */
static int load_groups(cli_job *job) {
  const char *path = job->options->groups;
  const int32_t segments = job->batch.segments;
  const int status = load_offsets(job, path, job->starts[segments], &job->groups);
  if (status != CLI_OK) return status;
  const int32_t *offset = job->groups.data;
  int64_t g = 0;
  for (int32_t b = 0; b < segments; b++) {
    while (g < job->groups.count && offset[g] < job->starts[b]) g++;
    if (g == job->groups.count || offset[g] != job->starts[b])
      return cli_fail(CLI_FAILED,
                      "%s: lacks the offset %lld, where segment %d begins: a group "
                      "must lie in one segment",
                      path, (long long)job->starts[b], (int)b);
  }
  job->batch.groups = (int32_t)(job->groups.count - 1);
  return CLI_OK;
}

int cli_job_segments(cli_job *job, int inner, int32_t prefix_rows) {
  const cli_array *a = &job->main;
  const int outer = a->dims - inner;
  const bool ragged = job->options->cu_seqlens != NULL;
  char shape[CLI_SHAPE_TEXT];
  if (outer != 1 && (outer != 2 || ragged))
    return cli_fail(CLI_FAILED, "%s: has the shape %s, expected %s", job->main_path,
                    cli_shape_text(a, shape),
                    inner    ? ragged ? "[total, D] with --cu-seqlens" : "[N, D] or [B, N, D]"
                    : ragged ? "[total] with --cu-seqlens"
                             : "[N] or [B, N]");
  if (inner == 1 && (a->shape[outer] < 1 || a->shape[outer] > INT32_MAX))
    return cli_fail(CLI_FAILED, "%s: has %lld channels in a row", job->main_path,
                    (long long)a->shape[outer]);
  int64_t segments = outer == 2 ? a->shape[0] : 1;
  const int64_t length = a->shape[outer - 1];
  if (segments > MAX_SEGMENTS || (segments > 0 && length > INT32_MAX / segments))
    return cli_fail(CLI_FAILED, "%s: the shape %s has too many segments or rows", job->main_path,
                    cli_shape_text(a, shape));
  if (ragged) {
    const int status = load_offsets(job, job->options->cu_seqlens, length, &job->offsets);
    if (status != CLI_OK) return status;
    segments = job->offsets.count - 1;
  }
  job->starts = malloc(((size_t)segments + 1) * sizeof *job->starts);
  if (job->starts == NULL)
    return cli_fail(CLI_FAILED, "out of memory for %lld segments", (long long)segments);
  const int32_t *offset = job->offsets.data;
  for (int64_t b = 0; b <= segments; b++) job->starts[b] = ragged ? offset[b] : b * length;

  const tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  job->batch = batch;
  job->batch.segments = (int32_t)segments;
  job->batch.prefix_rows = prefix_rows;
  int64_t longest = ragged || segments == 0 ? 0 : length;
  job->candidates = 0;
  for (int32_t b = 0; b < job->batch.segments; b++) {
    if (segment_rows(job, b) > longest) longest = segment_rows(job, b);
    job->candidates += cli_job_candidates(job, b);
  }
  if (longest > (int64_t)TAILCUT_MAX_SEGMENT_TOKENS + prefix_rows)
    return cli_fail(CLI_FAILED, "%s: a segment of %lld rows is too long, at most %d can compete",
                    job->main_path, (long long)longest, TAILCUT_MAX_SEGMENT_TOKENS);
  job->batch.max_tokens = (int32_t)longest;
  job->batch.total_tokens = job->starts[segments];
  return job->options->groups != NULL ? load_groups(job) : CLI_OK;
}

int cli_job_dtype(const cli_job *job, const char *path, const cli_array *array, int32_t *dtype) {
  const int32_t asked = job->options->dtype;
  const cli_type type = array->type;
  if (type == CLI_U16 && !array->bf16 && asked == 0)
    return cli_fail(CLI_FAILED,
                    "%s: is uint16; --dtype bf16 says that it holds bfloat16, other numbers need "
                    ".astype(np.float32)",
                    path);
  *dtype = type == CLI_F16 ? TAILCUT_F16 : type == CLI_F32 ? TAILCUT_F32 : TAILCUT_BF16;
  if (asked != 0 && asked != *dtype)
    return cli_fail(CLI_FAILED, "%s: is %s, which --dtype contradicts", path, cli_type_name(type));
  return CLI_OK;
}

int cli_job_load_tokens(cli_job *job, const char *path, int32_t prefix_rows) {
  job->main_path = path;
  int status = cli_npy_read(path, CLI_FEATURES, "features", &job->main);
  if (status != CLI_OK) return status;
  const tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  job->tokens = tokens;
  status = cli_job_dtype(job, path, &job->main, &job->tokens.dtype);
  if (status == CLI_OK) status = cli_job_segments(job, 1, prefix_rows);
  if (status != CLI_OK) return status;
  /* Without rows nothing is read: one channel keeps the workspace of a [0, huge] array small. */
  const int32_t dim = (int32_t)job->main.shape[job->main.dims - 1];
  job->tokens.dim = job->main.count > 0 ? dim : 1;
  job->tokens.row_stride = dim;
  return CLI_OK;
}
