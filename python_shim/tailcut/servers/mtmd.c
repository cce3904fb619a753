/* SPDX-License-Identifier: Apache-2.0 */
/* llama.cpp (tools/mtmd): decodes an image chunk as mtmd_helper_eval_chunk_single does, but hands
 * over only the embeddings most like the image's mean direction (mtmd has no CLS left). With M-RoPE
 * each keeps its positions, pos[i + n * plane] in a batch of n, and the next chunk begins where it
 * would have; else they are n_past + 0, 1, 2, ...: llama_decode refuses gaps there. Limits: images,
 * on the CPU backend (mtmd's embeddings are on the host, and are overwritten); a model that sees
 * them without a causal mask needs n_batch for all that stay. Run on a stand-in and in llama.cpp of
 * October 2026, with tiny models of random weights (tests/servers/engines/llama_cpp). */
#include <stdlib.h>

#include "llama.h"
#include "mtmd.h"
#include "tailcut.h"

/* The rows of embd [n, stride] that stay move to its front; the first dim channels are compared. */
static int32_t prune(tailcut_handle handle, const tailcut_rule *rule, float *embd, int32_t n,
                     int32_t dim, int32_t stride, int32_t *kept, int32_t *count) {
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = 1, limits.max_tokens = n, limits.dim = dim;
  size_t size = 0;
  tailcut_status status = tailcut_workspace_size(handle, TAILCUT_CALL_PRUNE_VISUAL, &limits, &size);
  void *work = status ? NULL : aligned_alloc(TAILCUT_WORKSPACE_ALIGNMENT, size);
  if (status == TAILCUT_OK) status = tailcut_workspace_init(handle, work, size, NULL);
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  batch.segments = 1, batch.max_tokens = n;
  tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  tokens.data = embd, tokens.dtype = TAILCUT_F32, tokens.dim = dim, tokens.row_stride = stride;
  tailcut_reference mean = TAILCUT_REFERENCE_INITIALIZER;
  mean.source = TAILCUT_REFERENCE_MEAN;
  tailcut_selection selection = TAILCUT_SELECTION_INITIALIZER;
  selection.counts = count, selection.kept = kept;
  tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  rows.src = rows.dst = embd, rows.part_bytes = (int64_t)stride * (int64_t)sizeof(float);
  if (status == TAILCUT_OK)
    status = tailcut_prune_visual(handle, &batch, &tokens, &mean, rule, &selection, &rows, 1, work,
                                  size, NULL);
  free(work);
  return (int32_t)status;
}

/* 0, a tailcut_status, or what a function of llama.cpp returned. rule NULL: OTSU finds how many. */
int32_t tailcut_mtmd_eval_image(tailcut_handle handle, const tailcut_rule *rule, mtmd_context *ctx,
                                struct llama_context *lctx, const mtmd_input_chunk *chunk,
                                llama_pos n_past, llama_seq_id seq_id, int32_t n_batch,
                                llama_pos *new_n_past) {
  const mtmd_image_tokens *image = mtmd_input_chunk_get_tokens_image(chunk);
  const int32_t total = (int32_t)mtmd_input_chunk_get_n_tokens(chunk);
  if (image == NULL || n_batch < 1) return TAILCUT_ERROR_RANGE;
  int32_t count = 0, status = mtmd_encode_chunk(ctx, chunk), *kept = malloc(4 * (size_t)total);
  if (status || kept == NULL) return free(kept), status ? status : TAILCUT_ERROR_MEMORY;
  const int mrope = mtmd_decode_use_mrope(ctx), whole = mtmd_decode_use_non_causal(ctx, chunk);
  const struct llama_model *model = llama_get_model(lctx); /* deepstack's channels come behind */
  const int32_t stride = llama_model_n_embd_inp(model), dim = llama_model_n_embd(model);
  float *embd = mtmd_get_output_embd(ctx);
  status = prune(handle, rule, embd, total, dim, stride, kept, &count);
  llama_batch batch = llama_batch_init(4 * (total < n_batch ? total : n_batch), 1, 1); /* planes */
  float *own = batch.embd;
  if (whole) llama_set_causal_attn(lctx, false);
  for (int32_t first = 0; status == 0 && first < count; first += n_batch) {
    const int32_t n = batch.n_tokens = count - first < n_batch ? count - first : n_batch;
    batch.embd = embd + (size_t)first * (size_t)stride;
    for (int32_t i = 0; i < n; i++) {
      batch.n_seq_id[i] = 1, batch.seq_id[i][0] = seq_id, batch.logits[i] = 0;
      batch.pos[i] = n_past + first + i;
      if (!mrope) continue;
      const struct mtmd_decoder_pos at =
          mtmd_image_tokens_get_decoder_pos(image, n_past, (size_t)kept[first + i]);
      batch.pos[i] = (llama_pos)at.t, batch.pos[i + n] = (llama_pos)at.y;
      batch.pos[i + n * 2] = (llama_pos)at.x, batch.pos[i + n * 3] = (llama_pos)at.z;
    }
    status = llama_decode(lctx, batch);
  }
  if (whole) llama_set_causal_attn(lctx, true);
  if (status == 0) *new_n_past = n_past + (mrope ? mtmd_input_chunk_get_n_pos(chunk) : count);
  batch.embd = own;
  llama_batch_free(batch);
  free(kept);
  return status;
}
