/* SPDX-License-Identifier: Apache-2.0 */
/* files: which file each option means, so that none is replaced that is read or written elsewhere:
 * by path, through links, or as another name of the same file. */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "input.h"

/* A regular file by its number, or the true path of one that does not exist yet. */
typedef struct identity {
  bool exists;
  dev_t device;
  ino_t number;
  char *target; /* malloc'ed */
} identity;

static identity identify(const cli_file *file) {
  identity id = {.exists = false};
  struct stat info;
  const int fd = file->output ? STDOUT_FILENO : STDIN_FILENO;
  const bool dash = cli_is_dash(file->path);
  if ((dash ? fstat(fd, &info) : stat(file->path, &info)) == 0) {
    id.exists = S_ISREG(info.st_mode); /* pipes and devices may be named twice */
    id.device = info.st_dev;
    id.number = info.st_ino;
  } else if (file->output && !dash) {
    id.target = cli_output_target(file->path);
  }
  return id;
}

static bool same(const identity *a, const identity *b) {
  if (a->exists && b->exists) return a->device == b->device && a->number == b->number;
  return a->target != NULL && b->target != NULL && strcmp(a->target, b->target) == 0;
}

static int check_pair(const cli_file *a, const cli_file *b, bool same_file) {
  const bool dashes = cli_is_dash(a->path) && cli_is_dash(b->path);
  if (a->output == b->output && dashes)
    return cli_fail(CLI_USAGE, "%s: only one option can be -, and %s is", b->option, a->option);
  if (!same_file || (!a->output && !b->output)) return CLI_OK;
  if (a->output && b->output)
    return cli_fail(CLI_USAGE, "%s: names the same file as %s: %s", b->option, a->option, b->path);
  const cli_file *in = a->output ? b : a, *out = a->output ? a : b;
  return cli_fail(CLI_USAGE, "%s: %s is what %s reads; an output never replaces an input",
                  out->option, out->path, in->option);
}

int cli_files_check(const cli_file *files, int count) {
  identity *id = calloc((size_t)count + 1, sizeof *id);
  int status = id != NULL ? CLI_OK : cli_fail(CLI_FAILED, "out of memory");
  for (int i = 0; i < count && status == CLI_OK; i++) {
    id[i] = identify(&files[i]);
    for (int j = 0; j < i && status == CLI_OK; j++)
      status = check_pair(&files[j], &files[i], same(&id[j], &id[i]));
  }
  for (int i = 0; i < count && id != NULL; i++) free(id[i].target);
  free(id);
  return status;
}
