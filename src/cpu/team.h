/* SPDX-License-Identifier: Apache-2.0 */
/* team: the threads that share a call; the rules are in team.c. */
#ifndef TAILCUT_TEAM_H_
#define TAILCUT_TEAM_H_

#include <stddef.h>
#include <stdint.h>

/* 1: POSIX threads; 0: every team is the calling thread. */
#if !defined(TC_THREADS)
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h> /* _POSIX_THREADS */
#endif
#if defined(_POSIX_THREADS) && _POSIX_THREADS > 0
#define TC_THREADS 1
#else
#define TC_THREADS 0
#endif
#endif

/* The threads of a handle beside its callers. NULL stands for none. */
typedef struct tc_pool tc_pool;

/* A thread's place in the team of one job: 0 <= id < size, 0 the caller's. */
typedef struct tc_team {
  int32_t id, size;
  tc_pool *pool;
} tc_team;

typedef void (*tc_team_fn)(void *job, tc_team team);

/* A pool for teams of at most `threads` (2..1024), the caller's among them. Where a thread cannot
 * be made: NULL, *made says how many were, and nothing is left of them. */
tc_pool *tc_pool_new(int32_t threads, int32_t *made);
void tc_pool_free(tc_pool *pool);
/* From now on every job is done by all threads, however long they take to come: for tests. */
void tc_pool_gather_all(tc_pool *pool);

/* Runs fn in every thread of a team and returns when all are done. `ns`: about how long one thread
 * would take, which says how long to wait for the others. */
void tc_team_run(tc_pool *pool, tc_team_fn fn, void *job, int64_t ns);
/* Returns when every thread of the team has come here. */
void tc_team_barrier(tc_team team);
/* Between two looks at what another thread of the team publishes; `looks`: how many there were. */
void tc_team_relax(int looks);
/* Cores that this process may use, 1..1024. */
int32_t tc_team_cores(void);

#endif /* TAILCUT_TEAM_H_ */
