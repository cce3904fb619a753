/* SPDX-License-Identifier: Apache-2.0 */
/* What edge_llm.cpp uses of TensorRT-Edge-LLM's runtime, stated anew: names, types, who owns what. One
 * request, one slot; tensors are memory of the device (edge_llm.cpp beside this has the functions). */
#pragma once
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

namespace nvinfer1 {
enum class DataType { kFLOAT, kHALF, kINT8, kINT32 };
}

namespace trt_edgellm {
namespace rt {

enum class DeviceType { kCPU, kGPU };

class Coords {
 public:
  Coords() = default;
  Coords(std::initializer_list<int64_t> dims) : mDims(dims) {}
  int64_t operator[](size_t axis) const { return mDims[axis]; }
  int64_t volume() const;

 private:
  std::vector<int64_t> mDims;
};

class Tensor {
 public:
  Tensor() = default;
  Tensor(Coords const &extent, DeviceType deviceType, nvinfer1::DataType dataType,
         std::string const &name = "");
  Tensor(void *data, Coords const &extent, DeviceType deviceType, nvinfer1::DataType dataType,
         std::string const &name = "") noexcept; /* a view */
  Tensor(Tensor &&) noexcept = default;
  Tensor &operator=(Tensor &&) noexcept = default;
  Coords getShape() const noexcept { return mExtent; }
  void const *rawPointer() const noexcept { return mData; }
  void *rawPointer() noexcept { return mData; }
  template <typename T>
  T *dataPointer() noexcept {
    return static_cast<T *>(mData);
  }
  template <typename T>
  T const *dataPointer() const noexcept {
    return static_cast<T const *>(mData);
  }

 private:
  Coords mExtent;
  std::shared_ptr<void> mOwned;
  void *mData = nullptr;
};

struct VisualPrunerConfig {
  bool enabled{false};
  std::string algorithm{"dart"};
  float reductionRatio{0.25F};
  int32_t minVisualTokens{16};
};

struct LLMEngineConfig {
  int32_t hiddenSize{};
  int32_t maxSupportedInputLength{};
  int32_t imageTokenId{-1};
};

struct PipelineIO {
  Tensor inputsEmbeds;           /* [1, length, hiddenSize] of half */
  std::vector<int32_t> keptRows; /* the stand-in's: rows that stay, ascending */
};

struct ImageSpan {
  int32_t begin{0};
  int32_t end{0};
  int32_t targetTokens{0}; /* 1..end - begin */
};

struct PruneRequest {
  Tensor const *embeds{nullptr}; /* [origLen, hiddenSize] of half, on the device */
  std::vector<int32_t> const *imagePositions{nullptr};
  std::vector<int32_t> const *textPositions{nullptr};
  std::vector<ImageSpan> const *imageSpans{nullptr};
  int32_t targetImageTokens{0};
  int32_t origLen{0};
};

class VisualTokenPruner {
 public:
  virtual ~VisualTokenPruner() = default;
  virtual char const *name() const noexcept = 0;
  int32_t pruneForPrefill(std::vector<int32_t> const &hostTokenIds, PipelineIO &io, int32_t origLen,
                          cudaStream_t stream);

 protected:
  VisualTokenPruner(VisualPrunerConfig const &config, LLMEngineConfig const &engineConfig);
  virtual int32_t prune(PruneRequest const &req, PipelineIO &io, cudaStream_t stream) = 0;
  int32_t compactToKeepList(PipelineIO &io, std::vector<int32_t> const &retainedImageIndices,
                            PruneRequest const &req, cudaStream_t stream);

 private:
  VisualPrunerConfig mConfig;
  LLMEngineConfig mEngine;
};

using VisualPrunerFactory = std::function<std::unique_ptr<VisualTokenPruner>(
    VisualPrunerConfig const &, LLMEngineConfig const &)>;
void registerVisualPruner(std::string const &name, VisualPrunerFactory factory);
std::unique_ptr<VisualTokenPruner> createVisualTokenPruner(VisualPrunerConfig const &config,
                                                           LLMEngineConfig const &engineConfig);

}  // namespace rt
}  // namespace trt_edgellm
