/* SPDX-License-Identifier: Apache-2.0 */
/* bench: times the library on synthetic tokens. (tailcut_bench does the comparisons.) */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

typedef struct bench {
  const cli_options *options;
  cli_device device;
  int32_t dtype;
  cli_buffer tokens, cls, scores, counts, out, workspace;
  tailcut_batch batch;
  int rows_printed;
} bench;

static uint32_t next_random(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(*state >> 32);
}

/* Elements of +-[0.5, 1). One row in four agrees in most signs with row 0, the reference, so that
 * the curve has a head. */
static void fill(const bench *b, void *tokens, int64_t rows) {
  const int64_t dim = b->options->dim;
  const bool single = b->dtype == TAILCUT_F32;
  const uint32_t sign = single ? 0x80000000u : 0x8000u;
  const uint32_t mask = single ? 0x807FFFFFu : b->dtype == TAILCUT_F16 ? 0x83FFu : 0x807Fu;
  const uint32_t base = single ? 0x3F000000u : b->dtype == TAILCUT_F16 ? 0x3800u : 0x3F00u;
  uint32_t *wide = tokens;
  uint16_t *narrow = tokens;
  uint64_t state = 1;
  for (int64_t r = 0; r < rows; r++) {
    const bool head = r > 0 && next_random(&state) % 4 == 0;
    for (int64_t d = 0; d < dim; d++) {
      uint32_t v = (next_random(&state) & mask) | base;
      if (head && next_random(&state) % 4 != 0)
        v = (v & ~sign) | ((single ? wide[d] : narrow[d]) & sign);
      if (single)
        wide[r * dim + d] = v;
      else
        narrow[r * dim + d] = (uint16_t)v;
    }
  }
}

static int call(bench *b, bool prune) {
  tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  tokens.data = b->tokens.device;
  tokens.dtype = b->dtype;
  tokens.dim = b->options->dim;
  reference.data = b->cls.device;
  tailcut_status status;
  if (prune) {
    tailcut_selection selection = TAILCUT_SELECTION_INITIALIZER;
    tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
    selection.counts = b->counts.device;
    rows.src = b->tokens.device;
    rows.dst = b->out.device;
    rows.part_bytes = (int64_t)b->options->dim * (b->dtype == TAILCUT_F32 ? 4 : 2);
    rows.placement = TAILCUT_PACKED;
    status =
        tailcut_prune_visual(b->device.handle, &b->batch, &tokens, &reference, NULL, &selection,
                             &rows, 1, b->workspace.device, b->workspace.bytes, NULL);
  } else {
    status = tailcut_score(b->device.handle, &b->batch, &tokens, &reference, b->scores.device, NULL,
                           b->workspace.device, b->workspace.bytes, NULL);
  }
  if (status != TAILCUT_OK) return cli_library_failed("bench", status);
  return cli_device_wait(&b->device);
}

static void print_row(bench *b, const char *name, double least, double median) {
  static const char *const dtypes[] = {"", "f16", "bf16", "f32"};
  const double gbs = (double)b->tokens.bytes / (1e3 * least);
  if (b->options->json) {
    printf(
        "%s{\"call\": \"%s\", \"batch\": %d, \"tokens\": %d, \"dim\": %d, \"dtype\": \"%s\", "
        "\"us_min\": %.3f, \"us_median\": %.3f, \"gb_per_s\": %.2f}",
        b->rows_printed ? ", " : "", name, (int)b->batch.segments, (int)b->batch.max_tokens,
        (int)b->options->dim, dtypes[b->dtype], least, median, gbs);
  } else {
    if (b->rows_printed == 0)
      printf("%-14s %6s %8s %6s %6s %12s %12s %9s\n", "call", "batch", "tokens", "dim", "dtype",
             "us min", "us median", "GB/s");
    printf("%-14s %6d %8d %6d %6s %12.1f %12.1f %9.2f\n", name, (int)b->batch.segments,
           (int)b->batch.max_tokens, (int)b->options->dim, dtypes[b->dtype], least, median, gbs);
  }
  b->rows_printed++;
}

static int time_call(bench *b, bool prune, double *times) {
  double least, median;
  int status = call(b, prune); /* warms up */
  cli_progress_runs("run", b->options->repeat);
  for (int32_t i = 0; i < b->options->repeat && status == CLI_OK; i++) {
    const double start = cli_now();
    status = call(b, prune);
    times[i] = 1e6 * (cli_now() - start);
    cli_progress_step(i + 1);
  }
  cli_progress_end();
  if (status != CLI_OK) return status;
  cli_times_summary(times, b->options->repeat, &least, &median);
  print_row(b, prune ? "prune_visual" : "score", least, median);
  return CLI_OK;
}

static int prepare(bench *b, void *data, size_t bytes) {
  const size_t rows = (size_t)b->batch.segments * (size_t)b->batch.max_tokens;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  size_t size = 0, score_size = 0;
  limits.segments = b->batch.segments;
  limits.max_tokens = b->batch.max_tokens;
  limits.dim = b->options->dim;
  tailcut_status result =
      tailcut_workspace_size(b->device.handle, TAILCUT_CALL_PRUNE_VISUAL, &limits, &size);
  if (result == TAILCUT_OK)
    result = tailcut_workspace_size(b->device.handle, TAILCUT_CALL_SCORE, &limits, &score_size);
  if (result != TAILCUT_OK) return cli_library_failed("bench", result);
  if (score_size > size) size = score_size;
  cli_device *device = &b->device;
  fill(b, data, (int64_t)rows);
  int status = cli_buffer_input(device, &b->tokens, data, bytes, "the tokens");
  if (status == CLI_OK)
    status = cli_buffer_input(device, &b->cls, data, bytes / rows, "the reference");
  if (status == CLI_OK) status = cli_buffer_new(device, &b->scores, rows * 4, "the scores");
  if (status == CLI_OK)
    status = cli_buffer_new(device, &b->counts, (size_t)b->batch.segments * 4, "the counts");
  if (status == CLI_OK) status = cli_buffer_new(device, &b->out, bytes, "the kept rows");
  if (status == CLI_OK) status = cli_buffer_new(device, &b->workspace, size, "the workspace");
  if (status != CLI_OK) return status;
  result = tailcut_workspace_init(device->handle, b->workspace.device, size, NULL);
  return result == TAILCUT_OK ? CLI_OK : cli_library_failed("bench", result);
}

static int run_batch(bench *b, int32_t segments, double *times) {
  const tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  const int64_t rows = (int64_t)segments * b->options->tokens_per_image;
  const double bytes =
      (double)rows * (double)b->options->dim * (b->dtype == TAILCUT_F32 ? 4.0 : 2.0);
  const double memory = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
  b->batch = batch;
  b->batch.segments = segments;
  b->batch.max_tokens = b->options->tokens_per_image;
  if (rows > INT32_MAX || bytes > 0.4 * memory) /* tokens and result, and some to spare */
    return cli_fail(CLI_FAILED, "--batch: %d images of these tokens do not fit into memory",
                    (int)segments);
  void *data = NULL;
  if (posix_memalign(&data, 256, (size_t)bytes) != 0)
    return cli_fail(CLI_FAILED, "--batch: out of memory for %d images", (int)segments);
  int status = prepare(b, data, (size_t)bytes);
  if (status == CLI_OK) status = time_call(b, false, times);
  if (status == CLI_OK) status = time_call(b, true, times);
  cli_buffer *buffers[] = {&b->tokens, &b->cls, &b->scores, &b->counts, &b->out, &b->workspace};
  for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++)
    cli_buffer_free(&b->device, buffers[i]);
  free(data);
  return status;
}

int cli_bench(const cli_options *options) {
  bench b;
  char device[32];
  memset(&b, 0, sizeof b);
  b.options = options;
  b.dtype = options->dtype ? options->dtype : TAILCUT_F16;
  double *times = malloc((size_t)options->repeat * sizeof *times);
  int status = times ? CLI_OK : cli_fail(CLI_FAILED, "--repeat: out of memory");
  if (status == CLI_OK) status = cli_device_open(&b.device, options);
  cli_device_name(&b.device, device);
  if (status == CLI_OK)
    printf(options->json ? "{\"device\": \"%s\", \"threads\": %d, \"repeat\": %d, \"results\": ["
                         : "device %s, %d threads, best and median of %d runs\n",
           device, (int)b.device.threads, (int)options->repeat);
  for (int i = 0; i < options->num_batches && status == CLI_OK; i++)
    status = run_batch(&b, options->batches[i], times);
  if (status == CLI_OK && options->json) fputs("]}\n", stdout);
  cli_device_close(&b.device);
  free(times);
  return status == CLI_OK ? cli_flush_stdout() : status;
}
