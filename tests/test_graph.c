/* SPDX-License-Identifier: Apache-2.0 */
/* graph: a run call does nothing but enqueue on its stream. Every kind of call, in every form, is
 * captured once in a CUDA graph; its nodes are the kernels that the table says and nothing has run.
 * Replays on new contents, lengths and offsets in the same memory equal the CPU backend's results.
 * For builds with CUDA only. */
#include <criterion/criterion.h>
#include <cuda_runtime_api.h>
#include <stdio.h>

#include "calls.h"

static void ok(cudaError_t error, const char *what) {
  cr_assert_eq(error, cudaSuccess, "%s: %s", what, cudaGetErrorString(error));
}
#define OK(call) ok(call, #call)

/* A row of the table, captured. */
typedef struct captured {
  const tt_call_row *row;
  tt_call *call;
  cudaGraphExec_t exec;
} captured;

/* What is another device than the handle's, where there is one. */
static int other_device(void) {
  int count = 0;
  OK(cudaGetDeviceCount(&count));
  return count - 1;
}

/* The call from another current device, which must be the current one afterwards; and with an error
 * of the caller's that nobody has asked for yet, which is neither the call's nor lost by it. */
static void call_once(const tt_call *call, const char *name, tailcut_handle handle, tt_workspace w,
                      cudaStream_t stream) {
  const int other = other_device();
  int current = -1;
  OK(cudaSetDevice(other));
  cr_assert_eq(cudaSetDevice(-1), cudaErrorInvalidDevice);
  const tailcut_status status = tt_call_run(call, handle, w, stream);
  OK(cudaGetDevice(&current));
  cr_assert_eq(status, TAILCUT_OK, "%s: %s", name, tailcut_last_error());
  cr_assert_eq(current, other, "%s: the current device was %d and is %d", name, other, current);
  cr_assert_eq(cudaGetLastError(), cudaErrorInvalidDevice, "%s: the caller's error is lost", name);
  cr_assert_eq(cudaGetLastError(), cudaSuccess, "%s leaves an error behind", name);
  OK(cudaSetDevice(0));
}

/* Kernels only, and as many as the table says. */
static void check_nodes(const tt_call_row *row, const tt_backend *backend, cudaGraph_t graph) {
  const size_t expected = (size_t)tt_call_launches(row, backend->form);
  cudaGraphNode_t nodes[64];
  size_t count = 64;
  OK(cudaGraphGetNodes(graph, nodes, &count));
  cr_expect_eq(count, expected, "%s on %s: %zu launches, expected %zu", row->name, backend->name,
               count, expected);
  for (size_t i = 0; i < count && i < 64; i++) {
    enum cudaGraphNodeType type;
    OK(cudaGraphNodeGetType(nodes[i], &type));
    cr_expect_eq(type, cudaGraphNodeTypeKernel, "%s: node %zu is no kernel", row->name, i);
  }
}

/* In the capture's strictest mode an allocation or a wait in the call breaks it, and so does work
 * on the default stream when the stream is a blocking one. */
static captured capture(const tt_call_row *row, const tt_backend *backend, tailcut_handle handle,
                        tt_workspace w, tt_random *random) {
  captured c = {row, tt_call_new(row, backend), NULL};
  cudaGraph_t graph;
  cudaStream_t stream;
  tt_call_fill(c.call, random);
  OK(cudaStreamCreateWithFlags(&stream,
                               tt_below(random, 2) ? cudaStreamDefault : cudaStreamNonBlocking));
  OK(cudaStreamBeginCapture(stream, tt_below(random, 2) ? cudaStreamCaptureModeGlobal
                                                        : cudaStreamCaptureModeThreadLocal));
  call_once(c.call, row->name, handle, w, stream);
  OK(cudaStreamEndCapture(stream, &graph));
  OK(cudaStreamDestroy(stream));
  cr_assert_eq(tt_call_compare(c.call), 0, "%s on %s: something ran while it was captured",
               row->name, backend->name);
  check_nodes(row, backend, graph);
  OK(cudaGraphInstantiate(&c.exec, graph, 0));
  OK(cudaGraphDestroy(graph));
  return c;
}

static int replay(captured *c, cudaStream_t stream, tt_random *random) {
  tt_call_fill(c->call, random);
  OK(cudaGraphLaunch(c->exec, stream));
  OK(cudaStreamSynchronize(stream));
  tt_call_expect(c->call);
  return tt_call_compare(c->call);
}

static void release(captured *c) {
  OK(cudaGraphExecDestroy(c->exec));
  tt_call_free(c->call);
}

static void replays(int32_t kind) {
  int count, rows = 0, total = 0;
  const tt_backend *backends = tt_backends(&count);
  cudaStream_t stream;
  OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (int i = 0; i < count; i++) {
    tailcut_handle handle = tt_create(&backends[i]);
    for (int n = 0; n < tt_call_row_count; n++) {
      const tt_call_row *row = &tt_call_rows[n];
      tt_random random = {(uint64_t)n * 64 + (uint64_t)i};
      if (row->kind != kind || row->replays < 0) continue;
      const tailcut_limits limits = tt_call_limits(row);
      tt_workspace w = tt_workspace_new(&backends[i], handle, kind, &limits);
      OK(cudaDeviceSynchronize());
      captured c = capture(row, &backends[i], handle, w, &random);
      const int most = row->replays ? row->replays : 50;
      for (int r = 0; r < most; r++) {
        cr_assert_eq(replay(&c, stream, &random), 0, "%s on %s: replay %d", row->name,
                     backends[i].name, r);
      }
      release(&c);
      tt_workspace_free(&backends[i], w);
      rows++;
      total += most;
    }
    tailcut_destroy(handle);
  }
  OK(cudaStreamDestroy(stream));
  cr_assert_gt(rows, 0);
  printf("%d captured calls, %d replays\n", rows, total);
  fflush(stdout);
}

Test(graph, score) { replays(TAILCUT_CALL_SCORE); }
Test(graph, mean_direction) { replays(TAILCUT_CALL_MEAN_DIRECTION); }
Test(graph, cut) { replays(TAILCUT_CALL_CUT); }
Test(graph, compact) { replays(TAILCUT_CALL_COMPACT); }
Test(graph, prune_visual) { replays(TAILCUT_CALL_PRUNE_VISUAL); }

/* Every row of the table has its graph, and all use one workspace, in any order. */
Test(graph, calls_of_all_kinds_take_turns_on_one_workspace) {
  enum { MOST = 64, TURNS = 150 };
  int count;
  const tt_backend *backends = tt_backends(&count);
  cudaStream_t stream;
  cr_assert_leq(tt_call_row_count, MOST);
  OK(cudaStreamCreate(&stream));
  for (int i = 0; i < count; i++) {
    tailcut_handle handle = tt_create(&backends[i]);
    captured graphs[MOST];
    tt_random random = {(uint64_t)i + 5};
    tt_workspace w = {NULL, 0};
    for (int n = 0; n < tt_call_row_count; n++) {
      const tt_call_row *row = &tt_call_rows[n];
      const tailcut_limits limits = tt_call_limits(row);
      size_t size = 0;
      cr_assert_eq(tailcut_workspace_size(handle, row->kind, &limits, &size), TAILCUT_OK);
      if (size > w.size) w.size = size;
    }
    w.data = tt_upload(&backends[i], NULL, w.size, 0);
    cr_assert_eq(tailcut_workspace_init(handle, w.data, w.size, NULL), TAILCUT_OK);
    OK(cudaDeviceSynchronize());
    int used = 0;
    for (int n = 0; n < tt_call_row_count; n++) {
      if (tt_call_rows[n].replays != 0) continue;
      graphs[used++] = capture(&tt_call_rows[n], &backends[i], handle, w, &random);
    }
    for (int turn = 0; turn < TURNS; turn++) {
      captured *c = &graphs[tt_below(&random, used)];
      cr_assert_eq(replay(c, stream, &random), 0, "%s on %s, turn %d", c->row->name,
                   backends[i].name, turn);
      /* Sometimes the call itself, on contents that replays have used. */
      if (turn % 8 != 0) continue;
      tt_call_fill(c->call, &random);
      call_once(c->call, c->row->name, handle, w, stream);
      OK(cudaStreamSynchronize(stream));
      tt_call_expect(c->call);
      cr_assert_eq(tt_call_compare(c->call), 0, "%s, called", c->row->name);
    }
    for (int n = 0; n < used; n++) release(&graphs[n]);
    tt_workspace_free(&backends[i], w);
    tailcut_destroy(handle);
  }
  OK(cudaStreamDestroy(stream));
}
