/* SPDX-License-Identifier: Apache-2.0 */
/* foreign: files that are no .npy, told by their first bytes: the line says what the file is and
 * gives the line that makes a .npy of it. */
#include <string.h>

#include "input.h"

/* The file as it can stand between quotes in a line for a shell; FILE where it cannot. */
static const char *quotable(const char *path) {
  if (cli_is_dash(path) || strlen(path) > 200) return "FILE";
  for (const char *p = path; *p != '\0'; p++)
    if (*p < ' ' || *p > '~' || strchr("'\"\\$`!", *p) != NULL) return "FILE";
  return path;
}

/* The name of the .npy that is made: the file's with its suffix exchanged, in the folder where one
 * is. */
static void npy_name(const char *path, char out[256]) {
  const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
  const char *dot = strrchr(name, '.');
  const int length = dot != NULL && dot > name ? (int)(dot - name) : (int)strlen(name);
  const bool taken = dot != NULL && strcmp(dot, ".npy") == 0;
  snprintf(out, 256, "%.*s%s.npy", length, name, taken ? "-array" : "");
}

/* A name inside the file, as it can stand in a line; NAME where it is none. */
static void inner_name(const unsigned char *p, size_t length, char out[64]) {
  bool good = length > 0 && length < 64;
  for (size_t i = 0; i < length && good; i++)
    good = p[i] > ' ' && p[i] <= '~' && strchr("'\"\\$`!", p[i]) == NULL;
  snprintf(out, 64, "%.*s", good ? (int)length : 4, good ? (const char *)p : "NAME");
}

static int refuse(const char *path, const char *name, const char *kind, const char *modules,
                  const char *expression) {
  char made[256];
  npy_name(quotable(path), made);
  return cli_fail(CLI_FAILED,
                  "%s: is %s, not a .npy file; convert it: python3 -c \"import %s; "
                  "np.save('%s', %s)\"",
                  name, kind, modules, made, expression);
}

typedef struct beginning {
  const char *path, *name;
  const unsigned char *data;
  size_t bytes;
} beginning;

static bool has(const beginning *b, size_t at, const char *magic, size_t length) {
  return b->bytes >= at + length && memcmp(b->data + at, magic, length) == 0;
}

/* Zip: NumPy's archive of arrays, or PyTorch's of pickled tensors, told by the first file in it. */
static int zip(const beginning *b) {
  char inner[64], expression[512];
  const size_t length = b->bytes >= 30 ? (size_t)b->data[26] | (size_t)b->data[27] << 8 : 0;
  const size_t end = 30 + length;
  if (length > 4 && has(b, end - 4, ".npy", 4)) {
    inner_name(b->data + 30, length - 4, inner);
    snprintf(expression, sizeof expression, "np.load('%s')['%s']", quotable(b->path), inner);
    return refuse(b->path, b->name, "a .npz archive", "numpy as np", expression);
  }
  if (length > 8 && has(b, end - 8, "data.pkl", 8)) {
    snprintf(expression, sizeof expression, "torch.load('%s').float().numpy()", quotable(b->path));
    return refuse(b->path, b->name, "a PyTorch file", "numpy as np, torch", expression);
  }
  return cli_fail(CLI_FAILED, "%s: is a zip archive, not a .npy file", b->name);
}

static int safetensors(const beginning *b) {
  const unsigned char *first = b->data + 8, *end = b->data + b->bytes;
  char inner[64], expression[512];
  while (first < end && *first != '"') first++;
  const unsigned char *last = first < end ? ++first : end;
  while (last < end && *last != '"') last++;
  if (has(b, (size_t)(first - b->data), "__metadata__", 12)) last = first;
  inner_name(first, (size_t)(last - first), inner);
  snprintf(expression, sizeof expression, "load_file('%s')['%s']", quotable(b->path), inner);
  return refuse(b->path, b->name, "a safetensors file",
                "numpy as np; from safetensors.numpy import load_file", expression);
}

/* Numbers as text: the delimiter of a file of digits, signs, points and exponents; 0 for others. */
static char delimiter(const beginning *b) {
  char found = ' ';
  for (size_t i = 0; i < b->bytes; i++) {
    const unsigned char c = b->data[i];
    if (c < ' ' ? c != '\n' && c != '\r' && c != '\t' : c > '~') return 0;
    if (found == ' ' && (c == ',' || c == ';')) found = (char)c;
  }
  return b->bytes > 0 ? found : 0;
}

static int text(const beginning *b, char separator) {
  char expression[512];
  if (separator == ' ')
    snprintf(expression, sizeof expression, "np.loadtxt('%s', np.float32)", quotable(b->path));
  else
    snprintf(expression, sizeof expression, "np.loadtxt('%s', np.float32, delimiter='%c')",
             quotable(b->path), separator);
  return refuse(b->path, b->name, "text", "numpy as np", expression);
}

int cli_foreign(const char *path, const char *name, const unsigned char *start, size_t bytes) {
  const beginning b = {path, name, start, bytes};
  char expression[512];
  if (bytes == 0) return cli_fail(CLI_FAILED, "%s: is empty, not a .npy file", name);
  if (has(&b, 0, "PK\x03\x04", 4)) return zip(&b);
  if (bytes > 8 && start[8] == '{' && start[7] == 0 && start[6] == 0) return safetensors(&b);
  if (has(&b, 0, "\x89HDF\r\n\x1a\n", 8)) {
    snprintf(expression, sizeof expression, "h5py.File('%s')['NAME'][...]", quotable(path));
    return refuse(path, name, "an HDF5 file", "numpy as np, h5py", expression);
  }
  if (bytes > 2 && start[0] == 0x80 && start[1] <= 5) {
    snprintf(expression, sizeof expression, "torch.load('%s').float().numpy()", quotable(path));
    return refuse(path, name, "a Python pickle (an old PyTorch file?)", "numpy as np, torch",
                  expression);
  }
  if (has(&b, 0, "\x1f\x8b", 2))
    return cli_fail(CLI_FAILED,
                    "%s: is compressed by gzip; unpack it: gunzip -c '%s' | tailcut "
                    "... -",
                    name, quotable(path));
  if (has(&b, 0, "\x89PNG", 4) || has(&b, 0, "\xff\xd8\xff", 3))
    return cli_fail(CLI_FAILED,
                    "%s: is a picture, not a .npy file; an encoder's features of it "
                    "are needed: ./run features '%s' in tailcut's sources makes some",
                    name, quotable(path));
  const char separator = delimiter(&b);
  if (separator != 0) return text(&b, separator);
  return cli_fail(CLI_FAILED, "%s: not a .npy file", name);
}
