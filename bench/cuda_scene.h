/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_scene: what a scene on CUDA holds (cuda_scene.c), and its calls (cuda_call.c). */
#ifndef TAILCUT_BENCH_CUDA_SCENE_H_
#define TAILCUT_BENCH_CUDA_SCENE_H_

#include "cuda.h"
#include "sequence.h"

enum { BENCH_PACKED, BENCH_IN_PLACE, BENCH_BY_CUB, BENCH_PLACES };

/* Offsets into a slot. */
typedef struct bench_slot {
  size_t tokens, reference, scores_in, kept_in, counts_in, cu_in;
  size_t inputs; /* all of the above */
  size_t rows, scores, kept, counts, cu;
  size_t bytes;
} bench_slot;

typedef struct bench_world bench_world;

typedef struct bench_variant {
  bench_world *w;
  bool in_place, by_cub;
  int slots; /* the graph's node i works in slot i % slots */
  bench_graph graph;
  bench_graph restores; /* before every call of the graph; or nothing */
} bench_variant;

struct bench_world {
  const bench_case *c;
  int32_t kind;   /* tailcut_call */
  int32_t window; /* of NOVELTY; 0: scores are cosines */
  bool merges;    /* the dropped rows, by their likeness in NOVELTY's windows */
  int64_t total;
  size_t row_bytes, token_bytes;
  tailcut_batch batch;
  bench_slot at;
  bench_sequence sequence; /* PRUNE_SEQUENCE: what a slot holds; of `at` the sizes hold */
  char *expected, *actual; /* slots on the host */
  char *slots;             /* on the device */
  int slot_count;
  char *master; /* on the device: the inputs, to restore slots from */
  void *cpu_workspace, *cuda_workspace;
  size_t cpu_workspace_bytes, cuda_workspace_bytes;
  bench_variant variants[2 * BENCH_PLACES]; /* hot, cold */
  int variant_count;
};

static inline bool bench_cuda_moves_rows(const bench_world *w) {
  return w->kind == TAILCUT_CALL_COMPACT || w->kind == TAILCUT_CALL_PRUNE_VISUAL ||
         w->kind == TAILCUT_CALL_PRUNE_SEQUENCE;
}

/* A call of kind `kind` on a slot of the host or the device. */
int bench_cuda_issue(const bench_world *w, int32_t kind, bool cuda, char *slot, bool in_place);
/* Of a graph of a variant: a node, what restores its input in the graph, and all inputs before. */
int bench_cuda_enqueue(void *of, int node);
int bench_cuda_enqueue_restore(void *of, int node);
int bench_cuda_restore(void *of);

#endif /* TAILCUT_BENCH_CUDA_SCENE_H_ */
