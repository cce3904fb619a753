/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda_graph: the time of a call as the node of a CUDA graph.
 *
 * One sample is one replay of a graph of many calls, divided by their number. The replay is queued
 * behind a kernel that waits, so that the host's launching is over when it begins; the graph's own
 * start is shared by its nodes, and stays in. Before it, outside the time: inputs that the calls
 * write are restored; for a cold L2 a buffer of several times its size is read, which also writes
 * back what the restoring left dirty there; for a hot one the graph is replayed once.
 */
#if defined(TAILCUT_HAVE_CUDA)

#include "cuda.h"

enum { WAIT_CYCLES = 500000 }; /* about a quarter of a millisecond */

int bench_cuda_done(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return CLI_OK;
  return cli_fail(CLI_FAILED, "bench: %s: %s (%s)", what, cudaGetErrorName(error),
                  cudaGetErrorString(error));
}

#define TRY(call)                                                     \
  do {                                                                \
    const cudaError_t error_ = (call);                                \
    if (error_ != cudaSuccess) return bench_cuda_done(error_, #call); \
  } while (0)

int bench_graph_make(bench_graph *graph) {
  const bench_gpu *gpu = &bench_the_gpu;
  cudaGraph_t captured = NULL;
  int status = CLI_OK;
  TRY(cudaStreamBeginCapture(gpu->stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < graph->nodes && status == CLI_OK; i++) {
    status = graph->enqueue(graph->of, i);
  }
  const cudaError_t ended = cudaStreamEndCapture(gpu->stream, &captured);
  if (status == CLI_OK) status = bench_cuda_done(ended, "cudaStreamEndCapture");
  if (status == CLI_OK) {
    status =
        bench_cuda_done(cudaGraphInstantiate(&graph->exec, captured, 0), "cudaGraphInstantiate");
  }
  if (captured != NULL) cudaGraphDestroy(captured);
  return status;
}

void bench_graph_free(bench_graph *graph) {
  if (graph->exec != NULL) cudaGraphExecDestroy(graph->exec);
  graph->exec = NULL;
}

int bench_graph_replay(const bench_graph *graph) {
  const bench_gpu *gpu = &bench_the_gpu;
  if (graph->restore != NULL && graph->restore(graph->of) != CLI_OK) return CLI_FAILED;
  TRY(cudaGraphLaunch(graph->exec, gpu->stream));
  TRY(cudaStreamSynchronize(gpu->stream));
  return CLI_OK;
}

static int time_replay(const bench_graph *graph, float *ms) {
  const bench_gpu *gpu = &bench_the_gpu;
  size_t flushed = 4 * gpu->l2;
  if (flushed > gpu->copy_bytes) flushed = gpu->copy_bytes;
  if (graph->restore != NULL && graph->restore(graph->of) != CLI_OK) return CLI_FAILED;
  if (graph->flush) TRY(bench_cuda_read(gpu->from, flushed, gpu->sink, gpu->stream));
  if (graph->twice) TRY(cudaGraphLaunch(graph->exec, gpu->stream));
  if (!gpu->simulated) TRY(bench_cuda_wait(WAIT_CYCLES, gpu->stream));
  TRY(cudaEventRecord(gpu->before, gpu->stream));
  TRY(cudaGraphLaunch(graph->exec, gpu->stream));
  TRY(cudaEventRecord(gpu->after, gpu->stream));
  TRY(cudaStreamSynchronize(gpu->stream));
  TRY(cudaEventElapsedTime(ms, gpu->before, gpu->after));
  return CLI_OK;
}

int bench_graph_time(const bench_row *row, int calls, double *us) {
  const bench_graph *graph = row->of;
  float ms = 0, less = 0;
  (void)calls;
  if (graph->less != NULL && time_replay(graph->less, &less) != CLI_OK) return CLI_FAILED;
  if (time_replay(graph, &ms) != CLI_OK) return CLI_FAILED;
  *us = 1e3 * (double)(ms - less) / graph->nodes;
  return CLI_OK;
}

bench_row *bench_graph_row(bench_scene *scene, const char *name, bench_graph *graph, double bytes) {
  bench_row *row = &scene->row[scene->rows++];
  row->name = name;
  row->bytes = bytes;
  row->of = graph;
  row->calls_fixed = graph->nodes;
  row->yardstick = -1;
  return row;
}

#else
typedef int bench_cuda_graph_is_not_built;
#endif
