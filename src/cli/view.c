/* SPDX-License-Identifier: Apache-2.0 */
/* view: which patches of an image stay. The image is embedded as it is; dropped patches are
 * dimmed, kept ones are clear. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"

/* keep[i] is 1 for kept patches. */
static int load_kept(const cli_options *options, unsigned char *keep, int64_t patches) {
  const char *path = options->kept;
  char shape[CLI_SHAPE_TEXT];
  cli_array a;
  int status = cli_npy_read(path, &a);
  if (status != CLI_OK) return status;
  if (a.type != CLI_I32) {
    status =
        cli_fail(CLI_FAILED, "%s: kept indices must be int32, not %s", path, cli_type_name(a.type));
  } else if (a.dims != 1) {
    status =
        cli_fail(CLI_FAILED, "%s: has the shape %s, expected [k]", path, cli_shape_text(&a, shape));
  }
  const int32_t *index = a.data;
  for (int64_t i = 0; i < a.count && status == CLI_OK; i++) {
    if (index[i] < 0 || index[i] >= patches)
      status = cli_fail(CLI_FAILED, "%s: index %d is outside the grid of %lld patches", path,
                        (int)index[i], (long long)patches);
    else if (i > 0 && index[i] <= index[i - 1])
      status = cli_fail(CLI_FAILED, "%s: index %d follows %d, but kept indices ascend", path,
                        (int)index[i], (int)index[i - 1]);
    else
      keep[index[i]] = 1;
  }
  cli_array_free(&a);
  return status;
}

static void write_svg(FILE *file, const cli_options *options, const cli_image *image,
                      const unsigned char *keep) {
  const int64_t rows = options->grid_rows, columns = options->grid_columns;
  const double width = (double)image->width, height = (double)image->height;
  const double w = width / (double)columns, h = height / (double)rows;
  fprintf(file,
          "<svg xmlns=\"http://www.w3.org/2000/svg\" "
          "xmlns:xlink=\"http://www.w3.org/1999/xlink\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" "
          "height=\"%.0f\">\n",
          width, height, width, height);
  /* Encoders see the pixels as stored, so the picture is not turned by its EXIF data. */
  fprintf(file,
          "<image width=\"%.0f\" height=\"%.0f\" preserveAspectRatio=\"none\" "
          "style=\"image-orientation:none\" xlink:href=\"data:%s;base64,",
          width, height, image->mime);
  cli_base64_write(file, image->data, image->bytes);
  fputs("\"/>\n<g fill=\"#10141c\" fill-opacity=\"0.74\">\n", file);
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t c = 0; c < columns;) {
      int64_t end = c;
      while (end < columns && !keep[r * columns + end]) end++;
      if (end > c)
        fprintf(file, "<rect x=\"%.6g\" y=\"%.6g\" width=\"%.6g\" height=\"%.6g\"/>\n",
                (double)c * w, (double)r * h, (double)(end - c) * w, h);
      c = end > c ? end : c + 1;
    }
  }
  fputs(
      "</g>\n<path fill=\"none\" stroke=\"#ffffff\" stroke-opacity=\"0.28\" "
      "vector-effect=\"non-scaling-stroke\" d=\"",
      file);
  for (int64_t r = 1; r < rows; r++) fprintf(file, "M0 %.6gH%.0f", (double)r * h, width);
  for (int64_t c = 1; c < columns; c++) fprintf(file, "M%.6g 0V%.0f", (double)c * w, height);
  fputs("\"/>\n</svg>\n", file);
}

static int draw(const cli_options *options, const cli_image *image, const unsigned char *keep) {
  cli_outputs outputs = {.count = 0};
  FILE *file = NULL;
  int status = cli_outputs_open(&outputs, options->svg, &file);
  if (status == CLI_OK) {
    write_svg(file, options, image, keep);
    if (ferror(file)) status = cli_fail(CLI_FAILED, "%s: %s", options->svg, strerror(errno));
  }
  if (status == CLI_OK) status = cli_outputs_commit(&outputs);
  cli_outputs_discard(&outputs);
  return status;
}

int cli_view(const cli_options *options) {
  const int64_t patches = (int64_t)options->grid_rows * options->grid_columns;
  cli_image image = {.data = NULL};
  unsigned char *keep = calloc((size_t)patches, 1);
  int status = keep != NULL ? CLI_OK : cli_fail(CLI_FAILED, "--grid: out of memory");
  if (status == CLI_OK) status = cli_image_read(options->image, &image);
  if (status == CLI_OK) status = load_kept(options, keep, patches);
  if (status == CLI_OK) status = draw(options, &image, keep);
  cli_image_free(&image);
  free(keep);
  return status;
}
