/* SPDX-License-Identifier: Apache-2.0 */
/* options: one table of every option, read by the parser and by --help.
 *
 * A value is always the next argument (or what follows '='), so it may begin with '-'. An option
 * given twice, unknown to its command, or out of range is wrong usage. */
#include <math.h>
#include <string.h>

#include "cli.h"

typedef struct word {
  const char *text;
  int32_t value;
} word;

static const word detectors[] = {{"otsu", TAILCUT_OTSU},
                                 {"chord", TAILCUT_CHORD},
                                 {"gap", TAILCUT_GAP},
                                 {"curvature", TAILCUT_CURVATURE},
                                 {"iqr", TAILCUT_IQR},
                                 {"mean", TAILCUT_MEAN},
                                 {"mass", TAILCUT_MASS},
                                 {"threshold", TAILCUT_THRESHOLD},
                                 {"topk", TAILCUT_TOPK},
                                 {"ratio", TAILCUT_RATIO},
                                 {NULL, 0}};
static const word dtypes[] = {
    {"f16", TAILCUT_F16}, {"bf16", TAILCUT_BF16}, {"f32", TAILCUT_F32}, {NULL, 0}};
static const word scales[] = {
    {"auto", TAILCUT_SCALE_AUTO}, {"unit", TAILCUT_SCALE_UNIT}, {NULL, 0}};
static const word policies[] = {
    {"mean-cosine", TAILCUT_MEAN_COSINE}, {"max-cosine", TAILCUT_MAX_COSINE}, {NULL, 0}};

typedef enum kind {
  FLAG,
  PATH,
  INT,
  DOUBLE,
  FLOAT,
  WORD,
  CLS_ROW,
  SEARCH,
  DEVICE,
  GRID,
  LIST
} kind;

typedef struct row {
  const char *name;
  const char *value; /* placeholder for --help, NULL for flags */
  int commands;
  kind kind;
  size_t offset;
  double low, high; /* INT, DOUBLE: inclusive */
  const word *words;
  const char *help;
} row;

#define AT(member) offsetof(cli_options, member)
#define CURVES (CLI_PRUNE | CLI_CUT | CLI_PRUNE_SEQ | CLI_INSPECT)
#define WRITERS (CLI_PRUNE | CLI_CUT | CLI_PRUNE_SEQ)
#define ROWS (CLI_PRUNE | CLI_PRUNE_SEQ | CLI_INSPECT)
#define BIG 2147483647.0

static const row table[] = {
    {"--tokens", "X.npy", CLI_PRUNE | CLI_INSPECT, PATH, AT(tokens), 0, 0, NULL,
     "token features, [N,D], [B,N,D] or [total,D]"},
    {"--hidden", "H.npy", CLI_PRUNE_SEQ, PATH, AT(hidden), 0, 0, NULL,
     "hidden states, [N,D], [B,N,D] or [total,D]"},
    {"--roles", "R.npy", CLI_PRUNE_SEQ, PATH, AT(roles), 0, 0, NULL,
     "uint8 role per row: 1 candidate, 2 query, 3 both, 0 always kept"},
    {"--cls", "C.npy", CLI_PRUNE | CLI_INSPECT, PATH, AT(cls), 0, 0, NULL,
     "reference vector, [D] or one per segment, [B,D]"},
    {"--cls-row", "0", CLI_PRUNE | CLI_INSPECT, CLS_ROW, AT(cls_row), 0, 0, NULL,
     "the first row of each segment is the reference"},
    {"--cls-mean", NULL, CLI_PRUNE | CLI_INSPECT, FLAG, AT(cls_mean), 0, 0, NULL,
     "the mean direction of each segment is the reference"},
    {"--scores", "S.npy", CLI_CUT | CLI_INSPECT, PATH, AT(scores), 0, 0, NULL,
     "float32 scores to cut, [N], [B,N] or [total]"},
    {"--scale", "auto|unit", CLI_CUT | CLI_INSPECT, WORD, AT(rule.scale), 0, 0, scales,
     "scores of any size, or cosines (auto)"},
    {"--relevance", "mean-cosine|max-cosine", CLI_PRUNE_SEQ, WORD, AT(relevance), 0, 0, policies,
     "how rows are compared with the queries (mean-cosine)"},
    {"--cu-seqlens", "S.npy", CURVES, PATH, AT(cu_seqlens), 0, 0, NULL,
     "int32 offsets [B+1] of segments of different lengths"},
    {"--dtype", "f16|bf16|f32", ROWS | CLI_BENCH, WORD, AT(dtype), 0, 0, dtypes,
     "type of the features; bf16 travels as uint16"},
    {"--detector", "NAME", CURVES, WORD, AT(rule.detector), 0, 0, detectors,
     "otsu|chord|gap|curvature|iqr|mean|mass|threshold|topk|ratio (otsu)"},
    {"--k", "n", CURVES, INT, AT(rule.k), 1, BIG, NULL, "topk: tokens kept"},
    {"--ratio", "r", CURVES, DOUBLE, AT(rule.ratio), 0, 1, NULL, "ratio: share kept, 0..1"},
    {"--tau", "t", CURVES, FLOAT, AT(rule.tau), 0, 0, NULL, "threshold: least score kept"},
    {"--lambda", "l", CURVES, DOUBLE, AT(rule.lambda), -HUGE_VAL, HUGE_VAL, NULL,
     "mean: standard deviations above the mean (1)"},
    {"--mass", "f", CURVES, DOUBLE, AT(rule.mass), 5e-324, 1, NULL,
     "mass: share of the mass kept, above 0 to 1 (0.9)"},
    {"--window", "w", CURVES, INT, AT(rule.window), 0, BIG, NULL,
     "curvature: ranks on each side, 0 means N/16 (0)"},
    {"--search", "lo:hi", CURVES, SEARCH, 0, 0, 0, NULL,
     "shares of the curve that are searched (0:1)"},
    {"--min-keep", "n", CURVES, INT, AT(rule.min_keep), 0, BIG, NULL, "keep at least n (1)"},
    {"--max-keep", "n", CURVES, INT, AT(rule.max_keep), 0, BIG, NULL, "keep at most n (all)"},
    {"--round-to", "m", CURVES, INT, AT(rule.round_to), 1, BIG, NULL,
     "round up to a multiple of m (1)"},
    {"--spread", "f", CURVES, DOUBLE, AT(rule.spread), 0, 1, NULL,
     "share of the kept tokens taken evenly from the tail (0)"},
    {"--segment", "b", CLI_INSPECT, INT, AT(segment), 0, BIG, NULL,
     "the segment that is drawn (0)"},
    {"--image", "I", CLI_VIEW, PATH, AT(image), 0, 0, NULL, "PNG or JPEG, embedded unchanged"},
    {"--grid", "HxW", CLI_VIEW, GRID, 0, 0, 0, NULL, "rows x columns of patches"},
    {"--kept", "KEPT.npy", CLI_VIEW, PATH, AT(kept), 0, 0, NULL,
     "kept patches as prune wrote them"},
    {"--tokens-per-image", "n", CLI_BENCH, INT, AT(tokens_per_image), 1, 1048576, NULL,
     "one size instead of the list: tokens of an image (576)"},
    {"--dim", "d", CLI_BENCH, INT, AT(dim), 1, 65536, NULL, "the same: channels (1024)"},
    {"--batch", "n,n,...", CLI_BENCH, LIST, 0, 1, 65536, NULL, "the same: images at once (1,8,64)"},
    {"--device", "cpu|cuda[:i]", CURVES | CLI_BENCH, DEVICE, 0, 0, 0, NULL, "where it runs (cpu)"},
    {"--threads", "n", CURVES | CLI_BENCH, INT, AT(threads), 0, 1024, NULL,
     "CPU threads, 0 means all cores (0)"},
    {"--repeat", "n", WRITERS, INT, AT(repeat), 1, 1000000, NULL, "runs that are timed (1)"},
    {"--out", "OUT.npy", CLI_PRUNE | CLI_PRUNE_SEQ, PATH, AT(out), 0, 0, NULL,
     "kept rows of all segments, [sum k, D]"},
    {"--kept", "KEPT.npy", WRITERS, PATH, AT(kept), 0, 0, NULL,
     "int32 indices inside each segment, [sum k]"},
    {"--counts", "K.npy", WRITERS, PATH, AT(counts), 0, 0, NULL, "int32 kept per segment, [B]"},
    {"--scores", "S.npy", CLI_PRUNE | CLI_PRUNE_SEQ, PATH, AT(scores), 0, 0, NULL,
     "float32 scores in token order"},
    {"--offsets", "CU.npy", WRITERS, PATH, AT(offsets), 0, 0, NULL,
     "int32 offsets of the kept rows, [B+1]"},
    {"--flags", "F.npy", WRITERS, PATH, AT(flags), 0, 0, NULL, "int32 flags per segment, [B]"},
    {"-o", "OUT.svg", CLI_INSPECT | CLI_VIEW, PATH, AT(svg), 0, 0, NULL, "the picture"},
    {"--filter", "NAME", CLI_BENCH, PATH, AT(filter), 0, 0, NULL,
     "only cases whose name contains NAME, as score/64x576x1024/f16 does"},
    {"--quick", NULL, CLI_BENCH, FLAG, AT(quick), 0, 0, NULL, "fewer sizes, shorter"},
    {"--list", NULL, CLI_BENCH, FLAG, AT(list), 0, 0, NULL,
     "print the names of the cases, no more"},
    {"--json", "FILE", CLI_BENCH, PATH, AT(json_file), 0, 0, NULL, "the results as JSON, too"},
    {"--json", NULL, WRITERS, FLAG, AT(json), 0, 0, NULL,
     "print one JSON object on standard output"},
};
#define ROWS_OF_TABLE ((int)(sizeof table / sizeof table[0]))

const char *cli_detector_name(int32_t detector) {
  for (const word *w = detectors; w->text != NULL; w++)
    if (w->value == detector) return w->text;
  return "unknown";
}

static bool given(const cli_options *options, const char *name) {
  for (int i = 0; i < ROWS_OF_TABLE; i++)
    if ((table[i].commands & options->command) && strcmp(table[i].name, name) == 0)
      return (options->seen >> i & 1) != 0;
  return false;
}

/* -------------------------------------------------------------------------------- one value -- */

static int bad(const row *option, const char *value, const char *expected) {
  return cli_fail(CLI_USAGE, "%s: '%.200s' is not %s", option->name, value, expected);
}

static int out_of_range(const row *option, const char *value) {
  if (option->high >= BIG)
    return cli_fail(CLI_USAGE, "%s: '%.200s' is out of range, expected at least %.0f", option->name,
                    value, option->low);
  return cli_fail(CLI_USAGE, "%s: '%.200s' is out of range, expected %s%g to %g", option->name,
                  value, option->kind == DOUBLE && option->low > 0 ? "above " : "",
                  option->low > 0 && option->low < 1e-300 ? 0.0 : option->low, option->high);
}

static int set_search(cli_options *options, const row *option, const char *value) {
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

static int set_device(cli_options *options, const row *option, const char *value) {
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

static int set_value(cli_options *options, const row *option, const char *value) {
  char *at = (char *)options + option->offset;
  int64_t integer;
  double real;
  float single;
  int32_t grid[2];
  switch (option->kind) {
    case FLAG:
      *(int32_t *)(void *)at = 1;
      return CLI_OK;
    case PATH:
      if (value[0] == '\0') return cli_fail(CLI_USAGE, "%s: the file name is empty", option->name);
      *(const char **)(void *)at = value;
      return CLI_OK;
    case INT:
      if (!cli_parse_int(value, &integer)) return bad(option, value, "an integer");
      if (integer < (int64_t)option->low || integer > (int64_t)option->high)
        return out_of_range(option, value);
      *(int32_t *)(void *)at = (int32_t)integer;
      return CLI_OK;
    case DOUBLE:
      if (!cli_parse_double(value, &real)) return bad(option, value, "a finite number");
      if (!(real >= option->low && real <= option->high)) return out_of_range(option, value);
      *(double *)(void *)at = real;
      return CLI_OK;
    case FLOAT:
      if (!cli_parse_float(value, &single)) return bad(option, value, "a finite float32 number");
      *(float *)(void *)at = single;
      return CLI_OK;
    case WORD:
      for (const word *w = option->words; w->text != NULL; w++) {
        if (strcmp(w->text, value) != 0) continue;
        *(int32_t *)(void *)at = w->value;
        return CLI_OK;
      }
      if (option->words == policies && strcmp(value, "attention") == 0)
        return cli_fail(CLI_USAGE,
                        "--relevance: attention needs q and k, which only the library "
                        "takes; use mean-cosine or max-cosine");
      if (option->words == detectors) return bad(option, value, "a detector");
      return bad(option, value, option->value);
    case CLS_ROW:
      if (!cli_parse_int(value, &integer)) return bad(option, value, "an integer");
      if (integer != 0)
        return cli_fail(CLI_USAGE, "--cls-row: only row 0 can be the reference, not '%.200s'",
                        value);
      options->cls_row = 1;
      return CLI_OK;
    case SEARCH:
      return set_search(options, option, value);
    case DEVICE:
      return set_device(options, option, value);
    case GRID:
      if (split_numbers(value, 'x', 1048576, grid, 2) != 2)
        return bad(option, value, "HxW, rows and columns of patches");
      if ((int64_t)grid[0] * grid[1] > 1048576)
        return cli_fail(CLI_USAGE, "--grid: '%.200s' has more than 1048576 patches", value);
      options->grid_rows = grid[0];
      options->grid_columns = grid[1];
      return CLI_OK;
    case LIST:
      options->num_batches =
          split_numbers(value, ',', (int64_t)option->high, options->batches, CLI_MAX_BATCHES);
      return options->num_batches > 0 ? CLI_OK : bad(option, value, "a list like 1,8,64");
  }
  return cli_fail(CLI_USAGE, "%s: cannot be set", option->name);
}

/* ---------------------------------------------------------------------------- all of them -- */

static int required(const cli_options *options, const char *name) {
  if (given(options, name)) return CLI_OK;
  return cli_fail(CLI_USAGE, "%s: is required", name);
}

static int check_rule(const cli_options *options) {
  const tailcut_rule *rule = &options->rule;
  const char *needs = rule->detector == TAILCUT_TOPK        ? "--k"
                      : rule->detector == TAILCUT_RATIO     ? "--ratio"
                      : rule->detector == TAILCUT_THRESHOLD ? "--tau"
                                                            : NULL;
  if (needs != NULL && !given(options, needs))
    return cli_fail(CLI_USAGE, "%s: is required by --detector %s", needs,
                    cli_detector_name(rule->detector));
  if (rule->max_keep >= 0 && rule->max_keep < rule->min_keep)
    return cli_fail(CLI_USAGE, "--max-keep: %d is below --min-keep, which is %d",
                    (int)rule->max_keep, (int)rule->min_keep);
  return CLI_OK;
}

static int check_reference(const cli_options *options) {
  const int n = (options->cls != NULL) + (options->cls_row != 0) + (options->cls_mean != 0);
  if (n == 1) return CLI_OK;
  return cli_fail(CLI_USAGE, "--cls: %s of --cls, --cls-row and --cls-mean is required",
                  n == 0 ? "one" : "only one");
}

static int check_inspect(const cli_options *options) {
  if (options->tokens != NULL && options->scores != NULL)
    return cli_fail(CLI_USAGE, "--scores: cannot be combined with --tokens");
  if (options->tokens == NULL && options->scores == NULL)
    return cli_fail(CLI_USAGE, "--tokens: --tokens or --scores is required");
  if (options->tokens != NULL) {
    if (given(options, "--scale"))
      return cli_fail(CLI_USAGE, "--scale: cannot be combined with --tokens");
    return check_reference(options);
  }
  if (options->cls != NULL || options->cls_row || options->cls_mean || options->dtype != 0)
    return cli_fail(CLI_USAGE, "--scores: takes no reference and no --dtype");
  return CLI_OK;
}

static int check_all(const cli_options *options) {
  static const char *const names[] = {"--out",    "--kept",    "--counts",
                                      "--scores", "--offsets", "--flags"};
  const char *paths[] = {options->out,    options->kept,    options->counts,
                         options->scores, options->offsets, options->flags};
  int status = CLI_OK;
  if (options->command & CURVES) status = check_rule(options);
  if (status != CLI_OK) return status;
  switch (options->command) {
    case CLI_PRUNE:
      if ((status = required(options, "--tokens")) == CLI_OK) status = check_reference(options);
      break;
    case CLI_CUT:
      status = required(options, "--scores");
      paths[3] = NULL; /* an input here */
      break;
    case CLI_PRUNE_SEQ:
      if ((status = required(options, "--hidden")) == CLI_OK) status = required(options, "--roles");
      break;
    case CLI_INSPECT:
      return check_inspect(options);
    case CLI_VIEW:
      if ((status = required(options, "--image")) == CLI_OK) status = required(options, "--grid");
      if (status == CLI_OK) status = required(options, "--kept");
      return status == CLI_OK ? required(options, "-o") : status;
    default:
      return CLI_OK;
  }
  return status == CLI_OK ? cli_outputs_distinct(paths, names, 6) : status;
}

static void set_defaults(cli_options *options, int command) {
  const tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  memset(options, 0, sizeof *options);
  options->command = command;
  options->rule = rule;
  options->relevance = TAILCUT_MEAN_COSINE;
  options->device_kind = TAILCUT_DEVICE_CPU;
  options->repeat = 1;
}

int cli_options_parse(cli_options *options, int command, int argc, char **argv) {
  set_defaults(options, command);
  for (int i = 0; i < argc; i++) {
    const char *argument = argv[i];
    const char *equals = argument[0] == '-' ? strchr(argument, '=') : NULL;
    const size_t length = equals != NULL ? (size_t)(equals - argument) : strlen(argument);
    if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
      options->help = true;
      return CLI_OK;
    }
    int found = 0;
    while (found < ROWS_OF_TABLE &&
           !((table[found].commands & command) && strlen(table[found].name) == length &&
             strncmp(table[found].name, argument, length) == 0))
      found++;
    if (found == ROWS_OF_TABLE)
      return cli_fail(
          CLI_USAGE, argument[0] != '\0' ? "%.200s: %s" : "'%s': %s", argument,
          argument[0] == '-' && argument[1] != '\0' ? "unknown option" : "unexpected argument");
    const row *option = &table[found];
    if (options->seen >> found & 1) return cli_fail(CLI_USAGE, "%s: is given twice", option->name);
    options->seen |= (uint64_t)1 << found;
    const char *value = NULL;
    if (option->kind == FLAG) {
      if (equals != NULL) return cli_fail(CLI_USAGE, "%s: takes no value", option->name);
    } else if (equals != NULL) {
      value = equals + 1;
    } else if (++i < argc) {
      value = argv[i];
    } else {
      return cli_fail(CLI_USAGE, "%s: needs a value", option->name);
    }
    const int status = set_value(options, option, value);
    if (status != CLI_OK) return status;
  }
  return check_all(options);
}

/* ------------------------------------------------------------------------------------ help -- */

static const struct {
  int command;
  const char *usage, *about;
} help[] = {
    {CLI_PRUNE, "prune --tokens X.npy (--cls C.npy | --cls-row 0 | --cls-mean) [options]",
     "Scores visual tokens against a reference vector, cuts the tail, writes what is kept."},
    {CLI_CUT, "cut --scores S.npy [options]", "Cuts the tail of scores from anywhere."},
    {CLI_PRUNE_SEQ, "prune-seq --hidden H.npy --roles R.npy [options]",
     "Prunes the candidates of a sequence by their relevance to its query rows."},
    {CLI_INSPECT, "inspect (--tokens X.npy ... | --scores S.npy) [options]",
     "Prints and draws a sorted score curve with its cut."},
    {CLI_VIEW, "view --image I --grid HxW --kept KEPT.npy -o V.svg",
     "Draws which patches of an image stay."},
    {CLI_INFO, "info", "Says what this build and this machine can do."},
    {CLI_BENCH, "bench [options]",
     "Times every step on synthetic tokens, after checking what it computes."},
};

void cli_print_help(int command) {
  if (command == 0) {
    puts("tailcut prunes the visual tokens of multimodal language models.\n");
    for (size_t i = 0; i < sizeof help / sizeof help[0]; i++)
      printf("  tailcut %s\n      %s\n", help[i].usage, help[i].about);
    puts("  tailcut --version\n\n'tailcut COMMAND --help' lists the options of a command.");
    return;
  }
  for (size_t i = 0; i < sizeof help / sizeof help[0]; i++)
    if (help[i].command == command) printf("tailcut %s\n%s\n\n", help[i].usage, help[i].about);
  for (int i = 0; i < ROWS_OF_TABLE; i++) {
    char name[64];
    if (!(table[i].commands & command)) continue;
    snprintf(name, sizeof name, "%s%s%s", table[i].name, table[i].value ? " " : "",
             table[i].value ? table[i].value : "");
    printf("  %-36s %s\n", name, table[i].help);
  }
  printf("  %-36s %s\n", "--help", "print this text");
}
