/* SPDX-License-Identifier: Apache-2.0 */
/* image: reads a PNG or JPEG without decoding it: only its size is looked for. */
#include "image.h"

#include <stdlib.h>
#include <string.h>

#include "input.h"

#define MAX_BYTES (256u << 20)

static int64_t big_endian(const unsigned char *p, int bytes) {
  int64_t v = 0;
  for (int i = 0; i < bytes; i++) v = v << 8 | p[i];
  return v;
}

static bool png_size(cli_image *image) {
  const unsigned char *p = image->data;
  if (image->bytes < 24 || memcmp(p, "\x89PNG\r\n\x1a\n", 8) != 0 || memcmp(p + 12, "IHDR", 4) != 0)
    return false;
  image->mime = "image/png";
  image->width = big_endian(p + 16, 4);
  image->height = big_endian(p + 20, 4);
  return true;
}

/* Walks the segments up to the frame header, SOF0..SOF15 without DHT, JPG and DAC. */
static bool jpeg_size(cli_image *image) {
  const unsigned char *p = image->data, *end = p + image->bytes;
  if (image->bytes < 4 || p[0] != 0xFF || p[1] != 0xD8) return false;
  image->mime = "image/jpeg";
  p += 2;
  while (end - p >= 4) {
    if (p[0] != 0xFF) return true; /* malformed: no size, refused by the caller */
    const int marker = p[1];
    if (marker == 0xFF) {
      p++; /* fill byte */
      continue;
    }
    if (marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8)) {
      p += 2;
      continue;
    }
    if (marker == 0xDA || marker == 0xD9) return true;
    const int64_t length = big_endian(p + 2, 2);
    if (length < 2 || length > end - p - 2) return true;
    if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC) {
      if (length < 7) return true;
      image->height = big_endian(p + 5, 2);
      image->width = big_endian(p + 7, 2);
      return true;
    }
    p += 2 + length;
  }
  return true;
}

static int read_open(cli_input *in, cli_image *image) {
  void *data;
  int status = cli_input_take(in, (size_t)MAX_BYTES + 1, &data, &image->bytes);
  if (status != CLI_OK) return status;
  image->data = data;
  if (image->bytes > MAX_BYTES) return cli_fail(CLI_FAILED, "%s: is larger than 256 MiB", in->name);
  if (!png_size(image) && !jpeg_size(image))
    return cli_fail(CLI_FAILED, "%s: neither a PNG nor a JPEG file", in->name);
  if (image->width < 1 || image->height < 1 || image->width > 1 << 24 || image->height > 1 << 24)
    return cli_fail(CLI_FAILED, "%s: its %s header gives no usable size", in->name,
                    strcmp(image->mime, "image/png") == 0 ? "PNG" : "JPEG");
  return CLI_OK;
}

int cli_image_read(const char *path, cli_image *image) {
  cli_input in;
  memset(image, 0, sizeof *image);
  int status = cli_input_open(path, &in);
  if (status != CLI_OK) return status;
  status = read_open(&in, image);
  cli_input_close(&in);
  return status;
}

void cli_image_free(cli_image *image) {
  free(image->data);
  memset(image, 0, sizeof *image);
}

void cli_base64_write(FILE *file, const unsigned char *data, size_t bytes) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < bytes; i += 3) {
    const size_t left = bytes - i;
    const unsigned v = (unsigned)data[i] << 16 | (left > 1 ? (unsigned)data[i + 1] << 8 : 0) |
                       (left > 2 ? (unsigned)data[i + 2] : 0);
    fputc(digits[v >> 18 & 63], file);
    fputc(digits[v >> 12 & 63], file);
    fputc(left > 1 ? digits[v >> 6 & 63] : '=', file);
    fputc(left > 2 ? digits[v & 63] : '=', file);
  }
}
