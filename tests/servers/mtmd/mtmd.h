/* SPDX-License-Identifier: Apache-2.0 */
/* What mtmd.c uses of llama.cpp's tools/mtmd/mtmd.h, stated anew. */
#pragma once
#include "llama.h"

typedef struct mtmd_context mtmd_context;
typedef struct mtmd_image_tokens mtmd_image_tokens;
typedef struct mtmd_input_chunk mtmd_input_chunk;

struct mtmd_decoder_pos {
  uint32_t t, x, y, z;
};

bool mtmd_decode_use_non_causal(const mtmd_context *ctx, const mtmd_input_chunk *chunk);
bool mtmd_decode_use_mrope(const mtmd_context *ctx);
const mtmd_image_tokens *mtmd_input_chunk_get_tokens_image(const mtmd_input_chunk *chunk);
size_t mtmd_input_chunk_get_n_tokens(const mtmd_input_chunk *chunk);
llama_pos mtmd_input_chunk_get_n_pos(const mtmd_input_chunk *chunk);
struct mtmd_decoder_pos mtmd_image_tokens_get_decoder_pos(const mtmd_image_tokens *image_tokens,
                                                          llama_pos pos_0, size_t i);
int32_t mtmd_encode_chunk(mtmd_context *ctx, const mtmd_input_chunk *chunk);
float *mtmd_get_output_embd(mtmd_context *ctx);
