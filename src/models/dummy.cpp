#include "models/dummy.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

namespace nibble::models {
namespace {

// A value in [-1, 1) that depends on i alone (Weyl sequence of the golden ratio).
float spread(std::int64_t i) {
  const double x = 0.6180339887498949 * static_cast<double>(i + 1);
  return static_cast<float>(2.0 * (x - static_cast<double>(static_cast<std::int64_t>(x))) - 1.0);
}

void fill_vector(const WeightSpec& spec, MemorySpace& memory) {
  constexpr float kBiasScale = 0.01F;  // far below a sigmoid's range, enough to break ties
  layers::Parameter& parameter = *spec.vector;
  Buffer host(static_cast<std::size_t>(parameter.size) * sizeof(float));
  const bool is_bias = spec.name.ends_with("bias");
  for (std::int64_t i = 0; i < parameter.size; ++i) {
    host.as<float>()[i] = is_bias ? kBiasScale * spread(i) : 1.0F;
  }
  parameter.values = memory.place(std::move(host));
}

}  // namespace

Status set_dummy_formats(const std::vector<WeightSpec>& specs, const QuantConfig& quant,
                         const quant::Scheme& fallback) {
  for (const WeightSpec& spec : specs) {
    if (!spec.is_matrix()) continue;
    const quant::Scheme own = spec.kind == LayerKind::other ? quant::Scheme{} : fallback;
    NIB_TRY(const std::optional<quant::Scheme> asked, quant.scheme_of(spec.kind, spec.name, own.weights));
    const quant::Scheme scheme = asked.value_or(own);
    const quant::FormatRow& row = quant::format_row(scheme.weights);
    if (!row.any_group && row.group_k > 0 && spec.k % row.group_k != 0) {
      return bad_input(
          fmt::format("dummy weights: {} has {} inputs, no multiple of the {} that share a scale in {}",
                      spec.name, spec.k, row.group_k, row.name));
    }
    for (const RowBlock& block : spec.blocks) {
      block.weight->shape.format = scheme.weights;
      block.weight->shape.grouping = scheme.grouping(spec.k);
      block.weight->shape.activations = scheme.activations;
    }
  }
  return {};
}

void fill_dummy(const std::vector<WeightSpec>& specs, kernels::Device& device) {
  std::uint64_t seed = 1;
  for (const WeightEntry& entry : distinct_weights(specs)) device.fill_dummy(*entry.weight, seed++);
  for (const WeightSpec& spec : specs) {
    if (!spec.is_matrix()) fill_vector(spec, device.exec().memory());
  }
}

}  // namespace nibble::models
