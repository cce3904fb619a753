/* SPDX-License-Identifier: Apache-2.0 */
/* layout: the one place that says what workspace a call kind needs on CUDA. */
#include <string.h>

#include "host/run.h"

/* Directions are made for groups of segments, so that many small segments do not ask for more
 * memory than their tokens have. */
#define TC_DIRECTION_BYTES ((size_t)64 << 20)

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* Sizes are least bounds that grow with every limit; the group itself shrinks as dim grows. */
static void take_directions(tc_cuda_space *space, char *base, size_t *used,
                            const tailcut_limits *l) {
  const size_t vector = (size_t)(l->dim > 0 ? l->dim : 1) * 4;
  const size_t most = smaller((size_t)l->segments, TC_CHUNK_SEGMENTS);
  const size_t budget = vector > TC_DIRECTION_BYTES ? vector : TC_DIRECTION_BYTES;
  /* Blocks of a group: its rows' own, and one that is not full for each segment. Tiles by start
   * (tiles.cuh) are numbered below total / TC_BLOCK + segments, and dealt only where that is less
   * than segments * ceil(max_tokens / TC_BLOCK): with all segments in one group, both bounds
   * hold. */
  const size_t blocks = (size_t)l->max_tokens / TC_BLOCK + 2;
  space->directions_group = (int32_t)smaller(most, budget / vector);
  space->directions = tc_cuda_take(base, used, smaller(most * vector, budget));
  space->queries = tc_cuda_take(base, used, most * 4);
  space->block_sums = tc_cuda_take(
      base, used, smaller(((size_t)l->total_tokens / TC_BLOCK + most) * vector, blocks * budget));
}

size_t tc_cuda_lay_out(tc_cuda_space *space, void *workspace, const tc_cuda *device, int32_t kind,
                       const tailcut_limits *l) {
  const size_t segments = (size_t)l->segments, rows = (size_t)l->total_tokens;
  const size_t groups = (size_t)l->groups;
  const int relevance = kind == TAILCUT_CALL_RELEVANCE || kind == TAILCUT_CALL_PRUNE_SEQUENCE;
  const int prunes = kind == TAILCUT_CALL_PRUNE_VISUAL || kind == TAILCUT_CALL_PRUNE_SEQUENCE;
  const int cuts = prunes || kind == TAILCUT_CALL_CUT;
  const int part = kind == TAILCUT_CALL_MERGE;
  const int merges = l->window > 0 && (part || kind == TAILCUT_CALL_PRUNE_VISUAL);
  const int novelty = merges || (l->window > 0 && kind == TAILCUT_CALL_SCORE);
  char *base = workspace;
  size_t used = 0;
  memset(space, 0, sizeof *space);
  space->lasting = tc_cuda_take(base, &used, sizeof *space->lasting);
  space->start = tc_cuda_take(base, &used, segments * 4);
  space->n = tc_cuda_take(base, &used, (segments + 1) * 4);
  space->tiles = tc_cuda_take(base, &used, (segments + 1) * 4);
  space->flags = tc_cuda_take(base, &used, segments * 4);
  if (cuts || part) {
    space->kept = tc_cuda_take(base, &used, rows * 4);
  }
  if (cuts || novelty) space->group_segment = tc_cuda_take(base, &used, groups * 4);
  if (novelty) space->novelty = tc_cuda_take(base, &used, tc_cuda_novelty_scratch(device, l));
  if (merges) {
    space->similarities = tc_cuda_take(base, &used, rows * (size_t)l->window * 4);
    space->merge = tc_cuda_take(base, &used, tc_cuda_merge_scratch(device, l));
  }
  if (cuts) {
    space->new_cu = tc_cuda_take(base, &used, (segments + 1) * 4);
    space->marks = tc_cuda_take(base, &used, prunes ? (rows / 32 + segments) * sizeof(tc_mark) : 0);
    space->group_counts = tc_cuda_take(base, &used, groups * 4);
    space->group_kept = tc_cuda_take(base, &used, groups > 0 ? rows * 4 : 0);
    space->cut = tc_cuda_take(base, &used, tc_cuda_cut_scratch(device, l));
  }
  if (cuts || part || kind == TAILCUT_CALL_COMPACT) {
    space->compact = tc_cuda_take(base, &used, tc_cuda_compact_scratch(device, l));
  }
  if (relevance) { /* the policy is not among the limits: any will do */
    const size_t maxcos = l->dim > 0 ? tc_cuda_maxcos_scratch(device, l) : 0;
    const size_t attention = l->q_heads > 0 ? tc_cuda_attention_scratch(device, l) : 0;
    space->relevance = tc_cuda_take(base, &used, maxcos > attention ? maxcos : attention);
  }
  if (prunes) {
    space->scores = tc_cuda_take(base, &used, rows * 4);
  }
  if (kind == TAILCUT_CALL_SCORE || kind == TAILCUT_CALL_MEAN_DIRECTION || prunes || relevance) {
    take_directions(space, base, &used, l);
  }
  return used;
}
