/* SPDX-License-Identifier: Apache-2.0 */
/* 02: three images of different size, an empty one among them, pruned in place; encoders without
 * CLS (SigLIP, Qwen-VL) take the mean direction of each image's tokens as its reference. */
#include <stdio.h>
#include <stdlib.h>
#include <tailcut.h>

enum { IMAGES = 3, TOTAL = 14, LONGEST = 8, DIM = 4 };
#define OK(call) \
  ((call) == TAILCUT_OK || (fprintf(stderr, "%s\n", tailcut_last_error()), exit(1), 0))

int main(void) {
  const int32_t cu_seqlens[IMAGES + 1] = {0, 8, 8, 14};
  float tokens[TOTAL][DIM] = {{0}};
  for (int i = 0; i < TOTAL; i++) { /* every fourth token points elsewhere */
    tokens[i][i % 4 == 3 ? 1 : 0] = 10.0f;
    tokens[i][2] = (float)i * 0.01f;
  }

  tailcut_handle handle = NULL;
  tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  config.threads = 0; /* all cores */
  OK(tailcut_create(&handle, &config));
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = IMAGES, limits.max_tokens = LONGEST, limits.total_tokens = TOTAL;
  limits.dim = DIM;
  size_t size = 0;
  OK(tailcut_workspace_size(handle, TAILCUT_CALL_PRUNE_VISUAL, &limits, &size));
  void *workspace = aligned_alloc(TAILCUT_WORKSPACE_ALIGNMENT, size);
  OK(tailcut_workspace_init(handle, workspace, size, NULL));

  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  batch.segments = IMAGES, batch.max_tokens = LONGEST, batch.total_tokens = TOTAL;
  batch.cu_seqlens = cu_seqlens;
  tailcut_tokens input = TAILCUT_TOKENS_INITIALIZER;
  input.data = tokens, input.dtype = TAILCUT_F32, input.dim = DIM;
  tailcut_reference mean = TAILCUT_REFERENCE_INITIALIZER;
  mean.source = TAILCUT_REFERENCE_MEAN;
  int32_t counts[IMAGES], kept[TOTAL];
  tailcut_selection result = TAILCUT_SELECTION_INITIALIZER;
  result.counts = counts, result.kept = kept;
  tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  rows.src = tokens, rows.dst = tokens, rows.part_bytes = sizeof tokens[0];
  OK(tailcut_prune_visual(handle, &batch, &input, &mean, NULL, &result, &rows, 1, workspace, size,
                          NULL));
  free(workspace);
  tailcut_destroy(handle);
  /* LOCAL placement: image b's tokens now are the rows from cu_seqlens[b] on, counts[b] of them. */
  printf("kept %d, %d, %d\n", (int)counts[0], (int)counts[1], (int)counts[2]);
  return !(counts[0] == 6 && counts[1] == 0 && counts[2] == 5 && kept[8 + 3] == 4 &&
           tokens[3][2] == 4 * 0.01f && tokens[8 + 4][2] == 13 * 0.01f);
}
