/* SPDX-License-Identifier: Apache-2.0 */
/* job: one run of the library on files: buffers, the timed calls, the results. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static int workspace(cli_job *job) {
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  size_t size = 0;
  limits.segments = job->batch.segments;
  limits.max_tokens = job->batch.max_tokens;
  limits.total_tokens = job->batch.total_tokens;
  limits.groups = job->batch.groups;
  limits.q_heads = job->relevance.q_heads;
  limits.head_dim = job->relevance.head_dim;
  limits.window = job->options->novelty > 0        ? job->options->novelty
                  : job->options->merge_window > 0 ? job->options->merge_window
                  : job->options->merges           ? 64
                                                   : 0;
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
      {&job->d_q, &job->q, 0, job->q.data != NULL, "the queries"},
      {&job->d_keys, &job->keys, 0, job->keys.data != NULL, "the keys"},
      {&job->d_offsets, &job->offsets, 0, job->offsets.data != NULL, "the offsets"},
      {&job->d_groups, &job->groups, 0, job->groups.data != NULL, "the groups"},
      {&job->d_sizes_in, &job->sizes, 0, job->sizes.data != NULL, "the sizes"},
      {&job->d_counts, NULL, segments * 4, true, "the counts"},
      {&job->d_kept, NULL, rows * 4, true, "the kept indices"},
      {&job->d_new_offsets, NULL, (segments + 1) * 4, true, "the new offsets"},
      {&job->d_flags, NULL, segments * 4, true, "the flags"},
      {&job->d_scores, NULL, rows * 4, features, "the scores"},
      {&job->d_curve, NULL, rows * 4, want_curve, "the curve"},
      {&job->d_mask, NULL, rows, job->options->mask != NULL, "the mask"},
      {&job->d_group_counts, NULL, (size_t)job->batch.groups * 4,
       job->options->group_counts != NULL, "the counts of the groups"},
      {&job->d_out, NULL, job->main.bytes, want_out, "the kept rows"},
      {&job->d_sizes, NULL, rows * 4, job->options->sizes != NULL, "the sizes of the kept rows"},
      {&job->d_joins, NULL, rows * 4, job->options->merges && job->options->joins != NULL,
       "what each candidate joins"},
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
  job->batch.group_cu_seqlens = job->d_groups.device;
  job->tokens.data = job->d_main.device;
  if (job->cls.data != NULL) job->reference.data = job->d_cls.device;
  job->relevance.q = job->d_q.device;
  job->relevance.k = job->d_keys.device;
  job->selection = selection;
  job->selection.counts = job->d_counts.device;
  job->selection.kept = job->d_kept.device;
  job->selection.kept_placement = TAILCUT_PACKED;
  job->selection.new_cu_seqlens = job->d_new_offsets.device;
  job->selection.flags = job->d_flags.device;
  job->selection.scores = job->d_scores.device;
  job->selection.curve = job->d_curve.device;
  job->selection.mask = job->d_mask.device;
  job->selection.group_counts = job->d_group_counts.device;
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
  if (job->options->merges) {
    const tailcut_merge_options merge = TAILCUT_MERGE_OPTIONS_INITIALIZER;
    job->merge = merge;
    job->merge.power = job->options->merge;
    job->merge.window = job->options->merge_window;
    job->merge.sizes_in = job->d_sizes_in.device;
    job->merge.sizes_out = job->d_sizes.device;
    job->merge.joins_out = job->d_joins.device;
    job->selection.merge = &job->merge;
    job->rows.flags = TAILCUT_ROWS_MERGE;
    job->rows.dtype = job->tokens.dtype;
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

/* How many scores are NaN, for the warning: before the scores are moved for their file. */
static int count_nans(cli_job *job) {
  const int32_t *flags = job->d_flags.host;
  const float *scores = job->call == TAILCUT_CALL_CUT ? job->main.data : job->d_scores.host;
  const uint8_t *roles = job->roles.data;
  for (int32_t b = 0; b < job->batch.segments; b++) {
    if (!(flags[b] & TAILCUT_FLAG_NAN)) continue;
    if (job->nan_counts == NULL)
      job->nan_counts = calloc((size_t)job->batch.segments, sizeof *job->nan_counts);
    if (job->nan_counts == NULL) return cli_fail(CLI_FAILED, "out of memory for the flags");
    const int64_t start = job->starts[b], n = cli_job_candidates(job, b);
    for (int64_t i = start; i < start + n; i++)
      if (isnan(scores[i]) &&
          (roles == NULL ||
           (roles[i] & (TAILCUT_ROLE_CANDIDATE | TAILCUT_ROLE_ABSENT)) == TAILCUT_ROLE_CANDIDATE))
        job->nan_counts[b]++;
  }
  return CLI_OK;
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
  if (status == CLI_OK) status = cli_buffer_fetch(device, &job->d_mask, job->d_mask.bytes);
  if (status == CLI_OK)
    status = cli_buffer_fetch(device, &job->d_group_counts, job->d_group_counts.bytes);
  if (status == CLI_OK)
    status = cli_buffer_fetch(device, &job->d_sizes,
                              job->d_sizes.bytes > 0 ? (size_t)job->kept_total * 4 : 0);
  if (status == CLI_OK) status = cli_buffer_fetch(device, &job->d_joins, job->d_joins.bytes);
  if (status == CLI_OK && job->num_rows > 0)
    status = cli_buffer_fetch(device, &job->d_out,
                              (size_t)job->kept_total * (size_t)job->rows.part_bytes);
  return status == CLI_OK ? count_nans(job) : status;
}

int cli_job_run(cli_job *job) {
  const int32_t repeat = job->options->repeat;
  double *times = malloc((size_t)repeat * sizeof *times);
  int status = times != NULL ? CLI_OK : cli_fail(CLI_FAILED, "--repeat: out of memory");
  cli_progress_runs("computing", repeat);
  for (int32_t i = 0; i < repeat && status == CLI_OK; i++) {
    const double start = cli_now();
    const tailcut_status result = call(job);
    status = cli_device_wait(&job->device);
    times[i] = 1e6 * (cli_now() - start);
    if (result != TAILCUT_OK) status = cli_library_failed(job->main_path, result);
    cli_progress_step(i + 1);
  }
  if (status == CLI_OK) cli_times_summary(times, repeat, &job->us_min, &job->us_median);
  free(times);
  return status == CLI_OK ? fetch(job) : status;
}

void cli_job_free(cli_job *job) {
  cli_buffer *buffers[] = {
      &job->d_main,         &job->d_cls,      &job->d_roles,  &job->d_q,
      &job->d_keys,         &job->d_offsets,  &job->d_groups, &job->d_mask,
      &job->d_group_counts, &job->d_counts,   &job->d_kept,   &job->d_new_offsets,
      &job->d_flags,        &job->d_scores,   &job->d_curve,  &job->d_out,
      &job->d_workspace,    &job->d_sizes_in, &job->d_sizes,  &job->d_joins};
  for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++)
    cli_buffer_free(&job->device, buffers[i]);
  cli_array_free(&job->main);
  cli_array_free(&job->cls);
  cli_array_free(&job->roles);
  cli_array_free(&job->q);
  cli_array_free(&job->keys);
  cli_array_free(&job->offsets);
  cli_array_free(&job->groups);
  cli_array_free(&job->sizes);
  free(job->starts);
  free(job->nan_counts);
  cli_device_close(&job->device);
}
