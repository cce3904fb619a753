/* SPDX-License-Identifier: Apache-2.0 */
/* job: one run of the library on files: segments, buffers, the timed calls, the results. */
#include <stdlib.h>
#include <string.h>

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

static int load_offsets(cli_job *job, int64_t rows) {
  const char *path = job->options->cu_seqlens;
  char shape[CLI_SHAPE_TEXT];
  int status = cli_npy_read(path, &job->offsets);
  if (status != CLI_OK) return status;
  const cli_array *a = &job->offsets;
  if (a->type != CLI_I32)
    return cli_fail(CLI_FAILED, "%s: offsets must be int32, not %s", path, cli_type_name(a->type));
  if (a->dims != 1 || a->count < 1)
    return cli_fail(CLI_FAILED, "%s: offsets must have the shape [B+1], not %s", path,
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
  return CLI_OK;
}

int cli_job_segments(cli_job *job, int inner, int32_t cls_row) {
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
    const int status = load_offsets(job, length);
    if (status != CLI_OK) return status;
    segments = job->offsets.count - 1;
    if (segments > MAX_SEGMENTS)
      return cli_fail(CLI_FAILED, "%s: has too many segments", job->options->cu_seqlens);
  }
  job->starts = malloc(((size_t)segments + 1) * sizeof *job->starts);
  if (job->starts == NULL)
    return cli_fail(CLI_FAILED, "out of memory for %lld segments", (long long)segments);
  const int32_t *offset = job->offsets.data;
  for (int64_t b = 0; b <= segments; b++) job->starts[b] = ragged ? offset[b] : b * length;

  const tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  job->batch = batch;
  job->batch.segments = (int32_t)segments;
  job->batch.prefix_rows = cls_row;
  int64_t longest = ragged || segments == 0 ? 0 : length;
  job->candidates = 0;
  for (int32_t b = 0; b < job->batch.segments; b++) {
    if (segment_rows(job, b) > longest) longest = segment_rows(job, b);
    job->candidates += cli_job_candidates(job, b);
  }
  if (longest > TAILCUT_MAX_SEGMENT_TOKENS + cls_row)
    return cli_fail(CLI_FAILED, "%s: a segment of %lld rows is too long, at most %d can compete",
                    job->main_path, (long long)longest, TAILCUT_MAX_SEGMENT_TOKENS);
  job->batch.max_tokens = (int32_t)longest;
  job->batch.total_tokens = job->starts[segments];
  return CLI_OK;
}

/* The library's dtype for a file of features, given --dtype. */
static int feature_dtype(const cli_job *job, int32_t *dtype) {
  const int32_t asked = job->options->dtype;
  const cli_type type = job->main.type;
  if (type != CLI_F16 && type != CLI_F32 && type != CLI_U16)
    return cli_fail(CLI_FAILED, "%s: is %s, expected float16, float32, or uint16 with --dtype bf16",
                    job->main_path, cli_type_name(type));
  if (type == CLI_U16 && asked == 0)
    return cli_fail(CLI_FAILED, "%s: is uint16, which needs --dtype bf16", job->main_path);
  *dtype = type == CLI_F16 ? TAILCUT_F16 : type == CLI_F32 ? TAILCUT_F32 : TAILCUT_BF16;
  if (asked != 0 && asked != *dtype)
    return cli_fail(CLI_FAILED, "%s: is %s, which --dtype contradicts", job->main_path,
                    cli_type_name(type));
  return CLI_OK;
}

int cli_job_load_tokens(cli_job *job, const char *path, int32_t cls_row) {
  job->main_path = path;
  int status = cli_npy_read(path, &job->main);
  if (status != CLI_OK) return status;
  const tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  job->tokens = tokens;
  status = feature_dtype(job, &job->tokens.dtype);
  if (status == CLI_OK) status = cli_job_segments(job, 1, cls_row);
  if (status != CLI_OK) return status;
  /* Without rows nothing is read: one channel keeps the workspace of a [0, huge] array small. */
  const int32_t dim = (int32_t)job->main.shape[job->main.dims - 1];
  job->tokens.dim = job->main.count > 0 ? dim : 1;
  job->tokens.row_stride = dim;
  return CLI_OK;
}

static int workspace(cli_job *job) {
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  size_t size = 0;
  limits.segments = job->batch.segments;
  limits.max_tokens = job->batch.max_tokens;
  limits.total_tokens = job->batch.total_tokens;
  limits.dim = job->call == TAILCUT_CALL_CUT ? 0 : job->tokens.dim;
  tailcut_status result = tailcut_workspace_size(job->device.handle, job->call, &limits, &size);
  if (result != TAILCUT_OK) return cli_library_failed("tailcut_workspace_size", result);
  const int status = cli_buffer_new(&job->device, &job->d_workspace, size, "the workspace");
  if (status != CLI_OK) return status;
  result = tailcut_workspace_init(job->device.handle, job->d_workspace.device, size, NULL);
  if (result != TAILCUT_OK) return cli_library_failed("tailcut_workspace_init", result);
  return CLI_OK;
}

int cli_job_prepare(cli_job *job, bool want_out, bool want_curve) {
  cli_device *device = &job->device;
  const size_t segments = (size_t)job->batch.segments;
  const size_t rows = (size_t)job->starts[segments];
  int status = cli_device_open(device, job->options);
  const bool features = job->call != TAILCUT_CALL_CUT;
  const struct {
    cli_buffer *buffer;
    const cli_array *data;
    size_t bytes;
    bool wanted;
    const char *what;
  } list[] = {
      {&job->d_main, &job->main, 0, true, "the input"},
      {&job->d_cls, &job->cls, 0, job->cls.data != NULL, "the reference"},
      {&job->d_roles, &job->roles, 0, job->roles.data != NULL, "the roles"},
      {&job->d_offsets, &job->offsets, 0, job->offsets.data != NULL, "the offsets"},
      {&job->d_counts, NULL, segments * 4, true, "the counts"},
      {&job->d_kept, NULL, rows * 4, true, "the kept indices"},
      {&job->d_new_offsets, NULL, (segments + 1) * 4, true, "the new offsets"},
      {&job->d_flags, NULL, segments * 4, true, "the flags"},
      {&job->d_scores, NULL, rows * 4, features, "the scores"},
      {&job->d_curve, NULL, rows * 4, want_curve, "the curve"},
      {&job->d_out, NULL, job->main.bytes, want_out, "the kept rows"},
  };
  for (size_t i = 0; i < sizeof list / sizeof list[0] && status == CLI_OK; i++) {
    if (!list[i].wanted) continue;
    status = list[i].data != NULL
                 ? cli_buffer_input(device, list[i].buffer, list[i].data->data, list[i].data->bytes,
                                    list[i].what)
                 : cli_buffer_new(device, list[i].buffer, list[i].bytes, list[i].what);
  }
  if (status == CLI_OK) status = workspace(job);
  if (status != CLI_OK) return status;

  const tailcut_selection selection = TAILCUT_SELECTION_INITIALIZER;
  job->batch.cu_seqlens = job->d_offsets.device;
  job->tokens.data = job->d_main.device;
  if (job->cls.data != NULL) job->reference.data = job->d_cls.device;
  job->selection = selection;
  job->selection.counts = job->d_counts.device;
  job->selection.kept = job->d_kept.device;
  job->selection.kept_placement = TAILCUT_PACKED;
  job->selection.new_cu_seqlens = job->d_new_offsets.device;
  job->selection.flags = job->d_flags.device;
  job->selection.scores = job->d_scores.device;
  job->selection.curve = job->d_curve.device;
  job->num_rows = want_out ? 1 : 0;
  if (want_out) {
    const tailcut_rows array = TAILCUT_ROWS_INITIALIZER;
    job->rows = array;
    job->rows.src = job->d_main.device;
    job->rows.dst = job->d_out.device;
    job->rows.part_bytes =
        job->main.shape[job->main.dims - 1] * (int64_t)cli_type_size(job->main.type);
    job->rows.placement = TAILCUT_PACKED;
  }
  return CLI_OK;
}

static tailcut_status call(cli_job *job) {
  const tailcut_handle handle = job->device.handle;
  void *memory = job->d_workspace.device;
  const size_t size = job->d_workspace.bytes;
  if (job->call == TAILCUT_CALL_CUT)
    return tailcut_cut(handle, &job->batch, job->d_main.device, NULL, NULL, &job->rule,
                       &job->selection, memory, size, NULL);
  if (job->call == TAILCUT_CALL_PRUNE_SEQUENCE)
    return tailcut_prune_sequence(handle, &job->batch, &job->tokens, job->d_roles.device,
                                  &job->relevance, &job->rule, &job->selection, &job->rows,
                                  job->num_rows, memory, size, NULL);
  return tailcut_prune_visual(handle, &job->batch, &job->tokens, &job->reference, &job->rule,
                              &job->selection, &job->rows, job->num_rows, memory, size, NULL);
}

/* The results, back on the host and checked for what the rest of the command relies on. */
static int fetch(cli_job *job) {
  cli_device *device = &job->device;
  int status = cli_buffer_fetch(device, &job->d_counts, job->d_counts.bytes);
  if (status == CLI_OK) status = cli_buffer_fetch(device, &job->d_flags, job->d_flags.bytes);
  if (status == CLI_OK)
    status = cli_buffer_fetch(device, &job->d_new_offsets, job->d_new_offsets.bytes);
  if (status != CLI_OK) return status;
  const int32_t *counts = job->d_counts.host;
  const int32_t *offsets = job->d_new_offsets.host;
  job->kept_total = 0;
  for (int32_t b = 0; b < job->batch.segments; b++) {
    if (counts[b] < 0 || counts[b] > cli_job_candidates(job, b) || offsets[b] != job->kept_total)
      return cli_fail(CLI_FAILED, "internal error: segment %d of %s keeps %d rows", (int)b,
                      job->main_path, (int)counts[b]);
    job->kept_total += counts[b];
  }
  status = cli_buffer_fetch(device, &job->d_kept, (size_t)job->kept_total * 4);
  if (status == CLI_OK) status = cli_buffer_fetch(device, &job->d_scores, job->d_scores.bytes);
  if (status == CLI_OK) status = cli_buffer_fetch(device, &job->d_curve, job->d_curve.bytes);
  if (status == CLI_OK && job->num_rows > 0)
    status = cli_buffer_fetch(device, &job->d_out,
                              (size_t)job->kept_total * (size_t)job->rows.part_bytes);
  return status;
}

int cli_job_run(cli_job *job) {
  const int32_t repeat = job->options->repeat;
  double *times = malloc((size_t)repeat * sizeof *times);
  cli_progress progress;
  int status = times != NULL ? CLI_OK : cli_fail(CLI_FAILED, "--repeat: out of memory");
  cli_progress_start(&progress);
  for (int32_t i = 0; i < repeat && status == CLI_OK; i++) {
    const double start = cli_now();
    const tailcut_status result = call(job);
    status = cli_device_wait(&job->device);
    times[i] = 1e6 * (cli_now() - start);
    if (result != TAILCUT_OK) status = cli_library_failed(job->main_path, result);
    cli_progress_step(&progress, i + 1, repeat);
  }
  cli_progress_end(&progress);
  if (status == CLI_OK) cli_times_summary(times, repeat, &job->us_min, &job->us_median);
  free(times);
  return status == CLI_OK ? fetch(job) : status;
}

void cli_job_free(cli_job *job) {
  cli_buffer *buffers[] = {&job->d_main,   &job->d_cls,   &job->d_roles,       &job->d_offsets,
                           &job->d_counts, &job->d_kept,  &job->d_new_offsets, &job->d_flags,
                           &job->d_scores, &job->d_curve, &job->d_out,         &job->d_workspace};
  for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++)
    cli_buffer_free(&job->device, buffers[i]);
  cli_array_free(&job->main);
  cli_array_free(&job->cls);
  cli_array_free(&job->roles);
  cli_array_free(&job->offsets);
  free(job->starts);
  cli_device_close(&job->device);
}
