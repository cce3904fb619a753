/* SPDX-License-Identifier: Apache-2.0 */
/* input: a file, a pipe or standard input, read from the first byte to the last. */
#ifndef TAILCUT_CLI_INPUT_H_
#define TAILCUT_CLI_INPUT_H_

#include "cli.h"

typedef struct cli_input {
  int fd;
  const char *name; /* for messages */
  int64_t left;     /* bytes still to come, -1 where that is not known */
  int64_t done;
} cli_input;

/* "-": standard input or output. */
bool cli_is_dash(const char *path);
int cli_input_open(const char *path, cli_input *in);
void cli_input_close(cli_input *in);
/* Up to `bytes` into `data`; *got is less only where the input ends. */
int cli_input_read(cli_input *in, void *data, size_t bytes, size_t *got);
/* The same into memory of its own, aligned to 64 bytes and malloc'ed: the caller frees *data. It is
 * never NULL after CLI_OK. */
int cli_input_take(cli_input *in, size_t bytes, void **data, size_t *got);
/* Refuses what is no .npy file, whose first bytes these are: what it is, and how to convert it. */
int cli_foreign(const char *path, const char *name, const unsigned char *start, size_t bytes);

#endif /* TAILCUT_CLI_INPUT_H_ */
