/* SPDX-License-Identifier: Apache-2.0 */
/* 04: inside a decoder layer: image tokens that have little to do with the prompt leave, in place,
 * from the hidden states, the M-RoPE position ids and the K and V of the two layers so far. */
#include <stdio.h>
#include <stdlib.h>
#include <tailcut.h>
#define TRY(call) \
  if ((call) != TAILCUT_OK) return fprintf(stderr, "%s\n", tailcut_last_error()), 1
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
  uint8_t roles[T] = {0}; /* row 0: system prompt, always kept; 1..8: image; 9..11: prompt */
  for (int t = 0; t < T; t++) {
    roles[t] = t > 8 ? TAILCUT_ROLE_QUERY : t > 0 ? TAILCUT_ROLE_CANDIDATE : 0;
    hidden[t][t > 8 || t == 2 || t == 6 ? 0 : 1] = 1.0f; /* the prompt is about 2 and 6 */
    positions[2][t] = kv[3][1][t][0] = t;
  }
  tailcut_handle handle = NULL;
  TRY(tailcut_create(&handle, NULL));
  const tailcut_limits limits = {.struct_size = sizeof limits, 1, T, .dim = DIM};
  size_t size = 0;
  TRY(tailcut_workspace_size(handle, TAILCUT_CALL_PRUNE_SEQUENCE, &limits, &size));
  void *workspace = aligned_alloc(TAILCUT_WORKSPACE_ALIGNMENT, size);
  TRY(tailcut_workspace_init(handle, workspace, size, NULL));
  return 0;
}
