/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_report: the CUDA table (columns named as nvbench names them) and its JSON file. */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#if defined(TAILCUT_HAVE_CUDA)

#include <time.h>

#include "cuda.h"

static const double ambiguous = 0.05; /* noise above it */

static const char heading[] =
    "| row                   |   B |         N |    D | dtype | L2   | nodes | samples |   us/node "
    "| "
    "noise |    -empty |   GB/s | %copy |           |\n"
    "|-----------------------|----:|----------:|-----:|-------|------|------:|--------:|----------:"
    "|"
    "------:|----------:|-------:|------:|-----------|\n";

static double copy_gbs(const bench_gpu *gpu) {
  return gpu->copy_by_kernel ? gpu->kernel_gbs : gpu->memcpy_gbs;
}

/* An attribute of the device as a JSON number; null where it is not told. */
static void json_attribute(FILE *json, const char *name, enum cudaDeviceAttr attribute) {
  int value = 0;
  if (cudaDeviceGetAttribute(&value, attribute, bench_the_gpu.index) == cudaSuccess && value > 0) {
    fprintf(json, "\"%s\": %d, ", name, value);
  } else {
    cudaGetLastError();
    fprintf(json, "\"%s\": null, ", name);
  }
}

static void json_head(FILE *json) {
  const bench_gpu *gpu = &bench_the_gpu;
  const struct cudaDeviceProp *p = &gpu->properties;
  int driver = 0, runtime = 0;
  char date[32] = "";
  const time_t now = time(NULL);
  struct tm utc;
  if (gmtime_r(&now, &utc) != NULL) strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &utc);
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  const int version = tailcut_version();
  fprintf(json, "{\"tool\": \"tailcut bench\", \"version\": \"%d.%d.%d\", \"date\": \"%s\",\n",
          version / 10000, version / 100 % 100, version % 100, date);
  fprintf(json, " \"build\": %s,\n \"device\": {\"name\": \"%s\", \"simulated\": %s, ",
          tailcut_build_info(), p->name, gpu->simulated ? "true" : "false");
  fprintf(json, "\"sm\": %d, \"sms\": %d, \"l2_bytes\": %d, \"memory_bytes\": %zu, ",
          10 * p->major + p->minor, p->multiProcessorCount, p->l2CacheSize, p->totalGlobalMem);
  json_attribute(json, "clock_khz", cudaDevAttrClockRate);
  json_attribute(json, "memory_clock_khz", cudaDevAttrMemoryClockRate);
  json_attribute(json, "memory_bus_bits", cudaDevAttrGlobalMemoryBusWidth);
  fprintf(json, "\"driver\": %d, \"runtime\": %d},\n", driver, runtime);
  fprintf(json,
          " \"empty_node_us\": %.4f, \"copy_gbs\": %.2f, \"copy_kernel_gbs\": %.2f, "
          "\"copy_memcpy_gbs\": %.2f, \"copy_bytes\": %zu,\n \"rows\": [",
          gpu->empty_us, copy_gbs(gpu), gpu->kernel_gbs, gpu->memcpy_gbs, gpu->copy_bytes);
}

static void open_report(bench_report *report) {
  const bench_gpu *gpu = &bench_the_gpu;
  const struct cudaDeviceProp *p = &gpu->properties;
  printf("%s\ncuda:%d: %s, sm_%d%d, %d SMs, L2 %.1f MB\n", tailcut_build_info(), gpu->index,
         p->name, p->major, p->minor, p->multiProcessorCount, p->l2CacheSize / 1048576.0);
  printf(
      "empty node %.2f us; copy of %.0f MB %.0f GB/s read and written (kernel %.0f, "
      "cudaMemcpyAsync %.0f)\n",
      gpu->empty_us, (double)gpu->copy_bytes / 1e6, copy_gbs(gpu), gpu->kernel_gbs,
      gpu->memcpy_gbs);
  if (gpu->simulated) puts("simulated: times mean nothing");
  printf(
      "us/node: median of the replays of a graph of that many calls, over their number. -empty: "
      "without\nan empty node's. %%copy: share of the copy's GB/s. Both timed in the same "
      "rounds.\n\n%s",
      heading);
  if (report->json != NULL) json_head(report->json);
}

static void print_row(const bench_scene *scene, const bench_row *row) {
  const bench_case *c = scene->what;
  const bench_columns columns = bench_columns_of(c, row);
  char dim[16] = "-", dtype[8] = "-";
  if (c->dim > 0) {
    snprintf(dim, sizeof dim, "%d", (int)c->dim);
    snprintf(dtype, sizeof dtype, "%s", bench_dtype_name(c->dtype));
  }
  printf(
      "| %-21s | %3d | %9s | %4s | %-5s | %-4s | %5d | %7d | %9.2f | %4.1f%% | %9.2f | %6.0f | "
      "%4.0f%% | %-9s |\n",
      columns.name, (int)c->segments, columns.tokens, dim, dtype, row->cache, row->calls_per_sample,
      row->samples, row->us, 100 * row->noise, row->us - scene->row[BENCH_EMPTY].us, row->gbs,
      100 * row->share, row->noise > ambiguous ? "AMBIGUOUS" : "");
}

static void json_row(bench_report *report, const char *device, const bench_scene *scene,
                     const bench_row *row) {
  const bench_case *c = scene->what;
  const bench_row *empty = &scene->row[BENCH_EMPTY], *copy = &scene->row[BENCH_COPY];
  fprintf(report->json,
          "%s\n  {\"device\": \"%s\", \"name\": \"%s\", \"segments\": %d, \"tokens\": %d, ",
          report->rows > 0 ? "," : "", device, row->name, (int)c->segments, (int)c->tokens);
  bench_case_json(c, report->json);
  fprintf(report->json,
          "\"dim\": %d, \"dtype\": \"%s\", \"l2\": \"%s\", \"nodes\": %d, \"kept\": %lld, "
          "\"bytes\": %.0f, \"samples\": %d, ",
          (int)c->dim, bench_dtype_name(c->dtype), row->cache, row->calls_per_sample,
          (long long)scene->kept, row->bytes, row->samples);
  fprintf(report->json,
          "\"us_median\": %.4f, \"us_min\": %.4f, \"noise\": %.4f, \"ambiguous\": %s, "
          "\"us_minus_empty\": %.4f, \"gbs\": %.3f, \"copy_share\": %.4f, \"empty_us\": %.4f, "
          "\"copy_gbs\": %.2f}",
          row->us, row->least_us, row->noise, row->noise > ambiguous ? "true" : "false",
          row->us - empty->us, row->gbs, row->share, empty->us, copy->gbs);
}

static void report_scene(bench_report *report, const char *device, const bench_scene *scene) {
  for (int r = BENCH_FIRST_ROW; r < scene->rows; r++) {
    print_row(scene, &scene->row[r]);
    if (report->json != NULL) json_row(report, device, scene, &scene->row[r]);
    report->rows++;
  }
  fflush(stdout); /* a scene takes seconds */
}

static void close_report(bench_report *report) {
  if (bench_the_gpu.simulated) puts("\nsimulated: times mean nothing");
  if (report->json != NULL) fputs("\n ]}\n", report->json);
}

const bench_format bench_format_cuda = {open_report, report_scene, close_report};

#else
typedef int bench_cuda_report_is_not_built;
#endif
