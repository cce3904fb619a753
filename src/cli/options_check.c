/* SPDX-License-Identifier: Apache-2.0 */
/* options_check: which options go together. A parameter that nothing reads is wrong usage: it was
 * meant to change the result, and would not. */
#include <string.h>

#include "options.h"

static int required(const cli_options *options, const char *name) {
  if (cli_option_given(options, name)) return CLI_OK;
  return cli_fail(CLI_USAGE, "%s: is required", name);
}

/* The first of `names` (up to a NULL) that was given, or NULL. */
static const char *first_given(const cli_options *options, const char *const *names) {
  for (; *names != NULL; names++)
    if (cli_option_given(options, *names)) return *names;
  return NULL;
}

/* ---------------------------------------------------------------------------------- the rule -- */

/* The options that only some detectors read. One that a single detector reads chooses it. */
static const struct {
  const char *name;
  uint32_t use;
} parameters[] = {{"--k", TC_USES_K},           {"--ratio", TC_USES_RATIO},
                  {"--percent", TC_USES_RATIO}, {"--rounding", TC_USES_RATIO},
                  {"--tau", TC_USES_TAU},       {"--lambda", TC_USES_LAMBDA},
                  {"--mass", TC_USES_MASS},     {"--window", TC_USES_WINDOW},
                  {"--search", TC_USES_SEARCH}};
#define PARAMETERS (sizeof parameters / sizeof parameters[0])

/* The only detector that reads `use`; 0 where there are several. */
static int32_t only_reader(uint32_t use) {
  int32_t found = 0;
  for (const cli_word *w = cli_detector_words; w->text != NULL; w++) {
    if (!(cli_detector_uses(w->value) & use)) continue;
    if (found != 0) return 0;
    found = w->value;
  }
  return found;
}

/* "otsu, chord or gap": the detectors that read `use`. */
static const char *readers(uint32_t use, char text[128]) {
  size_t used = 0;
  int left = 0;
  for (const cli_word *w = cli_detector_words; w->text != NULL; w++)
    left += (cli_detector_uses(w->value) & use) != 0;
  text[0] = '\0';
  for (const cli_word *w = cli_detector_words; w->text != NULL && used < 128; w++) {
    if (!(cli_detector_uses(w->value) & use)) continue;
    used += (size_t)snprintf(text + used, 128 - used, "%s%s", w->text,
                             --left > 1  ? ", "
                             : left == 1 ? " or "
                                         : "");
  }
  return text;
}

/* Finds the detector; no parameter of another one may be left over. */
static int choose_detector(cli_options *options) {
  const char *chosen_by = NULL;
  char text[128];
  const bool named = cli_option_given(options, "--detector");
  for (size_t i = 0; i < PARAMETERS && !named; i++) {
    const int32_t reader = only_reader(parameters[i].use);
    if (reader == 0 || !cli_option_given(options, parameters[i].name)) continue;
    if (chosen_by != NULL && reader != options->rule.detector)
      return cli_fail(CLI_USAGE, "%s: chooses the detector %s, but %s chooses %s; give only one",
                      parameters[i].name, tailcut_detector_name(reader), chosen_by,
                      tailcut_detector_name(options->rule.detector));
    if (chosen_by == NULL) chosen_by = parameters[i].name;
    options->rule.detector = reader;
  }
  const int32_t detector = options->rule.detector;
  for (size_t i = 0; i < PARAMETERS; i++) {
    if (!cli_option_given(options, parameters[i].name) ||
        (cli_detector_uses(detector) & parameters[i].use))
      continue;
    return cli_fail(CLI_USAGE, "%s: is not used by the detector %s%s%s; it is for %s",
                    parameters[i].name, tailcut_detector_name(detector),
                    chosen_by != NULL ? ", which is chosen by " : "",
                    chosen_by != NULL ? chosen_by : "", readers(parameters[i].use, text));
  }
  return CLI_OK;
}

/* RATIO takes a share or a percentage, and the rounding has to fit it. */
static int check_ratio(cli_options *options) {
  const bool percent = cli_option_given(options, "--percent");
  if (percent && cli_option_given(options, "--ratio"))
    return cli_fail(CLI_USAGE, "--percent: cannot be combined with --ratio");
  if (percent && !cli_option_given(options, "--rounding"))
    options->rule.rounding = TAILCUT_DROP_PERCENT;
  const bool wants_percent = options->rule.rounding == TAILCUT_DROP_PERCENT;
  const char *rounding = cli_word_text(cli_rounding_words, options->rule.rounding);
  if (percent && !wants_percent)
    return cli_fail(CLI_USAGE, "--percent: is rounded by drop-percent, not by --rounding %s",
                    rounding);
  if (!percent && wants_percent)
    return cli_fail(CLI_USAGE, "--percent: is required by --rounding drop-percent%s",
                    cli_option_given(options, "--ratio") ? ", in place of --ratio" : "");
  if (!percent && !cli_option_given(options, "--ratio"))
    return cli_fail(CLI_USAGE, "--ratio: is required by the detector ratio (or --percent)");
  return CLI_OK;
}

static int check_rule(cli_options *options) {
  const int status = choose_detector(options);
  if (status != CLI_OK) return status;
  const tailcut_rule *rule = &options->rule;
  if (rule->detector == TAILCUT_RATIO) {
    const int ratio = check_ratio(options);
    if (ratio != CLI_OK) return ratio;
  }
  const char *needs = rule->detector == TAILCUT_TOPK        ? "--k"
                      : rule->detector == TAILCUT_THRESHOLD ? "--tau"
                                                            : NULL;
  if (needs != NULL && !cli_option_given(options, needs))
    return cli_fail(CLI_USAGE, "%s: is required by the detector %s", needs,
                    tailcut_detector_name(rule->detector));
  if (rule->max_keep >= 0 && rule->max_keep < rule->min_keep)
    return cli_fail(CLI_USAGE, "--max-keep: %d is below --min-keep, which is %d%s",
                    (int)rule->max_keep, (int)rule->min_keep,
                    cli_option_given(options, "--min-keep") ? "" : " where it is not given");
  return CLI_OK;
}

/* --------------------------------------------------------------------------- of each command -- */

static const char *const references[] = {"--cls", "--cls-row", "--cls-mean",
                                         "--lag", "--novelty", NULL};

static int check_merge(cli_options *options) {
  static const char *const of_merge[] = {"--merge-window", "--sizes-in", "--sizes", "--joins",
                                         NULL};
  if (options->command != CLI_PRUNE) return CLI_OK;
  options->merges = cli_option_given(options, "--merge");
  const char *const unused = options->merges ? NULL : first_given(options, of_merge);
  if (unused != NULL) return cli_fail(CLI_USAGE, "%s: needs --merge", unused);
  if (options->novelty == 0 || options->merge_window == 0 ||
      options->novelty == options->merge_window)
    return CLI_OK;
  return cli_fail(CLI_USAGE, "--merge-window: %d, but --novelty has windows of %d",
                  (int)options->merge_window, (int)options->novelty);
}

static int check_reference(cli_options *options) {
  const char *const first = first_given(options, references);
  if (first == NULL)
    return cli_fail(
        CLI_USAGE, "--cls: one of --cls, --cls-row 0, --cls-mean, --lag and --novelty is required");
  const char *const *rest = references;
  while (*rest != first) rest++;
  const char *const second = first_given(options, rest + 1);
  if (second != NULL)
    return cli_fail(CLI_USAGE, "%s: cannot be combined with %s; there is one reference", second,
                    first);
  if (!cli_option_given(options, "--prefix")) options->prefix = options->cls_row;
  if (options->prefix < options->cls_row)
    return cli_fail(CLI_USAGE, "--prefix: 0, but the row of --cls-row is no candidate: at least 1");
  return check_merge(options);
}

static int check_inspect(cli_options *options) {
  static const char *const of_tokens[] = {"--cls",     "--cls-row", "--cls-mean", "--lag",
                                          "--novelty", "--prefix",  "--dtype",    NULL};
  if (options->scores == NULL && options->tokens == NULL)
    return cli_fail(CLI_USAGE, "--tokens: --tokens or --scores is required");
  if (options->scores != NULL && options->tokens != NULL)
    return cli_fail(CLI_USAGE, "--scores: cannot be combined with --tokens");
  if (options->tokens != NULL) {
    if (cli_option_given(options, "--scale"))
      return cli_fail(CLI_USAGE, "--scale: is for --scores; cosines of --tokens need none");
    return check_reference(options);
  }
  const char *const unused = first_given(options, of_tokens);
  if (unused != NULL) return cli_fail(CLI_USAGE, "%s: is for --tokens, not for --scores", unused);
  return CLI_OK;
}

static int check_relevance(const cli_options *options) {
  static const char *const of_attention[] = {
      "--q", "--keys", "--causal", "--last-query", "--head-reduction", "--query-reduction", NULL};
  if (options->relevance != TAILCUT_ATTENTION) {
    const char *const unused = first_given(options, of_attention);
    if (unused == NULL) return CLI_OK;
    return cli_fail(CLI_USAGE, "%s: is for --relevance attention, not for %s", unused,
                    cli_word_text(cli_policy_words, options->relevance));
  }
  for (int i = 0; i < 2; i++)
    if (!cli_option_given(options, of_attention[i]))
      return cli_fail(CLI_USAGE, "%s: is required by --relevance attention", of_attention[i]);
  return CLI_OK;
}

static int check_bench(const cli_options *options) {
  static const char *const of_sizes[] = {"--filter", "--seconds",          "--batch", "--dtype",
                                         "--dim",    "--tokens-per-image", "--json",  NULL};
  const char *const unused = options->busy ? first_given(options, of_sizes) : NULL;
  if (unused == NULL) return CLI_OK;
  return cli_fail(CLI_USAGE, "%s: is not used by --busy, which has its own case", unused);
}

static int check_command(cli_options *options) {
  int status = CLI_OK;
  switch (options->command) {
    case CLI_PRUNE:
      status = required(options, "--tokens");
      return status == CLI_OK ? check_reference(options) : status;
    case CLI_CUT:
      return required(options, "--scores");
    case CLI_PRUNE_SEQ:
      if (status == CLI_OK) status = required(options, "--hidden");
      if (status == CLI_OK) status = required(options, "--roles");
      return status == CLI_OK ? check_relevance(options) : status;
    case CLI_INSPECT:
      return check_inspect(options);
    case CLI_VIEW:
      if (status == CLI_OK) status = required(options, "--image");
      if (status == CLI_OK) status = required(options, "--grid");
      if (status == CLI_OK) status = required(options, "--kept");
      if (status == CLI_OK) status = required(options, "--out");
      if (status == CLI_OK && cli_option_given(options, "--segment"))
        status = required(options, "--counts");
      return status;
    case CLI_BENCH:
      return check_bench(options);
    default:
      return CLI_OK;
  }
}

/* No file is written that is read, or written twice; what goes to stdout goes there alone. */
static int check_files(cli_options *options) {
  cli_file files[CLI_MAX_OPTIONS];
  int count = 0;
  for (int i = 0; i < cli_option_count; i++) {
    const cli_option *option = &cli_option_table[i];
    if (!options->seen[i] || (option->kind != CLI_KIND_INPUT && option->kind != CLI_KIND_OUTPUT))
      continue;
    cli_file *file = &files[count++];
    file->option = option->name;
    file->output = option->kind == CLI_KIND_OUTPUT;
    memcpy(&file->path, (const char *)options + option->offset, sizeof file->path);
    if (!file->output || strcmp(file->path, "-") != 0) continue;
    options->to_stdout = true;
    if (options->json)
      return cli_fail(CLI_USAGE, "--json: cannot be combined with %s -, both write to stdout",
                      file->option);
  }
  return cli_files_check(files, count);
}

int cli_options_check(cli_options *options) {
  int status = CLI_OK;
  if (options->command & (CLI_PRUNE | CLI_CUT | CLI_PRUNE_SEQ | CLI_INSPECT))
    status = check_rule(options);
  if (status == CLI_OK) status = check_command(options);
  if (status == CLI_OK && options->group_counts != NULL && options->groups == NULL)
    return cli_fail(CLI_USAGE, "--group-counts: needs --groups");
  return status == CLI_OK ? check_files(options) : status;
}
