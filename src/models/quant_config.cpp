#include "models/quant_config.h"

#include <fnmatch.h>

#include <algorithm>

namespace nibble::models {
namespace {

Result<std::optional<quant::Scheme>> resolve_name(const std::string& name, const std::string& fallback) {
  const std::string& wanted = name.empty() ? fallback : name;
  if (wanted.empty() || wanted == "auto") return std::optional<quant::Scheme>();
  NIB_TRY(const quant::Scheme scheme, quant::find_scheme(wanted));
  return std::optional(scheme);
}

}  // namespace

Result<QuantConfig> QuantConfig::resolve(const QuantRequest& request) {
  QuantConfig config;
  NIB_TRY(config.attn_, resolve_name(request.attn, request.quantization));
  NIB_TRY(config.mlp_, resolve_name(request.mlp, request.quantization));
  NIB_TRY(config.experts_, resolve_name(request.experts, request.quantization));
  NIB_TRY(config.other_, resolve_name(request.other, "auto"));
  config.exclude_ = request.exclude;
  return config;
}

std::optional<quant::Scheme> QuantConfig::scheme_of(LayerKind kind, std::string_view module) const {
  const std::string name(module);
  const auto excludes = [&](const std::string& glob) { return fnmatch(glob.c_str(), name.c_str(), 0) == 0; };
  if (std::any_of(exclude_.begin(), exclude_.end(), excludes)) return std::nullopt;
  switch (kind) {
    case LayerKind::attn: return attn_;
    case LayerKind::mlp: return mlp_;
    case LayerKind::experts: return experts_;
    // The router stays as stored: a rounded score sends a token to another expert.
    case LayerKind::other: return module.ends_with(".gate") ? std::nullopt : other_;
  }
  return std::nullopt;
}

quant::Scheme claimed_scheme(const formats::QuantizationConfig& claim) {
  if (claim.formats.empty()) return {};
  quant::Scheme scheme{.weights = claim.formats.front()};
  if (!claim.integers.empty()) scheme.group_k = claim.integers.front().group_size;
  return scheme;
}

}  // namespace nibble::models
