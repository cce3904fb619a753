/* SPDX-License-Identifier: Apache-2.0 */
/* output: files that appear whole or not at all.
 *
 * Each output is written to a temporary beside its destination, .NAME.tailcut-PID-N.tmp. When every
 * one of them is whole they are renamed; on failure, and when a signal ends the process, the
 * temporaries are removed. What a killed run (SIGKILL, power) left is found by its name. */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "input.h"

/* What the signal handler may remove. An entry is set before its file is made. */
static char *volatile pending[CLI_MAX_OUTPUTS];
static volatile sig_atomic_t committing;

static void on_signal(int number) {
  if (committing) return; /* a few renames more, and the process ends by itself */
  for (int i = 0; i < CLI_MAX_OUTPUTS; i++)
    if (pending[i] != NULL) unlink(pending[i]);
  cli_progress_interrupted();
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

void cli_guard_streams(void) {
  /* Opened the wrong way round: what is written to a closed stdout is an error, not lost. */
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
    if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
      (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
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

/* `name` in the folder of `path`, or `name` itself where it is absolute. */
static char *beside(const char *path, const char *name) {
  const size_t length = name[0] == '/' ? 0 : directory_length(path);
  const size_t size = length + strlen(name) + 1;
  char *result = malloc(size);
  if (result != NULL) snprintf(result, size, "%.*s%s", (int)length, path, name);
  return result;
}

/* What a symbolic link says, malloc'ed; NULL where `path` is none. */
static char *link_text(const char *path) {
  char text[4096];
  const ssize_t length = readlink(path, text, sizeof text - 1);
  if (length <= 0 || length == (ssize_t)sizeof text - 1) return NULL;
  text[length] = '\0';
  return beside(path, text);
}

char *cli_output_target(const char *path) {
  char *found = realpath(path, NULL);
  if (found != NULL) return found;
  /* It does not exist, but a link to it may. */
  char *target = strdup(path);
  for (int hops = 0; target != NULL && hops < 40; hops++) {
    char *next = link_text(target);
    if (next == NULL) break;
    free(target);
    target = next;
  }
  if (target == NULL) return NULL;
  const size_t length = directory_length(target);
  char *folder = length > 0 ? strndup(target, length) : strdup(".");
  char *true_folder = folder != NULL ? realpath(folder, NULL) : NULL;
  free(folder);
  if (true_folder == NULL) return target; /* opening it says what is wrong */
  const size_t size = strlen(true_folder) + strlen(target + length) + 2;
  char *result = malloc(size);
  if (result != NULL)
    snprintf(result, size, "%s/%s", strcmp(true_folder, "/") == 0 ? "" : true_folder,
             target + length);
  free(true_folder);
  free(target);
  return result;
}

/* ------------------------------------------------------------------------------ temporaries -- */

/* ".NAME.tailcut-", which the names of all temporaries for a target begin with; a long NAME is cut
 * so that the whole stays below 255 bytes. Room for 256. */
static void temporary_prefix(const char *target, char prefix[256]) {
  snprintf(prefix, 256, ".%.200s.tailcut-", target + directory_length(target));
}

/* PID of a temporary's name behind the prefix: "PID-N.tmp" or "PID-N.old"; 0 where it is none. */
static long temporary_pid(const char *rest) {
  char *end;
  if (!isdigit((unsigned char)*rest)) return 0;
  const long pid = strtol(rest, &end, 10);
  if (*end != '-' || !isdigit((unsigned char)end[1])) return 0;
  strtol(end + 1, &end, 10);
  return strcmp(end, ".tmp") == 0 || strcmp(end, ".old") == 0 ? pid : 0;
}

/* Notes files that runs which are no more have left beside `target`. Nobody's files are removed:
 * the process may run on another machine that shares the folder. */
static void note_leftovers(const char *target) {
  char prefix[256];
  temporary_prefix(target, prefix);
  const size_t length = directory_length(target), begin = strlen(prefix);
  char *folder = length > 0 ? strndup(target, length) : strdup(".");
  DIR *entries = folder != NULL ? opendir(folder) : NULL;
  int more = -1;
  char *first = NULL;
  long first_pid = 0;
  for (struct dirent *e; entries != NULL && (e = readdir(entries)) != NULL;) {
    if (strncmp(e->d_name, prefix, begin) != 0) continue;
    const long pid = temporary_pid(e->d_name + begin);
    /* This process has made none for this target yet: its number came round again. */
    if (pid <= 0 || (pid != (long)getpid() && (kill((pid_t)pid, 0) == 0 || errno != ESRCH)))
      continue;
    if (++more > 0) continue;
    first = beside(target, e->d_name);
    first_pid = pid;
  }
  if (first != NULL && more > 0)
    cli_note("%s: left by a run that was killed (process %ld), as are %d more files; remove them",
             first, first_pid, more);
  else if (first != NULL)
    cli_note("%s: left by a run that was killed (process %ld); remove it", first, first_pid);
  if (entries != NULL) closedir(entries);
  free(folder);
  free(first);
}

/* Makes a new file beside `target`. Returns its descriptor and its name in *name, or -1. */
static int make_temporary(const char *target, int index, mode_t mode, char **name) {
  char prefix[256];
  temporary_prefix(target, prefix);
  const size_t length = directory_length(target), size = length + strlen(prefix) + 64;
  int fd = -1;
  *name = malloc(size);
  /* The name may be taken where another machine, or a killed run, had our process number. */
  for (int n = 0; *name != NULL && n < 1000; n++) {
    snprintf(*name, size, "%.*s%s%ld-%d.tmp", (int)length, target, prefix, (long)getpid(), n);
    struct stat info;
    if (lstat(*name, &info) == 0) continue;
    pending[index] = *name;
    fd = open(*name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd >= 0) return fd;
    pending[index] = NULL;
    if (errno != EEXIST) break;
  }
  const int error = *name == NULL ? ENOMEM : errno;
  free(*name);
  *name = NULL;
  errno = error;
  return -1;
}

/* The new file gets the mode of the one it replaces, and its owner where that is allowed. */
static int keep_mode(int fd, const struct stat *old) {
  mode_t mode = old->st_mode & 07777;
  if (fchown(fd, old->st_uid, old->st_gid) != 0) {
    if (fchown(fd, (uid_t)-1, old->st_gid) != 0) mode &= ~(mode_t)(S_ISUID | S_ISGID);
    mode &= ~(mode_t)S_ISUID;
  }
  return fchmod(fd, mode);
}

static int open_entry(cli_outputs *outputs, const char *path) {
  struct stat info;
  const int index = outputs->count;
  char *target = cli_output_target(path), *temporary = NULL;
  if (target == NULL) return cli_fail(CLI_FAILED, "%s: out of memory", path);
  const bool exists = stat(target, &info) == 0;
  struct stat link;
  const bool lost = !exists && lstat(target, &link) == 0; /* a link to itself */
  const char *why = lost                    ? strerror(ELOOP)
                    : !exists               ? NULL
                    : S_ISDIR(info.st_mode) ? "is a folder"
                    : !S_ISREG(info.st_mode)
                        ? "exists and is not a regular file; standard output is -"
                    : faccessat(AT_FDCWD, target, W_OK, AT_EACCESS) ? strerror(errno)
                                                                    : NULL;
  if (why != NULL) {
    free(target);
    return cli_fail(CLI_FAILED, "%s: %s", path, why);
  }
  note_leftovers(target);
  /* Nobody may read a private file's new content while it is made. */
  const int fd = make_temporary(target, index, exists ? 0600 : 0666, &temporary);
  FILE *stream = fd < 0 || (exists && keep_mode(fd, &info) != 0) ? NULL : fdopen(fd, "wb");
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
  outputs->entry[index].replaces = exists;
  outputs->count++;
  return CLI_OK;
}

int cli_outputs_open(cli_outputs *outputs, const char *path, FILE **file) {
  if (cli_is_dash(path)) {
    *file = stdout;
    return CLI_OK;
  }
  if (outputs->count == CLI_MAX_OUTPUTS) return cli_fail(CLI_FAILED, "%s: too many outputs", path);
  if (path[strlen(path) - 1] == '/') return cli_fail(CLI_FAILED, "%s: is a folder", path);
  const int status = open_entry(outputs, path);
  if (status == CLI_OK) *file = outputs->entry[outputs->count - 1].file;
  return status;
}

void cli_outputs_discard(cli_outputs *outputs) {
  for (int i = 0; i < outputs->count; i++) {
    if (outputs->entry[i].file != NULL) fclose(outputs->entry[i].file);
    if (pending[i] != NULL) unlink(outputs->entry[i].temporary);
    pending[i] = NULL;
    free(outputs->entry[i].temporary);
    free(outputs->entry[i].target);
    free(outputs->entry[i].old);
  }
  outputs->count = 0;
}

/* ------------------------------------------------------------------------------------ commit -- */

/* A second name for what a rename is about to replace, so that it can come back. Where the file
 * system has no hard links there is none. */
static char *keep_old(const char *temporary, const char *target) {
  char *old = strdup(temporary);
  if (old == NULL) return NULL;
  memcpy(old + strlen(old) - 4, ".old", 4);
  if (link(target, old) == 0) return old;
  free(old);
  return NULL;
}

/* Puts back what was there before the first `count` renames. */
static void undo(cli_outputs *outputs, int count) {
  for (int i = 0; i < count; i++) {
    if (outputs->entry[i].old != NULL)
      rename(outputs->entry[i].old, outputs->entry[i].target);
    else if (!outputs->entry[i].replaces)
      unlink(outputs->entry[i].target);
  }
}

static int close_all(cli_outputs *outputs) {
  for (int i = 0; i < outputs->count; i++) {
    FILE *file = outputs->entry[i].file;
    outputs->entry[i].file = NULL;
    errno = 0;
    const bool lost = ferror(file) != 0;
    if (fclose(file) != 0 || lost)
      return cli_fail(CLI_FAILED, "%s: %s", outputs->entry[i].path,
                      errno ? strerror(errno) : "write failed");
  }
  return cli_flush_stdout(); /* "-": before anything is replaced */
}

int cli_outputs_commit(cli_outputs *outputs) {
  int status = close_all(outputs);
  committing = 1;
  for (int i = 0; i < outputs->count && status == CLI_OK; i++) {
    if (outputs->entry[i].replaces)
      outputs->entry[i].old = keep_old(outputs->entry[i].temporary, outputs->entry[i].target);
    if (rename(outputs->entry[i].temporary, outputs->entry[i].target) == 0) {
      pending[i] = NULL;
      continue;
    }
    status = cli_fail(CLI_FAILED, "%s: %s", outputs->entry[i].path, strerror(errno));
    undo(outputs, i);
  }
  for (int i = 0; i < outputs->count; i++)
    if (outputs->entry[i].old != NULL) unlink(outputs->entry[i].old);
  cli_outputs_discard(outputs);
  return status;
}
