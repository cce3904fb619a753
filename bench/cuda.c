/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda: a CUDA device as a suite: what is found out before the first case, and the two rows that
 * every scene begins with.
 *
 * An empty kernel's graph node says what a node costs that does nothing. The copy, the faster of a
 * kernel and cudaMemcpyAsync on buffers of ten times the L2, is how fast this device moves bytes
 * today. Both are timed again in the rounds of every scene, so that differences and shares hold
 * when clocks drift.
 */
#if defined(TAILCUT_HAVE_CUDA)

#include "cuda.h"

#include <stdlib.h>
#include <string.h>

enum { EMPTY_NODES = 50, COPY_NODES = 2, WARM_UP_US = 700000 };

bench_gpu bench_the_gpu;

static int enqueue_empty(void *of, int node) {
  (void)of, (void)node;
  return bench_cuda_done(bench_cuda_empty(bench_the_gpu.stream), "an empty kernel");
}

static int enqueue_memcpy(void *of, int node) {
  const bench_gpu *gpu = &bench_the_gpu;
  (void)of, (void)node;
  return bench_cuda_done(
      cudaMemcpyAsync(gpu->to, gpu->from, gpu->copy_bytes, cudaMemcpyDeviceToDevice, gpu->stream),
      "cudaMemcpyAsync");
}

static int enqueue_copy(void *of, int node) {
  const bench_gpu *gpu = &bench_the_gpu;
  (void)of, (void)node;
  return bench_cuda_done(bench_cuda_copy(gpu->to, gpu->from, gpu->copy_bytes, gpu->stream),
                         "a copy kernel");
}

static bench_graph empty_graph = {.enqueue = enqueue_empty, .nodes = EMPTY_NODES, .twice = true};
static bench_graph memcpy_graph = {.enqueue = enqueue_memcpy, .nodes = COPY_NODES};
static bench_graph copy_graph = {.enqueue = enqueue_copy, .nodes = COPY_NODES};

void bench_cuda_yardsticks(bench_scene *scene) {
  const bench_gpu *gpu = &bench_the_gpu;
  scene->brief = gpu->simulated;
  bench_graph_row(scene, "empty node", &empty_graph, 0);
  bench_graph_row(scene, "copy", gpu->copy_by_kernel ? &copy_graph : &memcpy_graph,
                  2.0 * (double)gpu->copy_bytes);
}

/* -------------------------------------------------------------------------------- the device -- */

static int open_device(bench_gpu *gpu) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || gpu->index >= count) {
    if (error == cudaSuccess)
      return cli_fail(CLI_FAILED, "--device cuda:%d: this machine has %d CUDA devices", gpu->index,
                      count);
    return cli_fail(CLI_FAILED, "--device cuda:%d: no CUDA device: %s", gpu->index,
                    cudaGetErrorString(error));
  }
  int status = bench_cuda_done(cudaSetDevice(gpu->index), "cudaSetDevice");
  if (status != CLI_OK) return status;
  status = bench_cuda_done(cudaGetDeviceProperties(&gpu->properties, gpu->index),
                           "cudaGetDeviceProperties");
  if (status != CLI_OK) return status;
  gpu->simulated = strstr(gpu->properties.name, "simulated") != NULL;
  gpu->l2 = gpu->simulated ? (size_t)64 << 10 : (size_t)gpu->properties.l2CacheSize;
  gpu->copy_bytes = gpu->simulated ? (size_t)128 << 10 : 10 * gpu->l2 / 4096 * 4096;
  if (bench_cuda_done(cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking), "a stream") ||
      bench_cuda_done(cudaEventCreate(&gpu->before), "an event") ||
      bench_cuda_done(cudaEventCreate(&gpu->after), "an event") ||
      bench_cuda_done(cudaMalloc((void **)&gpu->from, gpu->copy_bytes), "memory for the copy") ||
      bench_cuda_done(cudaMalloc((void **)&gpu->to, gpu->copy_bytes), "memory for the copy") ||
      bench_cuda_done(cudaMalloc(&gpu->sink, 256), "memory")) {
    return CLI_FAILED;
  }
  return CLI_OK;
}

static int open_handles(bench_gpu *gpu) {
  tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  config.threads = 0;
  tailcut_status status = tailcut_create(&gpu->cpu, &config);
  config.device_kind = TAILCUT_DEVICE_CUDA;
  config.device_index = gpu->index;
  config.threads = 1;
  if (status == TAILCUT_OK) status = tailcut_create(&gpu->cuda, &config);
  return bench_done(status);
}

/* Data that is no zeros: some devices move those faster. */
static int fill_copy_source(bench_gpu *gpu) {
  const size_t piece = gpu->copy_bytes < ((size_t)4 << 20) ? gpu->copy_bytes : (size_t)4 << 20;
  char *data = bench_allocate(piece);
  bench_fill_tokens(data, TAILCUT_F16, 1, (int64_t)(piece / 2));
  int status = CLI_OK;
  for (size_t at = 0; at < gpu->copy_bytes && status == CLI_OK; at += piece) {
    const size_t rest = gpu->copy_bytes - at;
    status = bench_cuda_done(
        cudaMemcpy(gpu->from + at, data, rest < piece ? rest : piece, cudaMemcpyHostToDevice),
        "cudaMemcpy");
  }
  /* Our stream does not wait for the default one. */
  if (status == CLI_OK) status = bench_cuda_done(cudaDeviceSynchronize(), "filling the source");
  free(data);
  return status;
}

static int check_copy(const bench_gpu *gpu, const char *how) {
  char *data = bench_allocate(2 * gpu->copy_bytes);
  int status = bench_cuda_done(cudaMemcpy(data, gpu->from, gpu->copy_bytes, cudaMemcpyDeviceToHost),
                               "cudaMemcpy");
  if (status == CLI_OK) {
    status = bench_cuda_done(
        cudaMemcpy(data + gpu->copy_bytes, gpu->to, gpu->copy_bytes, cudaMemcpyDeviceToHost),
        "cudaMemcpy");
  }
  if (status == CLI_OK && memcmp(data, data + gpu->copy_bytes, gpu->copy_bytes) != 0) {
    status = cli_fail(CLI_FAILED, "bench: %s copied wrongly", how);
  }
  free(data);
  return status;
}

static int check_copies(const bench_gpu *gpu) {
  int status = CLI_OK;
  const bench_graph *graphs[] = {&memcpy_graph, &copy_graph};
  for (int i = 0; i < 2 && status == CLI_OK; i++) {
    status =
        bench_cuda_done(cudaMemsetAsync(gpu->to, 0xA5, gpu->copy_bytes, gpu->stream), "cudaMemset");
    if (status == CLI_OK) status = bench_graph_replay(graphs[i]);
    if (status == CLI_OK) status = check_copy(gpu, i == 0 ? "cudaMemcpyAsync" : "the kernel");
  }
  return status;
}

/* The clocks of an idle device are low, and take their time. */
static int wake_up(const bench_gpu *gpu) {
  const double start = bench_now_us();
  while (!gpu->simulated && bench_now_us() - start < WARM_UP_US) {
    if (bench_graph_replay(&copy_graph) != CLI_OK) return CLI_FAILED;
  }
  return CLI_OK;
}

static int start_cuda(int index) {
  bench_gpu *gpu = &bench_the_gpu;
  memset(gpu, 0, sizeof *gpu);
  gpu->index = index;
  if (open_device(gpu) != CLI_OK || open_handles(gpu) != CLI_OK ||
      fill_copy_source(gpu) != CLI_OK) {
    return CLI_FAILED;
  }
  if (bench_graph_make(&empty_graph) != CLI_OK || bench_graph_make(&memcpy_graph) != CLI_OK ||
      bench_graph_make(&copy_graph) != CLI_OK || check_copies(gpu) != CLI_OK ||
      wake_up(gpu) != CLI_OK) {
    return CLI_FAILED;
  }
  bench_scene scene = {.brief = gpu->simulated};
  const double bytes = 2.0 * (double)gpu->copy_bytes;
  bench_graph_row(&scene, "empty node", &empty_graph, 0);
  bench_graph_row(&scene, "cudaMemcpyAsync", &memcpy_graph, bytes);
  bench_graph_row(&scene, "copy kernel", &copy_graph, bytes);
  const int status = bench_measure(&bench_suite_cuda, &scene, bench_budget_us(&scene, true));
  gpu->empty_us = scene.row[0].us;
  gpu->memcpy_gbs = scene.row[1].gbs;
  gpu->kernel_gbs = scene.row[2].gbs;
  gpu->copy_by_kernel = gpu->kernel_gbs > gpu->memcpy_gbs;
  return status;
}

static void stop_cuda(void) {
  bench_gpu *gpu = &bench_the_gpu;
  bench_graph_free(&empty_graph);
  bench_graph_free(&memcpy_graph);
  bench_graph_free(&copy_graph);
  tailcut_destroy(gpu->cuda);
  tailcut_destroy(gpu->cpu);
  cudaFree(gpu->from), cudaFree(gpu->to), cudaFree(gpu->sink);
  if (gpu->before != NULL) cudaEventDestroy(gpu->before);
  if (gpu->after != NULL) cudaEventDestroy(gpu->after);
  if (gpu->stream != NULL) cudaStreamDestroy(gpu->stream);
}

const bench_suite bench_suite_cuda = {
    .device = "cuda",
    .format = &bench_format_cuda,
    .start = start_cuda,
    .stop = stop_cuda,
    .cases = bench_cuda_cases,
    .open = bench_cuda_open,
    .close = bench_cuda_close,
    .time = bench_graph_time,
    .check = bench_cuda_check,
};

#else
typedef int bench_cuda_is_not_built;
#endif
