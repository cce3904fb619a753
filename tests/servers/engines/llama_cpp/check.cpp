/* SPDX-License-Identifier: Apache-2.0 */
/* check NAME.gguf NAME-mmproj.gguf [WIDTH HEIGHT]: servers/mtmd.c in llama.cpp itself. A prompt
 * with two pictures goes through it, then 12 greedy tokens. With all tokens kept they are those of
 * mtmd_helper_eval_chunk_single, logits to the bit; with fewer, those of the same rows found in
 * double precision and decoded by hand, and the logits are others than with all. */
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "llama.h"
#include "mtmd-helper.h"
#include "mtmd.h"
#include "tailcut.h"

extern "C" int32_t tailcut_mtmd_eval_image(tailcut_handle, const tailcut_rule *, mtmd_context *,
                                           llama_context *, const mtmd_input_chunk *, llama_pos,
                                           llama_seq_id, int32_t, llama_pos *);

static void ok(bool what, const char *name) {
  if (what) return;
  fprintf(stderr, "%s failed\n", name);
  exit(1);
}

static void errors_only(ggml_log_level level, const char *text, void *) {
  if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

/* The k rows most like the mean direction, ascending. */
static std::vector<int> like_mean(const float *rows, int n, int dim, int stride, int k) {
  std::vector<double> mean(dim), norm(n), score(n);
  for (int i = 0; i < n; i++) {
    const float *row = rows + (size_t)i * stride;
    norm[i] = std::sqrt(std::inner_product(row, row + dim, row, 0.0, std::plus<>(),
                                           [](double a, double b) { return a * b; }));
    for (int d = 0; d < dim; d++) mean[d] += row[d] / norm[i];
  }
  for (int i = 0; i < n; i++) {
    const float *row = rows + (size_t)i * stride;
    score[i] = std::inner_product(row, row + dim, mean.begin(), 0.0) / norm[i];
  }
  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return score[a] > score[b]; });
  order.resize(k);
  std::sort(order.begin(), order.end());
  return order;
}

struct engine {
  llama_model *model;
  mtmd_context *mtmd;
  mtmd_input_chunks *chunks;
  tailcut_handle tailcut;
};

enum class by { llama_cpp, tailcut, hand };

/* A picture's k tokens by hand; gives what the position of the next chunk is. */
static llama_pos decode(const engine &e, llama_context *ctx, const mtmd_input_chunk *chunk,
                        llama_pos past, int k, int n_batch) {
  ok(mtmd_encode_chunk(e.mtmd, chunk) == 0, "mtmd_encode_chunk");
  const mtmd_image_tokens *image = mtmd_input_chunk_get_tokens_image(chunk);
  const int stride = llama_model_n_embd_inp(e.model);
  const float *rows = mtmd_get_output_embd(e.mtmd);
  const std::vector<int> kept = like_mean(rows, (int)mtmd_input_chunk_get_n_tokens(chunk),
                                          llama_model_n_embd(e.model), stride, k);
  const bool mrope = mtmd_decode_use_mrope(e.mtmd);
  for (int first = 0; first < k; first += n_batch) {
    const int n = std::min(n_batch, k - first);
    std::vector<float> embd;
    std::vector<llama_pos> pos(4 * n);
    for (int i = 0; i < n; i++) {
      const float *row = rows + (size_t)kept[first + i] * stride;
      embd.insert(embd.end(), row, row + stride);
      if (mrope) {
        const auto at = mtmd_image_tokens_get_decoder_pos(image, past, kept[first + i]);
        pos[i] = at.t, pos[i + n] = at.y, pos[i + 2 * n] = at.x, pos[i + 3 * n] = at.z;
      } else {
        pos[i] = past + first + i;
      }
    }
    llama_seq_id sequence = 0;
    std::vector<llama_seq_id *> sequences(n, &sequence);
    std::vector<int32_t> one(n, 1);
    std::vector<int8_t> no_logits(n, 0);
    const llama_batch batch = {n,          nullptr,          embd.data(),     pos.data(),
                               one.data(), sequences.data(), no_logits.data()};
    ok(llama_decode(ctx, batch) == 0, "llama_decode");
  }
  return past + (mrope ? mtmd_input_chunk_get_n_pos(chunk) : k);
}

struct answer {
  std::vector<float> logits; /* behind the prompt */
  std::vector<llama_token> tokens;
};

/* k 0: all of a picture's tokens. */
static answer ask(const engine &e, by way, int k, int n_batch) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = 2048, params.n_batch = params.n_ubatch = 512, params.no_perf = true;
  params.n_threads = params.n_threads_batch = 1;
  llama_context *ctx = llama_init_from_model(e.model, params);
  ok(ctx != nullptr, "llama_init_from_model");
  llama_pos past = 0;
  const size_t chunks = mtmd_input_chunks_size(e.chunks);
  for (size_t i = 0; i < chunks; i++) {
    const mtmd_input_chunk *chunk = mtmd_input_chunks_get(e.chunks, i);
    const int n = (int)mtmd_input_chunk_get_n_tokens(chunk);
    const bool text = mtmd_input_chunk_get_type(chunk) == MTMD_INPUT_CHUNK_TYPE_TEXT;
    if (text || way == by::llama_cpp) {
      ok(mtmd_helper_eval_chunk_single(e.mtmd, ctx, chunk, past, 0, n_batch, i + 1 == chunks,
                                       &past) == 0,
         "mtmd_helper_eval_chunk_single");
    } else if (way == by::tailcut) {
      tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
      rule.detector = TAILCUT_TOPK, rule.k = k ? k : n;
      ok(tailcut_mtmd_eval_image(e.tailcut, &rule, e.mtmd, ctx, chunk, past, 0, n_batch, &past) ==
             0,
         "tailcut_mtmd_eval_image");
    } else {
      past = decode(e, ctx, chunk, past, k ? k : n, n_batch);
    }
  }
  const int words = llama_vocab_n_tokens(llama_model_get_vocab(e.model));
  const float *logits = llama_get_logits_ith(ctx, -1);
  answer found = {{logits, logits + words}, {}};
  for (int i = 0; i < 12; i++, past++) {
    logits = llama_get_logits_ith(ctx, -1);
    llama_token token = (llama_token)(std::max_element(logits, logits + words) - logits);
    found.tokens.push_back(token);
    llama_pos at[4] = {past, past, past, 0};
    llama_seq_id sequence = 0, *sequences = &sequence;
    int32_t one = 1;
    int8_t wanted = 1;
    ok(llama_decode(ctx, {1, &token, nullptr, at, &one, &sequences, &wanted}) == 0, "llama_decode");
  }
  llama_free(ctx);
  return found;
}

static double difference(const answer &a, const answer &b) {
  double most = 0;
  for (size_t i = 0; i < a.logits.size(); i++)
    most = std::max(most, (double)std::fabs(a.logits[i] - b.logits[i]));
  return most;
}

/* Stripes and squares with a little noise. */
static std::vector<unsigned char> picture(int width, int height) {
  std::vector<unsigned char> pixels;
  unsigned state = 7;
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++)
      for (int c = 0; c < 3; c++) {
        state = state * 1664525u + 1013904223u;
        pixels.push_back(
            (unsigned char)(x * 3 + y * 2 * c + (x / 30 + y / 40) % 3 * 60 + (state >> 28)));
      }
  return pixels;
}

int main(int argc, char **argv) {
  ok(argc == 3 || argc == 5, "usage: check NAME.gguf NAME-mmproj.gguf [WIDTH HEIGHT]: it");
  llama_log_set(errors_only, nullptr);
  mtmd_helper_log_set(errors_only, nullptr);
  engine e = {};
  e.model = llama_model_load_from_file(argv[1], llama_model_default_params());
  ok(e.model != nullptr, argv[1]);
  mtmd_context_params params = mtmd_context_params_default();
  params.use_gpu = params.warmup = false, params.n_threads = 1;
  e.mtmd = mtmd_init_from_file(argv[2], e.model, params);
  ok(e.mtmd != nullptr, argv[2]);
  tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  ok(tailcut_create(&e.tailcut, &config) == TAILCUT_OK, "tailcut_create");

  const int width = argc > 3 ? atoi(argv[3]) : 224, height = argc > 3 ? atoi(argv[4]) : 224;
  std::vector<unsigned char> pixels = picture(width, height);
  mtmd_bitmap *first = mtmd_bitmap_init(width, height, pixels.data());
  std::reverse(pixels.begin(), pixels.end());
  mtmd_bitmap *second = mtmd_bitmap_init(width, height, pixels.data());
  const mtmd_bitmap *pictures[] = {first, second};
  const std::string mark = mtmd_default_marker();
  const std::string text = "A photo: " + mark + " and another " + mark + " What differs?";
  mtmd_input_text input = {};
  input.text = text.c_str(), input.text_len = text.size();
  input.add_special = input.parse_special = true;
  e.chunks = mtmd_input_chunks_init();
  ok(mtmd_tokenize(e.mtmd, e.chunks, &input, pictures, 2) == 0, "mtmd_tokenize");

  bool wrong = false;
  for (int n_batch : {512, 48}) {
    const answer theirs = ask(e, by::llama_cpp, 0, n_batch);
    for (int k : {0, 14, 33, 57}) {
      const answer want = k ? ask(e, by::hand, k, n_batch) : theirs;
      const answer found = ask(e, by::tailcut, k, n_batch);
      const double apart = difference(want, found), pruned = difference(theirs, found);
      const bool equal = want.tokens == found.tokens;
      wrong |= !equal || (k ? pruned < 1e-3 : apart > 0);
      printf(
          "n_batch %3d, %s%.0d kept: greedy tokens %s, logits differ by %.3g; with all by %.3g\n",
          n_batch, k ? "" : "all", k, equal ? "equal" : "DIFFER", apart, pruned);
    }
  }
  mtmd_bitmap_free(first);
  mtmd_bitmap_free(second);
  mtmd_input_chunks_free(e.chunks);
  mtmd_free(e.mtmd);
  llama_model_free(e.model);
  tailcut_destroy(e.tailcut);
  return wrong;
}
