/* SPDX-License-Identifier: Apache-2.0 */
/* main: the `tailcut` command. Dispatch, and the one line that every failure prints. */
#include <stdarg.h>
#include <string.h>

#include "cli.h"

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

static int run(int argc, char **argv) {
  if (argc < 2) return cli_fail(CLI_USAGE, "no command given; see 'tailcut --help'");
  const char *word = argv[1];
  if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "--version") == 0) {
    if (argc > 2) return cli_fail(CLI_USAGE, "%.200s: unexpected argument", argv[2]);
    if (strcmp(word, "--version") == 0) {
      const int v = (int)tailcut_version();
      printf("tailcut %d.%d.%d\n", v / 10000, v / 100 % 100, v % 100);
    } else {
      cli_print_help(0);
    }
    return cli_flush_stdout();
  }
  for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
    if (strcmp(word, commands[i].name) != 0) continue;
    cli_options options;
    const int status = cli_options_parse(&options, commands[i].command, argc - 2, argv + 2);
    if (status != CLI_OK) return status;
    if (options.help) {
      cli_print_help(commands[i].command);
      return cli_flush_stdout();
    }
    return commands[i].run(&options);
  }
  return cli_fail(CLI_USAGE, "%.200s: unknown command; see 'tailcut --help'", word);
}

int main(int argc, char **argv) {
  cli_guard_streams();
  cli_install_signal_handlers();
  return run(argc, argv);
}
