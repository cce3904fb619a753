/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_call: the calls of a scene on CUDA, what restores their inputs, and what they must give. */
#if defined(TAILCUT_HAVE_CUDA)

#include <string.h>

#include "cuda_cub.h"
#include "cuda_scene.h"

enum { POISON = 0xA5 };

/* ------------------------------------------------------------------------------------- calls -- */

int bench_cuda_issue(const bench_world *w, int32_t kind, bool cuda, char *slot, bool in_place) {
  const tailcut_handle handle = cuda ? bench_the_gpu.cuda : bench_the_gpu.cpu;
  void *const room = cuda ? w->cuda_workspace : w->cpu_workspace;
  const size_t room_bytes = cuda ? w->cuda_workspace_bytes : w->cpu_workspace_bytes;
  void *const stream = cuda ? (void *)bench_the_gpu.stream : NULL;
  const bench_slot *at = &w->at;
  if (kind == TAILCUT_CALL_PRUNE_SEQUENCE) {
    const bench_room all = {handle, room, room_bytes, stream};
    return bench_sequence_call(&w->sequence, &all, slot);
  }
  tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  tokens.data = slot + at->tokens;
  tokens.dtype = w->c->dtype;
  tokens.dim = w->c->dim;
  tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  reference.data = slot + at->reference;
  reference.segment_stride = w->c->dim;
  if (w->window > 0) {
    reference = (tailcut_reference)TAILCUT_REFERENCE_INITIALIZER;
    reference.source = TAILCUT_REFERENCE_NOVELTY;
    reference.window = w->window;
  }
  tailcut_selection selection = TAILCUT_SELECTION_INITIALIZER;
  selection.counts = (int32_t *)(void *)(slot + at->counts);
  selection.kept = (int32_t *)(void *)(slot + at->kept);
  tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  rows.src = slot + at->tokens;
  rows.dst = slot + (in_place ? at->tokens : at->rows);
  rows.part_bytes = (int64_t)w->row_bytes;
  rows.placement = in_place ? TAILCUT_LOCAL : TAILCUT_PACKED;
  tailcut_merge_options merge = TAILCUT_MERGE_OPTIONS_INITIALIZER;
  if (w->merges) {
    merge.window = w->window;
    selection.merge = &merge;
    rows.flags = TAILCUT_ROWS_MERGE;
    rows.dtype = w->c->dtype;
  }
  switch (kind) {
    case TAILCUT_CALL_SCORE:
      return bench_done(tailcut_score(handle, &w->batch, &tokens, &reference,
                                      (float *)(void *)(slot + at->scores), NULL, room, room_bytes,
                                      stream));
    case TAILCUT_CALL_CUT:
      return bench_done(tailcut_cut(handle, &w->batch,
                                    (const float *)(const void *)(slot + at->scores_in), NULL, NULL,
                                    NULL, &selection, room, room_bytes, stream));
    case TAILCUT_CALL_COMPACT:
      return bench_done(
          tailcut_compact(handle, &w->batch, (const int32_t *)(const void *)(slot + at->kept_in),
                          TAILCUT_LOCAL, (const int32_t *)(const void *)(slot + at->counts_in),
                          in_place ? NULL : (const int32_t *)(const void *)(slot + at->cu_in),
                          &rows, 1, room, room_bytes, stream));
    default:
      if (!in_place) selection.new_cu_seqlens = (int32_t *)(void *)(slot + at->cu);
      return bench_done(tailcut_prune_visual(handle, &w->batch, &tokens, &reference, NULL,
                                             &selection, &rows, 1, room, room_bytes, stream));
  }
}

/* From the master, which stays in the L2 beside it. */
int bench_cuda_enqueue_restore(void *of, int node) {
  const bench_variant *v = of;
  const bench_world *w = v->w;
  (void)node;
  return bench_cuda_done(
      bench_cuda_spread(w->slots, w->at.bytes, 1, w->master, w->at.inputs, bench_the_gpu.stream),
      "restoring an input");
}

/* Packed, by other means: scores as tailcut makes them, then CUB's parts. */
static int issue_cub(const bench_world *w, char *slot) {
  const bench_slot *at = &w->at;
  const int status = bench_cuda_issue(w, TAILCUT_CALL_SCORE, true, slot, false);
  if (status != CLI_OK) return status;
  return bench_cuda_done(
      bench_cub_prune(w->c->segments, w->c->tokens,
                      (const float *)(const void *)(slot + at->scores), slot + at->tokens,
                      slot + at->rows, w->row_bytes, (int32_t *)(void *)(slot + at->counts),
                      (int32_t *)(void *)(slot + at->kept), (int32_t *)(void *)(slot + at->cu),
                      bench_the_gpu.stream),
      "CUB");
}

int bench_cuda_enqueue(void *of, int node) {
  const bench_variant *v = of;
  const bench_world *w = v->w;
  if (v->by_cub) return issue_cub(w, w->slots + (size_t)(node % v->slots) * w->at.bytes);
  if (v->restores.enqueue != NULL && bench_cuda_enqueue_restore(of, node) != CLI_OK)
    return CLI_FAILED;
  return bench_cuda_issue(w, w->kind, true, w->slots + (size_t)(node % v->slots) * w->at.bytes,
                          v->in_place);
}

int bench_cuda_restore(void *of) {
  const bench_variant *v = of;
  const bench_world *w = v->w;
  return bench_cuda_done(bench_cuda_spread(w->slots, w->at.bytes, v->slots, w->master, w->at.inputs,
                                           bench_the_gpu.stream),
                         "restoring inputs");
}

/* ------------------------------------------------------------------------------------ checks -- */

static bool selects(const bench_world *w) {
  return w->kind == TAILCUT_CALL_CUT || w->kind == TAILCUT_CALL_PRUNE_VISUAL;
}

/* The slot in w->actual against w->expected. What is unspecified, behind a segment's last kept row,
 * is not looked at. */
static int compare(const bench_world *w, bool in_place) {
  const char *a = w->actual, *e = w->expected;
  const bench_slot *at = &w->at;
  const size_t segments = (size_t)w->c->segments, tokens = (size_t)w->c->tokens;
  const int32_t *counts = (const int32_t *)(const void *)(e + at->counts);
  const int32_t *cu = (const int32_t *)(const void *)(e + at->cu);
  if (w->kind == TAILCUT_CALL_PRUNE_SEQUENCE) {
    const char *wrong = bench_sequence_differs(&w->sequence, a, e);
    return wrong == NULL ? CLI_OK : bench_failed(w->c, wrong);
  }
  if (w->kind == TAILCUT_CALL_SCORE) {
    if (memcmp(a + at->scores, e + at->scores, 4 * (size_t)w->total) == 0) return CLI_OK;
    return bench_failed(w->c, "scores differ from the CPU's");
  }
  if (selects(w) && memcmp(a + at->counts, e + at->counts, 4 * segments) != 0) {
    return bench_failed(w->c, "counts differ from the CPU's");
  }
  if (w->kind == TAILCUT_CALL_PRUNE_VISUAL && !in_place &&
      memcmp(a + at->cu, e + at->cu, 4 * (segments + 1)) != 0) {
    return bench_failed(w->c, "offsets differ from the CPU's");
  }
  for (size_t s = 0; s < segments; s++) {
    const size_t k = (size_t)counts[s], kept = at->kept + 4 * s * tokens;
    if (selects(w) && memcmp(a + kept, e + kept, 4 * k) != 0) {
      return bench_failed(w->c, "kept indices differ from the CPU's");
    }
    if (!bench_cuda_moves_rows(w)) continue;
    const size_t packed = at->rows + (size_t)cu[s] * w->row_bytes;
    const size_t mine = in_place ? at->tokens + s * tokens * w->row_bytes : packed;
    if (memcmp(a + mine, e + packed, k * w->row_bytes) != 0) {
      return bench_failed(w->c, in_place ? "rows in place differ from the CPU's"
                                         : "packed rows differ from the CPU's");
    }
  }
  return CLI_OK;
}

static int check(bench_variant *v) {
  const bench_world *w = v->w;
  const bench_slot *at = &w->at;
  const cudaStream_t stream = bench_the_gpu.stream;
  int status = bench_cuda_restore(v);
  for (int i = 0; i < v->slots && status == CLI_OK; i++) {
    status = bench_cuda_done(cudaMemsetAsync(w->slots + (size_t)i * at->bytes + at->inputs, POISON,
                                             at->bytes - at->inputs, stream),
                             "poisoning outputs");
  }
  if (status == CLI_OK) status = bench_graph_replay(&v->graph);
  for (int i = 0; i < v->slots && status == CLI_OK; i++) {
    const size_t from = v->in_place ? 0 : at->inputs; /* in place the rows are among the inputs */
    status = bench_cuda_done(cudaMemcpy(w->actual + from, w->slots + (size_t)i * at->bytes + from,
                                        at->bytes - from, cudaMemcpyDeviceToHost),
                             "fetching outputs");
    if (status == CLI_OK) status = compare(w, v->in_place);
  }
  return status;
}

int bench_cuda_check(bench_scene *scene) {
  bench_world *w = scene->data;
  int status = CLI_OK;
  for (int i = 0; i < w->variant_count && status == CLI_OK; i++) status = check(&w->variants[i]);
  return status;
}

#else
typedef int bench_cuda_call_is_not_built;
#endif
