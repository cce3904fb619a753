/* SPDX-License-Identifier: Apache-2.0 */
/* 04: inside a decoder layer: image tokens that have little to do with the prompt leave, in place,
 * from the hidden states, the M-RoPE position ids and the K and V of the two layers so far. */
#include <stdio.h>
#include <stdlib.h>
#include <tailcut.h>
#define OK(call) \
  ((call) == TAILCUT_OK || (fprintf(stderr, "%s\n", tailcut_last_error()), exit(1), 0))
enum { T = 12, DIM = 16, HEADS = 2, HEAD_DIM = 4 };
static float hidden[T][DIM], kv[4][HEADS][T][HEAD_DIM]; /* K, V of layer 0; K, V of layer 1 */
static int64_t positions[3][T];
/* An array in place whose rows are `parts` pieces; planes or heads lie T pieces apart. */
static tailcut_rows in_place(void *array, int64_t part_bytes, int32_t parts) {
  tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  rows.src = rows.dst = array, rows.part_bytes = part_bytes, rows.parts = parts;
  rows.src_row_stride = rows.dst_row_stride = part_bytes;
  rows.src_part_stride = rows.dst_part_stride = T * part_bytes;
  return rows;
}
int main(void) {
  uint8_t roles[T]; /* row 0: system prompt, always kept; 1..8: image; 9..11: the prompt's text */
  for (int t = 0; t < T; t++) {
    roles[t] = t > 8 ? TAILCUT_ROLE_QUERY : t > 0 ? TAILCUT_ROLE_CANDIDATE : 0;
    hidden[t][t > 8 || t == 2 || t == 6 ? 0 : 1] = 1.0f; /* the prompt is about 2 and 6 */
    positions[2][t] = 100 + t, kv[3][1][t][0] = (float)t;
  }
  tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  tailcut_handle handle = NULL;
  OK(tailcut_create(&handle, &config));
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = 1, limits.max_tokens = T, limits.dim = DIM;
  size_t size = 0;
  OK(tailcut_workspace_size(handle, TAILCUT_CALL_PRUNE_SEQUENCE, &limits, &size));
  void *workspace = aligned_alloc(TAILCUT_WORKSPACE_ALIGNMENT, size);
  OK(tailcut_workspace_init(handle, workspace, size, NULL));
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  batch.segments = 1, batch.max_tokens = T;
  tailcut_tokens input = TAILCUT_TOKENS_INITIALIZER;
  input.data = hidden, input.dtype = TAILCUT_F32, input.dim = DIM;
  int32_t k = 0, kept[T] = {0};
  tailcut_selection result = TAILCUT_SELECTION_INITIALIZER;
  result.counts = &k, result.kept = kept;
  tailcut_rows rows[6] = {in_place(hidden, sizeof hidden[0], 1), in_place(positions, 8, 3)};
  for (int i = 0; i < 4; i++) rows[2 + i] = in_place(kv[i], sizeof kv[i][0][0], HEADS);
  OK(tailcut_prune_sequence(handle, &batch, &input, roles, NULL, NULL, &result, rows, 6, workspace,
                            size, NULL)); /* mean cosine to the prompt; OTSU finds how many */
  free(workspace), tailcut_destroy(handle);
  int wrong = k != 6 || kept[1] != 2 || kept[2] != 6 || kept[3] != 9 || hidden[2][0] != 1.0f;
  for (int j = 0; j < k; j++) { /* row j of every array is what was row kept[j] */
    wrong |= positions[2][j] != 100 + kept[j] || kv[3][1][j][0] != (float)kept[j];
  }
  return printf("%d of %d rows kept\n", (int)k, T), wrong;
}
