/* SPDX-License-Identifier: Apache-2.0 */
/* options: reads the arguments of a command.
 *
 * A value is the next argument (or what follows '='), and may begin with '-' unless it is the name
 * of an option. An option given twice, unknown to its command, or out of range is wrong usage. */
#include <string.h>

#include "options.h"

static void set_defaults(cli_options *options, int command) {
  const tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  memset(options, 0, sizeof *options);
  options->command = command;
  options->rule = rule;
  options->relevance = TAILCUT_MEAN_COSINE;
  options->head_reduction = options->query_reduction = TAILCUT_REDUCE_MEAN;
  options->device_kind = TAILCUT_DEVICE_CPU;
  options->threads = command == CLI_BENCH ? 0 : 1;
  options->repeat = 1;
}

/* An argument that is no option of the command: says what is near, or which command has it. */
static int unknown(const char *argument, size_t length, int command) {
  cli_nearest nearest = {argument, length, NULL, 0};
  char hint[CLI_HINT_TEXT];
  if (argument[0] != '-' || argument[1] == '\0')
    return cli_fail(CLI_USAGE, argument[0] != '\0' ? "%.200s: %s" : "'%s': %s", argument,
                    "unexpected argument; options begin with '--'");
  const int elsewhere = cli_option_find(argument, length, ~0);
  if (elsewhere >= 0)
    return cli_fail(CLI_USAGE, "%.200s: is an option of %s, not of %s", argument,
                    cli_command_name(cli_option_table[elsewhere].commands),
                    cli_command_name(command));
  for (int i = 0; i < cli_option_count; i++)
    if (cli_option_table[i].commands & command)
      cli_nearest_offer(&nearest, cli_option_table[i].name);
  cli_nearest_offer(&nearest, "--help");
  return cli_fail(CLI_USAGE, "%.200s: unknown option%s", argument,
                  cli_nearest_hint(&nearest, hint));
}

static bool is_file(int row) {
  return cli_option_table[row].kind == CLI_KIND_INPUT ||
         cli_option_table[row].kind == CLI_KIND_OUTPUT;
}

static bool is_npy_name(const char *value) {
  const size_t length = strlen(value);
  return length > 4 && strcmp(value + length - 4, ".npy") == 0;
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
    int row = cli_option_find(argument, length, command);
    if (row < 0) return unknown(argument, length, command);
    const char *value = NULL;
    if (cli_option_table[row].kind == CLI_KIND_FLAG) {
      if (equals != NULL)
        return cli_fail(CLI_USAGE, "%s: takes no value", cli_option_table[row].name);
    } else if (equals != NULL) {
      value = equals + 1;
    } else if (++i < argc) {
      value = argv[i];
      if (cli_option_find(value, strlen(value), command) >= 0)
        return cli_fail(CLI_USAGE, "%s: needs a value, but %s follows%s",
                        cli_option_table[row].name, value,
                        is_file(row) ? "; a file of that name is ./ and the name" : "");
    } else {
      return cli_fail(CLI_USAGE, "%s: needs a value", cli_option_table[row].name);
    }
    /* q and k are what attention has: --k takes the keys as well, which no count looks like. */
    if (command == CLI_PRUNE_SEQ && strcmp(cli_option_table[row].name, "--k") == 0 &&
        is_npy_name(value))
      row = cli_option_find("--keys", 6, command);
    const cli_option *option = &cli_option_table[row];
    if (options->seen[row]) return cli_fail(CLI_USAGE, "%s: is given twice", option->name);
    options->seen[row] = true;
    const int status = cli_option_set(options, option, value);
    if (status != CLI_OK) return status;
  }
  return cli_options_check(options);
}
