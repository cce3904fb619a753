/* SPDX-License-Identifier: Apache-2.0 */
/*
 * team: the threads that share a call.
 *
 * A handle of n threads has a pool of n - 1 workers, made with it and joined with it. A call posts
 * its job and opens the gate; the workers that are awake come through it; when all have come, or
 * after a moment, the caller closes it, and the team is who has come, perhaps the caller alone. A
 * worker that the system does not run holds nobody up, and from then on the team is fixed. Results
 * never depend on its size. What a call waits for is only ever a thread with a share of its work.
 *
 * Waiting is in three stages. Spinning: as long as it takes to be called again in a loop, or to
 * meet at a barrier. Spinning with a yield now and then: where nobody else wants the core it costs
 * no time, and where somebody does, the first yield shows it by taking long. Sleeping: then, or
 * after a millisecond. A sleeper is woken for a long job, or when calls follow each other closely:
 * waking costs the caller more than a small job gains by it (17 us on a virtual machine, where the
 * sleeper then takes 45 us to come, against 40 us saved on one image).
 *
 * A pool serves one call at a time. A call that finds it busy, and a call in a child after fork,
 * where the workers are not, is a team of one. Nothing is allocated after tc_pool_new.
 *
 * Memory order: what the caller wrote before the gate opened is seen by who comes through it; what
 * a thread wrote before a barrier, or before the end of its share, by who waited there.
 */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* POSIX names and sched_getaffinity under -std=c11 */
#endif
#include "team.h"

#include "../mode.h"

static inline void run_in_mode(tc_team_fn fn, void *job, tc_team team) {
  tc_mode saved;
  tc_mode_enter(&saved);
  fn(job, team);
  tc_mode_leave(&saved);
}

#if TC_THREADS

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

enum {
  MOST = 1024, /* threads, the caller's among them */
  /* The gate: */
  COUNT = (1 << 11) - 1, /* how many are in the team */
  OPEN = 1 << 11,        /* who comes now is in the team, too */
  STOP = 1 << 12,        /* the workers go home */
  JOB = 1 << 13,         /* the job's number, in the bits that are left */
  /* Nanoseconds. A worker waits for its next job, threads of a team for each other: */
  SPIN_IDLE = 200 * 1000,
  YIELD_IDLE = 1000 * 1000,
  SPIN_MEET = 100 * 1000,
  YIELD_MEET = 1000 * 1000,
  WANTED = 20 * 1000, /* a yield that took longer: somebody wants the core */
  /* A call waits for workers to come, half of what its job takes where some must be woken, else an
   * eighth, but at least and at most */
  GATHER_LEAST = 4 * 1000,
  GATHER_MOST = 200 * 1000,
  CLOSE = 1000 * 1000, /* calls that follow each other closely */
  LONG = 100 * 1000    /* a job that is worth a waking by itself */
};

/* Where threads sleep until a word changes. */
typedef struct room {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  atomic_int sleepers;
} room;

#define APART(n) char apart_##n[64] /* written by one side, read in a loop by the other */

struct tc_pool {
  int32_t threads; /* at most in a team */
  int32_t workers; /* made */
  pid_t process;
  int gather_all;
  int crowded;     /* more threads than cores: nobody spins */
  atomic_int core; /* the caller's; -1: not known */
  tc_team_fn fn;
  void *job;
  int64_t last; /* when the last job ended */
  room idle, meeting;
  APART(0);
  atomic_uint busy; /* a call has the pool */
  APART(1);
  atomic_uint gate;
  APART(2);
  atomic_uint arrived; /* at the barrier */
  atomic_uint done;    /* workers whose share is done */
  APART(3);
  atomic_uint meetings; /* barriers that all have reached */
  APART(4);
  pthread_t worker[];
};

static int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void relax(void) {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");
#endif
}

static int room_open(room *r) {
  if (pthread_mutex_init(&r->lock, NULL) != 0) return 0;
  if (pthread_cond_init(&r->changed, NULL) == 0) return 1;
  pthread_mutex_destroy(&r->lock);
  return 0;
}

static void room_close(room *r) {
  pthread_cond_destroy(&r->changed);
  pthread_mutex_destroy(&r->lock);
}

/* The sleeper counts itself, then looks at the word; who changes the word looks at the count
 * afterwards. Both in the one order of all such steps, so one of them sees the other. */
static void sleep_until_changed(room *r, atomic_uint *word, unsigned seen) {
  pthread_mutex_lock(&r->lock);
  atomic_fetch_add(&r->sleepers, 1);
  while (atomic_load(word) == seen) pthread_cond_wait(&r->changed, &r->lock);
  atomic_fetch_sub(&r->sleepers, 1);
  pthread_mutex_unlock(&r->lock);
}

static void wake(room *r) {
  if (atomic_load(&r->sleepers) == 0) return;
  pthread_mutex_lock(&r->lock); /* so that a sleeper is in its wait, or sees the new word */
  pthread_mutex_unlock(&r->lock);
  pthread_cond_broadcast(&r->changed);
}

/* Waits until *word is no longer `seen`; returns what it is. */
static unsigned wait_for_change(room *r, atomic_uint *word, unsigned seen, int64_t spin,
                                int64_t yield) {
  unsigned value;
  int64_t start = 0;
  for (unsigned looks = 1; (value = atomic_load_explicit(word, memory_order_acquire)) == seen;
       looks++) {
    relax();
    if (looks % 64 != 0) continue;
    const int64_t now = now_ns();
    if (start == 0) start = now;
    if (now - start < spin) continue;
    if (now - start < spin + yield) {
      if (looks % 256 != 0) continue;
      sched_yield();
      if (now_ns() - now < WANTED) continue;
    }
    sleep_until_changed(r, word, seen);
  }
  return value;
}

static unsigned meet(tc_pool *pool, atomic_uint *word, unsigned seen) {
  return wait_for_change(&pool->meeting, word, seen, pool->crowded ? 0 : SPIN_MEET, YIELD_MEET);
}

/* The core that the calling thread is on. */
static int this_core(void) {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

/* A worker that was woken where no core was free may be on the caller's, in its way: off to another
 * one. Which core that is, and whether to stay there, is the system's to say again afterwards. */
static void leave_core(const tc_pool *pool, int core) {
#if defined(__linux__)
  cpu_set_t may, others;
  if (core < 0 || core >= CPU_SETSIZE || pool->crowded || this_core() != core) return;
  if (sched_getaffinity(0, sizeof may, &may) != 0) return;
  others = may;
  CPU_CLR(core, &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
  sched_setaffinity(0, sizeof may, &may);
#else
  (void)pool, (void)core;
#endif
}

static void *work(void *argument) {
  tc_pool *pool = argument;
  const int64_t spin = pool->crowded ? 0 : SPIN_IDLE;
  unsigned gate = 0;
  for (;;) {
    while (!(gate & STOP) && !(gate & OPEN && (gate & COUNT) < (unsigned)pool->threads)) {
      gate = wait_for_change(&pool->idle, &pool->gate, gate, spin, YIELD_IDLE);
      leave_core(pool, atomic_load_explicit(&pool->core, memory_order_relaxed));
    }
    if (gate & STOP) return NULL;
    if (!atomic_compare_exchange_weak(&pool->gate, &gate, gate + 1)) continue;
    const int32_t id = (int32_t)(gate & COUNT);
    for (gate++; gate & OPEN && (gate & COUNT) < (unsigned)pool->threads;) {
      gate = meet(pool, &pool->gate, gate);
    }
    const tc_team team = {id, (int32_t)(gate & COUNT), pool};
    run_in_mode(pool->fn, pool->job, team);
    atomic_fetch_add(&pool->done, 1);
    wake(&pool->meeting);
  }
}

tc_pool *tc_pool_new(int32_t threads, int32_t *made) {
  tc_pool *pool = calloc(1, sizeof *pool + (size_t)(threads - 1) * sizeof pool->worker[0]);
  *made = 0;
  if (pool == NULL) return NULL;
  pool->threads = threads;
  pool->process = getpid();
  pool->crowded = threads > tc_team_cores();
  if (!room_open(&pool->idle)) {
    free(pool);
    return NULL;
  }
  if (!room_open(&pool->meeting)) {
    room_close(&pool->idle);
    free(pool);
    return NULL;
  }
  /* Signals are the program's: its handlers run in its own threads. */
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (pool->workers < threads - 1 &&
         pthread_create(&pool->worker[pool->workers], NULL, work, pool) == 0) {
    pool->workers++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  *made = pool->workers;
  if (pool->workers == threads - 1) return pool;
  tc_pool_free(pool);
  return NULL;
}

void tc_pool_free(tc_pool *pool) {
  if (pool == NULL) return;
  if (pool->process == getpid()) { /* a child has no workers, and maybe locks that they held */
    atomic_fetch_or(&pool->gate, STOP);
    wake(&pool->idle);
    for (int32_t i = 0; i < pool->workers; i++) pthread_join(pool->worker[i], NULL);
    room_close(&pool->idle);
    room_close(&pool->meeting);
  }
  free(pool);
}

void tc_pool_gather_all(tc_pool *pool) {
  if (pool != NULL) pool->gather_all = 1;
}

/* Opens the gate, closes it when all are there or it is time to begin; returns the team's size. */
static int32_t gather(tc_pool *pool, int64_t ns) {
  const int asleep = atomic_load(&pool->idle.sleepers);
  if (asleep == pool->workers && ns < LONG && !pool->gather_all && now_ns() - pool->last > CLOSE) {
    return 1;
  }
  const unsigned last = atomic_load_explicit(&pool->gate, memory_order_relaxed);
  const unsigned first = ((last & ~(unsigned)(JOB - 1)) + JOB) | OPEN | 1;
  const unsigned full = first + (unsigned)pool->workers;
  int64_t patience = ns / (asleep > 0 ? 2 : 8), start = 0;
  patience = patience < GATHER_LEAST ? GATHER_LEAST : patience;
  patience = patience > GATHER_MOST ? GATHER_MOST : patience;
  atomic_store_explicit(&pool->core, this_core(), memory_order_relaxed);
  atomic_store(&pool->gate, first);
  wake(&pool->idle);
  for (unsigned looks = 1; atomic_load_explicit(&pool->gate, memory_order_relaxed) != full;
       looks++) {
    relax();
    if (looks % 16 != 0) continue;
    if (pool->gather_all) {
      sched_yield();
      continue;
    }
    const int64_t now = now_ns();
    if (start == 0) start = now;
    if (now - start >= patience) break;
  }
  const unsigned came = atomic_fetch_and(&pool->gate, ~(unsigned)OPEN);
  wake(&pool->meeting); /* who came early may sleep by now */
  return (int32_t)(came & COUNT);
}

/* The pool is this call's. */
static void run_team(tc_pool *pool, tc_team_fn fn, void *job, int64_t ns) {
  pool->fn = fn;
  pool->job = job;
  atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
  const int32_t size = gather(pool, ns);
  run_in_mode(fn, job, (tc_team){0, size, pool});
  unsigned done = atomic_load_explicit(&pool->done, memory_order_acquire);
  while (done != (unsigned)size - 1) done = meet(pool, &pool->done, done);
  pool->last = now_ns();
}

void tc_team_run(tc_pool *pool, tc_team_fn fn, void *job, int64_t ns) {
  if (pool != NULL && pool->process == getpid() &&
      atomic_exchange_explicit(&pool->busy, 1, memory_order_acquire) == 0) {
    run_team(pool, fn, job, ns);
    atomic_store_explicit(&pool->busy, 0, memory_order_release);
  } else {
    run_in_mode(fn, job, (tc_team){0, 1, NULL});
  }
}

void tc_team_barrier(tc_team team) {
  if (team.size == 1) return;
  tc_pool *pool = team.pool;
  const unsigned before = atomic_load_explicit(&pool->meetings, memory_order_relaxed);
  if (atomic_fetch_add(&pool->arrived, 1) == (unsigned)team.size - 1) {
    atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
    atomic_fetch_add(&pool->meetings, 1);
    wake(&pool->meeting);
  } else {
    meet(pool, &pool->meetings, before);
  }
}

void tc_team_relax(int looks) {
  relax();
  if (looks >= 2048 && looks % 256 == 0) sched_yield(); /* the other may need this core */
}

int32_t tc_team_cores(void) {
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
#if defined(__linux__)
  cpu_set_t may;
  if (sched_getaffinity(0, sizeof may, &may) == 0) cores = CPU_COUNT(&may);
#endif
  return cores < 1 ? 1 : cores > MOST ? MOST : (int32_t)cores;
}

#else /* no threads */

tc_pool *tc_pool_new(int32_t threads, int32_t *made) {
  (void)threads;
  *made = 0;
  return NULL;
}

void tc_pool_free(tc_pool *pool) { (void)pool; }

void tc_pool_gather_all(tc_pool *pool) { (void)pool; }

void tc_team_run(tc_pool *pool, tc_team_fn fn, void *job, int64_t ns) {
  (void)pool, (void)ns;
  run_in_mode(fn, job, (tc_team){0, 1, NULL});
}

void tc_team_barrier(tc_team team) { (void)team; }

void tc_team_relax(int looks) { (void)looks; }

int32_t tc_team_cores(void) { return 1; }

#endif
