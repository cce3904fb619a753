/* SPDX-License-Identifier: Apache-2.0 */
/* options.h: what the files of the options share. One table (options_table.c) says what there is:
 * the parser (options.c), the values (options_value.c), what goes together (options_check.c) and
 * --help (options_help.c) read it. */
#ifndef TAILCUT_CLI_OPTIONS_H_
#define TAILCUT_CLI_OPTIONS_H_

#include "cli.h"
#include "detectors.h"

/* A word that an option takes, and what it means. Lists end with a NULL. */
typedef struct cli_word {
  const char *text;
  int32_t value;
} cli_word;

typedef enum cli_kind {
  CLI_KIND_FLAG,
  CLI_KIND_INPUT, /* a file that is read */
  CLI_KIND_OUTPUT,
  CLI_KIND_TEXT,
  CLI_KIND_INT,
  CLI_KIND_DOUBLE,
  CLI_KIND_FLOAT,
  CLI_KIND_WORD,
  CLI_KIND_CLS_ROW,
  CLI_KIND_SEARCH,
  CLI_KIND_DEVICE,
  CLI_KIND_GRID,
  CLI_KIND_LIST
} cli_kind;

/* Where --help lists an option. */
typedef enum cli_section { CLI_SECTION_INPUT, CLI_SECTION_RULE, CLI_SECTION_RUN } cli_section;

typedef struct cli_option {
  const char *name, *brief; /* "--out" and "-o"; brief is NULL for most */
  const char *value;        /* placeholder for --help, NULL for flags */
  int commands;             /* CLI_PRUNE | ... */
  cli_section section;
  cli_kind kind;
  size_t offset;    /* in cli_options; not where a kind sets several members */
  double low, high; /* INT, DOUBLE: inclusive */
  const cli_word *words;
  const char *help;
} cli_option;

extern const cli_option cli_option_table[];
extern const int cli_option_count;
extern const cli_word cli_detector_words[], cli_rounding_words[], cli_policy_words[];

/* The word that means `value`; "unknown" for no such value. */
const char *cli_word_text(const cli_word *words, int32_t value);
/* The row of `name` (or its short form) for `command`, -1 when that command has none. */
int cli_option_find(const char *name, size_t length, int command);
/* Whether the user gave the option of that name. */
bool cli_option_given(const cli_options *options, const char *name);
/* Sets the members that `option` stands for. */
int cli_option_set(cli_options *options, const cli_option *option, const char *value);
/* What can be said without a file about all options together; completes the rule. */
int cli_options_check(cli_options *options);

/* ------------------------------------------------------------------------------ detectors.c -- */

/* Bits of TC_USES_* (detectors.h) for a tailcut_detector; 0 for no detector. */
uint32_t cli_detector_uses(int32_t detector);
/* "k tokens": what it keeps, in words. */
const char *cli_detector_keeps(int32_t detector);

/* -------------------------------------------------------------------------------- suggest.c -- */

/* The word nearest to one that is none. Start from {text, length}; offer every candidate. */
typedef struct cli_nearest {
  const char *text;
  size_t length;
  const char *found; /* NULL while nothing is near */
  int distance;
} cli_nearest;

void cli_nearest_offer(cli_nearest *nearest, const char *candidate);
/* "; did you mean 'x'?", or "" when nothing was near. */
#define CLI_HINT_TEXT 64
const char *cli_nearest_hint(const cli_nearest *nearest, char text[CLI_HINT_TEXT]);

#endif /* TAILCUT_CLI_OPTIONS_H_ */
