/* SPDX-License-Identifier: Apache-2.0 */
/* convert: what a file holds, as the library takes it. */
#ifndef TAILCUT_CLI_CONVERT_H_
#define TAILCUT_CLI_CONVERT_H_

#include "cli.h"

/* Refuses a type that cannot be made into what `use` needs: the one found, the ones wanted and the
 * remedy. `descr` is the file's own word, for types that have no name here. */
int cli_convertible(const char *name, cli_use use, const char *what, cli_type type,
                    const char *descr);
/* Brings an array that was read as it lies to little-endian, C order and a type that `use` takes,
 * and notes what it did. array->type may change, array->bytes is then the caller's to correct. */
int cli_convert(const char *name, cli_use use, const char *what, cli_array *array, bool swapped,
                bool fortran);

#endif /* TAILCUT_CLI_CONVERT_H_ */
