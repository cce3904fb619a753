/* SPDX-License-Identifier: Apache-2.0 */
/* team: the pool of threads. When threads are made and joined, what happens where one cannot be
 * made, after fork, while the pool is taken and while other programs want the cores. pthread_create
 * and pthread_join are replaced here: counted, and made to fail on demand. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cpu/cpu.h"

static atomic_int made, joined, refuse_after = 1 << 20;

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                   void *argument) {
  int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
  if (atomic_load(&made) >= atomic_load(&refuse_after)) return EAGAIN;
  const int error = real(thread, attributes, start, argument);
  if (error == 0) atomic_fetch_add(&made, 1);
  return error;
}

int pthread_join(pthread_t thread, void **result) {
  int (*real)(pthread_t, void **);
  *(void **)&real = dlsym(RTLD_NEXT, "pthread_join");
  atomic_fetch_add(&joined, 1);
  return real(thread, result);
}

/* --------------------------------------------------------------------------- one call, timed -- */

enum { TOKENS = 576, DIM = 1024 };

typedef struct scene {
  tailcut_handle handle;
  void *workspace;
  size_t size;
  int32_t count, kept[TOKENS];
  uint16_t tokens[TOKENS][DIM], rows[TOKENS][DIM];
} scene;

static tailcut_handle create(int32_t threads) {
  tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  tailcut_handle handle = NULL;
  config.threads = threads;
  cr_assert_eq(tailcut_create(&handle, &config), TAILCUT_OK, "%s", tailcut_last_error());
  return handle;
}

static scene *scene_new(int32_t threads) {
  scene *s = calloc(1, sizeof *s);
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  uint32_t state = 1;
  for (int i = 0; i < TOKENS; i++) {
    for (int d = 0; d < DIM; d++) {
      state = state * 1664525u + 1013904223u;
      const uint32_t sign = i % 4 == 0 && state >> 30 != 0 ? 0 : state >> 31;
      s->tokens[i][d] = (uint16_t)(0x3800u | sign << 15 | (state >> 12 & 0x3FFu)); /* +-[0.5, 1) */
    }
  }
  s->handle = create(threads);
  limits.segments = 1, limits.max_tokens = TOKENS, limits.dim = DIM;
  tailcut_workspace_size(s->handle, TAILCUT_CALL_PRUNE_VISUAL, &limits, &s->size);
  s->workspace = aligned_alloc(TAILCUT_WORKSPACE_ALIGNMENT, s->size);
  return s;
}

static void scene_free(scene *s) {
  tailcut_destroy(s->handle);
  free(s->workspace);
  free(s);
}

static tailcut_status prune(scene *s) {
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  tailcut_selection selection = TAILCUT_SELECTION_INITIALIZER;
  tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  batch.segments = 1, batch.max_tokens = TOKENS;
  tokens.data = s->tokens, tokens.dtype = TAILCUT_F16, tokens.dim = DIM;
  reference.data = s->tokens;
  selection.counts = &s->count, selection.kept = s->kept;
  rows.src = s->tokens, rows.dst = s->rows, rows.part_bytes = DIM * 2;
  return tailcut_prune_visual(s->handle, &batch, &tokens, &reference, NULL, &selection, &rows, 1,
                              s->workspace, s->size, NULL);
}

/* Whether another call gives what the first one gave. */
static int same(scene *s, int32_t count, const int32_t *kept) {
  memset(s->kept, -1, sizeof s->kept);
  s->count = -1;
  return prune(s) == TAILCUT_OK && s->count == count &&
         memcmp(s->kept, kept, sizeof *kept * (size_t)count) == 0;
}

/* --------------------------------------------------------------------------- made and joined -- */

Test(team, threads_are_made_by_create_and_joined_by_destroy) {
  for (int32_t threads = 1; threads <= 5; threads++) {
    atomic_store(&made, 0), atomic_store(&joined, 0);
    scene *s = scene_new(threads);
    cr_assert_eq(atomic_load(&made), threads - 1);
    for (int i = 0; i < 50; i++) cr_assert_eq(prune(s), TAILCUT_OK);
    cr_assert_eq(atomic_load(&made), threads - 1, "a call made threads");
    scene_free(s);
    cr_assert_eq(atomic_load(&joined), threads - 1);
  }
}

Test(team, a_thread_that_cannot_be_made) {
  for (int room = 0; room < 6; room++) {
    tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
    tailcut_handle handle = (tailcut_handle)(void *)&config;
    config.threads = 7;
    atomic_store(&made, 0), atomic_store(&joined, 0), atomic_store(&refuse_after, room);
    cr_assert_eq(tailcut_create(&handle, &config), TAILCUT_ERROR_MEMORY);
    cr_assert_null(handle);
    cr_assert(strstr(tailcut_last_error(), "config->threads is 7") != NULL, "%s",
              tailcut_last_error());
    cr_assert_eq(atomic_load(&made), room);
    cr_assert_eq(atomic_load(&joined), room, "%d threads are left", room - atomic_load(&joined));
  }
}

Test(team, all_cores_are_those_of_the_affinity_mask) {
  cpu_set_t all, one;
  cr_assert_eq(sched_getaffinity(0, sizeof all, &all), 0);
  atomic_store(&made, 0);
  tailcut_destroy(create(0));
  cr_assert_eq(atomic_load(&made), CPU_COUNT(&all) - 1);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &all)) cpu++;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  cr_assert_eq(sched_setaffinity(0, sizeof one, &one), 0);
  atomic_store(&made, 0);
  tailcut_destroy(create(0));
  cr_assert_eq(atomic_load(&made), 0);
}

/* ------------------------------------------------------------------------------------ teams -- */

enum { MEETINGS = 20 };

typedef struct job {
  atomic_int members[64];
  atomic_int at[MEETINGS];
  atomic_int wrong, size;
} job;

static void meet_often(void *of, tc_team team) {
  job *j = of;
  atomic_fetch_add(&j->members[team.id], 1);
  atomic_store(&j->size, team.size);
  for (int i = 0; i < MEETINGS; i++) {
    atomic_fetch_add(&j->at[i], 1);
    tc_team_barrier(team);
    if (atomic_load(&j->at[i]) != team.size) atomic_fetch_add(&j->wrong, 1);
  }
}

Test(team, every_place_is_taken_once_and_barriers_hold) {
  static const int32_t sizes[] = {2, 3, 8, 33};
  for (int all = 0; all < 2; all++) {
    for (size_t n = 0; n < sizeof sizes / sizeof sizes[0]; n++) {
      int32_t there;
      tc_pool *pool = tc_pool_new(sizes[n], &there);
      cr_assert_not_null(pool);
      cr_assert_eq(there, sizes[n] - 1);
      if (all) tc_pool_gather_all(pool);
      for (int run = 0; run < (sizes[n] > 8 ? 30 : 300); run++) {
        job j;
        memset(&j, 0, sizeof j);
        tc_team_run(pool, meet_often, &j, 50000);
        const int size = atomic_load(&j.size);
        cr_assert(size >= 1 && size <= sizes[n] && (!all || size == sizes[n]), "%d of %d came",
                  size, (int)sizes[n]);
        for (int i = 0; i < 64; i++) cr_assert_eq(atomic_load(&j.members[i]), i < size);
        cr_assert_eq(atomic_load(&j.wrong), 0);
      }
      tc_pool_free(pool);
    }
  }
}

static atomic_int inside, leave;

static void stay(void *of, tc_team team) {
  (void)of, (void)team;
  atomic_fetch_add(&inside, 1);
  while (!atomic_load(&leave)) sched_yield();
}

static void *take(void *pool) {
  tc_team_run(pool, stay, NULL, 0);
  return NULL;
}

Test(team, a_call_that_finds_the_pool_taken_goes_alone_at_once, .timeout = 60) {
  int32_t there;
  tc_pool *pool = tc_pool_new(2, &there);
  pthread_t first;
  job j;
  tc_pool_gather_all(pool);
  cr_assert_eq(pthread_create(&first, NULL, take, pool), 0);
  while (atomic_load(&inside) < 2) sched_yield();
  memset(&j, 0, sizeof j);
  tc_team_run(pool, meet_often, &j, 0); /* waiting would never end */
  cr_assert_eq(atomic_load(&j.size), 1);
  atomic_store(&leave, 1);
  pthread_join(first, NULL);
  memset(&j, 0, sizeof j);
  tc_team_run(pool, meet_often, &j, 0);
  cr_assert_eq(atomic_load(&j.size), 2);
  tc_pool_free(pool);
}

/* ------------------------------------------------------------------------------------- fork -- */

typedef struct caller {
  tailcut_handle handle;
  atomic_int *stop;
} caller;

/* Keeps the handle in use, with a workspace of its own. */
static void *keep_calling(void *of) {
  const caller *c = of;
  scene *s = scene_new(1);
  tailcut_destroy(s->handle);
  s->handle = c->handle;
  free(s->workspace);
  s->size *= 4; /* for three threads */
  s->workspace = aligned_alloc(TAILCUT_WORKSPACE_ALIGNMENT, s->size);
  int wrong = 0;
  while (!atomic_load(c->stop)) wrong += prune(s) != TAILCUT_OK;
  free(s->workspace);
  free(s);
  return wrong ? of : NULL;
}

/* Children of a process whose handle has threads asleep, awake (just after a call) and at work for
 * another caller: each calls on the handle it inherited, then destroys it. */
Test(team, a_child_after_fork_calls_alone, .timeout = 120) {
  scene *s = scene_new(3);
  static int32_t kept[TOKENS];
  atomic_int stop = 0;
  caller other = {s->handle, &stop};
  pthread_t thread;
  cr_assert_eq(prune(s), TAILCUT_OK);
  const int32_t count = s->count;
  cr_assert(count > 0 && count < TOKENS);
  memcpy(kept, s->kept, sizeof kept);
  for (int round = 0; round < 60; round++) {
    if (round == 40) cr_assert_eq(pthread_create(&thread, NULL, keep_calling, &other), 0);
    if (round < 20) usleep(5000);
    if (round >= 20 && round < 40) cr_assert(same(s, count, kept));
    const pid_t child = fork();
    if (child == 0) {
      alarm(20); /* a hang is a death */
      atomic_store(&made, 0);
      int good = 1;
      for (int i = 0; i < 3; i++) good &= same(s, count, kept);
      tailcut_destroy(s->handle);
      _exit(good && atomic_load(&made) == 0 ? 0 : 1);
    }
    int status = -1;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "round %d: status %x", round, status);
    cr_assert(same(s, count, kept), "the parent after fork, round %d", round);
  }
  void *wrong;
  atomic_store(&stop, 1);
  pthread_join(thread, &wrong);
  cr_assert_null(wrong);
  scene_free(s);
}

/* ---------------------------------------------------------------------------- a busy machine -- */

static double now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1e6 * (double)now.tv_sec + 1e-3 * (double)now.tv_nsec;
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* The median call of those that a second has room for. */
static double median_us(scene *s) {
  static double us[20000];
  int n = 0;
  const double until = now_us() + 1e6;
  do {
    const double start = now_us();
    cr_assert_eq(prune(s), TAILCUT_OK);
    us[n++] = now_us() - start;
  } while (n < 20000 && now_us() < until);
  qsort(us, (size_t)n, sizeof us[0], by_value);
  return us[n / 2];
}

/* As many busy loops as cores. Threads that wait for each other by spinning make the median call
 * hundreds of times as long there (libgomp's: 20 ms for 60 us); this pool's is about twice as long.
 * The bound is wide because a test runs on machines that are busy anyway. */
Test(team, busy_cores_do_not_stop_a_call, .timeout = 120) {
  const int loops = tc_team_cores() < 64 ? tc_team_cores() : 64;
  scene *s = scene_new(loops > 1 ? loops : 2);
  pid_t loop[64];
  const double idle = median_us(s);
  for (int i = 0; i < loops; i++) {
    loop[i] = fork();
    if (loop[i] == 0) {
      alarm(60); /* never longer than this, whatever becomes of the parent */
      for (volatile unsigned n = 0;; n++) {
      }
    }
  }
  usleep(50000);
  const double busy = median_us(s);
  for (int i = 0; i < loops; i++) {
    kill(loop[i], SIGKILL);
    waitpid(loop[i], NULL, 0);
  }
  printf("one image on %d threads: %.1f us idle, %.1f us beside %d busy loops: %.1f times\n",
         loops > 1 ? loops : 2, idle, busy, loops, busy / idle);
  cr_assert_leq(busy, 50 * idle);
  scene_free(s);
}
