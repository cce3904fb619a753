/* SPDX-License-Identifier: Apache-2.0 */
/* options_table: every option of every command, once. */
#include <math.h>
#include <string.h>

#include "options.h"

const cli_word cli_rounding_words[] = {{"ceil", TAILCUT_CEIL},
                                       {"floor", TAILCUT_FLOOR},
                                       {"nearest", TAILCUT_NEAREST},
                                       {"drop-ceil", TAILCUT_DROP_CEIL},
                                       {"drop-trunc", TAILCUT_DROP_TRUNC},
                                       {"drop-percent", TAILCUT_DROP_PERCENT},
                                       {NULL, 0}};
const cli_word cli_policy_words[] = {{"mean-cosine", TAILCUT_MEAN_COSINE},
                                     {"max-cosine", TAILCUT_MAX_COSINE},
                                     {"attention", TAILCUT_ATTENTION},
                                     {NULL, 0}};
static const cli_word reductions[] = {
    {"mean", TAILCUT_REDUCE_MEAN}, {"max", TAILCUT_REDUCE_MAX}, {NULL, 0}};
static const cli_word orders[] = {{"high", TAILCUT_HIGH}, {"low", TAILCUT_LOW}, {NULL, 0}};
static const cli_word powers[] = {
    {"mean", TAILCUT_MERGE_MEAN}, {"cos4", TAILCUT_MERGE_COS4}, {NULL, 0}};
static const cli_word windows[] = {{"64", 64}, {"128", 128}, {"256", 256}, {NULL, 0}};
static const cli_word dtypes[] = {
    {"f16", TAILCUT_F16}, {"bf16", TAILCUT_BF16}, {"f32", TAILCUT_F32}, {NULL, 0}};
static const cli_word scales[] = {
    {"auto", TAILCUT_SCALE_AUTO}, {"unit", TAILCUT_SCALE_UNIT}, {NULL, 0}};

#define AT(member) offsetof(cli_options, member)
#define CURVES (CLI_PRUNE | CLI_CUT | CLI_PRUNE_SEQ | CLI_INSPECT)
#define WRITERS (CLI_PRUNE | CLI_CUT | CLI_PRUNE_SEQ)
#define ROWS (CLI_PRUNE | CLI_PRUNE_SEQ | CLI_INSPECT)
#define VISUAL (CLI_PRUNE | CLI_INSPECT)
#define BIG INT32_MAX

/* One line each: name, value, commands, and what its kind needs. */
#define INPUT(name, value, commands, member, help) \
  { name, NULL, value, commands, CLI_SECTION_INPUT, CLI_KIND_INPUT, AT(member), 0, 0, NULL, help }
#define OUTPUT(name, brief, value, commands, member, help) \
  { name, brief, value, commands, CLI_SECTION_RUN, CLI_KIND_OUTPUT, AT(member), 0, 0, NULL, help }
#define TEXT(name, value, commands, member, help) \
  { name, NULL, value, commands, CLI_SECTION_RUN, CLI_KIND_TEXT, AT(member), 0, 0, NULL, help }
#define FLAG(name, commands, section, member, help) \
  { name, NULL, NULL, commands, CLI_SECTION_##section, CLI_KIND_FLAG, AT(member), 0, 0, NULL, help }
#define INT(name, value, commands, section, member, low, high, help)                               \
  {                                                                                                \
    name, NULL, value, commands, CLI_SECTION_##section, CLI_KIND_INT, AT(member), low, high, NULL, \
        help                                                                                       \
  }
#define REAL(name, value, member, low, high, help)                                             \
  {                                                                                            \
    name, NULL, value, CURVES, CLI_SECTION_RULE, CLI_KIND_DOUBLE, AT(member), low, high, NULL, \
        help                                                                                   \
  }
#define WORD(name, value, commands, section, member, words, help)                               \
  {                                                                                             \
    name, NULL, value, commands, CLI_SECTION_##section, CLI_KIND_WORD, AT(member), 0, 0, words, \
        help                                                                                    \
  }
/* Kinds that know the members they set. */
#define OWN(name, value, commands, section, kind, high, help) \
  { name, NULL, value, commands, CLI_SECTION_##section, CLI_KIND_##kind, 0, 1, high, NULL, help }

const cli_option cli_option_table[] = {
    /* What is read, and how. */
    INPUT("--tokens", "X.npy", VISUAL, tokens, "token features, [N,D], [B,N,D] or [total,D]"),
    INPUT("--hidden", "H.npy", CLI_PRUNE_SEQ, hidden, "hidden states, [N,D], [B,N,D] or [total,D]"),
    INPUT("--roles", "R.npy", CLI_PRUNE_SEQ, roles,
          "uint8 per row, the sum of 1 candidate, 2 query, 4 absent; 0: always kept"),
    INPUT("--cls", "C.npy", VISUAL, cls, "reference vector, [D] or one per segment, [B,D]"),
    OWN("--cls-row", "0", VISUAL, INPUT, CLS_ROW, 0,
        "the first row of each segment is the reference"),
    FLAG("--cls-mean", VISUAL, INPUT, cls_mean,
         "the mean direction of each segment is the reference"),
    INT("--lag", "n", VISUAL, INPUT, lag, 1, BIG,
        "each candidate is compared with the n-th before it (n: tokens of a frame)"),
    WORD("--novelty", "W", VISUAL, INPUT, novelty, windows,
         "no reference: what differs from the rest of its window of W (64, 128 or 256)"),
    INT("--prefix", "p", VISUAL, INPUT, prefix, 0, TAILCUT_MAX_SEGMENT_TOKENS,
        "the first p rows of each segment are no candidates (0; --cls-row: 1)"),
    INPUT("--scores", "S.npy", CLI_CUT | CLI_INSPECT, scores,
          "float32 scores to cut, [N], [B,N] or [total]"),
    WORD("--scale", "auto|unit", CLI_CUT | CLI_INSPECT, INPUT, rule.scale, scales,
         "scores of any size, or cosines (auto)"),
    WORD("--relevance", "POLICY", CLI_PRUNE_SEQ, INPUT, relevance, cli_policy_words,
         "mean-cosine|max-cosine|attention: rows against the queries (mean-cosine)"),
    INPUT("--q", "Q.npy", CLI_PRUNE_SEQ, q, "attention: queries of every row, [rows.., Hq, d]"),
    INPUT("--keys", "K.npy", CLI_PRUNE_SEQ, keys,
          "attention: keys of every row, [rows.., Hkv, d]; also --k FILE.npy"),
    FLAG("--causal", CLI_PRUNE_SEQ, INPUT, causal, "attention: a row sees no row behind it"),
    FLAG("--last-query", CLI_PRUNE_SEQ, INPUT, last_query,
         "attention: only the last query row of a sequence asks"),
    WORD("--head-reduction", "mean|max", CLI_PRUNE_SEQ, INPUT, head_reduction, reductions,
         "attention: mean or greatest of the heads, which is first (mean)"),
    WORD("--query-reduction", "mean|max", CLI_PRUNE_SEQ, INPUT, query_reduction, reductions,
         "attention: mean or greatest of the query rows (mean)"),
    INPUT("--cu-seqlens", "S.npy", CURVES, cu_seqlens,
          "int32 offsets [B+1] of segments of different lengths"),
    INPUT("--groups", "G.npy", WRITERS, groups,
          "int32 offsets [G+1] over all rows: each group is cut by itself"),
    WORD("--merge", "mean|cos4", CLI_PRUNE, INPUT, merge, powers,
         "each dropped token joins the kept one of its window that is most like it"),
    WORD("--merge-window", "W", CLI_PRUNE, INPUT, merge_window, windows,
         "merge: tokens of a window, 64, 128 or 256 (--novelty's, or 64)"),
    INPUT("--sizes-in", "S.npy", CLI_PRUNE, sizes_in,
          "merge: int32 of each candidate, the tokens that it stands for already"),
    WORD("--dtype", "f16|bf16|f32", ROWS, INPUT, dtype, dtypes,
         "type of the features; bf16 travels as uint16"),
    INT("--segment", "b", CLI_INSPECT | CLI_VIEW, INPUT, segment, 0, BIG,
        "the segment that is drawn (0)"),
    INPUT("--image", "I", CLI_VIEW, image, "PNG or JPEG, embedded unchanged"),
    OWN("--grid", "HxW", CLI_VIEW, INPUT, GRID, 0, "rows x columns of patches"),
    INPUT("--kept", "KEPT.npy", CLI_VIEW, kept, "kept patches as prune wrote them"),
    INPUT("--counts", "K.npy", CLI_VIEW, counts,
          "kept patches of each segment as prune wrote them, for --segment"),
    INPUT("--joins", "J.npy", CLI_VIEW, joins,
          "what each patch joins, as prune --merge wrote it: one colour for each kept patch"),
    FLAG("--force", CLI_VIEW, INPUT, force, "draw a grid whose patches are far from square"),
    /* The rule. */
    WORD("--detector", "NAME", CURVES, RULE, rule.detector, cli_detector_words,
         "how many are kept: one of those below (otsu)"),
    WORD("--order", "high|low", CURVES, RULE, rule.order, orders,
         "which scores are kept: low keeps what is least similar (high)"),
    INT("--k", "n", CURVES, RULE, rule.k, 1, BIG, "topk: tokens kept"),
    REAL("--ratio", "r", rule.ratio, 0, 1, "ratio: share kept (dropped: with drop-...), 0..1"),
    INT("--percent", "p", CURVES, RULE, rule.percent, 0, 100,
        "ratio: percent dropped, 0..100, in place of --ratio"),
    WORD("--rounding", "HOW", CURVES, RULE, rule.rounding, cli_rounding_words,
         "ratio: ceil|floor|nearest|drop-ceil|drop-trunc|drop-percent (ceil)"),
    {"--tau", NULL, "t", CURVES, CLI_SECTION_RULE, CLI_KIND_FLOAT, AT(rule.tau), 0, 0, NULL,
     "threshold: least score kept (--order low: greatest)"},
    REAL("--lambda", "l", rule.lambda, -HUGE_VAL, HUGE_VAL,
         "mean: standard deviations above the mean (1)"),
    REAL("--mass", "f", rule.mass, 5e-324, 1, "mass: share of the mass kept, above 0 to 1 (0.9)"),
    INT("--window", "w", CURVES, RULE, rule.window, 0, BIG,
        "curvature: ranks on each side, 0 means N/16 (0)"),
    OWN("--search", "lo:hi", CURVES, RULE, SEARCH, 0,
        "shares of the curve that are searched (0:1)"),
    INT("--min-keep", "n", CURVES, RULE, rule.min_keep, 0, BIG, "keep at least n (1)"),
    INT("--max-keep", "n", CURVES, RULE, rule.max_keep, 0, BIG, "keep at most n (all)"),
    INT("--round-to", "m", CURVES, RULE, rule.round_to, 1, BIG, "round up to a multiple of m (1)"),
    REAL("--spread", "f", rule.spread, 0, 1,
         "share of the kept tokens taken evenly from the tail (0)"),
    /* Where it runs, what it leaves. */
    TEXT("--filter", "NAME", CLI_BENCH, filter,
         "only cases whose name contains NAME, as score/64x576x1024/f16 does"),
    FLAG("--quick", CLI_BENCH, RUN, quick, "fewer sizes, shorter"),
    INT("--seconds", "s", CLI_BENCH, RUN, seconds, 1, 86400,
        "in all: less time for each size; those that no longer fit are left out"),
    FLAG("--busy", CLI_BENCH, RUN, busy,
         "instead: one image on the CPU while other programs want its cores"),
    OWN("--batch", "n,n,...", CLI_BENCH, RUN, LIST, 65536,
        "sizes of one's own in place of the list: images at once (1,8,64)"),
    WORD("--dtype", "f16|bf16|f32", CLI_BENCH, RUN, dtype, dtypes,
         "the same: type of the features (f16)"),
    INT("--tokens-per-image", "n", CLI_BENCH, RUN, tokens_per_image, 1, 1048576,
        "the same: tokens of an image (576)"),
    INT("--dim", "d", CLI_BENCH, RUN, dim, 1, 65536, "the same: channels (1024)"),
    OWN("--device", "cpu|cuda[:i]", CURVES | CLI_BENCH, RUN, DEVICE, 0, "where it runs (cpu)"),
    INT("--threads", "n", CLI_BENCH, RUN, threads, 0, 1024,
        "CPU threads of the rows on several, 0 means all cores (0)"),
    INT("--threads", "n", CURVES | CLI_INFO, RUN, threads, 0, 1024,
        "CPU threads, 0 means all cores (1)"),
    INT("--repeat", "n", WRITERS, RUN, repeat, 1, 1000000, "runs that are timed (1)"),
    OUTPUT("--out", "-o", "OUT.npy", CLI_PRUNE | CLI_PRUNE_SEQ, out,
           "kept rows of all segments, [sum k, D]"),
    OUTPUT("--out", "-o", "OUT.svg", CLI_INSPECT | CLI_VIEW, out, "the picture"),
    OUTPUT("--kept", NULL, "KEPT.npy", WRITERS, kept, "int32 indices inside each segment, [sum k]"),
    OUTPUT("--counts", NULL, "K.npy", WRITERS, counts, "int32 kept per segment, [B]"),
    OUTPUT("--scores", NULL, "S.npy", CLI_PRUNE | CLI_PRUNE_SEQ, scores,
           "float32 scores in token order"),
    OUTPUT("--offsets", NULL, "CU.npy", WRITERS, offsets, "int32 offsets of the kept rows, [B+1]"),
    OUTPUT("--flags", NULL, "F.npy", WRITERS, flags, "int32 flags per segment, [B]"),
    OUTPUT("--mask", NULL, "M.npy", WRITERS, mask, "uint8 per row: 1 kept, 0 not"),
    OUTPUT("--group-counts", NULL, "K.npy", WRITERS, group_counts, "int32 kept per group, [G]"),
    OUTPUT("--sizes", NULL, "Z.npy", CLI_PRUNE, sizes,
           "merge: int32 tokens that each kept row stands for, [sum k]"),
    OUTPUT("--joins", NULL, "J.npy", CLI_PRUNE, joins,
           "merge: int32 per candidate: the one it joins, -1 where it is lost"),
    OUTPUT("--json", NULL, "FILE", CLI_BENCH, json_file, "the results as JSON, too"),
    FLAG("--json", WRITERS | CLI_INFO, RUN, json, "print one JSON object on standard output"),
};
const int cli_option_count = (int)(sizeof cli_option_table / sizeof cli_option_table[0]);
_Static_assert(sizeof cli_option_table / sizeof cli_option_table[0] <= CLI_MAX_OPTIONS,
               "cli_options.seen is too short");

const char *cli_word_text(const cli_word *words, int32_t value) {
  for (; words->text != NULL; words++)
    if (words->value == value) return words->text;
  return "unknown";
}

static bool is_name(const char *name, const char *text, size_t length) {
  return name != NULL && strlen(name) == length && memcmp(name, text, length) == 0;
}

int cli_option_find(const char *name, size_t length, int command) {
  for (int i = 0; i < cli_option_count; i++) {
    const cli_option *option = &cli_option_table[i];
    if ((option->commands & command) &&
        (is_name(option->name, name, length) || is_name(option->brief, name, length)))
      return i;
  }
  return -1;
}

bool cli_option_given(const cli_options *options, const char *name) {
  const int row = cli_option_find(name, strlen(name), options->command);
  return row >= 0 && options->seen[row];
}
