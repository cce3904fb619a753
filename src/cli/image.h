/* SPDX-License-Identifier: Apache-2.0 */
/* image: a PNG or JPEG file as it is, and its size in pixels. */
#ifndef TAILCUT_CLI_IMAGE_H_
#define TAILCUT_CLI_IMAGE_H_

#include "cli.h"

typedef struct cli_image {
  unsigned char *data; /* malloc'ed */
  size_t bytes;
  const char *mime; /* image/png or image/jpeg */
  int64_t width, height;
} cli_image;

int cli_image_read(const char *path, cli_image *image);
void cli_image_free(cli_image *image);
void cli_base64_write(FILE *file, const unsigned char *data, size_t bytes);

#endif /* TAILCUT_CLI_IMAGE_H_ */
