/* SPDX-License-Identifier: Apache-2.0 */
/* 04: inside a decoder layer: image tokens that have little to do with the prompt leave, in place,
 * from the hidden states, the M-RoPE position ids and the K and V of the two layers so far. */
#include "device.h" /* OK; a handle and memory, of the CPU or of a GPU */
enum { T = 12, DIM = 16, HEADS = 2, HEAD_DIM = 4 };
typedef struct arrays {
  float hidden[T][DIM], kv[4][HEADS][T][HEAD_DIM]; /* K, V of layer 0; K, V of layer 1 */
  int64_t positions[3][T];
  int32_t k, kept[T];
  uint8_t roles[T]; /* row 0: system prompt, always kept; 1..8: image; 9..11: the prompt's text */
} arrays;
/* An array in place whose rows are `parts` pieces; planes or heads lie T pieces apart. */
static tailcut_rows in_place(void *array, int64_t part_bytes, int32_t parts) {
  tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  rows.src = rows.dst = array, rows.part_bytes = part_bytes, rows.parts = parts;
  rows.src_row_stride = rows.dst_row_stride = part_bytes;
  rows.src_part_stride = rows.dst_part_stride = T * part_bytes;
  return rows;
}
int main(int argc, char **argv) {
  const int32_t kind = device_kind(argc, argv); /* CPU, or CUDA with the argument "cuda" */
  tailcut_handle handle = device_open(kind);
  arrays *a = device_memory(kind, sizeof *a);
  for (int t = 0; t < T; t++) {
    a->roles[t] = t > 8 ? TAILCUT_ROLE_QUERY : t > 0 ? TAILCUT_ROLE_CANDIDATE : 0;
    a->hidden[t][t > 8 || t == 2 || t == 6 ? 0 : 1] = 1.0f; /* the prompt is about 2 and 6 */
    a->positions[2][t] = 100 + t, a->kv[3][1][t][0] = (float)t;
  }
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = 1, limits.max_tokens = T, limits.dim = DIM;
  size_t size = 0;
  void *room = device_workspace(handle, kind, TAILCUT_CALL_PRUNE_SEQUENCE, &limits, &size);
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  batch.segments = 1, batch.max_tokens = T;
  tailcut_tokens input = TAILCUT_TOKENS_INITIALIZER;
  input.data = a->hidden, input.dtype = TAILCUT_F32, input.dim = DIM;
  tailcut_selection result = TAILCUT_SELECTION_INITIALIZER;
  result.counts = &a->k, result.kept = a->kept;
  tailcut_rows rows[6] = {in_place(a->hidden, DIM * 4, 1), in_place(a->positions, 8, 3)};
  for (int i = 0; i < 4; i++) rows[2 + i] = in_place(a->kv[i], HEAD_DIM * 4, HEADS);
  OK(tailcut_prune_sequence(handle, &batch, &input, a->roles, NULL, NULL, &result, rows, 6, room,
                            size, NULL)); /* mean cosine to the prompt; OTSU finds how many */
  device_wait(kind);
  int wrong = a->k != 6 || a->kept[1] != 2 || a->kept[2] != 6 || a->kept[3] != 9;
  for (int j = 0; j < a->k; j++) /* row j of every array is what was row kept[j] */
    wrong |= a->positions[2][j] != 100 + a->kept[j] || a->kv[3][1][j][0] != (float)a->kept[j];
  printf("%d of %d rows kept\n", (int)a->k, T);
  return device_close(kind, handle, room, a), wrong;
}
