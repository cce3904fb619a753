/* SPDX-License-Identifier: Apache-2.0 */
/* 01: one image, as an encoder returns it (CLS in row 0): the tokens like CLS stay, in place. */
#include <stdio.h>
#include <stdlib.h>
#include <tailcut.h>

enum { PATCHES = 12, DIM = 8 };
#define OK(call) \
  ((call) == TAILCUT_OK || (fprintf(stderr, "%s\n", tailcut_last_error()), exit(1), 0))

int main(void) {
  /* Patches 2, 5 and 6 point where CLS points; component 1 tells the patches apart. */
  float tokens[1 + PATCHES][DIM] = {{1.0f}};
  for (int i = 0; i < PATCHES; i++) {
    tokens[1 + i][0] = i == 2 || i == 5 || i == 6 ? 100.0f : 1.0f;
    tokens[1 + i][1] = 10.0f + (float)i;
  }

  tailcut_config config = TAILCUT_CONFIG_INITIALIZER; /* the CPU, on this thread */
  tailcut_handle handle = NULL;
  OK(tailcut_create(&handle, &config));

  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = 1, limits.max_tokens = 1 + PATCHES, limits.dim = DIM;
  size_t size = 0;
  OK(tailcut_workspace_size(handle, TAILCUT_CALL_PRUNE_VISUAL, &limits, &size));
  void *workspace = aligned_alloc(TAILCUT_WORKSPACE_ALIGNMENT, size);
  OK(tailcut_workspace_init(handle, workspace, size, NULL));

  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  batch.segments = 1, batch.max_tokens = 1 + PATCHES, batch.prefix_rows = 1;
  tailcut_tokens input = TAILCUT_TOKENS_INITIALIZER;
  input.data = tokens, input.dtype = TAILCUT_F32, input.dim = DIM;
  tailcut_reference cls = TAILCUT_REFERENCE_INITIALIZER;
  cls.source = TAILCUT_REFERENCE_ROW;
  int32_t count = 0;
  tailcut_selection result = TAILCUT_SELECTION_INITIALIZER;
  result.counts = &count;
  tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  rows.src = tokens, rows.dst = tokens, rows.part_bytes = sizeof tokens[0];
  OK(tailcut_prune_visual(handle, &batch, &input, &cls, NULL, &result, &rows, 1, workspace, size,
                          NULL)); /* rule NULL: OTSU finds how many */

  printf("%d of %d tokens kept\n", (int)count, PATCHES);
  free(workspace);
  tailcut_destroy(handle);
  return !(count == 3 && tokens[0][1] == 12.0f && tokens[1][1] == 15.0f && tokens[2][1] == 16.0f);
}
