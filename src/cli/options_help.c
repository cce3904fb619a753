/* SPDX-License-Identifier: Apache-2.0 */
/* options_help: the help texts, from the tables that the parser reads. */
#include "options.h"

static const struct {
  int command;
  const char *usage, *about;
} texts[] = {
    {CLI_PRUNE,
     "prune --tokens X.npy (--cls C.npy | --cls-row 0 | --cls-mean | --lag n | --novelty W)\n"
     "      [options]",
     "Scores visual tokens and cuts the tail, which leaves, or is merged into what is kept."},
    {CLI_CUT, "cut --scores S.npy [options]", "Cuts the tail of scores from anywhere."},
    {CLI_PRUNE_SEQ, "prune-seq --hidden H.npy --roles R.npy [--relevance POLICY] [options]",
     "Prunes the candidates of a sequence by their relevance to its query rows."},
    {CLI_INSPECT, "inspect (--tokens X.npy ... | --scores S.npy) [--out CURVE.svg] [options]",
     "Prints and draws a sorted score curve with its cut."},
    {CLI_VIEW, "view --image I --grid HxW --kept KEPT.npy --out V.svg",
     "Draws which patches of an image stay."},
    {CLI_INFO, "info [options]",
     "Says what this build has and what runs on this machine (TAILCUT_SIMD counts)."},
    {CLI_BENCH, "bench [options]",
     "Times every step on synthetic tokens, after checking what it computes."},
};
#define TEXTS (sizeof texts / sizeof texts[0])

static void print_program(void) {
  puts("tailcut prunes the visual tokens of multimodal language models.\n");
  for (size_t i = 0; i < TEXTS; i++)
    printf("  tailcut %s\n      %s\n", texts[i].usage, texts[i].about);
  puts(
      "  tailcut --version\n\n"
      "'tailcut help COMMAND', or 'tailcut COMMAND --help', lists the options of a command.\n"
      "Exit status: 0; 1 for bad input or a failure at run time; 2 for wrong usage, each with one\n"
      "line on standard error. Outputs appear whole or not at all.");
}

static void print_line(const char *name, const char *brief, const char *value, const char *help) {
  char left[64];
  snprintf(left, sizeof left, "%s%s%s%s%s", name, brief != NULL ? ", " : "",
           brief != NULL ? brief : "", value != NULL ? " " : "", value != NULL ? value : "");
  printf("  %-26s %s\n", left, help);
}

static void print_section(int command, cli_section section, const char *title) {
  bool any = false;
  for (int i = 0; i < cli_option_count; i++) {
    const cli_option *o = &cli_option_table[i];
    if (!(o->commands & command) || o->section != section) continue;
    if (!any) printf("\n%s\n", title);
    any = true;
    print_line(o->name, o->brief, o->value, o->help);
  }
}

/* What the tables of `./run bench --quality` advise (README, "Which rule to take"). */
static void print_advice(void) {
  puts(
      "\nWhich rule: where later attention can add ln(size) to a key's logits,\n"
      "    --novelty 64 --merge cos4 --ratio 0.22 --sizes Z.npy\n"
      "keeps an encoder closest to itself. Where it cannot, the same without --sizes in an\n"
      "encoder's first half; behind that no score is better than a grid, and similarity to CLS\n"
      "alone is worse than chance (--spread 0.5 repairs much of it). Similarity, the default,\n"
      "lets the image say how many tokens stay. All this is fidelity of an encoder, measured by\n"
      "./run bench --quality, and not accuracy of a language model.");
}

/* Which options a detector reads, in words. */
static void print_detectors(void) {
  static const struct {
    uint32_t use;
    const char *text;
  } uses[] = {{TC_USES_K, "--k"},          {TC_USES_RATIO, "--ratio or --percent, --rounding"},
              {TC_USES_TAU, "--tau"},      {TC_USES_LAMBDA, "--lambda"},
              {TC_USES_MASS, "--mass"},    {TC_USES_WINDOW, "--window"},
              {TC_USES_SEARCH, "--search"}};
  puts(
      "\nDetectors: what each keeps, and what it reads besides --order, --min-keep, --max-keep,\n"
      "--round-to and --spread. An option that one detector reads chooses it; one that the\n"
      "detector does not read is refused. topk, ratio and threshold have no default for theirs.");
  for (const cli_word *w = cli_detector_words; w->text != NULL; w++) {
    const char *before = " (";
    printf("  %-10s %s", w->text, cli_detector_keeps(w->value));
    for (size_t i = 0; i < sizeof uses / sizeof uses[0]; i++) {
      if (!(cli_detector_uses(w->value) & uses[i].use)) continue;
      printf("%s%s", before, uses[i].text);
      before = ", ";
    }
    puts(before[0] == ',' ? ")" : "");
  }
}

void cli_print_help(int command) {
  if (command == 0) {
    print_program();
    return;
  }
  for (size_t i = 0; i < TEXTS; i++)
    if (texts[i].command == command) printf("tailcut %s\n%s\n", texts[i].usage, texts[i].about);
  print_section(command, CLI_SECTION_INPUT, "What is read");
  print_section(command, CLI_SECTION_RULE, "How many are kept");
  print_section(command, CLI_SECTION_RUN, "Where it runs, and what it writes");
  print_line("--help", "-h", NULL, "print this text");
  if (command & (CLI_PRUNE | CLI_CUT | CLI_PRUNE_SEQ | CLI_INSPECT)) print_detectors();
  if (command == CLI_PRUNE) print_advice();
}
