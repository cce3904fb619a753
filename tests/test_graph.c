/* SPDX-License-Identifier: Apache-2.0 */
/* graph: a run call does nothing but enqueue on its stream. Every kind of call, in every form, is
 * captured once in a CUDA graph; its nodes are the kernels that the table says and nothing has run.
 * Replays on new contents, lengths and offsets in the same memory equal the CPU backend's results.
 * For builds with CUDA only. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "captured.h"

static void replays(int32_t kind) {
  int count, rows = 0, total = 0;
  const tt_backend *backends = tt_backends(&count);
  cudaStream_t stream;
  TT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (int i = 0; i < count; i++) {
    tailcut_handle handle = tt_create(&backends[i]);
    for (int n = 0; n < tt_call_row_count; n++) {
      const tt_call_row *row = &tt_call_rows[n];
      tt_random random = {(uint64_t)n * 64 + (uint64_t)i};
      if (row->kind != kind || row->replays < 0) continue;
      /* The same launches as the device's form makes. */
      if (backends[i].form == TT_FORM_CHAIN && row->chain == 0) continue;
      const tailcut_limits limits = tt_call_limits(row);
      tt_workspace w = tt_workspace_new(&backends[i], handle, kind, &limits);
      TT_CUDA(cudaDeviceSynchronize());
      tt_captured c;
      cr_assert_eq(tt_captured_new(&c, row, &backends[i], handle, w, &random), 0);
      const int most = row->replays ? row->replays : 50;
      for (int r = 0; r < most; r++) {
        cr_assert_eq(tt_captured_replay(&c, stream, &random), 0, "%s on %s: replay %d", row->name,
                     backends[i].name, r);
      }
      tt_captured_free(&c);
      tt_workspace_free(&backends[i], w);
      rows++;
      total += most;
    }
    tailcut_destroy(handle);
  }
  TT_CUDA(cudaStreamDestroy(stream));
  cr_assert_gt(rows, 0);
  printf("%d captured calls, %d replays\n", rows, total);
  fflush(stdout);
}

Test(graph, score) { replays(TAILCUT_CALL_SCORE); }
Test(graph, mean_direction) { replays(TAILCUT_CALL_MEAN_DIRECTION); }
Test(graph, cut) { replays(TAILCUT_CALL_CUT); }
Test(graph, compact) { replays(TAILCUT_CALL_COMPACT); }
Test(graph, relevance) { replays(TAILCUT_CALL_RELEVANCE); }
Test(graph, prune_visual) { replays(TAILCUT_CALL_PRUNE_VISUAL); }
Test(graph, prune_sequence) { replays(TAILCUT_CALL_PRUNE_SEQUENCE); }

/* Every row of the table has its graph, and all use one workspace, in any order. */
Test(graph, calls_of_all_kinds_take_turns_on_one_workspace) {
  enum { MOST = 128, TURNS = 150 };
  int count;
  const tt_backend *backends = tt_backends(&count);
  cudaStream_t stream;
  cr_assert_leq(tt_call_row_count, MOST);
  TT_CUDA(cudaStreamCreate(&stream));
  for (int i = 0; i < count; i++) {
    tailcut_handle handle = tt_create(&backends[i]);
    tt_captured graphs[MOST];
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
    TT_CUDA(cudaDeviceSynchronize());
    int used = 0;
    for (int n = 0; n < tt_call_row_count; n++) {
      if (tt_call_rows[n].replays != 0) continue;
      const int wrong =
          tt_captured_new(&graphs[used++], &tt_call_rows[n], &backends[i], handle, w, &random);
      cr_assert_eq(wrong, 0);
    }
    for (int turn = 0; turn < TURNS; turn++) {
      tt_captured *c = &graphs[tt_below(&random, used)];
      cr_assert_eq(tt_captured_replay(c, stream, &random), 0, "%s on %s, turn %d", c->row->name,
                   backends[i].name, turn);
      /* Sometimes the call itself, on contents that replays have used. */
      if (turn % 8 != 0) continue;
      cr_assert_eq(tt_captured_call(c, stream, &random), 0, "%s, called", c->row->name);
    }
    for (int n = 0; n < used; n++) tt_captured_free(&graphs[n]);
    tt_workspace_free(&backends[i], w);
    tailcut_destroy(handle);
  }
  TT_CUDA(cudaStreamDestroy(stream));
}
