#include "models/quant_config.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "core/check.h"

namespace nibble::models {
namespace {

Result<std::optional<quant::Scheme>> resolve_name(const std::string& name, const std::string& fallback) {
  const std::string& wanted = name.empty() ? fallback : name;
  if (wanted.empty() || wanted == "auto") return std::optional<quant::Scheme>();
  NIB_TRY(const quant::Scheme scheme, quant::find_scheme(wanted));
  return std::optional(scheme);
}

struct BackendRow {
  MoeBackend backend;
  std::string_view name;
  bool four_bits;  // of weights; else any format
};
constexpr std::array kBackends = {
    BackendRow{MoeBackend::automatic, "auto", false},
    BackendRow{MoeBackend::w4a16, "w4a16", true},
    BackendRow{MoeBackend::w4a8, "w4a8", true},
    BackendRow{MoeBackend::fp8, "fp8", false},
    BackendRow{MoeBackend::reference, "reference", false},
};

constexpr std::array kFourBitFormats = {quant::WeightFormat::mxfp4, quant::WeightFormat::nvfp4,
                                        quant::WeightFormat::int4};

bool has_four_bits(quant::WeightFormat format) {
  return std::find(kFourBitFormats.begin(), kFourBitFormats.end(), format) != kFourBitFormats.end();
}

const BackendRow& backend_row(MoeBackend backend) {
  return *std::find_if(kBackends.begin(), kBackends.end(),
                       [&](const BackendRow& row) { return row.backend == backend; });
}

// "auto: any; w4a16: mxfp4, nvfp4, int4; ...".
std::string supported_pairs() {
  std::string text;
  for (const BackendRow& row : kBackends) {
    text += fmt::format("{}{}: ", text.empty() ? "" : "; ", row.name);
    if (!row.four_bits) {
      text += "any";
      continue;
    }
    for (const quant::WeightFormat format : kFourBitFormats) {
      text += fmt::format("{}{}", format == kFourBitFormats.front() ? "" : ", ", quant::format_name(format));
    }
  }
  return text;
}

Error no_kernel(MoeBackend backend, std::string_view experts) {
  return unsupported(fmt::format("moe_backend {}: no kernel for {}; supported formats of experts: {}",
                                 backend_row(backend).name, experts, supported_pairs()));
}

// The first scheme of a format that quantises inputs.
quant::Scheme with_quantized_inputs(quant::WeightFormat format) {
  const auto fits = [&](const quant::SchemeRow& row) {
    return row.scheme.weights == format && row.scheme.activations != quant::ActivationFormat::none;
  };
  const auto schemes = quant::schemes();
  const auto it = std::find_if(schemes.begin(), schemes.end(), fits);
  NIB_CHECK(it != schemes.end(), "{} has no scheme with quantised inputs", quant::format_name(format));
  return it->scheme;
}

}  // namespace

Result<MoeBackend> parse_moe_backend(std::string_view name) {
  std::string known;
  for (const BackendRow& row : kBackends) {
    if (row.name == name) return row.backend;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name);
  }
  return bad_input(fmt::format("moe_backend '{}' is unknown; use one of {}", name, known));
}

Result<QuantConfig> QuantConfig::resolve(const QuantRequest& request) {
  QuantConfig config;
  NIB_TRY(config.attn_, resolve_name(request.attn, request.quantization));
  NIB_TRY(config.mlp_, resolve_name(request.mlp, request.quantization));
  NIB_TRY(config.experts_, resolve_name(request.experts, request.quantization));
  NIB_TRY(config.other_, resolve_name(request.other, "auto"));
  config.exclude_ = request.exclude;
  config.moe_backend_ = request.moe_backend;
  const bool named = !request.experts.empty() && config.experts_.has_value();
  if (request.moe_backend == MoeBackend::fp8 && named &&
      config.experts_->weights != quant::WeightFormat::fp8) {
    return no_kernel(request.moe_backend,
                     fmt::format("experts asked for as {}, it makes them fp8", request.experts));
  }
  return config;
}

Result<std::optional<quant::Scheme>> QuantConfig::scheme_of(LayerKind kind, std::string_view module,
                                                            quant::WeightFormat stored) const {
  using Scheme = std::optional<quant::Scheme>;
  const std::string name(module);
  const auto excludes = [&](const std::string& glob) { return fnmatch(glob.c_str(), name.c_str(), 0) == 0; };
  if (std::any_of(exclude_.begin(), exclude_.end(), excludes)) return Scheme();
  switch (kind) {
    case LayerKind::attn: return Scheme(attn_);
    case LayerKind::mlp: return Scheme(mlp_);
    case LayerKind::experts: return scheme_of_experts(module, stored);
    // The router stays as stored: a rounded score sends a token to another expert.
    case LayerKind::other: return module.ends_with(".gate") ? Scheme() : Scheme(other_);
  }
  return Scheme();
}

Result<std::optional<quant::Scheme>> QuantConfig::scheme_of_experts(std::string_view module,
                                                                    quant::WeightFormat stored) const {
  using Scheme = std::optional<quant::Scheme>;
  const quant::WeightFormat format = experts_ ? experts_->weights : stored;
  switch (moe_backend_) {
    case MoeBackend::automatic:
    case MoeBackend::reference: return Scheme(experts_);
    case MoeBackend::fp8: return Scheme(with_quantized_inputs(quant::WeightFormat::fp8));
    case MoeBackend::w4a16:
    case MoeBackend::w4a8: break;
  }
  if (!has_four_bits(format)) {
    return no_kernel(moe_backend_, fmt::format("{} in {}", module, quant::format_name(format)));
  }
  quant::Scheme scheme = experts_.value_or(quant::Scheme{.weights = format});
  scheme.activations = moe_backend_ == MoeBackend::w4a8 ? with_quantized_inputs(format).activations
                                                        : quant::ActivationFormat::none;
  return Scheme(scheme);
}

quant::Scheme claimed_scheme(const formats::QuantizationConfig& claim) {
  if (claim.formats.empty()) return {};
  quant::Scheme scheme{.weights = claim.formats.front()};
  if (!claim.integers.empty()) scheme.group_k = claim.integers.front().group_size;
  return scheme;
}

}  // namespace nibble::models
