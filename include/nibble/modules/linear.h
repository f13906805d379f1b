// LinearModule: one linear layer by itself, y = x W^T, or the first half of a gated MLP,
// y = silu(x W^T) * (x V^T), with weights in any scheme.
//
//   NIB_TRY(auto device, nibble::ModuleDevice::open({.device = "cuda"}));
//   NIB_TRY(auto linear, nibble::LinearModule::create_dummy(device, config, /*seed=*/1));
//   NIB_TRY_STATUS(linear->forward(num_tokens, x, y));  // launches, does not wait
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nibble/modules/device.h"
#include "nibble/modules/weights.h"
#include "nibble/result.h"

namespace nibble {

struct LinearModuleConfig {
  std::int64_t in_features = 0;
  std::int64_t out_features = 0;
  bool gated = false;  // two matrices of this size: silu(x W^T) * (x V^T)
  // A name of quantization_schemes() (checkpoint.h): bf16, fp8, mxfp4, nvfp4, ... Weights of another format
  // are quantised by the format's plain rule.
  std::string scheme = "bf16";
  std::int32_t max_tokens = 512;  // of a call
};

// Both [out_features, in_features].
struct LinearWeights {
  HostMatrix weight;
  HostMatrix up;  // V of a gated layer
};

class LinearModule {
 public:
  // bad_input: sizes, scheme or weights that do not fit each other or are not finite (the message names
  // them); out_of_memory.
  static Result<std::unique_ptr<LinearModule>> create(std::shared_ptr<ModuleDevice> device,
                                                      const LinearModuleConfig& config,
                                                      const LinearWeights& weights);
  // Pseudo-random weights of magnitude 1 / sqrt(in_features), the same for the same seed and kind of device.
  static Result<std::unique_ptr<LinearModule>> create_dummy(std::shared_ptr<ModuleDevice> device,
                                                            const LinearModuleConfig& config,
                                                            std::uint64_t seed);
  ~LinearModule();
  LinearModule(const LinearModule&) = delete;
  LinearModule& operator=(const LinearModule&) = delete;

  // x [num_tokens, in_features] and y [num_tokens, out_features], f32, in the device's memory, not
  // overlapping. Launches and returns without waiting. Not recorded by itself: ModuleDevice::run_recorded
  // makes one CUDA graph of several calls. bad_input: more than max_tokens, null pointers.
  Status forward(std::int32_t num_tokens, const float* x, float* y);

  // The same in host memory: copies in, runs, copies out, waits. Sizes come from x.
  Status forward_host(std::span<const float> x, std::span<float> y);

  // The definition, for checks: [tokens, out_features] from the packed weights decoded, in double on the
  // host, inputs quantised where the scheme says so. Slow: meant for a few tokens. x in host memory.
  [[nodiscard]] Result<std::vector<double>> reference(std::span<const float> x) const;

  [[nodiscard]] const LinearModuleConfig& config() const noexcept;
  [[nodiscard]] std::size_t weight_bytes() const noexcept;  // packed: what a call must read

  struct Impl;

 private:
  explicit LinearModule(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble
