/* SPDX-License-Identifier: Apache-2.0 */
/* input: bytes of a file, a pipe or standard input ("-"), from the first to the last.
 *
 * Where the size is not known beforehand, memory grows with what has come, whatever a header
 * claims. */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#include "input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEP ((size_t)8 << 20)  /* one read: progress is told after each */
#define FIRST ((size_t)1 << 20) /* memory taken before anything has come */

bool cli_is_dash(const char *path) { return strcmp(path, "-") == 0; }

int cli_input_open(const char *path, cli_input *in) {
  struct stat info;
  const bool dash = cli_is_dash(path);
  in->name = dash ? "- (standard input)" : path;
  in->left = -1;
  if (dash && isatty(STDIN_FILENO))
    return cli_fail(CLI_FAILED, "%s: is a terminal; a file comes in by '<' or a pipe", in->name);
  /* A FIFO waits here until someone writes to it. */
  do in->fd = dash ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
  while (in->fd < 0 && errno == EINTR);
  if (in->fd < 0) return cli_fail(CLI_FAILED, "%s: %s", in->name, strerror(errno));
  const int failed = fstat(in->fd, &info);
  if (failed || S_ISDIR(info.st_mode) || S_ISBLK(info.st_mode)) {
    const char *why = failed                  ? strerror(errno)
                      : S_ISDIR(info.st_mode) ? "is a folder"
                                              : "is a device";
    close(in->fd);
    return cli_fail(CLI_FAILED, "%s: %s", in->name, why);
  }
  const off_t at = S_ISREG(info.st_mode) ? lseek(in->fd, 0, SEEK_CUR) : -1;
  /* Size 0: empty, or a file that is made while it is read (/proc). */
  if (at >= 0 && info.st_size > at) in->left = (int64_t)(info.st_size - at);
  const char *slash = strrchr(path, '/');
  char what[64];
  snprintf(what, sizeof what, "reading %.40s",
           dash            ? "standard input"
           : slash != NULL ? slash + 1
                           : path);
  cli_progress_bytes(what, in->left > 0 ? in->left : 0);
  in->done = 0;
  return CLI_OK;
}

void cli_input_close(cli_input *in) { close(in->fd); }

int cli_input_read(cli_input *in, void *data, size_t bytes, size_t *got) {
  char *p = data;
  for (*got = 0; *got < bytes;) {
    const size_t most = bytes - *got < STEP ? bytes - *got : STEP;
    const ssize_t n = read(in->fd, p + *got, most);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return cli_fail(CLI_FAILED, "%s: %s", in->name, strerror(errno));
    if (n == 0) break;
    *got += (size_t)n;
    in->done += n;
    if (in->left > 0) in->left = in->left > n ? in->left - n : 0;
    cli_progress_step(in->done);
  }
  return CLI_OK;
}

int cli_input_take(cli_input *in, size_t bytes, void **data, size_t *got) {
  /* At the end of a file whose size is known `left` is 0, and what is missing is soon found out. */
  const bool there = in->left >= 0 && (uint64_t)in->left >= bytes;
  size_t room = there || bytes < FIRST ? bytes : FIRST;
  *data = NULL;
  *got = 0;
  for (;;) {
    void *more = NULL;
    if (posix_memalign(&more, 64, room ? room : 64) != 0) {
      free(*data);
      *data = NULL;
      return cli_fail(CLI_FAILED, "%s: out of memory for %zu bytes", in->name, room);
    }
    if (*got > 0) memcpy(more, *data, *got);
    free(*data);
    *data = more;
    size_t read_now = 0;
    const int status = cli_input_read(in, (char *)more + *got, room - *got, &read_now);
    *got += read_now;
    if (status != CLI_OK) {
      free(*data);
      *data = NULL;
      return status;
    }
    if (*got < room || room == bytes) return CLI_OK;
    room = bytes / 2 > room ? 2 * room : bytes;
  }
}
