// QuantConfig: which scheme every kind of layer runs in. Decided once, from what the user asked for and
// what the checkpoint holds, and passed on explicitly.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/hf_config.h"
#include "models/weight_spec.h"
#include "nibble/result.h"
#include "quant/scheme.h"

namespace nibble::models {

// How routed experts are computed.
enum class MoeBackend : std::uint8_t {
  automatic,  // as their scheme says
  w4a16,      // 4-bit weights; inputs as they are
  w4a8,       // 4-bit weights; inputs quantised as the scheme <format>_w4a8 does
  fp8,        // weights made FP8 in 128 x 128 blocks while loading, inputs FP8
  reference,  // as their scheme says, by the device's plainest kernel
};
// bad_input for other names than auto, w4a16, w4a8, fp8, reference.
Result<MoeBackend> parse_moe_backend(std::string_view name);

// Scheme names as the user gives them. "auto": as stored (dummy weights: as config.json says).
struct QuantRequest {
  std::string quantization = "auto";  // of attn, mlp and experts, unless named below
  std::string attn;                   // empty = quantization
  std::string mlp;
  std::string experts;
  std::string other;          // embedding and head (never the router); empty = as stored
  bool search_scales = true;  // of what is quantised while loading: least squared error, else the plain rule
  MoeBackend moe_backend = MoeBackend::automatic;
  std::vector<std::string> exclude;  // modules that stay as stored: names or globs ("model.layers.0.*")
};

class QuantConfig {
 public:
  // unsupported for names that are not schemes, with those that are, and for experts in another format than
  // the backend makes.
  static Result<QuantConfig> resolve(const QuantRequest& request);

  // The scheme asked for, of a module (without ".weight") that is stored as `stored`; none = as stored.
  // unsupported if the backend has no kernel for experts in their format, with the pairs there are.
  [[nodiscard]] Result<std::optional<quant::Scheme>> scheme_of(LayerKind kind, std::string_view module,
                                                               quant::WeightFormat stored) const;

 private:
  [[nodiscard]] Result<std::optional<quant::Scheme>> scheme_of_experts(std::string_view module,
                                                                       quant::WeightFormat stored) const;

  std::optional<quant::Scheme> attn_;
  std::optional<quant::Scheme> mlp_;
  std::optional<quant::Scheme> experts_;
  std::optional<quant::Scheme> other_;
  MoeBackend moe_backend_ = MoeBackend::automatic;
  std::vector<std::string> exclude_;
};

// The scheme of dummy weights of a checkpoint that claims this; bf16 if it claims nothing.
quant::Scheme claimed_scheme(const formats::QuantizationConfig& claim);

}  // namespace nibble::models
