/* SPDX-License-Identifier: Apache-2.0 */
/* output: files that appear whole or not at all.
 *
 * Each output is written to a temporary beside its destination. When every one of them is whole
 * they are renamed; on failure, and when a signal ends the process, the temporaries are removed. */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

/* What the signal handler may remove. An entry is set before its file is made. */
static char *volatile pending[CLI_MAX_OUTPUTS];
static volatile sig_atomic_t committing;

static void on_signal(int number) {
  if (committing) return; /* a few renames more, and the process ends by itself */
  for (int i = 0; i < CLI_MAX_OUTPUTS; i++)
    if (pending[i] != NULL) unlink(pending[i]);
  signal(number, SIG_DFL);
  raise(number);
}

void cli_install_signal_handlers(void) {
  static const int ending[] = {SIGINT, SIGTERM, SIGHUP};
  struct sigaction action;
  memset(&action, 0, sizeof action);
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < sizeof ending / sizeof ending[0]; i++) {
    struct sigaction old;
    if (sigaction(ending[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN) continue; /* nohup */
    action.sa_handler = on_signal;
    sigaction(ending[i], &action, NULL);
  }
  action.sa_handler = SIG_IGN; /* writes fail instead, and are reported */
  sigaction(SIGPIPE, &action, NULL);
  sigaction(SIGXFSZ, &action, NULL);
}

int cli_flush_stdout(void) {
  errno = 0;
  if (fflush(stdout) != 0 || ferror(stdout))
    return cli_fail(CLI_FAILED, "standard output: %s", errno ? strerror(errno) : "write failed");
  return CLI_OK;
}

/* Bytes of `path` up to and with the last slash. */
static size_t directory_length(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash == NULL ? 0 : (size_t)(slash - path) + 1;
}

/* The file that `path` means, links followed, or its directory's true name and its last part when
 * it does not exist. malloc'ed; NULL when the directory does not exist. */
static char *canonical(const char *path) {
  char *found = realpath(path, NULL);
  if (found != NULL) return found;
  const size_t length = directory_length(path);
  char *directory = length ? strndup(path, length) : strdup(".");
  char *true_directory = directory ? realpath(directory, NULL) : NULL;
  free(directory);
  if (true_directory == NULL) return NULL;
  const size_t size = strlen(true_directory) + strlen(path + length) + 2;
  char *result = malloc(size);
  if (result != NULL) snprintf(result, size, "%s/%s", true_directory, path + length);
  free(true_directory);
  return result;
}

static bool same_file(const char *a, const char *b) {
  if (strcmp(a, b) == 0) return true;
  char *true_a = canonical(a), *true_b = canonical(b);
  const bool same = true_a != NULL && true_b != NULL && strcmp(true_a, true_b) == 0;
  free(true_a);
  free(true_b);
  return same;
}

int cli_outputs_distinct(const char *const *paths, const char *const *names, int count) {
  for (int i = 0; i < count; i++)
    for (int j = i + 1; j < count; j++)
      if (paths[i] != NULL && paths[j] != NULL && same_file(paths[i], paths[j]))
        return cli_fail(CLI_USAGE, "%s: names the same file as %s: %s", names[j], names[i],
                        paths[j]);
  return CLI_OK;
}

int cli_outputs_open(cli_outputs *outputs, const char *path, FILE **file) {
  struct stat info;
  const int index = outputs->count;
  if (index == CLI_MAX_OUTPUTS) return cli_fail(CLI_FAILED, "%s: too many outputs", path);
  if (path[strlen(path) - 1] == '/') return cli_fail(CLI_FAILED, "%s: is a directory", path);
  if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
    return cli_fail(CLI_FAILED, "%s: exists and is not a regular file", path);
  char *target = realpath(path, NULL);
  if (target == NULL) target = strdup(path);
  if (target == NULL) return cli_fail(CLI_FAILED, "%s: out of memory", path);
  const size_t length = directory_length(target);
  const size_t size = length + 64;
  char *temporary = malloc(size);
  if (temporary == NULL) {
    free(target);
    return cli_fail(CLI_FAILED, "%s: out of memory", path);
  }
  snprintf(temporary, size, "%.*s.tailcut-%ld-%d.tmp", (int)length, target, (long)getpid(), index);

  pending[index] = temporary;
  const int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  FILE *stream = fd < 0 ? NULL : fdopen(fd, "wb");
  if (stream == NULL) {
    const int error = errno;
    if (fd >= 0) {
      close(fd);
      unlink(temporary);
    }
    pending[index] = NULL;
    free(temporary);
    free(target);
    return cli_fail(CLI_FAILED, "%s: %s", path, strerror(error));
  }
  outputs->entry[index].path = path;
  outputs->entry[index].target = target;
  outputs->entry[index].temporary = temporary;
  outputs->entry[index].file = stream;
  outputs->count++;
  *file = stream;
  return CLI_OK;
}

void cli_outputs_discard(cli_outputs *outputs) {
  for (int i = 0; i < outputs->count; i++) {
    if (outputs->entry[i].file != NULL) fclose(outputs->entry[i].file);
    if (pending[i] != NULL) unlink(outputs->entry[i].temporary);
    pending[i] = NULL;
    free(outputs->entry[i].temporary);
    free(outputs->entry[i].target);
  }
  outputs->count = 0;
}

int cli_outputs_commit(cli_outputs *outputs) {
  for (int i = 0; i < outputs->count; i++) {
    FILE *file = outputs->entry[i].file;
    outputs->entry[i].file = NULL;
    const bool lost = ferror(file) != 0;
    if (fclose(file) != 0 || lost) {
      const int error = errno;
      cli_outputs_discard(outputs);
      return cli_fail(CLI_FAILED, "%s: %s", outputs->entry[i].path,
                      error ? strerror(error) : "write failed");
    }
  }
  committing = 1;
  for (int i = 0; i < outputs->count; i++) {
    if (rename(outputs->entry[i].temporary, outputs->entry[i].target) == 0) {
      pending[i] = NULL;
      continue;
    }
    const int error = errno;
    const char *path = outputs->entry[i].path;
    for (int j = 0; j < i; j++) unlink(outputs->entry[j].target); /* all or none */
    cli_outputs_discard(outputs);
    return cli_fail(CLI_FAILED, "%s: %s", path, strerror(error));
  }
  cli_outputs_discard(outputs);
  return CLI_OK;
}
