/* SPDX-License-Identifier: Apache-2.0 */
/* alloc: no run call allocates or frees anything, at any SIMD level, on one thread and on several,
 * on inputs large enough to be tempting. malloc and its relatives are replaced here and counted, in
 * whatever thread, while a call runs. Not built with sanitizers, which replace them as well. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "data.h"

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *p);

static atomic_int counting;
static atomic_long touched;

static void touch(void) { touched += counting; }

void *malloc(size_t size) {
  touch();
  return __libc_malloc(size);
}

void *calloc(size_t n, size_t size) {
  touch();
  return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size) {
  touch();
  return __libc_realloc(p, size);
}

void *memalign(size_t alignment, size_t size) {
  touch();
  return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
  touch();
  return __libc_memalign(alignment, size);
}

int posix_memalign(void **p, size_t alignment, size_t size) {
  touch();
  *p = __libc_memalign(alignment, size);
  return *p != NULL ? 0 : ENOMEM;
}

void free(void *p) {
  touch();
  __libc_free(p);
}

enum { SEGMENTS = 3, MOST = 900, TOTAL = SEGMENTS * MOST, DIM = 320, HEADS = 4, GROUPS = 30 };

/* One call of each kind; ATTENTION and MAX_COSINE are kinds of their own. The tenth is prune_visual
 * with all that a batch, a rule and a selection may have, but what the eleventh has: NOVELTY and
 * merging; the twelfth is tailcut_merge. */
static tailcut_status call(int kind, tailcut_handle handle, tt_workspace w, const uint16_t *tokens,
                           uint16_t *out) {
  static float scores[TOTAL], curve[TOTAL], direction[SEGMENTS * DIM];
  static int32_t counts[SEGMENTS], flags[SEGMENTS], kept[TOTAL], cu[SEGMENTS + 1], ranks[TOTAL];
  static uint8_t roles[TOTAL], mask[TOTAL];
  static int32_t offsets[GROUPS + 1], group_k[GROUPS], group_counts[GROUPS];
  static int64_t positions[TOTAL], base[SEGMENTS];
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tailcut_tokens t = TAILCUT_TOKENS_INITIALIZER;
  tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
  tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  tailcut_relevance_options options = TAILCUT_RELEVANCE_OPTIONS_INITIALIZER;
  for (int g = 0; g < GROUPS; g++) offsets[g + 1] = offsets[g] + TOTAL / GROUPS, group_k[g] = g;
  for (int i = 0; i < TOTAL; i++) roles[i] = i % 97 == 0 ? TAILCUT_ROLE_QUERY : 1;
  batch.segments = SEGMENTS, batch.max_tokens = MOST;
  t.data = tokens, t.dtype = TAILCUT_F16, t.dim = DIM;
  reference.source = TAILCUT_REFERENCE_MEAN;
  s.counts = counts, s.kept = kept, s.new_cu_seqlens = cu, s.flags = flags, s.ranks = ranks;
  s.curve = curve, s.kept_placement = TAILCUT_PACKED;
  rule.spread = 0.5;
  rows.src = tokens, rows.dst = out, rows.part_bytes = DIM * 2, rows.placement = TAILCUT_PACKED;
  options.q = options.k = tokens, options.dtype = TAILCUT_F16,
  options.q_heads = options.k_heads = HEADS;
  options.head_dim = DIM / HEADS;
  tailcut_merge_options merge = TAILCUT_MERGE_OPTIONS_INITIALIZER;
  if (kind == 11 || kind == 12) {
    reference.source = TAILCUT_REFERENCE_NOVELTY, reference.data = NULL, s.merge = &merge;
    rows.flags = TAILCUT_ROWS_MERGE, rows.dtype = TAILCUT_F16;
  }
  if (kind == 10) {
    batch.groups = GROUPS, batch.group_cu_seqlens = offsets, batch.prefix_rows = 5;
    reference.source = TAILCUT_REFERENCE_LAG, reference.lag = 30;
    rule.detector = TAILCUT_TOPK, rule.k = 40, rule.group_k = group_k, rule.order = TAILCUT_LOW;
    s.mask = mask, s.group_counts = group_counts;
    rows.dst = positions, rows.part_bytes = 8, rows.flags = TAILCUT_ROWS_RENUMBER;
    rows.renumber_base = base;
  }
  options.policy = kind == 8   ? TAILCUT_MAX_COSINE
                   : kind == 9 ? TAILCUT_ATTENTION
                               : TAILCUT_MEAN_COSINE;
  switch (kind) {
    case TAILCUT_CALL_SCORE:
      return tailcut_score(handle, &batch, &t, &reference, scores, flags, w.data, w.size, NULL);
    case TAILCUT_CALL_MEAN_DIRECTION:
      return tailcut_mean_direction(handle, &batch, &t, NULL, direction, w.data, w.size, NULL);
    case TAILCUT_CALL_CUT:
      return tailcut_cut(handle, &batch, scores, NULL, NULL, &rule, &s, w.data, w.size, NULL);
    case TAILCUT_CALL_COMPACT:
      return tailcut_compact(handle, &batch, kept, TAILCUT_PACKED, counts, cu, &rows, 1, w.data,
                             w.size, NULL);
    case TAILCUT_CALL_RELEVANCE:
      return tailcut_relevance(handle, &batch, &t, roles, &options, scores, flags, w.data, w.size,
                               NULL);
    case TAILCUT_CALL_PRUNE_VISUAL:
    case 10:
    case 11:
      return tailcut_prune_visual(handle, &batch, &t, &reference, &rule, &s, &rows, 1, w.data,
                                  w.size, NULL);
    case 12:
      return tailcut_merge(handle, &batch, &t, kept, TAILCUT_PACKED, counts, cu, &merge, &rows, 1,
                           w.data, w.size, NULL);
    default:
      return tailcut_prune_sequence(handle, &batch, &t, roles, &options, &rule, &s, &rows, 1,
                                    w.data, w.size, NULL);
  }
}

Test(alloc, run_calls_allocate_nothing) {
  static uint16_t tokens[TOTAL * DIM], out[TOTAL * DIM];
  int count, calls = 0;
  const tt_backend *backends = tt_backends(&count);
  tt_random random = {2};
  tt_tokens(&random, tokens, TAILCUT_F16, TOTAL, DIM, DIM, TT_TIES);
  for (int b = 0; b < count; b++) {
    if (backends[b].device_kind != TAILCUT_DEVICE_CPU) {
      printf("not run: allocations on %s\n", backends[b].name);
      continue;
    }
    tailcut_handle handle = tt_create(&backends[b]);
    tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
    limits.segments = SEGMENTS, limits.max_tokens = MOST, limits.dim = DIM;
    limits.q_heads = HEADS, limits.head_dim = DIM / HEADS, limits.groups = GROUPS;
    limits.window = 64;
    for (int kind = 1; kind <= 12; kind++) {
      const int sized = kind == 12   ? TAILCUT_CALL_MERGE
                        : kind >= 10 ? TAILCUT_CALL_PRUNE_VISUAL
                        : kind > 7   ? TAILCUT_CALL_PRUNE_SEQUENCE
                                     : kind;
      const tt_workspace w = tt_workspace_new(&backends[b], handle, sized, &limits);
      counting = 1;
      const tailcut_status status = call(kind, handle, w, tokens, out);
      counting = 0;
      cr_assert_eq(status, TAILCUT_OK, "%s", tailcut_last_error());
      cr_assert_eq(touched, 0, "call %d on %s: %ld allocations", kind, backends[b].name,
                   atomic_load(&touched));
      tt_workspace_free(&backends[b], w);
      calls++;
    }
    /* A refused call allocates nothing either, its message included. */
    counting = 1;
    const tailcut_status status =
        tailcut_score(handle, NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL);
    counting = 0;
    cr_assert_eq(status, TAILCUT_ERROR_NULL);
    cr_assert_eq(touched, 0);
    tailcut_destroy(handle);
  }
  cr_assert_geq(calls, 12);
}

/* The counters work: a handle is allocated and freed. */
Test(alloc, counting_works) {
  const tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  tailcut_handle handle = NULL;
  counting = 1;
  tailcut_create(&handle, &config);
  tailcut_destroy(handle);
  counting = 0;
  cr_assert_geq(touched, 4);
}
