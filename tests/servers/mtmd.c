/* SPDX-License-Identifier: Apache-2.0 */
/* servers/mtmd.c on a stand-in of llama.cpp that looks at every batch as llama.cpp does: positions
 * without gaps where a token has one, not going back where it has four. What stays is compared with
 * the rule stated in double precision; the count with tailcut_kept_count. */
#include "mtmd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tailcut.h>

int32_t tailcut_mtmd_eval_image(tailcut_handle handle, const tailcut_rule *rule, mtmd_context *ctx,
                                struct llama_context *lctx, const mtmd_input_chunk *chunk,
                                llama_pos n_past, llama_seq_id seq_id, int32_t n_batch,
                                llama_pos *new_n_past);

#define CHECK(what) \
  ((what) || (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what), exit(1), 0))
enum { MOST = 600, STRIDE = 40 };

/* ------------------------------------------------------------------------------ the stand-in -- */

struct llama_model {
  int32_t n_embd, n_embd_inp;
};
struct mtmd_image_tokens {
  uint32_t nx, ny;
};
struct mtmd_input_chunk {
  const mtmd_image_tokens *image; /* NULL: audio or text */
};
struct mtmd_context {
  bool mrope, non_causal;
  int32_t fails;
  float embd[MOST * STRIDE];
};
struct llama_context {
  struct llama_model model;
  const mtmd_context *mtmd;
  bool causal;
  llama_pos last; /* of the cache, -1 where it is empty */
  int32_t fails, batches, n_batch, seq, tokens;
  float embd[MOST * STRIDE];
  llama_pos pos[MOST][4];
};

llama_batch llama_batch_init(int32_t n_tokens, int32_t embd, int32_t n_seq_max) {
  llama_batch batch = {0};
  const size_t n = (size_t)n_tokens;
  CHECK(embd > 0);
  batch.embd = malloc(n * (size_t)embd * sizeof(float));
  batch.pos = malloc(n * sizeof *batch.pos);
  batch.n_seq_id = malloc(n * sizeof *batch.n_seq_id);
  batch.seq_id = calloc(n + 1, sizeof *batch.seq_id);
  for (size_t i = 0; i < n; i++)
    batch.seq_id[i] = malloc((size_t)n_seq_max * sizeof **batch.seq_id);
  batch.logits = malloc(n);
  return batch;
}

void llama_batch_free(llama_batch batch) {
  for (llama_seq_id **id = batch.seq_id; *id != NULL; id++) free(*id);
  free(batch.embd), free(batch.pos), free(batch.n_seq_id), free(batch.seq_id), free(batch.logits);
}

int32_t llama_decode(struct llama_context *ctx, llama_batch batch) {
  const int32_t n = batch.n_tokens, planes = ctx->mtmd->mrope ? 4 : 1;
  const size_t row = (size_t)ctx->model.n_embd_inp;
  CHECK(batch.token == NULL && n > 0 && n <= ctx->n_batch && ctx->tokens + n <= MOST);
  CHECK(ctx->causal != ctx->mtmd->non_causal);
  for (int32_t i = 0; i < n; i++) {
    CHECK(batch.n_seq_id[i] == 1 && batch.seq_id[i][0] == ctx->seq && batch.logits[i] == 0);
    if (planes == 1 && batch.pos[i] != ctx->last + 1) return -1; /* not consecutive */
    if (batch.pos[i] < ctx->last) return -1;
    ctx->last = batch.pos[i];
    for (int32_t p = 0; p < planes; p++) ctx->pos[ctx->tokens + i][p] = batch.pos[i + n * p];
  }
  memcpy(ctx->embd + (size_t)ctx->tokens * row, batch.embd, (size_t)n * row * sizeof(float));
  ctx->tokens += n;
  return ++ctx->batches == ctx->fails ? 7 : 0;
}

const struct llama_model *llama_get_model(const struct llama_context *ctx) { return &ctx->model; }
int32_t llama_model_n_embd(const struct llama_model *model) { return model->n_embd; }
int32_t llama_model_n_embd_inp(const struct llama_model *model) { return model->n_embd_inp; }
void llama_set_causal_attn(struct llama_context *ctx, bool causal_attn) {
  ctx->causal = causal_attn;
}

bool mtmd_decode_use_non_causal(const mtmd_context *ctx, const mtmd_input_chunk *chunk) {
  return chunk->image != NULL && ctx->non_causal;
}
bool mtmd_decode_use_mrope(const mtmd_context *ctx) { return ctx->mrope; }
const mtmd_image_tokens *mtmd_input_chunk_get_tokens_image(const mtmd_input_chunk *chunk) {
  return chunk->image;
}
size_t mtmd_input_chunk_get_n_tokens(const mtmd_input_chunk *chunk) {
  return chunk->image == NULL ? 5 : (size_t)chunk->image->nx * chunk->image->ny;
}
llama_pos mtmd_input_chunk_get_n_pos(const mtmd_input_chunk *chunk) {
  const mtmd_image_tokens *image = chunk->image; /* M-RoPE: the greater side of the grid */
  return (llama_pos)(image->nx > image->ny ? image->nx : image->ny);
}
struct mtmd_decoder_pos mtmd_image_tokens_get_decoder_pos(const mtmd_image_tokens *image,
                                                          llama_pos pos_0, size_t i) {
  const uint32_t first = (uint32_t)pos_0, at = (uint32_t)i;
  CHECK(at < image->nx * image->ny);
  return (struct mtmd_decoder_pos){first, first + at % image->nx, first + at / image->nx, 0};
}
int32_t mtmd_encode_chunk(mtmd_context *ctx, const mtmd_input_chunk *chunk) {
  CHECK(chunk->image != NULL);
  return ctx->fails;
}
float *mtmd_get_output_embd(mtmd_context *ctx) { return ctx->embd; }

/* ----------------------------------------------------------------------- the rule, in double -- */

static double norm(const float *row, int32_t dim) {
  double sum = 0;
  for (int32_t d = 0; d < dim; d++) sum += (double)row[d] * row[d];
  return fmax(sqrt(sum), 1e-8);
}

/* The k rows most like the mean of the rows' directions, ascending; the first of equals. */
static void most_like_mean(const float *embd, int32_t n, int32_t dim, int32_t stride, int32_t k,
                           int32_t *kept) {
  double mean[STRIDE] = {0}, score[MOST];
  int32_t count = 0;
  for (int32_t i = 0; i < n; i++)
    for (int32_t d = 0; d < dim; d++)
      mean[d] += embd[i * stride + d] / norm(embd + i * stride, dim);
  for (int32_t i = 0; i < n; i++) {
    score[i] = 0;
    for (int32_t d = 0; d < dim; d++) score[i] += mean[d] * embd[i * stride + d];
    score[i] /= norm(embd + i * stride, dim);
  }
  for (int32_t i = 0; i < n; i++) {
    int32_t better = 0;
    for (int32_t j = 0; j < n; j++)
      better += score[j] > score[i] || (score[j] == score[i] && j < i);
    if (better < k) kept[count++] = i;
  }
  CHECK(count == k);
}

static uint32_t state = 1;
static float noise(void) { /* -1..1 */
  state = state * 1664525U + 1013904223U;
  return (float)(state >> 8) / 8388608.0f - 1.0f;
}

int main(void) {
  static mtmd_context mtmd;
  static struct llama_context llama;
  static float before[MOST * STRIDE];
  static int32_t want[MOST];
  tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  tailcut_handle handle = NULL;
  CHECK(tailcut_create(&handle, &config) == TAILCUT_OK);
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  rule.detector = TAILCUT_RATIO, rule.rounding = TAILCUT_DROP_TRUNC, rule.ratio = 0.78;

  const struct {
    uint32_t nx, ny;
    int32_t n_embd, n_embd_inp, n_batch;
    bool mrope, non_causal;
  } cases[] = {
      {24, 24, 40, 40, 2048, false, false}, /* LLaVA */
      {24, 24, 40, 40, 50, false, false},   /* in pieces */
      {24, 24, 40, 40, 2048, false, true},  /* Gemma */
      {20, 30, 40, 40, 600, true, false},   /* Qwen2.5-VL */
      {30, 20, 16, 40, 32, true, false},    /* Qwen3-VL: deepstack's channels behind; pieces */
      {1, 1, 40, 40, 8, true, false},       {3, 1, 40, 40, 1, false, false},
  };
  int32_t runs = 0;
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    for (int32_t detector = 0; detector < 2; detector++) {
      const mtmd_image_tokens image = {cases[c].nx, cases[c].ny};
      const mtmd_input_chunk chunk = {&image};
      const int32_t n = (int32_t)(image.nx * image.ny), row = cases[c].n_embd_inp;
      for (int32_t i = 0; i < n * row; i++) mtmd.embd[i] = noise();
      if (n > 100)
        memcpy(mtmd.embd + 60 * row, mtmd.embd, sizeof(float) * 30 * (size_t)row); /* ties */
      memcpy(before, mtmd.embd, sizeof before);
      mtmd.mrope = cases[c].mrope, mtmd.non_causal = cases[c].non_causal, mtmd.fails = 0;
      memset(&llama, 0, sizeof llama);
      llama.model = (struct llama_model){cases[c].n_embd, row};
      llama.mtmd = &mtmd, llama.causal = true, llama.last = 16, llama.n_batch = cases[c].n_batch;
      llama.seq = 3;
      llama_pos next = -1;
      CHECK(tailcut_mtmd_eval_image(handle, detector ? NULL : &rule, &mtmd, &llama, &chunk, 17, 3,
                                    cases[c].n_batch, &next) == 0);
      const int32_t k = llama.tokens;
      const int32_t share = (int32_t)(n * (1 - 0.78));
      if (!detector) CHECK(k == tailcut_kept_count(&rule, n) && k == (share > 1 ? share : 1));
      CHECK(k >= 1 && k <= n && llama.causal);
      CHECK(llama.batches == (k + cases[c].n_batch - 1) / cases[c].n_batch);
      most_like_mean(before, n, cases[c].n_embd, row, k, want);
      for (int32_t j = 0; j < k; j++) {
        CHECK(memcmp(llama.embd + j * row, before + want[j] * row, sizeof(float) * (size_t)row) ==
              0);
        const llama_pos x = want[j] % (int32_t)image.nx, y = want[j] / (int32_t)image.nx;
        const llama_pos *at = llama.pos[j];
        if (cases[c].mrope) CHECK(at[0] == 17 && at[1] == 17 + y && at[2] == 17 + x && at[3] == 0);
        if (!cases[c].mrope) CHECK(at[0] == 17 + j);
      }
      CHECK(next == 17 + (cases[c].mrope ? mtmd_input_chunk_get_n_pos(&chunk) : k));
      runs++;
    }
  }

  const mtmd_image_tokens image = {8, 8};
  const mtmd_input_chunk chunk = {&image}, audio = {NULL};
  llama_pos next = -1;
  llama.last = 16, llama.n_batch = 4, llama.batches = llama.tokens = 0, llama.fails = 2;
  mtmd.mrope = false, mtmd.non_causal = true;
  CHECK(tailcut_mtmd_eval_image(handle, &rule, &mtmd, &llama, &chunk, 17, 3, 4, &next) == 7);
  CHECK(next == -1 && llama.causal && llama.batches == 2);
  mtmd.fails = 5;
  CHECK(tailcut_mtmd_eval_image(handle, &rule, &mtmd, &llama, &chunk, 17, 3, 4, &next) == 5);
  mtmd.fails = 0;
  CHECK(tailcut_mtmd_eval_image(handle, &rule, &mtmd, &llama, &audio, 17, 3, 4, &next) ==
        TAILCUT_ERROR_RANGE);
  CHECK(tailcut_mtmd_eval_image(handle, &rule, &mtmd, &llama, &chunk, 17, 3, 0, &next) ==
        TAILCUT_ERROR_RANGE);
  rule.ratio = 2;
  CHECK(tailcut_mtmd_eval_image(handle, &rule, &mtmd, &llama, &chunk, 17, 3, 4, &next) ==
        TAILCUT_ERROR_RANGE);
  CHECK(next == -1 && llama.batches == 2);
  tailcut_destroy(handle);
  printf("%d images\n", (int)runs);
  return 0;
}
