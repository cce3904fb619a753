/* SPDX-License-Identifier: Apache-2.0 */
/* random_cases: rows of the table of cases that nobody wrote down. */
#include "random_cases.h"

tt_case tt_random_cut(tt_random *random, int rule, tt_curve curve, int32_t scale) {
  tt_case c = {.kind = TT_CUT, .rows = TT_ROWS_MASK};
  c.detector = rule > TAILCUT_RATIO ? TAILCUT_RATIO : rule;
  c.rounding = rule > TAILCUT_RATIO ? rule - TAILCUT_RATIO + TAILCUT_CEIL : TAILCUT_CEIL;
  c.curve = curve;
  c.scale = scale;
  c.layout = (tt_layout)tt_below(random, 3);
  c.segments = 10;
  c.max_tokens = tt_below(random, 4) ? 1 + tt_below(random, 90) : 1 + tt_below(random, 12);
  c.packed = tt_below(random, 2);
  c.roles = tt_below(random, 3) == 0;
  c.prefix_rows = !c.roles && tt_below(random, 4) == 0 ? 1 + 4 * tt_below(random, 2) : 0;
  c.k = 1 + tt_below(random, 60);
  c.ratio = tt_below(random, 3) ? tt_uniform(random) : tt_below(random, 21) / 20.0;
  c.percent = tt_below(random, 101);
  c.tau = (float)tt_normal(random) * 0.3f;
  c.lambda = tt_normal(random);
  c.mass = tt_below(random, 4) ? 0.05 + 0.95 * tt_uniform(random) : 1.0;
  c.window = tt_below(random, 2) ? 0 : 1 + tt_below(random, 8);
  if (tt_below(random, 2)) {
    c.lo = 0.9 * tt_uniform(random);
    c.hi = c.lo + (1.0 - c.lo) * (0.02 + 0.98 * tt_uniform(random));
  }
  if (tt_below(random, 2)) {
    c.min_keep = tt_below(random, 3) ? 1 + tt_below(random, 20) : -1;
    if (tt_below(random, 2)) c.max_keep = (c.min_keep > 0 ? c.min_keep : 1) + tt_below(random, 30);
    c.round_to = tt_below(random, 2) ? 1 + tt_below(random, 16) : 1;
  }
  if (tt_below(random, 2)) c.spread = tt_below(random, 4) ? tt_uniform(random) : 1.0;
  return c;
}

tt_case tt_random_case(tt_random *random) {
  static const int32_t kinds[] = {TT_VISUAL, TT_CUT, TT_SEQUENCE};
  static const int32_t sources[] = {TAILCUT_REFERENCE_GIVEN, TAILCUT_REFERENCE_ROW,
                                    TAILCUT_REFERENCE_MEAN, TAILCUT_REFERENCE_LAG,
                                    TAILCUT_REFERENCE_NOVELTY};
  const int rule = 1 + tt_below(random, TT_RULES);
  tt_case c = tt_random_cut(random, rule, (tt_curve)tt_below(random, TT_CURVES), 1);
  c.kind = (tt_kind)kinds[tt_below(random, 3)];
  c.scale = c.kind == TT_CUT ? tt_below(random, 3) : 0;
  c.segments = 1 + tt_below(random, 9);
  c.dtype = 1 + tt_below(random, 3);
  c.dim = 1 + tt_below(random, 70);
  if (c.kind != TT_CUT) c.roles = 0;
  if (c.kind == TT_VISUAL) c.prefix_rows = tt_below(random, 2) ? 0 : 1 + tt_below(random, 6);
  if (c.kind == TT_SEQUENCE) c.prefix_rows = 0;
  c.source = c.kind == TT_VISUAL ? sources[tt_below(random, 5)] : 0;
  if (c.source == TAILCUT_REFERENCE_ROW && c.prefix_rows == 0) c.prefix_rows = 5;
  if (c.source == TAILCUT_REFERENCE_LAG) c.lag = 1 + tt_below(random, 30);
  if (c.source == TAILCUT_REFERENCE_NOVELTY) c.novelty = 64 << tt_below(random, 3);
  c.spikes = tt_below(random, 2) ? (unsigned)tt_below(random, 64) : 0;
  c.input_flags = c.kind == TT_CUT && tt_below(random, 3) == 0;
  if (tt_below(random, 3)) {
    c.groups = (tt_groups)(TT_GROUPS_SEGMENTS + tt_below(random, 3));
    if (tt_below(random, 8) == 0) c.groups = (tt_groups)(1 + tt_below(random, TT_GROUPS_ALL - 1));
  }
  c.order = tt_below(random, 2) ? TAILCUT_LOW : 0;
  c.group_k = c.detector == TAILCUT_TOPK && tt_below(random, 3);
  if (c.kind == TT_VISUAL && tt_below(random, 2)) {
    c.merge = 1 + tt_below(random, 2);
    c.sizes = tt_below(random, 2);
    if (c.source != TAILCUT_REFERENCE_NOVELTY) c.merge_window = 64 << tt_below(random, 3);
  }
  c.rows = (int32_t)tt_next(random) & (int32_t)tt_next(random) & ~TT_ROWS_WIDE &
           (TT_ROWS_AND_BASE | TT_ROWS_KEYS_ALL);
  if (c.merge) c.rows |= TT_ROWS_TOKENS | TT_ROWS_MERGED << tt_below(random, 3);
  return c;
}
