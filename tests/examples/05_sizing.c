/* SPDX-License-Identifier: Apache-2.0 */
/* 05: a server's plan: how many placeholder tokens an image gets in the prompt is decided on the
 * host, before any data or device exists; tailcut_kept_count answers without a handle. */
#include <stdio.h>
#include <tailcut.h>

enum { PATCHES = 577 }; /* 24 x 24 + 1: not a multiple of anything handy */

int main(void) {
  /* A fixed share: the count is exact, so the prompt can be laid out with it. */
  tailcut_rule share = TAILCUT_RULE_INITIALIZER;
  share.detector = TAILCUT_RATIO, share.ratio = 0.25, share.round_to = 16;
  const int32_t exact = tailcut_kept_count(&share, PATCHES); /* ceil(144.25), then up to 16s */

  /* A server that drops instead, and truncates: its rounding has a name. */
  tailcut_rule drop = TAILCUT_RULE_INITIALIZER;
  drop.detector = TAILCUT_RATIO, drop.ratio = 0.5, drop.rounding = TAILCUT_DROP_TRUNC;
  const int32_t dropped = tailcut_kept_count(&drop, PATCHES); /* trunc(577 * 0.5) */

  /* The adaptive rules give an upper bound: reserve that many, fill counts[b] of them later. */
  tailcut_rule adaptive = TAILCUT_RULE_INITIALIZER;
  adaptive.max_keep = 256, adaptive.min_keep = 16;
  const int32_t bound = tailcut_kept_count(&adaptive, PATCHES);

  /* A wrong argument gives -1 and a message. */
  share.ratio = 1.5;
  const int32_t refused = tailcut_kept_count(&share, PATCHES);
  printf("a quarter, by 16s: %d; half dropped: %d; adaptive: at most %d\n%s\n", (int)exact,
         (int)dropped, (int)bound, tailcut_last_error());
  return !(exact == 160 && dropped == 288 && bound == 256 && refused == -1);
}
