/* SPDX-License-Identifier: Apache-2.0 */
/* progress: a line on stderr for people who wait longer than two seconds; nothing for scripts.
 *
 * A thread writes it, as what takes long is often a single read or a single call. It exists only
 * where stderr is a terminal. */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

#define PATIENCE 2.0
#define INTERVAL 250000000L /* nanoseconds */

static const char clear_line[] = "\r\033[K";

static pthread_t ticker;
static bool running; /* the thread exists; used by the main thread only */
static volatile sig_atomic_t visible;
/* Between the ticker and a signal's handler, which cannot take the lock: the line is being written;
 * it must not be any more. */
static atomic_int writing, interrupted;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
/* Under the lock. */
static bool stop;
static char phase[64];
static bool counted; /* done and all are numbers of things, not of bytes */
static int64_t done, all;
static double started;

double cli_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void show(void) {
  const double seconds = cli_now() - started;
  if (seconds < PATIENCE) return;
  char share[64] = "";
  if (counted && all > 1)
    snprintf(share, sizeof share, ", %lld of %lld", (long long)done, (long long)all);
  else if (counted)
    share[0] = '\0';
  else if (all > 0 && done > 0)
    snprintf(share, sizeof share, ", %.0f%%", 100.0 * (double)done / (double)all);
  else if (done > 0)
    snprintf(share, sizeof share, ", %.0f MB", 1e-6 * (double)done);
  atomic_store(&writing, 1);
  if (!atomic_load(&interrupted)) {
    fprintf(stderr, "%stailcut: %s%s, %.0f s ", clear_line, phase, share, seconds);
    fflush(stderr);
    visible = 1;
  }
  atomic_store(&writing, 0);
}

static void *tick(void *unused) {
  pthread_mutex_lock(&lock);
  while (!stop) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += INTERVAL;
    if (until.tv_nsec >= 1000000000L) {
      until.tv_sec++;
      until.tv_nsec -= 1000000000L;
    }
    if (pthread_cond_timedwait(&wake, &lock, &until) == ETIMEDOUT && !stop) show();
  }
  pthread_mutex_unlock(&lock);
  return unused;
}

static void start(void) {
  sigset_t every, before;
  if (running || !isatty(STDERR_FILENO)) return;
  stop = false;
  if (started == 0) started = cli_now();
  sigfillset(&every); /* signals are the main thread's */
  pthread_sigmask(SIG_SETMASK, &every, &before);
  running = pthread_create(&ticker, NULL, tick, NULL) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void set_phase(const char *what, int64_t of, bool things) {
  start();
  if (!running) return;
  pthread_mutex_lock(&lock);
  snprintf(phase, sizeof phase, "%s", what);
  for (char *p = phase; *p != '\0'; p++) /* file names may hold anything */
    if (*p < ' ' || *p > '~') *p = '?';
  done = 0;
  all = of;
  counted = things;
  pthread_mutex_unlock(&lock);
}

void cli_progress_bytes(const char *what, int64_t of) { set_phase(what, of, false); }

void cli_progress_runs(const char *what, int64_t of) { set_phase(what, of, true); }

void cli_progress_step(int64_t so_far) {
  if (!running) return;
  pthread_mutex_lock(&lock);
  done = so_far;
  pthread_mutex_unlock(&lock);
}

void cli_progress_end(void) {
  if (!running) return;
  pthread_mutex_lock(&lock);
  stop = true;
  pthread_cond_signal(&wake);
  pthread_mutex_unlock(&lock);
  pthread_join(ticker, NULL);
  running = false;
  if (visible) fputs(clear_line, stderr);
  visible = 0;
}

/* In a signal's handler. A terminal that takes nothing does not hold it up for long. */
void cli_progress_interrupted(void) {
  const struct timespec moment = {0, 1000000};
  atomic_store(&interrupted, 1);
  for (int wait = 0; wait < 100 && atomic_load(&writing); wait++) nanosleep(&moment, NULL);
  if (!visible) return;
  const ssize_t written = write(STDERR_FILENO, clear_line, sizeof clear_line - 1);
  (void)written;
}
