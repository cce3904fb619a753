/* SPDX-License-Identifier: Apache-2.0 */
/* captured: what a run call promises of its stream: it enqueues kernels there and does nothing
 * else. */
#if defined(TAILCUT_HAVE_CUDA)

#include "captured.h"

#include <stdio.h>
#include <stdlib.h>

void tt_cuda_ok(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return;
  fflush(stdout);
  fprintf(stderr, "%s: %s (%s)\n", what, cudaGetErrorName(error), cudaGetErrorString(error));
  abort();
}

static int wrong(const tt_captured *c, const char *what) {
  printf("FAILED %s on %s: %s\n", c->row->name, c->backend->name, what);
  return 1;
}

/* What is another device than the handle's, where there is one. */
static int other_device(void) {
  int count = 0;
  TT_CUDA(cudaGetDeviceCount(&count));
  return count - 1;
}

static int call_once(const tt_captured *c, cudaStream_t stream) {
  const int other = other_device();
  int current = -1, failures = 0;
  TT_CUDA(cudaSetDevice(other));
  if (cudaSetDevice(-1) != cudaErrorInvalidDevice) failures += wrong(c, "there is a device -1");
  const tailcut_status status = tt_call_run(c->call, c->handle, c->workspace, stream);
  TT_CUDA(cudaGetDevice(&current));
  if (status != TAILCUT_OK) failures += wrong(c, tailcut_last_error());
  if (current != other) failures += wrong(c, "the current device is another one");
  if (cudaGetLastError() != cudaErrorInvalidDevice) {
    failures += wrong(c, "the caller's error is lost");
  }
  if (cudaGetLastError() != cudaSuccess) failures += wrong(c, "it leaves an error behind");
  TT_CUDA(cudaSetDevice(0));
  return failures;
}

static int check_nodes(const tt_captured *c, cudaGraph_t graph) {
  enum { MOST = 64 };
  const size_t expected = (size_t)tt_call_launches(c->row, c->backend->form);
  cudaGraphNode_t nodes[MOST];
  size_t count = MOST;
  int failures = 0;
  TT_CUDA(cudaGraphGetNodes(graph, nodes, &count));
  if (count != expected) {
    printf("%zu launches, expected %zu\n", count, expected);
    failures += wrong(c, "other launches than the table says");
  }
  for (size_t i = 0; i < count && i < MOST; i++) {
    enum cudaGraphNodeType type;
    TT_CUDA(cudaGraphNodeGetType(nodes[i], &type));
    if (type != cudaGraphNodeTypeKernel) failures += wrong(c, "a node is no kernel");
  }
  return failures;
}

int tt_captured_new(tt_captured *c, const tt_call_row *row, const tt_backend *backend,
                    tailcut_handle handle, tt_workspace workspace, tt_random *random) {
  const tt_captured made = {row, backend, handle, workspace, tt_call_new(row, backend), NULL};
  cudaGraph_t graph;
  cudaStream_t stream;
  *c = made;
  tt_call_fill(c->call, random);
  TT_CUDA(cudaStreamCreateWithFlags(
      &stream, tt_below(random, 2) ? cudaStreamDefault : cudaStreamNonBlocking));
  TT_CUDA(cudaStreamBeginCapture(stream, tt_below(random, 2) ? cudaStreamCaptureModeGlobal
                                                             : cudaStreamCaptureModeThreadLocal));
  int failures = call_once(c, stream);
  TT_CUDA(cudaStreamEndCapture(stream, &graph));
  TT_CUDA(cudaStreamDestroy(stream));
  if (tt_call_compare(c->call) != 0) {
    failures += wrong(c, "something ran while it was captured");
  }
  failures += check_nodes(c, graph);
  TT_CUDA(cudaGraphInstantiate(&c->exec, graph, 0));
  TT_CUDA(cudaGraphDestroy(graph));
  return failures;
}

void tt_captured_free(tt_captured *c) {
  TT_CUDA(cudaGraphExecDestroy(c->exec));
  tt_call_free(c->call);
}

static int compare(tt_captured *c, cudaStream_t stream) {
  TT_CUDA(cudaStreamSynchronize(stream));
  tt_call_expect(c->call);
  return tt_call_compare(c->call);
}

int tt_captured_replay(tt_captured *c, cudaStream_t stream, tt_random *random) {
  tt_call_fill(c->call, random);
  TT_CUDA(cudaGraphLaunch(c->exec, stream));
  return compare(c, stream);
}

int tt_captured_call(tt_captured *c, cudaStream_t stream, tt_random *random) {
  tt_call_fill(c->call, random);
  const int failures = call_once(c, stream);
  return failures + compare(c, stream);
}

#else
typedef int tt_captured_is_not_built;
#endif
