/* SPDX-License-Identifier: Apache-2.0 */
/* servers/edge_llm.cpp on a stand-in of TensorRT-Edge-LLM's pruning: the prompt is split into text
 * and images, each image is granted ceil(n (1 - ratio)) tokens, at least one, and what the pruner
 * hands to compactToKeepList must be those that a statement in double precision chooses. */
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <numeric>
#include <stdexcept>

#include "runtime/preprocess/visualTokenPruner.h"
#include "tailcut.h"

void tailcutRegisterPruner();

#define CHECK(what) \
  ((what) || (std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what), std::exit(1), 0))

/* ------------------------------------------------------------------------------ the stand-in -- */

namespace trt_edgellm {
namespace rt {

int64_t Coords::volume() const {
  return std::accumulate(mDims.begin(), mDims.end(), int64_t{1}, std::multiplies<int64_t>());
}

Tensor::Tensor(Coords const &extent, DeviceType deviceType, nvinfer1::DataType dataType,
               std::string const &)
    : mExtent(extent) {
  size_t const size = dataType == nvinfer1::DataType::kHALF   ? 2
                      : dataType == nvinfer1::DataType::kINT8 ? 1
                                                              : 4;
  CHECK(deviceType == DeviceType::kGPU);
  CHECK(cudaMalloc(&mData, size_t(extent.volume()) * size) == cudaSuccess);
  mOwned =
      std::shared_ptr<void>(mData, [](void *memory) { CHECK(cudaFree(memory) == cudaSuccess); });
}

Tensor::Tensor(void *data, Coords const &extent, DeviceType, nvinfer1::DataType,
               std::string const &) noexcept
    : mExtent(extent), mData(data) {}

VisualTokenPruner::VisualTokenPruner(VisualPrunerConfig const &config,
                                     LLMEngineConfig const &engineConfig)
    : mConfig(config), mEngine(engineConfig) {}

int32_t VisualTokenPruner::pruneForPrefill(std::vector<int32_t> const &hostTokenIds, PipelineIO &io,
                                           int32_t origLen, cudaStream_t stream) {
  std::vector<int32_t> images, text;
  std::vector<ImageSpan> spans;
  for (int32_t i = 0; i < origLen; i++) {
    bool const image = hostTokenIds[size_t(i)] == mEngine.imageTokenId;
    (image ? images : text).push_back(i);
    if (image && (i == 0 || hostTokenIds[size_t(i) - 1] != mEngine.imageTokenId))
      spans.push_back({i, i, 0});
    if (image) spans.back().end = i + 1;
  }
  int32_t target = 0;
  for (ImageSpan &span : spans) {
    int32_t const length = span.end - span.begin;
    span.targetTokens = std::max(1, int32_t(std::ceil(length * (1.0 - mConfig.reductionRatio))));
    target += span.targetTokens;
  }
  if (int32_t(images.size()) < mConfig.minVisualTokens || target >= int32_t(images.size()))
    return origLen;
  int64_t const hidden = io.inputsEmbeds.getShape()[2];
  Tensor const view(io.inputsEmbeds.rawPointer(), {origLen, hidden}, DeviceType::kGPU,
                    nvinfer1::DataType::kHALF);
  return prune({&view, &images, &text, &spans, target, origLen}, io, stream);
}

int32_t VisualTokenPruner::compactToKeepList(PipelineIO &io, std::vector<int32_t> const &retained,
                                             PruneRequest const &req, cudaStream_t) {
  std::vector<int32_t> keep = *req.textPositions;
  for (int32_t row : retained)
    if (!std::binary_search(req.imagePositions->begin(), req.imagePositions->end(), row))
      throw std::runtime_error("a row that is of no image");
  keep.insert(keep.end(), retained.begin(), retained.end());
  std::sort(keep.begin(), keep.end());
  if (std::adjacent_find(keep.begin(), keep.end()) != keep.end())
    throw std::runtime_error("a row twice");
  for (ImageSpan const &span : *req.imageSpans)
    CHECK(std::count_if(retained.begin(), retained.end(), [&](int32_t row) {
            return row >= span.begin && row < span.end;
          }) == span.targetTokens);
  io.keptRows = keep;
  return int32_t(keep.size());
}

static std::map<std::string, VisualPrunerFactory> factories;
void registerVisualPruner(std::string const &name, VisualPrunerFactory factory) {
  factories[name] = std::move(factory);
}
std::unique_ptr<VisualTokenPruner> createVisualTokenPruner(VisualPrunerConfig const &config,
                                                           LLMEngineConfig const &engineConfig) {
  return factories.at(config.algorithm)(config, engineConfig);
}

}  // namespace rt
}  // namespace trt_edgellm

/* ----------------------------------------------------------------------- the rule, in double -- */

using namespace trt_edgellm;
enum { DIM = 96, LONGEST = 700, IMAGE = 151655 };

static double half_value(uint16_t bits) {
  int const exponent = bits >> 10 & 31;
  double const fraction = bits & 1023;
  double const size =
      exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  return bits >> 15 ? -size : size;
}

static double norm(double const *row) {
  double sum = 0;
  for (int d = 0; d < DIM; d++) sum += row[d] * row[d];
  return std::max(std::sqrt(sum), 1e-8);
}

/* Text, and of each run of image tokens those with the highest mean cosine to it, the first of
 * equals. */
static std::vector<int32_t> statement(std::vector<int32_t> const &ids,
                                      std::vector<double> const &rows, double dropped) {
  std::vector<double> direction(DIM, 0.0), score(ids.size());
  std::vector<int32_t> keep;
  for (size_t i = 0; i < ids.size(); i++) {
    if (ids[i] == IMAGE) continue;
    keep.push_back(int32_t(i));
    for (int d = 0; d < DIM; d++)
      direction[size_t(d)] += rows[i * DIM + size_t(d)] / norm(&rows[i * DIM]);
  }
  for (size_t i = 0; i < ids.size(); i++) {
    for (int d = 0; d < DIM; d++) score[i] += direction[size_t(d)] * rows[i * DIM + size_t(d)];
    score[i] /= norm(&rows[i * DIM]);
  }
  for (size_t begin = 0, end; begin < ids.size(); begin = end) {
    for (end = begin; end < ids.size() && ids[end] == IMAGE;) end++;
    std::vector<int32_t> order(end - begin);
    std::iota(order.begin(), order.end(), int32_t(begin));
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return score[size_t(a)] > score[size_t(b)]; });
    auto const most = size_t(std::ceil(double(order.size()) * (1.0 - dropped)));
    if (!order.empty()) order.resize(std::max<size_t>(1, most));
    keep.insert(keep.end(), order.begin(), order.end());
    if (end == begin) end++;
  }
  std::sort(keep.begin(), keep.end());
  return keep;
}

int main() {
  tailcutRegisterPruner();
  rt::LLMEngineConfig engine;
  engine.hiddenSize = DIM, engine.maxSupportedInputLength = LONGEST, engine.imageTokenId = IMAGE;
  rt::PipelineIO io;
  io.inputsEmbeds =
      rt::Tensor({1, LONGEST, DIM}, rt::DeviceType::kGPU, nvinfer1::DataType::kHALF, "embeds");

  /* Numbers of tokens: text, image, text, image, ... */
  std::vector<std::vector<int32_t>> const prompts = {
      {20, 200, 30}, {8, 120, 5, 90, 12}, {0, 100, 9}, {0, 64, 3, 17, 1, 333}, {5, 9, 2}, {0, 50}};
  uint32_t state = 7;
  int pruned = 0, whole = 0;
  for (float const ratio : {0.25F, 0.5F, 0.78F, 0.99F}) {
    rt::VisualPrunerConfig config;
    config.algorithm = "tailcut", config.reductionRatio = ratio;
    auto const pruner = rt::createVisualTokenPruner(config, engine); /* serves all requests */
    CHECK(std::string(pruner->name()) == "tailcut");
    for (std::vector<int32_t> const &prompt : prompts) {
      std::vector<int32_t> ids;
      for (size_t part = 0; part < prompt.size(); part++)
        ids.insert(ids.end(), size_t(prompt[part]), part % 2 ? int32_t(IMAGE) : int32_t(part) + 1);
      std::vector<uint16_t> bits(ids.size() * DIM);
      for (uint16_t &value : bits) { /* -2..2, the exponents of which differ */
        state = state * 1664525U + 1013904223U;
        value = uint16_t((state >> 16 & 0x8000) | (0x3000 + (state >> 8) % 0x1000));
      }
      for (size_t i = 40; i < 50 && ids.size() > 60; i++) /* ties */
        std::copy_n(&bits[(i - 15) * DIM], DIM, &bits[i * DIM]);
      std::vector<double> rows(bits.size());
      std::transform(bits.begin(), bits.end(), rows.begin(), half_value);
      CHECK(cudaMemcpyAsync(io.inputsEmbeds.rawPointer(), bits.data(), bits.size() * 2,
                            cudaMemcpyHostToDevice, nullptr) == cudaSuccess);
      io.keptRows.clear();
      int32_t const length = int32_t(ids.size());
      int32_t const left = pruner->pruneForPrefill(ids, io, length, nullptr);
      if (left == length) {
        whole++;
        CHECK(io.keptRows.empty());
        continue;
      }
      pruned++;
      std::vector<int32_t> want = statement(ids, rows, double(ratio));
      if (prompt == std::vector<int32_t>{0, 50}) { /* no text: the first */
        want.resize(size_t(left));
        std::iota(want.begin(), want.end(), 0);
      }
      CHECK(io.keptRows == want && left == int32_t(want.size()));
    }
  }
  CHECK(pruned == 20 && whole == 4); /* the 9 tokens of one prompt are too few */
  bool refused = false;
  try {
    rt::LLMEngineConfig none = engine;
    none.hiddenSize = -1;
    rt::VisualPrunerConfig config;
    config.algorithm = "tailcut";
    rt::createVisualTokenPruner(config, none);
  } catch (std::runtime_error const &error) {
    refused = std::string(error.what()).find("dim") != std::string::npos;
  }
  CHECK(refused);
  std::printf("%d requests\n", pruned);
  return 0;
}
