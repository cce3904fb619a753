/* SPDX-License-Identifier: Apache-2.0 */
/* report: the CPU's table on stdout (columns named as nvbench names them) and JSON file; names. */
#define _GNU_SOURCE 1 /* getloadavg under -std=c11 */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

const char *bench_dtype_name(int32_t dtype) {
  return dtype == TAILCUT_F16 ? "f16" : dtype == TAILCUT_BF16 ? "bf16" : "f32";
}

void bench_case_name(const bench_case *c, char *text, size_t size) {
  if (c->dim == 0) {
    snprintf(text, size, "%s/%dx%d", c->step, (int)c->segments, (int)c->tokens);
  } else if (c->text > 0) {
    snprintf(text, size, "%s/%dx%d+%dx%d/%s/%dx%d%s", c->step, (int)c->segments, (int)c->tokens,
             (int)c->text, (int)c->dim, bench_dtype_name(c->dtype), (int)c->layers,
             (int)c->kv_heads, c->paged ? "/paged" : "");
  } else {
    snprintf(text, size, "%s/%dx%dx%d/%s", c->step, (int)c->segments, (int)c->tokens, (int)c->dim,
             bench_dtype_name(c->dtype));
  }
}

bench_columns bench_columns_of(const bench_case *c, const bench_row *row) {
  bench_columns text;
  snprintf(text.name, sizeof text.name, "%s", row->name);
  snprintf(text.tokens, sizeof text.tokens, "%d", (int)c->tokens);
  if (c->text == 0) return text;
  snprintf(text.tokens, sizeof text.tokens, "%d+%d", (int)c->tokens, (int)c->text);
  if (row->bytes > 0 && strcmp(row->name, c->step) == 0) {
    snprintf(text.name, sizeof text.name, "%s %dx%d%s", row->name, (int)c->layers, (int)c->kv_heads,
             c->paged ? "p" : "");
  }
  return text;
}

void bench_case_json(const bench_case *c, FILE *json) {
  if (c->text == 0) return;
  fprintf(json, "\"text\": %d, \"layers\": %d, \"kv_heads\": %d, \"paged\": %s, ", (int)c->text,
          (int)c->layers, (int)c->kv_heads, c->paged ? "true" : "false");
}

int bench_failed(const bench_case *c, const char *what) {
  char name[96];
  bench_case_name(c, name, sizeof name);
  return cli_fail(CLI_FAILED, "bench: %s: %s", name, what);
}

int bench_done(tailcut_status status) {
  return status == TAILCUT_OK ? CLI_OK : cli_library_failed("bench", status);
}

static const char heading[] =
    "| row                   | segments |    tokens |  dim | dtype | threads | samples |       "
    "time | "
    "noise |   GB/s | %read |\n"
    "|-----------------------|---------:|----------:|-----:|-------|--------:|--------:|-----------"
    ":|"
    "------:|-------:|------:|\n";

static void open_report(bench_report *report) {
  double load = 0;
  if (getloadavg(&load, 1) == 1 && load > 0.75) {
    fprintf(
        stderr,
        "tailcut: bench: the machine is busy (load %.1f): rows with several threads are not to be "
        "trusted\n",
        load);
  }
  printf("%s\n", tailcut_build_info());
  printf(
      "time: median of one call. %%read: share of the GB/s of plain_sum, a vector sum of as many\n"
      "bytes on as many threads, timed in the same rounds.\n\n%s",
      heading);
  if (report->json != NULL)
    fprintf(report->json, "{\"build\": %s,\n \"rows\": [", tailcut_build_info());
}

static void time_text(double us, char *text, size_t size) {
  if (us < 1e3) {
    snprintf(text, size, "%.2f us", us);
  } else {
    snprintf(text, size, "%.3f ms", 1e-3 * us);
  }
}

static void print_row(const bench_scene *scene, const bench_row *row) {
  const bench_case *c = scene->what;
  const bench_columns columns = bench_columns_of(c, row);
  char dim[16] = "-", dtype[8] = "-", time[32], share[16] = "-", threads[16] = "-";
  if (c->dim > 0) {
    snprintf(dim, sizeof dim, "%d", (int)c->dim);
    snprintf(dtype, sizeof dtype, "%s", bench_dtype_name(c->dtype));
  }
  time_text(row->us, time, sizeof time);
  if (row->share > 0) snprintf(share, sizeof share, "%.0f%%", 100 * row->share);
  if (row->threads > 0) snprintf(threads, sizeof threads, "%d", (int)row->threads);
  printf("| %-21s | %8d | %9s | %4s | %-5s | %7s | %7d | %10s | %4.1f%% | %6.1f | %5s |\n",
         columns.name, (int)c->segments, columns.tokens, dim, dtype, threads, row->samples, time,
         100 * row->noise, row->gbs, share);
}

static void json_row(bench_report *report, const char *device, const bench_scene *scene,
                     const bench_row *row) {
  const bench_case *c = scene->what;
  fprintf(report->json,
          "%s\n  {\"device\": \"%s\", \"name\": \"%s\", \"segments\": %d, \"tokens\": %d, ",
          report->rows > 0 ? "," : "", device, row->name, (int)c->segments, (int)c->tokens);
  bench_case_json(c, report->json);
  fprintf(report->json,
          "\"dim\": %d, \"dtype\": \"%s\", \"threads\": %d, \"bytes\": %.0f, \"samples\": %d, "
          "\"calls_per_sample\": %d, \"us_median\": %.4f, \"us_min\": %.4f, \"noise\": %.4f, "
          "\"gbs\": %.3f, \"read_share\": ",
          (int)c->dim, bench_dtype_name(c->dtype), (int)row->threads, row->bytes, row->samples,
          row->calls_per_sample, row->us, row->least_us, row->noise, row->gbs);
  if (row->share > 0) {
    fprintf(report->json, "%.4f}", row->share);
  } else {
    fputs("null}", report->json);
  }
}

static void report_scene(bench_report *report, const char *device, const bench_scene *scene) {
  for (int r = 0; r < scene->rows; r++) {
    print_row(scene, &scene->row[r]);
    if (report->json != NULL) json_row(report, device, scene, &scene->row[r]);
    report->rows++;
  }
  fflush(stdout); /* a scene takes seconds */
}

static void close_report(bench_report *report) {
  if (report->json != NULL) fputs("\n ]}\n", report->json);
}

const bench_format bench_format_cpu = {open_report, report_scene, close_report};
