/* SPDX-License-Identifier: Apache-2.0 */
/* npy_header: what the header of a .npy file says. */
#ifndef TAILCUT_CLI_NPY_HEADER_H_
#define TAILCUT_CLI_NPY_HEADER_H_

#include "cli.h"

typedef struct cli_npy_header {
  char descr[32];
  bool fortran;
  int dims;
  int64_t shape[CLI_MAX_DIMS];
  const char *reason; /* why it was refused */
} cli_npy_header;

/* False: `reason` says what does not fit. */
bool cli_npy_header_parse(const char *text, size_t length, cli_npy_header *header);

#endif /* TAILCUT_CLI_NPY_HEADER_H_ */
