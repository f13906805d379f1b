// MoeModule: one mixture-of-experts layer by itself: y += sum over a token's experts of weight * expert(x),
// and shared experts that every token passes (DeepSeekMoE). An expert is down(silu(gate(x)) * up(x)).
//
//   NIB_TRY(auto device, nibble::ModuleDevice::open({.device = "cuda"}));
//   NIB_TRY(auto moe, nibble::MoeModule::create_dummy(device, config, /*seed=*/1));
//   NIB_TRY_STATUS(moe->forward_add(num_tokens, x, ids, weights, y));  // launches, does not wait
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

enum class MoeGate : std::uint8_t {
  none,     // experts and their weights are given to forward_add
  softmax,  // DeepSeek-V2: a group's score is that of its best expert
  sigmoid,  // DeepSeek-V3: a group's score is the sum of its two best
};

struct MoeModuleConfig {
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;  // of one routed expert
  std::int64_t num_experts = 0;
  std::int32_t experts_per_token = 0;
  std::int64_t shared_intermediate_size = 0;  // 0 = no shared experts
  MoeGate gate = MoeGate::none;
  // The rest of the gate.
  std::int32_t n_group = 1;     // groups of equal size; 1 = experts are not grouped
  std::int32_t topk_group = 1;  // groups a token may use
  bool norm_topk_prob = false;  // divide the chosen weights by their sum
  float routed_scaling_factor = 1.0F;
  bool has_correction_bias = false;  // takes part in choosing only
  // Names of quantization_schemes() (checkpoint.h): bf16, fp8, mxfp4, nvfp4, ... Weights of another format
  // are quantised by the format's plain rule.
  std::string scheme = "bf16";
  std::string shared_scheme;      // empty = scheme
  std::int32_t max_tokens = 512;  // of a call
};

// gate, up: [rows of expert 0, rows of expert 1, ...]: [num_experts * intermediate_size, hidden_size].
// down: [num_experts * hidden_size, intermediate_size]. Shared ones likewise, as one wide expert.
struct MoeWeights {
  HostMatrix gate_proj;
  HostMatrix up_proj;
  HostMatrix down_proj;
  HostMatrix shared_gate_proj;  // [shared_intermediate_size, hidden_size]
  HostMatrix shared_up_proj;
  HostMatrix shared_down_proj;             // [hidden_size, shared_intermediate_size]
  HostMatrix router;                       // [num_experts, hidden_size], kept as it is; with a gate
  std::span<const float> correction_bias;  // [num_experts]; with has_correction_bias
};

class MoeModule {
 public:
  // bad_input: sizes, schemes or weights that do not fit each other or are not finite (the message names
  // them); out_of_memory.
  static Result<std::unique_ptr<MoeModule>> create(std::shared_ptr<ModuleDevice> device,
                                                   const MoeModuleConfig& config, const MoeWeights& weights);
  // Pseudo-random weights of magnitude 1 / sqrt(inputs), the same for the same seed and kind of device.
  static Result<std::unique_ptr<MoeModule>> create_dummy(std::shared_ptr<ModuleDevice> device,
                                                         const MoeModuleConfig& config, std::uint64_t seed);
  ~MoeModule();
  MoeModule(const MoeModule&) = delete;
  MoeModule& operator=(const MoeModule&) = delete;

  // All pointers are in the device's memory; calls launch and return without waiting. x, y: [num_tokens,
  // hidden_size] f32, not overlapping, y is added to. ids: [num_tokens, experts_per_token] i32 in [0,
  // num_experts), or -1: contributes nothing; a token's are distinct. weights: the same shape, f32.
  // Up to kMaxRecordedTokens tokens a GPU replays equal calls (sizes and pointers) as a CUDA graph: the
  // pointers must stay valid until they are forgotten (ModuleDevice::forget_recorded) or the module ends.
  // bad_input: more than max_tokens, null pointers, no gate; on a CPU also ids out of range.
  Status forward_add(std::int32_t num_tokens, const float* x, float* y);
  Status forward_add(std::int32_t num_tokens, const float* x, const std::int32_t* ids, const float* weights,
                     float* y);
  // The gate alone. ids come out ascending; ties go to the lower index.
  Status route(std::int32_t num_tokens, const float* x, std::int32_t* ids, float* weights);
  static constexpr std::int32_t kMaxRecordedTokens = 64;

  // The same in host memory: copies in, runs, copies out, waits. Sizes come from x.
  Status forward_add_host(std::span<const float> x, std::span<float> y);
  Status forward_add_host(std::span<const float> x, std::span<const std::int32_t> ids,
                          std::span<const float> weights, std::span<float> y);

  // The definition, for checks: what forward_add adds to y, [tokens, hidden_size], from the packed weights
  // decoded, in double on the host, inputs quantised where the scheme says so. Slow: meant for a few tokens.
  // x, ids, weights in host memory.
  [[nodiscard]] Result<std::vector<double>> reference(std::span<const float> x,
                                                      std::span<const std::int32_t> ids,
                                                      std::span<const float> weights) const;

  [[nodiscard]] const MoeModuleConfig& config() const noexcept;
  [[nodiscard]] std::size_t weight_bytes() const noexcept;  // packed, everything
  [[nodiscard]] std::size_t expert_bytes()
      const noexcept;  // packed, one routed expert: what a step must read of it

  struct Impl;

 private:
  explicit MoeModule(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble
