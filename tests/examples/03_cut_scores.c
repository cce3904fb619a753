/* SPDX-License-Identifier: Apache-2.0 */
/* 03: scores from elsewhere (attention, a learned head, ...): only the cut, then one compaction. */
#include <stdio.h>
#include <stdlib.h>
#include <tailcut.h>

enum { N = 10 };
#define OK(call) \
  ((call) == TAILCUT_OK || (fprintf(stderr, "%s\n", tailcut_last_error()), exit(1), 0))

int main(void) {
  const float scores[N] = {0.3f, 41.0f, 0.9f, 0.1f, 38.0f, 0.2f, 44.0f, 0.5f, 40.0f, 0.4f};
  const int64_t positions[N] = {100, 101, 102, 103, 104, 105, 106, 107, 108, 109};
  int64_t new_positions[N];

  tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  tailcut_handle handle = NULL;
  OK(tailcut_create(&handle, &config));
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = 1, limits.max_tokens = N;
  size_t cut = 0, compact = 0;
  OK(tailcut_workspace_size(handle, TAILCUT_CALL_CUT, &limits, &cut));
  OK(tailcut_workspace_size(handle, TAILCUT_CALL_COMPACT, &limits, &compact));
  const size_t size = cut > compact ? cut : compact; /* one workspace serves both */
  void *workspace = aligned_alloc(TAILCUT_WORKSPACE_ALIGNMENT, size);
  OK(tailcut_workspace_init(handle, workspace, size, NULL));

  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  batch.segments = 1, batch.max_tokens = N;
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER; /* OTSU; the scores' scale is found (AUTO) */
  rule.round_to = 3;
  int32_t count = 0, kept[N];
  tailcut_selection result = TAILCUT_SELECTION_INITIALIZER;
  result.counts = &count, result.kept = kept;
  OK(tailcut_cut(handle, &batch, scores, NULL, NULL, &rule, &result, workspace, size, NULL));

  tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  rows.src = positions, rows.dst = new_positions, rows.part_bytes = sizeof positions[0];
  OK(tailcut_compact(handle, &batch, kept, TAILCUT_LOCAL, &count, NULL, &rows, 1, workspace, size,
                     NULL));
  free(workspace);
  tailcut_destroy(handle);

  /* Four stand out (1, 4, 6, 8); rounded up to a multiple of 3 the next best two come along. */
  const int64_t expected[6] = {101, 102, 104, 106, 107, 108};
  int wrong = count != 6;
  for (int j = 0; j < 6 && !wrong; j++) wrong = new_positions[j] != expected[j];
  printf("%d of %d kept\n", (int)count, N);
  return wrong;
}
