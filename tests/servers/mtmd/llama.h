/* SPDX-License-Identifier: Apache-2.0 */
/* What mtmd.c uses of llama.cpp's llama.h, stated anew: names, types and order of arguments. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef int32_t llama_pos;
typedef int32_t llama_token;
typedef int32_t llama_seq_id;
struct llama_model;
struct llama_context;

typedef struct llama_batch {
  int32_t n_tokens;
  llama_token *token;
  float *embd; /* [n_tokens, n_embd_inp] */
  llama_pos *pos;
  int32_t *n_seq_id;
  llama_seq_id **seq_id;
  int8_t *logits;
} llama_batch;

llama_batch llama_batch_init(int32_t n_tokens, int32_t embd, int32_t n_seq_max);
void llama_batch_free(llama_batch batch);
int32_t llama_decode(struct llama_context *ctx, llama_batch batch);
const struct llama_model *llama_get_model(const struct llama_context *ctx);
int32_t llama_model_n_embd(const struct llama_model *model);
int32_t llama_model_n_embd_inp(const struct llama_model *model);
void llama_set_causal_attn(struct llama_context *ctx, bool causal_attn);
