/* SPDX-License-Identifier: Apache-2.0 */
/* cuda: what the files of the CUDA suite share: the device, graphs of calls, the suite's kernels.
 * Read by C and by CUDA C++. */
#ifndef TAILCUT_BENCH_CUDA_H_
#define TAILCUT_BENCH_CUDA_H_

#include <cuda_runtime_api.h>

#include "bench.h"

#if defined(__cplusplus)
extern "C" {
#endif

/* The device of the run, and what was found out about it before the first case. */
typedef struct bench_gpu {
  int index;
  bool simulated; /* small sizes, one round */
  struct cudaDeviceProp properties;
  size_t l2; /* bytes; a small number when simulated */
  cudaStream_t stream;
  cudaEvent_t before, after;
  char *from, *to; /* the copy yardstick's; reading `from` flushes the L2 */
  size_t copy_bytes;
  void *sink;
  bool copy_by_kernel; /* the faster of a kernel and cudaMemcpyAsync */
  double empty_us, memcpy_gbs, kernel_gbs;
  tailcut_handle cpu, cuda;
} bench_gpu;
extern bench_gpu bench_the_gpu;

/* A graph of `nodes` calls, one after the other, and what comes before a timed replay of it. */
typedef struct bench_graph {
  int (*enqueue)(void *of, int node); /* on the device's stream; nonzero: failed, message printed */
  int (*restore)(void *of);           /* enqueues before every replay, not timed; or NULL */
  void *of;
  int nodes;
  bool flush;                     /* the L2, before every replay */
  bool twice;                     /* an untimed replay first, so that the L2 is hot */
  const struct bench_graph *less; /* timed too and taken off: what else is in this one; or NULL */
  cudaGraphExec_t exec;
} bench_graph;

/* cuda_graph.c */
int bench_graph_make(bench_graph *graph);
void bench_graph_free(bench_graph *graph);
int bench_graph_replay(const bench_graph *graph); /* with the restore; waits */
/* A suite's `time`: row->of is a bench_graph; one replay, whatever `calls` says. */
int bench_graph_time(const bench_row *row, int calls, double *us);
/* Adds the graph to the scene. */
bench_row *bench_graph_row(bench_scene *scene, const char *name, bench_graph *graph, double bytes);
int bench_cuda_done(cudaError_t error, const char *what); /* CLI_OK, or prints and fails */

/* cuda.c: the rows before a CUDA scene's own: an empty node, the copy. */
enum { BENCH_EMPTY = 0, BENCH_COPY = 1, BENCH_FIRST_ROW = 2 };
void bench_cuda_yardsticks(bench_scene *scene);

/* cuda_cases.c */
const bench_case *bench_cuda_cases(bool quick, int *count);

/* cuda_scene.c; cuda_call.c */
int bench_cuda_open(bench_scene *scene);
void bench_cuda_close(bench_scene *scene);
int bench_cuda_check(bench_scene *scene);

/* cuda_report.c */
extern const bench_format bench_format_cuda;

/* cuda_kernels.cu. Sizes and pointers are multiples of 16. */
cudaError_t bench_cuda_empty(cudaStream_t stream);
cudaError_t bench_cuda_wait(long long cycles, cudaStream_t stream);
cudaError_t bench_cuda_copy(void *to, const void *from, size_t bytes, cudaStream_t stream);
cudaError_t bench_cuda_read(const void *from, size_t bytes, void *sink, cudaStream_t stream);
/* The same bytes to the beginning of every slot. */
cudaError_t bench_cuda_spread(void *to, size_t stride, int slots, const void *from, size_t bytes,
                              cudaStream_t stream);

#if defined(__cplusplus)
}
#endif

#endif /* TAILCUT_BENCH_CUDA_H_ */
