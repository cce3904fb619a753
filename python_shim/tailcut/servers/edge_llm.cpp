/* SPDX-License-Identifier: Apache-2.0 */
/* TensorRT-Edge-LLM: tailcutRegisterPruner(), before the runtime is made, names the visual pruner
 * "tailcut" (--visualPruneAlgo). Of each image it keeps what is most like the prompt's text, as
 * many tokens as the runtime grants; it waits once, for the list. Limits: fp16, as theirs; without
 * text the first stay. Written from the interface of 2026; a stand-in ran it, no engine. */
#include <stdexcept>
#include "runtime/preprocess/visualTokenPruner.h"
#include "tailcut.h"
using namespace trt_edgellm;

class TailcutPruner final : public rt::VisualTokenPruner {
 public:
  TailcutPruner(rt::VisualPrunerConfig const &config, rt::LLMEngineConfig const &engine)
      : VisualTokenPruner(config, engine), mDim(engine.hiddenSize) {
    tailcut_config settings = TAILCUT_CONFIG_INITIALIZER;
    settings.device_kind = TAILCUT_DEVICE_CUDA;
    tailcut_handle handle = nullptr;
    check(!tailcut_create(&handle, &settings)), mHandle.reset(handle, tailcut_destroy);
    tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
    int32_t const rows = limits.max_tokens = engine.maxSupportedInputLength;
    limits.segments = 1, limits.dim = mDim;
    size_t other = 0;
    check(!tailcut_workspace_size(handle, TAILCUT_CALL_PRUNE_VISUAL, &limits, &mSize) &&
          !tailcut_workspace_size(handle, TAILCUT_CALL_MEAN_DIRECTION, &limits, &other));
    if (mSize < other) mSize = other;
    auto const words = [](size_t n) {
      return rt::Tensor({int64_t(n)}, rt::DeviceType::kGPU, nvinfer1::DataType::kINT32, "tailcut");
    };
    mWork = words(mSize / 4), mKept = words(rows + 1), mText = words(mDim), mRoles = words(rows);
    check(!tailcut_workspace_init(handle, mWork.rawPointer(), mSize, nullptr));
  }
  char const *name() const noexcept override { return "tailcut"; }

 protected:
  int32_t prune(rt::PruneRequest const &req, rt::PipelineIO &io, cudaStream_t stream) override {
    std::vector<uint8_t> roles(req.origLen, 0);
    for (int32_t const row : *req.textPositions) roles[row] = TAILCUT_ROLE_QUERY;
    void *const work = mWork.rawPointer(), *const there = mRoles.rawPointer();
    check(!cudaMemcpyAsync(there, roles.data(), roles.size(), cudaMemcpyHostToDevice, stream));
    tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
    batch.segments = 1, batch.max_tokens = req.origLen;
    tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
    tokens.data = req.embeds->rawPointer(), tokens.dtype = TAILCUT_F16, tokens.dim = mDim;
    tailcut_reference text = TAILCUT_REFERENCE_INITIALIZER;
    tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
    text.data = mText.rawPointer(), text.dtype = TAILCUT_F32, rule.detector = TAILCUT_TOPK;
    check(!tailcut_mean_direction(mHandle.get(), &batch, &tokens, static_cast<uint8_t *>(there),
                                  mText.dataPointer<float>(), work, mSize, stream));
    tailcut_selection selection = TAILCUT_SELECTION_INITIALIZER;
    selection.counts = mKept.dataPointer<int32_t>(), selection.kept = selection.counts + 1;
    for (rt::ImageSpan const &image : *req.imageSpans) {
      tokens.data = req.embeds->dataPointer<half>() + int64_t(image.begin) * mDim;
      batch.max_tokens = image.end - image.begin, rule.k = image.targetTokens;
      check(!tailcut_prune_visual(mHandle.get(), &batch, &tokens, &text, &rule, &selection, nullptr,
                                  0, work, mSize, stream));
      selection.kept += image.targetTokens;
    }
    std::vector<int32_t> kept(req.targetImageTokens);
    check(!cudaMemcpyAsync(kept.data(), mKept.dataPointer<int32_t>() + 1, 4 * kept.size(),
                           cudaMemcpyDeviceToHost, stream) &&
          !cudaStreamSynchronize(stream));
    int32_t *row = kept.data();
    for (rt::ImageSpan const &image : *req.imageSpans)
      for (int32_t j = 0; j < image.targetTokens; j++) *row++ += image.begin;
    return compactToKeepList(io, kept, req, stream);
  }

 private:
  static void check(bool ok) { ok ? void() : throw std::runtime_error(tailcut_last_error()); }
  std::shared_ptr<tailcut_handle_s> mHandle;
  int32_t const mDim;
  size_t mSize = 0;
  rt::Tensor mWork, mKept, mText, mRoles;
};

void tailcutRegisterPruner() {
  rt::registerVisualPruner(
      "tailcut", [](auto const &...of) { return std::make_unique<TailcutPruner>(of...); });
}
