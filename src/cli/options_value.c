/* SPDX-License-Identifier: Apache-2.0 */
/* options_value: from the text behind an option to what it means. */
#include <string.h>

#include "options.h"

static int bad(const cli_option *option, const char *value, const char *expected) {
  return cli_fail(CLI_USAGE, "%s: '%.200s' is not %s", option->name, value, expected);
}

static int out_of_range(const cli_option *option, const char *value) {
  if (option->kind == CLI_KIND_INT)
    return cli_fail(CLI_USAGE, "%s: '%.200s' is out of range, expected %.0f to %.0f", option->name,
                    value, option->low, option->high);
  /* A low that is next to nothing stands for "above 0". */
  const bool above = option->low > 0 && option->low < 1e-300;
  return cli_fail(CLI_USAGE, "%s: '%.200s' is out of range, expected %s%g to %g", option->name,
                  value, above ? "above " : "", above ? 0.0 : option->low, option->high);
}

static int set_word(const cli_option *option, int32_t *at, const char *value) {
  cli_nearest nearest = {value, strlen(value), NULL, 0};
  char choices[256], hint[CLI_HINT_TEXT];
  size_t used = 0;
  choices[0] = '\0';
  for (const cli_word *w = option->words; w->text != NULL; w++) {
    if (strcmp(w->text, value) == 0) {
      *at = w->value;
      return CLI_OK;
    }
    cli_nearest_offer(&nearest, w->text);
    if (used < sizeof choices)
      used +=
          (size_t)snprintf(choices + used, sizeof choices - used, "%s%s", used ? "|" : "", w->text);
  }
  return cli_fail(CLI_USAGE, "%s: '%.200s' is not %s%s", option->name, value, choices,
                  cli_nearest_hint(&nearest, hint));
}

static int set_search(cli_options *options, const cli_option *option, const char *value) {
  char low[128];
  const char *colon = strchr(value, ':');
  if (colon == NULL || (size_t)(colon - value) >= sizeof low)
    return bad(option, value, "lo:hi, two numbers");
  memcpy(low, value, (size_t)(colon - value));
  low[colon - value] = '\0';
  tailcut_rule *rule = &options->rule;
  if (!cli_parse_double(low, &rule->search_lo) || !cli_parse_double(colon + 1, &rule->search_hi))
    return bad(option, value, "lo:hi, two numbers");
  if (!(rule->search_lo >= 0 && rule->search_lo < rule->search_hi && rule->search_hi <= 1))
    return cli_fail(CLI_USAGE, "--search: '%.200s' is out of range, expected 0 <= lo < hi <= 1",
                    value);
  return CLI_OK;
}

static int set_device(cli_options *options, const cli_option *option, const char *value) {
  int64_t index = 0;
  options->device_index = 0;
  options->device_kind = TAILCUT_DEVICE_CPU;
  if (strcmp(value, "cpu") == 0) return CLI_OK;
  if (strncmp(value, "cuda", 4) != 0 || (value[4] != '\0' && value[4] != ':'))
    return bad(option, value, "cpu, cuda or cuda:i");
  if (value[4] == ':' &&
      (value[5] < '0' || value[5] > '9' || !cli_parse_int(value + 5, &index) || index > INT32_MAX))
    return bad(option, value, "cpu, cuda or cuda:i");
  options->device_kind = TAILCUT_DEVICE_CUDA;
  options->device_index = (int32_t)index;
  return CLI_OK;
}

/* Numbers separated by `separator`, each 1..limit. Returns how many, 0 when malformed. */
static int split_numbers(const char *value, char separator, int64_t limit, int32_t *out, int most) {
  int n = 0;
  for (const char *p = value;; p++) {
    int64_t v = 0;
    if (n == most || *p < '0' || *p > '9') return 0;
    for (; *p >= '0' && *p <= '9'; p++) {
      v = v * 10 + (*p - '0');
      if (v > limit) return 0;
    }
    if (v < 1) return 0;
    out[n++] = (int32_t)v;
    if (*p == '\0') return n;
    if (*p != separator) return 0;
  }
}

static int set_grid(cli_options *options, const cli_option *option, const char *value) {
  int32_t grid[2];
  if (split_numbers(value, 'x', 1048576, grid, 2) != 2)
    return bad(option, value, "HxW, rows and columns of patches");
  if ((int64_t)grid[0] * grid[1] > 1048576)
    return cli_fail(CLI_USAGE, "--grid: '%.200s' has more than 1048576 patches", value);
  options->grid_rows = grid[0];
  options->grid_columns = grid[1];
  return CLI_OK;
}

int cli_option_set(cli_options *options, const cli_option *option, const char *value) {
  char *at = (char *)options + option->offset;
  int64_t integer;
  double real;
  float single;
  switch (option->kind) {
    case CLI_KIND_FLAG:
      *(int32_t *)(void *)at = 1;
      return CLI_OK;
    case CLI_KIND_INPUT:
    case CLI_KIND_OUTPUT:
      if (value[0] == '\0') return cli_fail(CLI_USAGE, "%s: the file name is empty", option->name);
      *(const char **)(void *)at = value;
      return CLI_OK;
    case CLI_KIND_TEXT:
      *(const char **)(void *)at = value;
      return CLI_OK;
    case CLI_KIND_INT:
      if (!cli_parse_int(value, &integer)) return bad(option, value, "an integer");
      if (integer < (int64_t)option->low || integer > (int64_t)option->high)
        return out_of_range(option, value);
      *(int32_t *)(void *)at = (int32_t)integer;
      return CLI_OK;
    case CLI_KIND_DOUBLE:
      if (!cli_parse_double(value, &real)) return bad(option, value, "a finite number");
      if (!(real >= option->low && real <= option->high)) return out_of_range(option, value);
      *(double *)(void *)at = real;
      return CLI_OK;
    case CLI_KIND_FLOAT:
      if (!cli_parse_float(value, &single)) return bad(option, value, "a finite float32 number");
      *(float *)(void *)at = single;
      return CLI_OK;
    case CLI_KIND_WORD:
      return set_word(option, (int32_t *)(void *)at, value);
    case CLI_KIND_CLS_ROW:
      if (!cli_parse_int(value, &integer)) return bad(option, value, "an integer");
      if (integer != 0)
        return cli_fail(CLI_USAGE, "--cls-row: only row 0 can be the reference, not '%.200s'",
                        value);
      options->cls_row = 1;
      return CLI_OK;
    case CLI_KIND_SEARCH:
      return set_search(options, option, value);
    case CLI_KIND_DEVICE:
      return set_device(options, option, value);
    case CLI_KIND_GRID:
      return set_grid(options, option, value);
    case CLI_KIND_LIST:
      options->num_batches =
          split_numbers(value, ',', (int64_t)option->high, options->batches, CLI_MAX_BATCHES);
      return options->num_batches > 0 ? CLI_OK : bad(option, value, "a list like 1,8,64");
  }
  return cli_fail(CLI_USAGE, "%s: cannot be set", option->name);
}
