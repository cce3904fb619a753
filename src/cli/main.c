/* SPDX-License-Identifier: Apache-2.0 */
/* main: the `tailcut` command. Dispatch, and the one line that every failure prints. */
#include <stdarg.h>
#include <string.h>

#include "options.h"

static const struct {
  const char *name;
  int command;
  int (*run)(const cli_options *options);
} commands[] = {
    {"prune", CLI_PRUNE, cli_prune},
    {"cut", CLI_CUT, cli_cut},
    {"prune-seq", CLI_PRUNE_SEQ, cli_prune_seq},
    {"inspect", CLI_INSPECT, cli_inspect},
    {"view", CLI_VIEW, cli_view},
    {"info", CLI_INFO, cli_info},
    {"bench", CLI_BENCH, cli_bench},
};
#define COMMANDS (sizeof commands / sizeof commands[0])

/* ---------------------------------------------------------------------------------- messages -- */

/* Length of the valid UTF-8 sequence at p, 0 when there is none. */
static int utf8_length(const unsigned char *p) {
  const int length = p[0] < 0x80 ? 1 : p[0] < 0xC2 ? 0 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
  if (p[0] > 0xF4) return 0;
  for (int i = 1; i < length; i++)
    if ((p[i] & 0xC0) != 0x80) return 0;
  if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) ||
      (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F))
    return 0;
  return length;
}

void cli_clean_line(char *line) {
  for (unsigned char *p = (unsigned char *)line; *p != '\0';) {
    const int length = utf8_length(p);
    if (length == 0 || *p < ' ' || *p == 0x7F || (*p == 0xC2 && p[1] < 0xA0)) *p = '?';
    p += length > 0 ? length : 1;
  }
}

int cli_fail(int status, const char *format, ...) {
  char line[8192];
  va_list args;
  va_start(args, format);
  vsnprintf(line, sizeof line, format, args);
  va_end(args);
  cli_clean_line(line); /* one line of valid text, whatever bytes a file name has */
  cli_progress_end();
  fprintf(stderr, "tailcut: %s\n", line);
  return status;
}

/* ---------------------------------------------------------------------------------- dispatch -- */

const char *cli_command_name(int command) {
  for (size_t i = 0; i < COMMANDS; i++)
    if (commands[i].command & command) return commands[i].name;
  return "tailcut";
}

/* A word as a message names it: an empty one would not be seen. */
static const char *named(const char *word) { return word[0] != '\0' ? word : "''"; }

static int unknown_command(const char *word) {
  static const char *const others[] = {"help", "--help", "--version"};
  cli_nearest nearest = {word, strlen(word), NULL, 0};
  char hint[CLI_HINT_TEXT];
  for (size_t i = 0; i < COMMANDS; i++) cli_nearest_offer(&nearest, commands[i].name);
  for (size_t i = 0; i < 3; i++) cli_nearest_offer(&nearest, others[i]);
  return cli_fail(CLI_USAGE, "%.200s: unknown command%s", named(word),
                  nearest.found ? cli_nearest_hint(&nearest, hint) : "; see 'tailcut help'");
}

/* The row of a command's name, -1 for none. */
static int find_command(const char *word) {
  for (size_t i = 0; i < COMMANDS; i++)
    if (strcmp(word, commands[i].name) == 0) return (int)i;
  return -1;
}

static int print_help(int argc, char **argv) {
  if (argc > 1) return cli_fail(CLI_USAGE, "%.200s: unexpected argument", named(argv[1]));
  const int row = argc > 0 ? find_command(argv[0]) : -1;
  if (argc > 0 && row < 0 && strcmp(argv[0], "help") != 0) return unknown_command(argv[0]);
  cli_print_help(row >= 0 ? commands[row].command : 0);
  return cli_flush_stdout();
}

static int print_version(int argc, char **argv) {
  const int v = (int)tailcut_version();
  if (argc > 0) return cli_fail(CLI_USAGE, "%.200s: unexpected argument", named(argv[0]));
  printf("tailcut %d.%d.%d\n", v / 10000, v / 100 % 100, v % 100);
  return cli_flush_stdout();
}

static int run(int argc, char **argv) {
  if (argc < 2) return cli_fail(CLI_USAGE, "no command given; see 'tailcut help'");
  const char *word = argv[1];
  if (strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
    return print_help(argc - 2, argv + 2);
  if (strcmp(word, "--version") == 0) return print_version(argc - 2, argv + 2);
  const int row = find_command(word);
  if (row < 0) return unknown_command(word);
  cli_options options;
  const int status = cli_options_parse(&options, commands[row].command, argc - 2, argv + 2);
  if (status != CLI_OK) return status;
  if (options.help) return print_help(1, argv + 1);
  return commands[row].run(&options);
}

int main(int argc, char **argv) {
  cli_guard_streams();
  cli_install_signal_handlers();
  return run(argc, argv);
}
