#include "models/dummy.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::models {
namespace {

using quant::WeightFormat;

QuantFormatChoice all(WeightFormat format) { return {.attn = format, .mlp = format, .experts = format}; }

WeightFormat claimed_format(formats::QuantMethod method) {
  switch (method) {
    case formats::QuantMethod::none: return WeightFormat::bf16;
    case formats::QuantMethod::fp8: return WeightFormat::fp8;
    case formats::QuantMethod::modelopt_nvfp4: return WeightFormat::nvfp4;
    case formats::QuantMethod::mxfp4: return WeightFormat::mxfp4;
  }
  return WeightFormat::bf16;
}

WeightFormat format_of(LayerKind kind, const QuantFormatChoice& choice) {
  switch (kind) {
    case LayerKind::attn: return choice.attn;
    case LayerKind::mlp: return choice.mlp;
    case LayerKind::experts: return choice.experts;
    case LayerKind::other: return WeightFormat::bf16;
  }
  return WeightFormat::bf16;
}

// A value in [-1, 1) that depends on i alone (Weyl sequence of the golden ratio).
float spread(std::int64_t i) {
  const double x = 0.6180339887498949 * static_cast<double>(i + 1);
  return static_cast<float>(2.0 * (x - static_cast<double>(static_cast<std::int64_t>(x))) - 1.0);
}

void fill_vector(const WeightSpec& spec) {
  constexpr float kBiasScale = 0.01F;  // far below a sigmoid's range, enough to break ties
  layers::Parameter& parameter = *spec.vector;
  parameter.values = Buffer(static_cast<std::size_t>(parameter.size) * sizeof(float));
  const bool is_bias = spec.name.ends_with("bias");
  for (std::int64_t i = 0; i < parameter.size; ++i) {
    parameter.values.as<float>()[i] = is_bias ? kBiasScale * spread(i) : 1.0F;
  }
}

}  // namespace

Result<QuantFormatChoice> dummy_formats(std::string_view name, const formats::HfConfig& config) {
  if (name.empty() || name == "auto") return all(claimed_format(config.quantization.method));
  if (name == "fp8") return all(WeightFormat::fp8);
  if (const auto format = quant::format_from_name(name)) return all(*format);
  return bad_input(fmt::format(
      "dummy weights: unknown format \"{}\"; supported: auto, bf16, f16, f32, fp8, mxfp4, nvfp4", name));
}

Status set_dummy_formats(const std::vector<WeightSpec>& specs, const QuantFormatChoice& choice) {
  for (const WeightSpec& spec : specs) {
    const WeightFormat format = format_of(spec.kind, choice);
    const quant::FormatRow& row = quant::format_row(format);
    // FP8 blocks may be partial; groups of four-bit formats may not.
    if (row.group_n == 1 && row.group_k > 0 && spec.is_matrix() && spec.k % row.group_k != 0) {
      return bad_input(
          fmt::format("dummy weights: {} has {} inputs, no multiple of the {} that share a scale in {}",
                      spec.name, spec.k, row.group_k, row.name));
    }
    for (const RowBlock& block : spec.blocks) block.weight->shape.format = format;
  }
  return {};
}

void fill_dummy(const std::vector<WeightSpec>& specs, kernels::Device& device) {
  std::uint64_t seed = 1;
  for (const WeightEntry& entry : distinct_weights(specs)) device.fill_dummy(*entry.weight, seed++);
  for (const WeightSpec& spec : specs) {
    if (!spec.is_matrix()) fill_vector(spec);
  }
}

}  // namespace nibble::models
