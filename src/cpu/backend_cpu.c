/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cpu: the CPU's row of the backend table: settings, workspace layout, the run calls. */
#include <stdlib.h>

#include "cpu.h"

static tailcut_status cpu_create(tailcut_handle handle, const tailcut_config *config) {
  const char *wanted = getenv("TAILCUT_SIMD");
  int level = (int)tc_kernels_best();
  if (wanted != NULL && wanted[0] != '\0') {
    int i = 0;
    while (i < TC_SIMD_LEVELS && strcmp(tc_simd_names[i], wanted) != 0) i++;
    if (i == TC_SIMD_LEVELS) {
      return tc_fail(TAILCUT_ERROR_ENUM,
                     "TAILCUT_SIMD is '%s'; expected scalar, neon, neon-dotprod, avx2, avx2-vnni, "
                     "avx512 or avx512-vnni",
                     wanted);
    }
    if (i < level) level = i;
    while (level > 0 && tc_kernels_for((tc_simd)level) == NULL) level--;
  }
  tc_cpu *cpu = malloc(sizeof *cpu);
  if (cpu == NULL) {
    return tc_fail(TAILCUT_ERROR_MEMORY, "cannot allocate %zu bytes", sizeof *cpu);
  }
  cpu->kernels = tc_kernels_for((tc_simd)level);
  cpu->pool = NULL;
  cpu->images_always = 0;
  handle->threads = !TC_THREADS ? 1 : config->threads == 0 ? tc_team_cores() : config->threads;
  if (handle->threads > 1) {
    int32_t made;
    cpu->pool = tc_pool_new(handle->threads, &made);
    if (cpu->pool == NULL) {
      free(cpu);
      return tc_fail(TAILCUT_ERROR_MEMORY,
                     "config->threads is %d; expected room for %d threads beside the calling one, "
                     "but after %d there was none",
                     (int)config->threads, (int)handle->threads - 1, (int)made);
    }
  }
  handle->state = cpu;
  snprintf(handle->info, sizeof handle->info,
           "{\"backend\": \"cpu\", \"simd\": \"%s\", \"threads\": %d}", cpu->kernels->name,
           (int)handle->threads);
  tc_log(handle, TC_LOG_INFO, "cpu: %s, %d threads", cpu->kernels->name, (int)handle->threads);
  return TAILCUT_OK;
}

static void cpu_destroy(tailcut_handle handle) {
  tc_cpu *cpu = handle->state;
  tc_pool_free(cpu->pool);
  free(cpu);
}

static size_t scratch_bytes(int32_t kind, const tailcut_limits *l) {
  const size_t vectors = tc_align((size_t)l->dim * 4);
  const size_t cut = tc_cut_scratch(l->max_tokens);
  const size_t products = l->q_heads > 0 ? tc_align((size_t)l->max_tokens * 8) : 0;
  const size_t attention = 2 * tc_align((size_t)l->head_dim * 4) + products;
  const size_t windows = tc_window_scratch(l->window); /* and a window's TC_MERGE_BYTES */
  size_t bytes = 0;
  if (kind != TAILCUT_CALL_CUT && kind != TAILCUT_CALL_COMPACT) bytes = vectors;
  if (kind == TAILCUT_CALL_RELEVANCE || kind == TAILCUT_CALL_PRUNE_SEQUENCE) {
    bytes = bytes > attention ? bytes : attention;
  }
  if (kind == TAILCUT_CALL_SCORE || kind == TAILCUT_CALL_PRUNE_VISUAL ||
      kind == TAILCUT_CALL_MERGE) {
    bytes = bytes > windows ? bytes : windows;
  }
  if (kind == TAILCUT_CALL_CUT || kind == TAILCUT_CALL_PRUNE_VISUAL ||
      kind == TAILCUT_CALL_PRUNE_SEQUENCE) {
    bytes = bytes > cut ? bytes : cut;
  }
  return bytes;
}

/* Lays the workspace out: the one place that says what a call kind needs. */
static size_t lay_out(tc_job *job, char *base, int32_t kind, const tailcut_limits *l,
                      int32_t threads) {
  const size_t segments = (size_t)l->segments, rows = (size_t)l->total_tokens;
  const size_t directions = segments < TC_DIRECTIONS ? segments : TC_DIRECTIONS;
  const int fused = kind == TAILCUT_CALL_PRUNE_VISUAL || kind == TAILCUT_CALL_PRUNE_SEQUENCE;
  size_t used = 0;
  job->start = tc_take(base, &used, segments * 4);
  job->n = tc_take(base, &used, segments * 4);
  job->flags = tc_take(base, &used, segments * sizeof(atomic_int));
  job->cum = tc_take(base, &used, (segments + 1) * 4);
  if (fused) job->scores = tc_take(base, &used, rows * 4);
  if (kind == TAILCUT_CALL_SCORE || kind == TAILCUT_CALL_PRUNE_VISUAL) {
    job->taken = tc_take(base, &used, sizeof(tc_progress) * (size_t)threads);
  }
  if (fused) job->progress = tc_take(base, &used, sizeof(tc_progress) * (size_t)threads);
  if (kind != TAILCUT_CALL_COMPACT && kind != TAILCUT_CALL_RELEVANCE) {
    job->group_segment = tc_take(base, &used, (size_t)l->groups * 4);
  }
  if (fused || kind == TAILCUT_CALL_CUT) {
    job->group_counts = tc_take(base, &used, (size_t)l->groups * 4);
    job->kept_local = tc_take(base, &used, rows * 4);
    job->new_cu_out = tc_take(base, &used, (segments + 1) * 4);
  }
  if (kind != TAILCUT_CALL_CUT && kind != TAILCUT_CALL_COMPACT) {
    job->weights = tc_take(base, &used, rows * 4);
  }
  if (kind != TAILCUT_CALL_CUT && kind != TAILCUT_CALL_COMPACT && kind != TAILCUT_CALL_MERGE) {
    job->directions = tc_take(base, &used, directions * (size_t)l->dim * 4);
    job->query_counts = tc_take(base, &used, directions * 4);
  }
  if (kind == TAILCUT_CALL_RELEVANCE || kind == TAILCUT_CALL_PRUNE_SEQUENCE) {
    const size_t keys = l->q_heads > 0 ? (size_t)l->max_tokens : 0;
    job->pairs = tc_take(base, &used, TC_PAIRS * keys * 4);
    job->over_heads = tc_take(base, &used, keys * 8);
    job->over_queries = tc_take(base, &used, keys * 8);
  }
  if (kind == TAILCUT_CALL_MERGE || kind == TAILCUT_CALL_PRUNE_VISUAL) {
    const size_t merged = l->window > 0 ? rows : 0;
    job->merged = tc_take(base, &used, merged * sizeof *job->merged);
    job->members = tc_take(base, &used, merged * 4);
  }
  if (kind == TAILCUT_CALL_PRUNE_VISUAL) {
    job->words = tc_take(base, &used, rows * (size_t)l->window * 4);
  }
  job->scratch_stride = scratch_bytes(kind, l);
  job->scratch = tc_take(base, &used, job->scratch_stride * (size_t)threads);
  return used;
}

static size_t cpu_workspace_size(tailcut_handle handle, int32_t kind,
                                 const tailcut_limits *limits) {
  tc_job job;
  const size_t bytes = lay_out(&job, NULL, kind, limits, handle->threads);
  /* A whole number of alignments, as aligned_alloc wants it. */
  return (bytes + TAILCUT_WORKSPACE_ALIGNMENT - 1) / TAILCUT_WORKSPACE_ALIGNMENT *
         TAILCUT_WORKSPACE_ALIGNMENT;
}

static tailcut_status cpu_workspace_init(tailcut_handle handle, void *workspace, size_t size,
                                         void *stream) {
  (void)handle, (void)workspace, (void)size, (void)stream; /* nothing survives between calls */
  return TAILCUT_OK;
}

static void copy_flags(tc_job *job, tc_team team) {
  if (team.id != 0 || job->call->out_flags == NULL) return;
  for (int32_t b = 0; b < job->call->batch.segments; b++) {
    int32_t flags = atomic_load_explicit(&job->flags[b], memory_order_relaxed);
    job->call->out_flags[b] = flags;
  }
}

static void mean_direction_all(tc_job *job, tc_team team) {
  const int32_t segments = job->call->batch.segments;
  for (int32_t first = 0; first < segments; first += TC_DIRECTIONS) {
    const int32_t count = segments - first < TC_DIRECTIONS ? segments - first : TC_DIRECTIONS;
    tc_direction_team(job, team, first, count,
                      job->call->direction + (size_t)first * (size_t)job->call->tokens.dim);
  }
}

/* One call as every thread of the team sees it. */
static void take_part(void *of, tc_team team) {
  tc_job *job = of;
  switch (job->kind) {
    case TAILCUT_CALL_SCORE:
      tc_score_team(job, team);
      copy_flags(job, team);
      break;
    case TAILCUT_CALL_MEAN_DIRECTION:
      mean_direction_all(job, team);
      break;
    case TAILCUT_CALL_CUT:
      tc_cut_team(job, team);
      break;
    case TAILCUT_CALL_COMPACT:
      tc_compact_team(job, team);
      break;
    case TAILCUT_CALL_RELEVANCE:
      tc_relevance_team(job, team);
      copy_flags(job, team);
      break;
    case TAILCUT_CALL_MERGE:
      tc_merge_team(job, team);
      tc_compact_team(job, team);
      break;
    case TAILCUT_CALL_PRUNE_VISUAL:
      tc_images_team(job, team);
      tc_score_team(job, team);
      tc_cut_team(job, team);
      if (job->call->merge.window > 0) tc_merge_team(job, team);
      tc_compact_team(job, team);
      break;
    default:
      tc_relevance_team(job, team);
      tc_cut_team(job, team);
      tc_compact_team(job, team);
      break;
  }
}

/* About how long one thread takes for a call, in nanoseconds: reading at 25 GB/s, and the cut. */
static int64_t expected_ns(const tc_call *call) {
  const int64_t rows = call->batch.total_tokens;
  int64_t bytes = rows * call->tokens.dim * tc_dtype_size(call->tokens.dtype);
  for (int32_t i = 0; i < call->num_rows; i++) {
    const tailcut_rows a = tc_rows_at(call, i);
    bytes += rows * a.part_bytes * a.parts / 2;
  }
  /* Two policies look at every pair of rows. */
  const int pairs = call->options.policy > TAILCUT_MEAN_COSINE || call->reference.window > 0 ||
                    call->merge.window > 0;
  return (bytes / 25 + rows * 16) * (pairs ? 16 : 1);
}

static tailcut_status start(tailcut_handle handle, const tc_call *call, int32_t kind) {
  const tc_cpu *cpu = handle->state;
  const tailcut_limits limits = tc_call_limits(call);
  tc_job job;
  memset(&job, 0, sizeof job);
  job.call = call;
  job.kind = kind;
  job.kernels = cpu->kernels;
  if (kind == TAILCUT_CALL_PRUNE_VISUAL) job.images = tc_images_of(cpu, handle->threads, call);
  if (call->batch.segments == 0) {
    if (call->selection.new_cu_seqlens != NULL) call->selection.new_cu_seqlens[0] = 0;
    for (int32_t g = 0; call->selection.group_counts != NULL && g < call->batch.groups; g++) {
      call->selection.group_counts[g] = 0;
    }
    return TAILCUT_OK;
  }
  lay_out(&job, call->workspace, kind, &limits, handle->threads);
  if (call->batch.group_cu_seqlens == NULL) { /* a segment is a group */
    job.group_segment = NULL;
    job.group_counts = call->selection.counts;
  } else if (call->selection.group_counts != NULL) {
    job.group_counts = call->selection.group_counts;
  }
  tc_segments_resolve(&job);
  for (int32_t t = 0; t < handle->threads; t++) {
    if (job.taken != NULL) atomic_store_explicit(&job.taken[t].at, 0, memory_order_relaxed);
    if (job.progress != NULL) atomic_store_explicit(&job.progress[t].at, 0, memory_order_relaxed);
  }
  /* The caller's arrays where there are any. */
  if (call->out_scores != NULL) job.scores = call->out_scores;
  if (call->selection.scores != NULL) job.scores = call->selection.scores;
  job.in_scores = call->in_scores != NULL ? call->in_scores : job.scores;
  if (call->selection.kept != NULL && call->selection.kept_placement == TAILCUT_LOCAL &&
      call->batch.group_cu_seqlens == NULL) {
    job.kept_local = call->selection.kept;
  }
  if (call->selection.new_cu_seqlens != NULL) job.new_cu_out = call->selection.new_cu_seqlens;
  /* The words that scoring makes are kept where somebody wants them. */
  if (call->reference.window == 0 || call->merge.window == 0) job.words = NULL;
  const int part = kind == TAILCUT_CALL_COMPACT || kind == TAILCUT_CALL_MERGE;
  job.kept = part ? call->kept : job.kept_local;
  job.kept_placement = part ? call->kept_placement : TAILCUT_LOCAL;
  job.counts = part ? call->counts : call->selection.counts;
  job.new_cu = part ? call->new_cu_seqlens : job.new_cu_out;
  tc_team_run(cpu->pool, take_part, &job, expected_ns(call));
  return TAILCUT_OK;
}

#define TC_RUN(name, kind)                                                       \
  static tailcut_status cpu_##name(tailcut_handle handle, const tc_call *call) { \
    return start(handle, call, kind);                                            \
  }
TC_RUN(score, TAILCUT_CALL_SCORE)
TC_RUN(mean_direction, TAILCUT_CALL_MEAN_DIRECTION)
TC_RUN(cut, TAILCUT_CALL_CUT)
TC_RUN(compact, TAILCUT_CALL_COMPACT)
TC_RUN(relevance, TAILCUT_CALL_RELEVANCE)
TC_RUN(prune_visual, TAILCUT_CALL_PRUNE_VISUAL)
TC_RUN(prune_sequence, TAILCUT_CALL_PRUNE_SEQUENCE)
TC_RUN(merge, TAILCUT_CALL_MERGE)

static tailcut_status cpu_read(tailcut_handle handle, void *host, const void *device, size_t bytes,
                               void *stream) {
  (void)handle, (void)stream;
  memcpy(host, device, bytes);
  return TAILCUT_OK;
}

const tc_backend tc_backend_cpu = {
    "cpu",
    TAILCUT_DEVICE_CPU,
    cpu_create,
    cpu_destroy,
    cpu_workspace_size,
    cpu_workspace_init,
    {NULL, cpu_score, cpu_mean_direction, cpu_cut, cpu_compact, cpu_relevance, cpu_prune_visual,
     cpu_prune_sequence, cpu_merge},
    cpu_read,
};
