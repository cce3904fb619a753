/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda_scene: a case on CUDA: its memory, its calls, its checks.
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

#include "cuda.h"
#include "cuda_cub.h"

/* 16 slots of 64 images are so much that what the L2 has not yet written back at the end, and
 * nobody pays for, is as small a share as it is of the copy. */
enum { HOT_NODES = 50, LEAST_HOT_IN_PLACE = 8, LEAST_SLOTS = 16, MOST_SLOTS = 512 };
enum { PACKED, IN_PLACE, BY_CUB, PLACES };
enum { POISON = 0xA5 };

/* Offsets into a slot. */
typedef struct layout {
  size_t tokens, reference, scores_in, kept_in, counts_in, cu_in;
  size_t inputs; /* all of the above */
  size_t rows, scores, kept, counts, cu;
  size_t bytes;
} layout;

typedef struct world world;

typedef struct variant {
  world *w;
  bool in_place, by_cub;
  int slots; /* the graph's node i works in slot i % slots */
  bench_graph graph;
  bench_graph restores; /* before every call of the graph; or nothing */
} variant;

struct world {
  const bench_case *c;
  int32_t kind; /* tailcut_call */
  int64_t total;
  size_t row_bytes, token_bytes;
  tailcut_batch batch;
  layout at;
  char *expected, *actual; /* slots on the host */
  char *slots;             /* on the device */
  int slot_count;
  char *master; /* on the device: the inputs, to restore slots from */
  void *cpu_workspace, *cuda_workspace;
  size_t cpu_workspace_bytes, cuda_workspace_bytes;
  variant variants[2 * PLACES]; /* hot, cold */
  int variant_count;
};

/* ------------------------------------------------------------------------------------- calls -- */

/* A call of kind `kind` on a slot of the host or the device. */
static int issue(const world *w, int32_t kind, bool cuda, char *slot, bool in_place) {
  const tailcut_handle handle = cuda ? bench_the_gpu.cuda : bench_the_gpu.cpu;
  void *const room = cuda ? w->cuda_workspace : w->cpu_workspace;
  const size_t room_bytes = cuda ? w->cuda_workspace_bytes : w->cpu_workspace_bytes;
  void *const stream = cuda ? (void *)bench_the_gpu.stream : NULL;
  const layout *at = &w->at;
  tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  tokens.data = slot + at->tokens;
  tokens.dtype = w->c->dtype;
  tokens.dim = w->c->dim;
  tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  reference.data = slot + at->reference;
  reference.segment_stride = w->c->dim;
  tailcut_selection selection = TAILCUT_SELECTION_INITIALIZER;
  selection.counts = (int32_t *)(void *)(slot + at->counts);
  selection.kept = (int32_t *)(void *)(slot + at->kept);
  tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  rows.src = slot + at->tokens;
  rows.dst = slot + (in_place ? at->tokens : at->rows);
  rows.part_bytes = (int64_t)w->row_bytes;
  rows.placement = in_place ? TAILCUT_LOCAL : TAILCUT_PACKED;
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
static int enqueue_restore(void *of, int node) {
  const variant *v = of;
  const world *w = v->w;
  (void)node;
  return bench_cuda_done(
      bench_cuda_spread(w->slots, w->at.bytes, 1, w->master, w->at.inputs, bench_the_gpu.stream),
      "restoring an input");
}

/* Packed, by other means: scores as tailcut makes them, then CUB's parts. */
static int issue_cub(const world *w, char *slot) {
  const layout *at = &w->at;
  const int status = issue(w, TAILCUT_CALL_SCORE, true, slot, false);
  if (status != CLI_OK) return status;
  return bench_cuda_done(
      bench_cub_prune(w->c->segments, w->c->tokens,
                      (const float *)(const void *)(slot + at->scores), slot + at->tokens,
                      slot + at->rows, w->row_bytes, (int32_t *)(void *)(slot + at->counts),
                      (int32_t *)(void *)(slot + at->kept), (int32_t *)(void *)(slot + at->cu),
                      bench_the_gpu.stream),
      "CUB");
}

static int enqueue(void *of, int node) {
  const variant *v = of;
  const world *w = v->w;
  if (v->by_cub) return issue_cub(w, w->slots + (size_t)(node % v->slots) * w->at.bytes);
  if (v->restores.enqueue != NULL && enqueue_restore(of, node) != CLI_OK) return CLI_FAILED;
  return issue(w, w->kind, true, w->slots + (size_t)(node % v->slots) * w->at.bytes, v->in_place);
}

static int restore(void *of) {
  const variant *v = of;
  const world *w = v->w;
  return bench_cuda_done(bench_cuda_spread(w->slots, w->at.bytes, v->slots, w->master, w->at.inputs,
                                           bench_the_gpu.stream),
                         "restoring inputs");
}

/* ------------------------------------------------------------------------------------ checks -- */

static bool moves_rows(const world *w) {
  return w->kind == TAILCUT_CALL_COMPACT || w->kind == TAILCUT_CALL_PRUNE_VISUAL;
}

static bool selects(const world *w) {
  return w->kind == TAILCUT_CALL_CUT || w->kind == TAILCUT_CALL_PRUNE_VISUAL;
}

/* The slot in w->actual against w->expected. What is unspecified, behind a segment's last kept row,
 * is not looked at. */
static int compare(const world *w, bool in_place) {
  const char *a = w->actual, *e = w->expected;
  const layout *at = &w->at;
  const size_t segments = (size_t)w->c->segments, tokens = (size_t)w->c->tokens;
  const int32_t *counts = (const int32_t *)(const void *)(e + at->counts);
  const int32_t *cu = (const int32_t *)(const void *)(e + at->cu);
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
    if (!moves_rows(w)) continue;
    const size_t packed = at->rows + (size_t)cu[s] * w->row_bytes;
    const size_t mine = in_place ? at->tokens + s * tokens * w->row_bytes : packed;
    if (memcmp(a + mine, e + packed, k * w->row_bytes) != 0) {
      return bench_failed(w->c, in_place ? "rows in place differ from the CPU's"
                                         : "packed rows differ from the CPU's");
    }
  }
  return CLI_OK;
}

static int check(variant *v) {
  const world *w = v->w;
  const layout *at = &w->at;
  const cudaStream_t stream = bench_the_gpu.stream;
  int status = restore(v);
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
  world *w = scene->data;
  int status = CLI_OK;
  for (int i = 0; i < w->variant_count && status == CLI_OK; i++) status = check(&w->variants[i]);
  return status;
}

/* ------------------------------------------------------------------------------------ memory -- */

static size_t take(size_t *used, size_t bytes) {
  const size_t at = *used;
  *used += (bytes + 255) / 256 * 256;
  return at;
}

static void lay_out(world *w) {
  layout *at = &w->at;
  const size_t rows = (size_t)w->total * 4, segments = (size_t)w->c->segments;
  size_t used = 0;
  at->tokens = take(&used, w->token_bytes);
  at->reference = take(&used, segments * w->row_bytes);
  at->scores_in = take(&used, w->kind == TAILCUT_CALL_CUT ? rows : 0);
  const bool given = w->kind == TAILCUT_CALL_COMPACT;
  at->kept_in = take(&used, given ? rows : 0);
  at->counts_in = take(&used, given ? 4 * segments : 0);
  at->cu_in = take(&used, given ? 4 * (segments + 1) : 0);
  at->inputs = used;
  at->rows = take(&used, moves_rows(w) ? w->token_bytes : 0);
  at->scores = take(&used, rows);
  at->kept = take(&used, rows);
  at->counts = take(&used, 4 * segments);
  at->cu = take(&used, 4 * (segments + 1));
  at->bytes = used;
}

static int make_workspaces(world *w) {
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = w->c->segments;
  limits.max_tokens = w->c->tokens;
  limits.dim = w->c->dim;
  /* The expected rows of compact come from the CPU's prune. */
  const int32_t oracle = moves_rows(w) ? TAILCUT_CALL_PRUNE_VISUAL : w->kind;
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

/* Inputs into the host's slot, expected outputs by the CPU backend behind them. */
static int make_expected(world *w) {
  const layout *at = &w->at;
  char *slot = w->expected;
  if (w->c->dim == 0) { /* scores are a row of features */
    bench_fill_tokens(slot + at->scores_in, TAILCUT_F32, 1, w->total);
    return issue(w, w->kind, false, slot, false);
  }
  bench_fill_tokens(slot + at->tokens, w->c->dtype, w->total, w->c->dim);
  for (size_t s = 0; s < (size_t)w->c->segments; s++) {
    memcpy(slot + at->reference + s * w->row_bytes, slot + at->tokens, w->row_bytes);
  }
  if (w->kind != TAILCUT_CALL_COMPACT) return issue(w, w->kind, false, slot, false);
  const int status = issue(w, TAILCUT_CALL_PRUNE_VISUAL, false, slot, false);
  memcpy(slot + at->kept_in, slot + at->kept, 4 * (size_t)w->total);
  memcpy(slot + at->counts_in, slot + at->counts, 4 * (size_t)w->c->segments);
  memcpy(slot + at->cu_in, slot + at->cu, 4 * ((size_t)w->c->segments + 1));
  return status;
}

/* Slots whose inputs are five times the L2, in bounds, and at most half of the free memory. */
static int make_slots(world *w) {
  const bench_gpu *gpu = &bench_the_gpu;
  const size_t input = w->c->dim > 0 ? w->token_bytes : 4 * (size_t)w->total;
  const size_t least = gpu->simulated ? 2 : LEAST_SLOTS, most = gpu->simulated ? 3 : MOST_SLOTS;
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
static int hot_slots(const world *w, bool in_place) {
  const bench_gpu *gpu = &bench_the_gpu;
  const size_t room = gpu->l2 / 5 * 2;
  const size_t touched = w->at.inputs + (in_place || !moves_rows(w) ? 0 : w->token_bytes);
  if (!in_place) return touched <= room ? 1 : 0;
  const size_t fit = room / w->at.inputs, least = gpu->simulated ? 3 : LEAST_HOT_IN_PLACE;
  if (fit < least) return 0;
  return (int)(fit < (size_t)w->slot_count ? fit < HOT_NODES ? fit : HOT_NODES
                                           : (size_t)w->slot_count);
}

/* Room for an input and the one it is restored from. */
static bool hot_when_restored(const world *w) {
  return 2 * w->at.inputs <= bench_the_gpu.l2 / 5 * 2;
}

static int add_variant(bench_scene *scene, const char *name, int place, bool cold, double bytes) {
  world *w = scene->data;
  const bool in_place = place == IN_PLACE;
  int slots = cold ? w->slot_count : hot_slots(w, in_place);
  const bool restored = slots == 0 && in_place && hot_when_restored(w);
  if (restored) slots = 1;
  if (slots == 0) return CLI_OK;
  variant *v = &w->variants[w->variant_count++];
  v->w = w;
  v->in_place = in_place;
  v->by_cub = place == BY_CUB;
  v->slots = slots;
  v->graph.enqueue = enqueue;
  v->graph.restore = moves_rows(w) ? restore : NULL; /* the rows in place share the slots */
  v->graph.of = v;
  const bool visits = (cold || in_place) && !restored; /* a node for each slot */
  v->graph.nodes = visits ? slots : bench_the_gpu.simulated ? 2 : HOT_NODES;
  v->graph.flush = cold;
  v->graph.twice = !visits;
  int status = CLI_OK;
  if (restored) {
    v->restores =
        (bench_graph){.enqueue = enqueue_restore, .of = v, .nodes = v->graph.nodes, .twice = true};
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

static bool can_cub(const world *w) {
  return w->kind == TAILCUT_CALL_PRUNE_VISUAL && w->row_bytes % 16 == 0 &&
         w->c->tokens <= BENCH_CUB_MOST_TOKENS;
}

static int add_variants(bench_scene *scene, const char *name, const char *other) {
  const world *w = scene->data;
  const double row = w->c->dim > 0 ? (double)w->row_bytes : sizeof(float);
  const double total = (double)w->total, kept = (double)scene->kept;
  const double bytes = row * (w->kind == TAILCUT_CALL_COMPACT        ? 2 * kept
                              : w->kind == TAILCUT_CALL_PRUNE_VISUAL ? total + kept
                                                                     : total);
  const char *const names[PLACES] = {name, other, can_cub(w) ? "prune_visual by CUB" : NULL};
  int status = CLI_OK;
  for (int i = 0; i < 2 * PLACES && status == CLI_OK; i++) {
    if (names[i / 2] != NULL) status = add_variant(scene, names[i / 2], i / 2, i % 2 == 1, bytes);
  }
  return status;
}

int bench_cuda_open(bench_scene *scene) {
  static const struct {
    const char *step, *name, *other; /* other: in place */
    int32_t kind;
  } steps[] = {
      {"score", "score", NULL, TAILCUT_CALL_SCORE},
      {"cut", "cut", NULL, TAILCUT_CALL_CUT},
      {"compact", "compact packed", "compact in place", TAILCUT_CALL_COMPACT},
      {"prune_visual", "prune_visual packed", "prune_visual in place", TAILCUT_CALL_PRUNE_VISUAL},
  };
  const bench_case *c = scene->what;
  size_t s = 0;
  while (strcmp(steps[s].step, c->step) != 0) s++; /* cuda_cases.c has no others */
  world *w = calloc(1, sizeof *w);
  if (w == NULL) return CLI_FAILED;
  scene->data = w;
  w->c = c;
  w->kind = steps[s].kind;
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
  world *w = scene->data;
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
