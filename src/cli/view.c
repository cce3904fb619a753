/* SPDX-License-Identifier: Apache-2.0 */
/* view: which patches of an image stay. The image is embedded as it is; dropped patches are dimmed,
 * and kept regions have a frame that is light inside and dark outside: it shows on photographs of
 * any brightness, and says which side is kept where dimming cannot be seen. Where patches were
 * merged, those that a kept one stands for are tinted alike, and it has a spot of that colour. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"

/* Patches are squares of the encoder's input. An image that was squeezed into it has patches as far
 * from square as itself: 4:3 gives 1.33 and 3:2 gives 1.5. Rows and columns exchanged square that:
 * 1.78 for 4:3. The bound lies between. */
#define MOST_ASPECT 1.6

/* The part of KEPT that --segment names: *from..*to. */
static int find_segment(const cli_options *options, int64_t total, int64_t *from, int64_t *to) {
  const char *path = options->counts;
  char shape[CLI_SHAPE_TEXT];
  cli_array a;
  *from = 0;
  *to = total;
  if (path == NULL) return CLI_OK;
  int status = cli_npy_read(path, CLI_NUMBERS, "counts", &a);
  if (status != CLI_OK) return status;
  if (a.dims != 1)
    status =
        cli_fail(CLI_FAILED, "%s: has the shape %s, expected [B]", path, cli_shape_text(&a, shape));
  else if (options->segment >= a.count)
    status = cli_fail(CLI_FAILED, "--segment: %d, but %s has %lld segments", (int)options->segment,
                      path, (long long)a.count);
  const int32_t *count = a.data;
  int64_t sum = 0;
  for (int64_t b = 0; b < a.count && status == CLI_OK; b++) {
    if (count[b] < 0)
      status = cli_fail(CLI_FAILED, "%s: segment %lld keeps %d", path, (long long)b, (int)count[b]);
    if (b == options->segment) *from = sum;
    sum += count[b];
    if (b == options->segment) *to = sum;
  }
  if (status == CLI_OK && sum != total)
    status = cli_fail(CLI_FAILED, "%s: the counts sum to %lld, but %s has %lld indices", path,
                      (long long)sum, options->kept, (long long)total);
  cli_array_free(&a);
  return status;
}

static int mark_kept(const cli_options *options, const cli_array *a, unsigned char *keep,
                     int64_t patches) {
  const char *path = options->kept;
  const int32_t *index = a->data;
  int64_t from, to;
  const int status = find_segment(options, a->count, &from, &to);
  if (status != CLI_OK) return status;
  for (int64_t i = from; i < to; i++) {
    if (index[i] < 0 || index[i] >= patches)
      return cli_fail(CLI_FAILED, "%s: index %d is outside the grid of %lld patches", path,
                      (int)index[i], (long long)patches);
    if (i > from && index[i] <= index[i - 1])
      return cli_fail(
          CLI_FAILED, "%s: index %d follows %d, but kept indices ascend%s", path, (int)index[i],
          (int)index[i - 1],
          options->counts != NULL ? "" : "; of several segments --counts and --segment choose one");
    keep[index[i]] = 1;
  }
  return CLI_OK;
}

/* keep[i] is 1 for kept patches. */
static int load_kept(const cli_options *options, unsigned char *keep, int64_t patches) {
  char shape[CLI_SHAPE_TEXT];
  cli_array a;
  int status = cli_npy_read(options->kept, CLI_NUMBERS, "kept indices", &a);
  if (status != CLI_OK) return status;
  if (a.dims != 1)
    status = cli_fail(CLI_FAILED, "%s: has the shape %s, expected [k]", options->kept,
                      cli_shape_text(&a, shape));
  else
    status = mark_kept(options, &a, keep, patches);
  cli_array_free(&a);
  return status;
}

/* joins[i]: the kept patch that patch i joins or is, -1: none. */
static int check_joins(const cli_options *options, const cli_array *a, const unsigned char *keep,
                       int64_t patches, int32_t *joins) {
  const char *path = options->joins;
  char shape[CLI_SHAPE_TEXT];
  const int64_t from = options->segment * patches;
  if (a->dims != 1 || a->count % patches != 0)
    return cli_fail(CLI_FAILED, "%s: has the shape %s, expected [%lld] for each segment", path,
                    cli_shape_text(a, shape), (long long)patches);
  if (from >= a->count)
    return cli_fail(CLI_FAILED, "--segment: %d, but %s has %lld segments", (int)options->segment,
                    path, (long long)(a->count / patches));
  memcpy(joins, (const int32_t *)a->data + from, (size_t)patches * sizeof *joins);
  for (int64_t i = 0; i < patches; i++) {
    const int32_t j = joins[i];
    if (j < -1 || j >= patches || (j >= 0 && !keep[j]) || (keep[i] && j != i))
      return cli_fail(CLI_FAILED, "%s: patch %lld joins %d, which %s does not fit", path,
                      (long long)i, (int)j, options->kept);
  }
  return CLI_OK;
}

/* Behind joins, for each patch: the first that joins it, and the next that joins the same. */
static int load_joins(const cli_options *options, const unsigned char *keep, int64_t patches,
                      int32_t *joins) {
  cli_array a;
  int status = cli_npy_read(options->joins, CLI_NUMBERS, "what patches join", &a);
  if (status != CLI_OK) return status;
  status = check_joins(options, &a, keep, patches, joins);
  cli_array_free(&a);
  int32_t *first = joins + patches, *next = first + patches;
  for (int64_t i = 0; i < patches; i++) first[i] = -1;
  for (int64_t i = patches - 1; i >= 0 && status == CLI_OK; i--) {
    if (joins[i] < 0 || keep[i]) continue;
    next[i] = first[joins[i]];
    first[joins[i]] = (int32_t)i;
  }
  return status;
}

static int check_grid(const cli_options *options, const cli_image *image) {
  const double rows = options->grid_rows, columns = options->grid_columns;
  const double wide = (double)image->width / columns, high = (double)image->height / rows;
  const double aspect = wide > high ? wide / high : high / wide;
  if (options->force || aspect <= MOST_ASPECT) return CLI_OK;
  return cli_fail(CLI_FAILED,
                  "--grid: %dx%d (rows x columns) on %s of %lldx%lld pixels makes patches %.2f "
                  "times as %s as %s; --force draws them all the same",
                  (int)options->grid_rows, (int)options->grid_columns, options->image,
                  (long long)image->width, (long long)image->height, aspect,
                  wide > high ? "wide" : "high", wide > high ? "high" : "wide");
}

/* ----------------------------------------------------------------------------------- picture -- */

typedef struct picture {
  FILE *file;
  const unsigned char *keep;
  const int32_t *joins; /* NULL: nothing was merged */
  int64_t rows, columns;
  double w, h; /* of a patch */
} picture;

static bool kept_at(const picture *p, int64_t r, int64_t c) {
  return r >= 0 && r < p->rows && c >= 0 && c < p->columns && p->keep[r * p->columns + c];
}

/* The kept patch that a dropped one joins; -1: none, or it is kept. */
static int32_t joins_at(const picture *p, int64_t r, int64_t c) {
  return p->joins == NULL || kept_at(p, r, c) ? -1 : p->joins[r * p->columns + c];
}

/* Rectangles over runs of patches whose keep is `kept`; of dropped ones only those that join
 * nobody. */
static void rectangles(const picture *p, bool kept) {
  for (int64_t r = 0; r < p->rows; r++) {
    for (int64_t c = 0; c < p->columns;) {
      int64_t end = c;
      while (end < p->columns && kept_at(p, r, end) == kept && joins_at(p, r, end) < 0) end++;
      if (end > c)
        fprintf(p->file, "<rect x=\"%.6g\" y=\"%.6g\" width=\"%.6g\" height=\"%.6g\"/>\n",
                (double)c * p->w, (double)r * p->h, (double)(end - c) * p->w, p->h);
      c = end > c ? end : c + 1;
    }
  }
}

/* Colours far from each other for neighbours in the list: the hue goes on by the golden angle. */
static void colour(int32_t number, char text[8]) {
  static const double tops[3] = {255, 190, 230};
  const double turn = 6.0 * fmod(0.618033988749895 * number, 1.0);
  const double top = tops[number % 3];
  double rgb[3];
  for (int i = 0; i < 3; i++) {
    const double away = fabs(fmod(turn + 6.0 - 2.0 * i, 6.0) - 3.0); /* 0 .. 3 */
    const double share = away - 1.0 < 0.0 ? 0.0 : away - 1.0 > 1.0 ? 1.0 : away - 1.0;
    rgb[i] = top * (0.12 + 0.88 * share);
  }
  snprintf(text, 8, "#%02x%02x%02x", (int)rgb[0], (int)rgb[1], (int)rgb[2]);
}

/* For each kept patch that others join: these, and a spot in itself. */
static void members(const picture *p) {
  const int64_t patches = p->rows * p->columns;
  const int32_t *first = p->joins + patches, *next = first + patches;
  int32_t number = 0;
  for (int64_t kept = 0; kept < patches; kept++) {
    char fill[8];
    if (first[kept] < 0) continue;
    colour(number++, fill);
    fprintf(p->file, "<g fill=\"%s\" fill-opacity=\"0.6\">\n", fill);
    for (int32_t i = first[kept]; i >= 0; i = next[i])
      fprintf(p->file, "<rect x=\"%.6g\" y=\"%.6g\" width=\"%.6g\" height=\"%.6g\"/>\n",
              (double)(i % p->columns) * p->w, (double)(i / p->columns) * p->h, p->w, p->h);
    fprintf(p->file,
            "<ellipse cx=\"%.6g\" cy=\"%.6g\" rx=\"%.6g\" ry=\"%.6g\" fill-opacity=\"1\"/>\n</g>\n",
            ((double)(kept % p->columns) + 0.5) * p->w, ((double)(kept / p->columns) + 0.5) * p->h,
            0.22 * p->w, 0.22 * p->h);
  }
}

/* The outline of the kept regions: lines along every side where kept meets not kept or the
 * picture's edge. */
static void outline(const picture *p) {
  for (int64_t r = 0; r <= p->rows; r++)
    for (int64_t c = 0; c < p->columns;) {
      int64_t end = c;
      while (end < p->columns && kept_at(p, r - 1, end) != kept_at(p, r, end)) end++;
      if (end > c)
        fprintf(p->file, "M%.6g %.6gH%.6g", (double)c * p->w, (double)r * p->h, (double)end * p->w);
      c = end + 1;
    }
  for (int64_t c = 0; c <= p->columns; c++)
    for (int64_t r = 0; r < p->rows;) {
      int64_t end = r;
      while (end < p->rows && kept_at(p, end, c - 1) != kept_at(p, end, c)) end++;
      if (end > r)
        fprintf(p->file, "M%.6g %.6gV%.6g", (double)c * p->w, (double)r * p->h, (double)end * p->h);
      r = end + 1;
    }
}

static void write_svg(FILE *file, const cli_options *options, const cli_image *image,
                      const unsigned char *keep, const int32_t *joins) {
  const double width = (double)image->width, height = (double)image->height;
  const picture p = {file,
                     keep,
                     joins,
                     options->grid_rows,
                     options->grid_columns,
                     width / (double)options->grid_columns,
                     height / (double)options->grid_rows};
  const double stroke = 0.16 * (p.w < p.h ? p.w : p.h);
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
  /* The grid lies under the dimming too. */
  fputs(
      "\"/>\n<path fill=\"none\" stroke=\"#ffffff\" stroke-opacity=\"0.28\" "
      "vector-effect=\"non-scaling-stroke\" d=\"",
      file);
  for (int64_t r = 1; r < p.rows; r++) fprintf(file, "M0 %.6gH%.0f", (double)r * p.h, width);
  for (int64_t c = 1; c < p.columns; c++) fprintf(file, "M%.6g 0V%.0f", (double)c * p.w, height);
  fputs("\"/>\n<g fill=\"#10141c\" fill-opacity=\"0.74\">\n", file);
  rectangles(&p, false);
  fputs("</g>\n", file);
  if (joins != NULL) members(&p);
  fputs("<defs>\n<clipPath id=\"kept\">\n", file);
  rectangles(&p, true);
  fputs("</clipPath>\n<path id=\"outline\" d=\"", file);
  outline(&p);
  /* Half of each stroke falls on either side: dark on both, then light over it on the kept side. */
  fprintf(file,
          "\"/>\n</defs>\n<g fill=\"none\" stroke-linecap=\"square\" stroke-width=\"%.6g\">\n"
          "<use xlink:href=\"#outline\" stroke=\"#000000\" stroke-opacity=\"0.9\"/>\n"
          "<g clip-path=\"url(#kept)\"><use xlink:href=\"#outline\" stroke=\"#ffffff\"/></g>\n"
          "</g>\n</svg>\n",
          stroke);
}

static int draw(const cli_options *options, const cli_image *image, const unsigned char *keep,
                const int32_t *joins) {
  cli_outputs outputs = {.count = 0};
  FILE *file = NULL;
  int status = cli_outputs_open(&outputs, options->out, &file);
  if (status == CLI_OK) {
    cli_notes_print();
    write_svg(file, options, image, keep, joins);
    if (ferror(file)) status = cli_fail(CLI_FAILED, "%s: %s", options->out, strerror(errno));
  }
  if (status == CLI_OK) status = cli_outputs_commit(&outputs);
  cli_outputs_discard(&outputs);
  return status;
}

int cli_view(const cli_options *options) {
  const int64_t patches = (int64_t)options->grid_rows * options->grid_columns;
  cli_image image = {.data = NULL};
  unsigned char *keep = calloc((size_t)patches, 1);
  int32_t *joins = options->joins != NULL ? calloc(3 * (size_t)patches, sizeof *joins) : NULL;
  const bool memory = keep != NULL && (joins != NULL || options->joins == NULL);
  int status = memory ? CLI_OK : cli_fail(CLI_FAILED, "--grid: out of memory");
  if (status == CLI_OK) status = cli_image_read(options->image, &image);
  if (status == CLI_OK) status = check_grid(options, &image);
  if (status == CLI_OK) status = load_kept(options, keep, patches);
  if (status == CLI_OK && joins != NULL) status = load_joins(options, keep, patches, joins);
  if (status == CLI_OK) status = draw(options, &image, keep, joins);
  cli_image_free(&image);
  free(keep);
  free(joins);
  return status;
}
