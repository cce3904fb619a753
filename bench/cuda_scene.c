/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda_scene: a case on CUDA: its memory and its rows (cuda_call.c: its calls and checks).
 *
 * Everything a call reads and writes lies in one slot, inputs first; the host has a slot of the
 * same layout, in which the CPU backend makes the expected outputs with the very same calls. The
 * device has many: a cold graph goes through all of them, each visited once, so that in place
 * every call has an input of its own; a hot one takes the first alone (in place: as many as stay
 * in the L2; where these are too few for a graph, the first again and again, its input restored
 * before every call in the graph, and the time of the same graph without the calls is taken off).
 * The graphs that are timed are those that are checked, in every slot, before the timing and again
 * after it: inputs restored, outputs poisoned, one replay, compared with the CPU's bits. All calls
 * share a workspace, as those of a server do.
 */
#if defined(TAILCUT_HAVE_CUDA)

#include <stdlib.h>
#include <string.h>

#include "cuda_cub.h"
#include "cuda_scene.h"

enum { HOT_NODES = 50, LEAST_HOT_IN_PLACE = 8, MOST_SLOTS = 512 };
/* Cold slots: together about what the copy moves, 20 times the L2, so that what the L2 has not yet
 * written back at the end, and nobody pays for, is as small a share; within these. */
enum { LEAST_SLOTS = 16, LEAST_LARGE_SLOTS = 4 };

/* ------------------------------------------------------------------------------------ memory -- */

static size_t take(size_t *used, size_t bytes) {
  const size_t at = *used;
  *used += (bytes + 255) / 256 * 256;
  return at;
}

static void lay_out(bench_world *w) {
  bench_slot *at = &w->at;
  const size_t rows = (size_t)w->total * 4, segments = (size_t)w->c->segments;
  size_t used = 0;
  if (w->kind == TAILCUT_CALL_PRUNE_SEQUENCE) {
    bench_sequence_lay_out(&w->sequence, w->c);
    at->inputs = w->sequence.inputs, at->bytes = w->sequence.bytes;
    at->counts = w->sequence.counts;
    return;
  }
  at->tokens = take(&used, w->token_bytes);
  at->reference = take(&used, segments * w->row_bytes);
  at->scores_in = take(&used, w->kind == TAILCUT_CALL_CUT ? rows : 0);
  const bool given = w->kind == TAILCUT_CALL_COMPACT;
  at->kept_in = take(&used, given ? rows : 0);
  at->counts_in = take(&used, given ? 4 * segments : 0);
  at->cu_in = take(&used, given ? 4 * (segments + 1) : 0);
  at->inputs = used;
  at->rows = take(&used, bench_cuda_moves_rows(w) ? w->token_bytes : 0);
  at->scores = take(&used, rows);
  at->kept = take(&used, rows);
  at->counts = take(&used, 4 * segments);
  at->cu = take(&used, 4 * (segments + 1));
  at->bytes = used;
}

static int make_workspaces(bench_world *w) {
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = w->c->segments;
  limits.max_tokens = w->c->tokens;
  limits.dim = w->c->dim;
  limits.window = w->window;
  if (w->kind == TAILCUT_CALL_PRUNE_SEQUENCE) limits = bench_sequence_limits(&w->sequence);
  /* The expected rows of compact come from the CPU's prune. */
  const int32_t oracle = w->kind == TAILCUT_CALL_COMPACT ? TAILCUT_CALL_PRUNE_VISUAL : w->kind;
  tailcut_status result =
      tailcut_workspace_size(bench_the_gpu.cpu, oracle, &limits, &w->cpu_workspace_bytes);
  if (result == TAILCUT_OK) {
    result = tailcut_workspace_size(bench_the_gpu.cuda, w->kind, &limits, &w->cuda_workspace_bytes);
  }
  if (result != TAILCUT_OK) return bench_done(result);
  w->cpu_workspace = bench_allocate(w->cpu_workspace_bytes);
  int status = bench_cuda_done(cudaMalloc(&w->cuda_workspace, w->cuda_workspace_bytes + 1),
                               "memory for the workspace");
  if (status != CLI_OK) return status;
  status = bench_done(
      tailcut_workspace_init(bench_the_gpu.cpu, w->cpu_workspace, w->cpu_workspace_bytes, NULL));
  if (status != CLI_OK) return status;
  return bench_done(tailcut_workspace_init(bench_the_gpu.cuda, w->cuda_workspace,
                                           w->cuda_workspace_bytes, bench_the_gpu.stream));
}

/* Inputs into the host's slot, expected outputs by the CPU backend behind them. (A sequence is
 * pruned in place: its inputs go to the device first, finish_expected.) */
static int make_expected(bench_world *w) {
  const bench_slot *at = &w->at;
  char *slot = w->expected;
  if (w->kind == TAILCUT_CALL_PRUNE_SEQUENCE) {
    bench_sequence_fill(&w->sequence, slot);
    return CLI_OK;
  }
  if (w->c->dim == 0) { /* scores are a row of features */
    bench_fill_tokens(slot + at->scores_in, TAILCUT_F32, 1, w->total);
    return bench_cuda_issue(w, w->kind, false, slot, false);
  }
  bench_fill_tokens(slot + at->tokens, w->c->dtype, w->total, w->c->dim);
  for (size_t s = 0; s < (size_t)w->c->segments; s++) {
    memcpy(slot + at->reference + s * w->row_bytes, slot + at->tokens, w->row_bytes);
  }
  if (w->kind != TAILCUT_CALL_COMPACT) return bench_cuda_issue(w, w->kind, false, slot, false);
  const int status = bench_cuda_issue(w, TAILCUT_CALL_PRUNE_VISUAL, false, slot, false);
  memcpy(slot + at->kept_in, slot + at->kept, 4 * (size_t)w->total);
  memcpy(slot + at->counts_in, slot + at->counts, 4 * (size_t)w->c->segments);
  memcpy(slot + at->cu_in, slot + at->cu, 4 * ((size_t)w->c->segments + 1));
  return status;
}

static int finish_expected(bench_world *w) {
  if (w->kind != TAILCUT_CALL_PRUNE_SEQUENCE) return CLI_OK;
  const int status =
      bench_cuda_done(cudaStreamSynchronize(bench_the_gpu.stream), "cudaStreamSynchronize");
  return status == CLI_OK ? bench_cuda_issue(w, w->kind, false, w->expected, true) : status;
}

/* Slots whose inputs are five times the L2 or more, in bounds, and at most half of the free memory.
 */
static int make_slots(bench_world *w) {
  const bench_gpu *gpu = &bench_the_gpu;
  const size_t input = w->kind == TAILCUT_CALL_PRUNE_SEQUENCE ? w->at.inputs
                       : w->c->dim > 0                        ? w->token_bytes
                                                              : 4 * (size_t)w->total;
  const size_t copied = 20 * gpu->l2 / input + 1;
  const size_t large = copied < LEAST_LARGE_SLOTS ? LEAST_LARGE_SLOTS
                       : copied < LEAST_SLOTS     ? copied
                                                  : LEAST_SLOTS;
  const size_t least = gpu->simulated ? 2 : large, most = gpu->simulated ? 3 : MOST_SLOTS;
  size_t count = 5 * gpu->l2 / input + 1, free_bytes = 0, all_bytes = 0;
  int status = bench_cuda_done(cudaMemGetInfo(&free_bytes, &all_bytes), "cudaMemGetInfo");
  if (status != CLI_OK) return status;
  count = count < least ? least : count > most ? most : count;
  while (count > 2 && count * w->at.bytes > free_bytes / 2) count--;
  w->slot_count = (int)count;
  if (bench_cuda_done(cudaMalloc((void **)&w->slots, count * w->at.bytes),
                      "memory for the slots") ||
      bench_cuda_done(cudaMalloc((void **)&w->master, w->at.inputs), "memory for the inputs")) {
    return CLI_FAILED;
  }
  return bench_cuda_done(
      cudaMemcpyAsync(w->master, w->expected, w->at.inputs, cudaMemcpyHostToDevice, gpu->stream),
      "cudaMemcpyAsync");
}

/* -------------------------------------------------------------------------------------- rows -- */

/* Slots of a hot graph; 0: this case does not stay in the L2. Of that, a device of two partitions
 * may hold a line twice. */
static int hot_slots(const bench_world *w, bool in_place) {
  const bench_gpu *gpu = &bench_the_gpu;
  const size_t room = gpu->l2 / 5 * 2;
  const size_t touched =
      w->at.inputs + (in_place || !bench_cuda_moves_rows(w) ? 0 : w->token_bytes);
  if (!in_place) return touched <= room ? 1 : 0;
  const size_t fit = room / w->at.inputs, least = gpu->simulated ? 3 : LEAST_HOT_IN_PLACE;
  if (fit < least) return 0;
  return (int)(fit < (size_t)w->slot_count ? fit < HOT_NODES ? fit : HOT_NODES
                                           : (size_t)w->slot_count);
}

/* Room for an input and the one it is restored from. */
static bool hot_when_restored(const bench_world *w) {
  return 2 * w->at.inputs <= bench_the_gpu.l2 / 5 * 2;
}

static int add_variant(bench_scene *scene, const char *name, int place, bool cold, double bytes) {
  bench_world *w = scene->data;
  const bool in_place = place == BENCH_IN_PLACE;
  int slots = cold ? w->slot_count : hot_slots(w, in_place);
  const bool restored = slots == 0 && in_place && hot_when_restored(w);
  if (restored) slots = 1;
  if (slots == 0) return CLI_OK;
  bench_variant *v = &w->variants[w->variant_count++];
  v->w = w;
  v->in_place = in_place;
  v->by_cub = place == BENCH_BY_CUB;
  v->slots = slots;
  v->graph.enqueue = bench_cuda_enqueue;
  v->graph.restore =
      bench_cuda_moves_rows(w) ? bench_cuda_restore : NULL; /* the rows in place share the slots */
  v->graph.of = v;
  const bool visits = (cold || in_place) && !restored; /* a node for each slot */
  v->graph.nodes = visits ? slots : bench_the_gpu.simulated ? 2 : HOT_NODES;
  v->graph.flush = cold;
  v->graph.twice = !visits;
  int status = CLI_OK;
  if (restored) {
    v->restores = (bench_graph){
        .enqueue = bench_cuda_enqueue_restore, .of = v, .nodes = v->graph.nodes, .twice = true};
    status = bench_graph_make(&v->restores);
    v->graph.less = &v->restores;
  }
  if (status == CLI_OK) status = bench_graph_make(&v->graph);
  if (status != CLI_OK) return status;
  bench_row *row = bench_graph_row(scene, name, &v->graph, bytes);
  row->cache = cold ? "cold" : "hot";
  row->yardstick = BENCH_COPY;
  return CLI_OK;
}

static bool can_cub(const bench_world *w) {
  return w->kind == TAILCUT_CALL_PRUNE_VISUAL && w->window == 0 && w->row_bytes % 16 == 0 &&
         w->c->tokens <= BENCH_CUB_MOST_TOKENS;
}

static int add_variants(bench_scene *scene, const char *name, const char *other) {
  const bench_world *w = scene->data;
  const double row = w->c->dim > 0 ? (double)w->row_bytes : sizeof(float);
  const double total = (double)w->total, kept = (double)scene->kept;
  const bool sequence = w->kind == TAILCUT_CALL_PRUNE_SEQUENCE;
  const double bytes = sequence ? bench_sequence_bytes(&w->sequence, w->expected)
                                : row * (w->kind == TAILCUT_CALL_COMPACT        ? 2 * kept
                                         : w->kind == TAILCUT_CALL_PRUNE_VISUAL ? total + kept
                                                                                : total);
  const char *const names[BENCH_PLACES] = {name, other, can_cub(w) ? "prune_visual by CUB" : NULL};
  int status = CLI_OK;
  for (int i = 0; i < 2 * BENCH_PLACES && status == CLI_OK; i++) {
    if (names[i / 2] != NULL) status = add_variant(scene, names[i / 2], i / 2, i % 2 == 1, bytes);
  }
  return status;
}

int bench_cuda_open(bench_scene *scene) {
  static const struct {
    const char *step, *name, *other; /* other: in place */
    int32_t kind, window;
    bool merges;
  } steps[] = {
      {"score", "score", NULL, TAILCUT_CALL_SCORE, 0, false},
      {"novelty", "novelty", NULL, TAILCUT_CALL_SCORE, 64, false},
      {"cut", "cut", NULL, TAILCUT_CALL_CUT, 0, false},
      {"compact", "compact packed", "compact in place", TAILCUT_CALL_COMPACT, 0, false},
      {"prune_visual", "prune_visual packed", "prune_visual in place", TAILCUT_CALL_PRUNE_VISUAL, 0,
       false},
      {"prune_novelty", "prune_novelty packed", "prune_novelty in place", TAILCUT_CALL_PRUNE_VISUAL,
       64, false},
      {"prune_merge", "prune_merge packed", "prune_merge in place", TAILCUT_CALL_PRUNE_VISUAL, 64,
       true},
      {"prune_sequence", NULL, "prune_sequence", TAILCUT_CALL_PRUNE_SEQUENCE, 0, false},
  };
  const bench_case *c = scene->what;
  size_t s = 0;
  while (strcmp(steps[s].step, c->step) != 0) s++; /* cuda_cases.c has no others */
  bench_world *w = calloc(1, sizeof *w);
  if (w == NULL) return CLI_FAILED;
  scene->data = w;
  w->c = c;
  w->kind = steps[s].kind;
  w->window = steps[s].window;
  w->merges = steps[s].merges;
  w->total = (int64_t)c->segments * c->tokens;
  w->row_bytes = (size_t)(c->dim * bench_dtype_size(c->dtype));
  w->token_bytes = (size_t)w->total * w->row_bytes;
  w->batch = (tailcut_batch)TAILCUT_BATCH_INITIALIZER;
  w->batch.segments = c->segments;
  w->batch.max_tokens = c->tokens;
  lay_out(w);
  w->expected = bench_allocate(w->at.bytes);
  w->actual = bench_allocate(w->at.bytes);
  int status = make_workspaces(w);
  if (status == CLI_OK) status = make_expected(w);
  if (status == CLI_OK) status = make_slots(w);
  if (status == CLI_OK) status = finish_expected(w);
  if (status != CLI_OK) return status;
  if (w->kind != TAILCUT_CALL_SCORE) {
    const int32_t *counts = (const int32_t *)(const void *)(w->expected + w->at.counts);
    for (int32_t b = 0; b < c->segments; b++) scene->kept += counts[b];
  }
  bench_cuda_yardsticks(scene);
  status = add_variants(scene, steps[s].name, steps[s].other);
  return status == CLI_OK ? bench_cuda_check(scene) : status;
}

void bench_cuda_close(bench_scene *scene) {
  bench_world *w = scene->data;
  if (w == NULL) return;
  cudaStreamSynchronize(bench_the_gpu.stream); /* a failed case may have left work behind */
  for (int i = 0; i < w->variant_count; i++) {
    bench_graph_free(&w->variants[i].graph);
    bench_graph_free(&w->variants[i].restores);
  }
  cudaFree(w->slots), cudaFree(w->master), cudaFree(w->cuda_workspace);
  free(w->cpu_workspace), free(w->expected), free(w->actual);
  free(w);
}

#else
typedef int bench_cuda_scene_is_not_built;
#endif
