/* SPDX-License-Identifier: Apache-2.0 */
/* thread_stress: threads that share one handle, each with its own workspace and outputs, do the
 * same calls over and over while others create handles (with threads of their own, too), make
 * mistakes and fork. The handle's own threads come as they like, or all are waited for. Every
 * result must be the one that a single thread had before. Plain main: this is the program for
 * ThreadSanitizer. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cpu/cpu.h"

enum { THREADS = 4, ROUNDS = 30, SEGMENTS = 3, MOST = 50, TOTAL = SEGMENTS * MOST, DIM = 40 };
enum { PROBLEMS = 7, GROUPS = 10, IMAGES = 15 };

typedef struct result {
  tailcut_status status;
  int32_t group_counts[GROUPS];
  uint8_t mask[TOTAL];
  int32_t counts[IMAGES], kept[TOTAL], cu[IMAGES + 1], flags[IMAGES], ranks[TOTAL];
  float scores[TOTAL], curve[TOTAL];
  float rows[TOTAL][DIM];
} result;

static float tokens[PROBLEMS][TOTAL][DIM];
static uint8_t roles[TOTAL];
static result expected[PROBLEMS];
static tailcut_handle shared;
static int32_t most_threads; /* that the workspaces are for */
static atomic_int failures, runs;

static void fill(void) {
  uint32_t state = 12345;
  for (int i = 0; i < PROBLEMS * TOTAL * DIM; i++) {
    state = state * 1664525u + 1013904223u;
    (&tokens[0][0][0])[i] = (float)(state >> 8) * 0x1p-24f - 0.3f;
  }
  for (int i = 0; i < TOTAL; i++) roles[i] = i % 7 == 0 ? TAILCUT_ROLE_QUERY : i % 11 != 0;
}

static size_t workspace_size(tailcut_handle handle) {
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  size_t most = 0;
  limits.segments = IMAGES, limits.max_tokens = MOST, limits.dim = DIM;
  limits.q_heads = 4, limits.head_dim = DIM / 4, limits.groups = GROUPS;
  for (int32_t call = 1; call <= TAILCUT_CALL_PRUNE_SEQUENCE; call++) {
    size_t size = 0;
    tailcut_workspace_size(handle, call, &limits, &size);
    if (size > most) most = size;
  }
  return (most + 255) / 256 * 256;
}

static const int32_t offsets[GROUPS + 1] = {0, 7, 7, 33, 50, 70, 99, 100, 130, 150, 150};

/* Problem 0: stage 1 with MEAN; 1: ratio with spread; 2..4: the policies of stage 2; 5: the least
 * similar of each group to the rows before; 6: images, which the shared handle does one by one. */
static void solve(tailcut_handle handle, int problem, void *workspace, size_t size, result *out) {
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tailcut_tokens t = TAILCUT_TOKENS_INITIALIZER;
  tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
  tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  tailcut_relevance_options options = TAILCUT_RELEVANCE_OPTIONS_INITIALIZER;
  memset(out, 0, sizeof *out);
  batch.segments = SEGMENTS, batch.max_tokens = MOST;
  t.data = tokens[problem], t.dtype = TAILCUT_F32, t.dim = DIM;
  reference.source = TAILCUT_REFERENCE_MEAN;
  if (problem == 1) rule.detector = TAILCUT_RATIO, rule.ratio = 0.3, rule.spread = 0.5;
  s.counts = out->counts, s.kept = out->kept, s.new_cu_seqlens = out->cu, s.flags = out->flags;
  s.ranks = out->ranks, s.scores = out->scores, s.curve = out->curve;
  rows.src = tokens[problem], rows.dst = out->rows, rows.part_bytes = DIM * 4;
  rows.placement = TAILCUT_PACKED, rows.flags = TAILCUT_ROWS_ZERO_TAIL;
  s.mask = out->mask;
  if (problem == 5) {
    batch.groups = GROUPS, batch.group_cu_seqlens = offsets, batch.prefix_rows = 2;
    reference.source = TAILCUT_REFERENCE_LAG, reference.lag = 5;
    rule.order = TAILCUT_LOW, s.group_counts = out->group_counts;
  }
  if (problem == 6) {
    batch.segments = IMAGES, batch.max_tokens = TOTAL / IMAGES;
    reference.source = TAILCUT_REFERENCE_GIVEN, reference.data = tokens[0];
  }
  if (problem < 2 || problem >= 5) {
    out->status = tailcut_prune_visual(handle, &batch, &t, &reference, &rule, &s, &rows, 1,
                                       workspace, size, NULL);
    return;
  }
  options.policy = problem - 1;
  if (options.policy == TAILCUT_ATTENTION) {
    options.q = options.k = tokens[problem], options.dtype = TAILCUT_F32;
    options.q_heads = options.k_heads = 4, options.head_dim = DIM / 4;
  }
  out->status = tailcut_prune_sequence(handle, &batch, &t, roles, &options, &rule, &s, &rows, 1,
                                       workspace, size, NULL);
}

/* In a child the handle's threads are not: its calls run alone, and destroy does not wait. */
static void fork_and_solve(int problem, void *workspace, size_t size, result *out) {
  int status = -1;
  const pid_t child = fork();
  if (child == 0) {
    alarm(60); /* a hang is a death */
    solve(shared, problem, workspace, size, out);
    const int good = memcmp(out, &expected[problem], sizeof *out) == 0;
    tailcut_destroy(shared);
    _exit(good ? 0 : 1);
  }
  if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
    printf("thread_stress: a child ended with status %x\n", (unsigned)status);
    atomic_fetch_add(&failures, 1);
  }
}

static void *worker(void *argument) {
  const int id = (int)(intptr_t)argument;
  const size_t size = workspace_size(shared);
  void *workspace = aligned_alloc(TAILCUT_WORKSPACE_ALIGNMENT, size);
  result *out = malloc(sizeof *out);
  char mistake[32];
  if (workspace == NULL || out == NULL) return argument;
  snprintf(mistake, sizeof mistake, "n is %d;", -1 - id);
  for (int round = 0; round < ROUNDS; round++) {
    const int problem = (round + id) % PROBLEMS;
    solve(shared, problem, workspace, size, out);
    if (memcmp(out, &expected[problem], sizeof *out) != 0) atomic_fetch_add(&failures, 1);
    atomic_fetch_add(&runs, 1);
    /* Messages are the thread's own. */
    if (tailcut_kept_count(NULL, -1 - id) != -1 || strstr(tailcut_last_error(), mistake) == NULL) {
      atomic_fetch_add(&failures, 1);
    }
    if (round % 15 == id) fork_and_solve(problem, workspace, size, out);
    if (round % 10 == id % 10) { /* handles come and go meanwhile */
      tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
      tailcut_handle own = NULL;
      config.threads = 1 + round % 3; /* the workspace is for that many */
      if (config.threads > most_threads) config.threads = most_threads;
      if (tailcut_create(&own, &config) != TAILCUT_OK) atomic_fetch_add(&failures, 1);
      solve(own, problem, workspace, size, out);
      if (memcmp(out, &expected[problem], sizeof *out) != 0) atomic_fetch_add(&failures, 1);
      tailcut_destroy(own);
    }
  }
  free(workspace);
  free(out);
  return NULL;
}

static void stress(int32_t threads_of_handle, int gather_all) {
  tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  pthread_t threads[THREADS];
  config.threads = threads_of_handle;
  if (tailcut_create(&shared, &config) != TAILCUT_OK) {
    atomic_fetch_add(&failures, 1);
    return;
  }
  most_threads = threads_of_handle;
  tc_cpu *cpu = shared->state;
  cpu->images_always = 1;
  if (gather_all) tc_pool_gather_all(cpu->pool);
  for (int i = 0; i < THREADS; i++) {
    if (pthread_create(&threads[i], NULL, worker, (void *)(intptr_t)i) != 0) abort();
  }
  for (int i = 0; i < THREADS; i++) {
    void *failed;
    pthread_join(threads[i], &failed);
    if (failed != NULL) atomic_fetch_add(&failures, 1);
  }
  tailcut_destroy(shared);
}

int main(void) {
  const tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  tailcut_handle handle = NULL;
  fill();
  if (tailcut_create(&handle, &config) != TAILCUT_OK) return 1;
  const size_t size = workspace_size(handle);
  void *workspace = aligned_alloc(TAILCUT_WORKSPACE_ALIGNMENT, size);
  for (int i = 0; i < PROBLEMS && workspace != NULL; i++) {
    solve(handle, i, workspace, size, &expected[i]);
    if (expected[i].status != TAILCUT_OK || expected[i].cu[SEGMENTS] < SEGMENTS) {
      printf("thread_stress: problem %d: %s\n", i, tailcut_last_error());
      return 1;
    }
  }
  free(workspace);
  tailcut_destroy(handle);
  static const int32_t sizes[] = {1, 2, 2, 4, 5};
  enum { TIMES = sizeof sizes / sizeof sizes[0] };
  for (int i = 0; i < TIMES; i++) stress(sizes[i], i % 2 == 0);
  for (int i = 0; i < 50; i++) { /* threads that are joined before they have slept, or begun */
    tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
    config.threads = 1 + i % 6;
    if (tailcut_create(&handle, &config) != TAILCUT_OK) atomic_fetch_add(&failures, 1);
    tailcut_destroy(handle);
  }
  printf("thread_stress: %d threads, %d calls compared, %d failures\n", THREADS, atomic_load(&runs),
         atomic_load(&failures));
  return atomic_load(&failures) == 0 && atomic_load(&runs) == TIMES * THREADS * ROUNDS ? 0 : 1;
}
