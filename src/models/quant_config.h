// QuantConfig: which scheme every kind of layer runs in. Decided once, from what the user asked for and
// what the checkpoint holds, and passed on explicitly.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/hf_config.h"
#include "models/weight_spec.h"
#include "nibble/result.h"
#include "quant/scheme.h"

namespace nibble::models {

// Scheme names as the user gives them. "auto": as stored (dummy weights: as config.json says).
struct QuantRequest {
  std::string quantization = "auto";  // of attn, mlp and experts, unless named below
  std::string attn;                   // empty = quantization
  std::string mlp;
  std::string experts;
  std::string other;          // embedding and head (never the router); empty = as stored
  bool search_scales = true;  // of what is quantised while loading: least squared error, else the plain rule
  std::vector<std::string> exclude;  // modules that stay as stored: names or globs ("model.layers.0.*")
};

class QuantConfig {
 public:
  // unsupported for names that are not schemes, with those that are.
  static Result<QuantConfig> resolve(const QuantRequest& request);

  // The scheme asked for, of a module (without ".weight"); none = as stored.
  [[nodiscard]] std::optional<quant::Scheme> scheme_of(LayerKind kind, std::string_view module) const;

 private:
  std::optional<quant::Scheme> attn_;
  std::optional<quant::Scheme> mlp_;
  std::optional<quant::Scheme> experts_;
  std::optional<quant::Scheme> other_;
  std::vector<std::string> exclude_;
};

// The scheme of dummy weights of a checkpoint that claims this; bf16 if it claims nothing.
quant::Scheme claimed_scheme(const formats::QuantizationConfig& claim);

}  // namespace nibble::models
