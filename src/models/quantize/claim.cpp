#include "models/quantize/claim.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace nibble::models {
namespace {

using formats::QuantMethod;
using quant::WeightFormat;

bool is_plain(WeightFormat format) { return quant::format_row(format).group_k == 0; }

// How a method names all layers of a kind; GPTQ does it as compressed-tensors, FP8 has no patterns, `other`
// has too few layers to need any.
struct KindPattern {
  LayerKind kind;
  QuantMethod method;
  std::string_view pattern;
};
constexpr std::array kKindPatterns = {
    KindPattern{LayerKind::attn, QuantMethod::compressed_tensors, "re:.*self_attn\\..*"},
    KindPattern{LayerKind::mlp, QuantMethod::compressed_tensors,
                "re:.*mlp\\.(shared_experts\\.)?(gate|up|down)_proj$"},
    KindPattern{LayerKind::experts, QuantMethod::compressed_tensors, "re:.*mlp\\.experts\\..*"},
    KindPattern{LayerKind::attn, QuantMethod::modelopt, "*.self_attn*"},
    KindPattern{LayerKind::mlp, QuantMethod::modelopt, "*.mlp.gate_proj"},
    KindPattern{LayerKind::mlp, QuantMethod::modelopt, "*.mlp.up_proj"},
    KindPattern{LayerKind::mlp, QuantMethod::modelopt, "*.mlp.down_proj"},
    KindPattern{LayerKind::mlp, QuantMethod::modelopt, "*.mlp.shared_experts*"},
    KindPattern{LayerKind::experts, QuantMethod::modelopt, "*.mlp.experts*"},
};

QuantMethod method_of(const std::vector<WeightFormat>& quantized) {
  if (quantized.empty()) return QuantMethod::none;
  if (quantized.size() > 1) return QuantMethod::compressed_tensors;
  if (quantized.front() == WeightFormat::fp8) return QuantMethod::fp8;
  return quantized.front() == WeightFormat::nvfp4 ? QuantMethod::modelopt : QuantMethod::compressed_tensors;
}

std::string mtp_name(std::int64_t layer, QuantMethod method) {
  switch (method) {
    case QuantMethod::gptq:
    case QuantMethod::compressed_tensors: return fmt::format("re:model\\.layers\\.{}\\..*", layer);
    case QuantMethod::modelopt: return fmt::format("model.layers.{}.*", layer);
    default: return fmt::format("model.layers.{}", layer);
  }
}

bool is_embedding(std::string_view module) { return module.ends_with("embed_tokens"); }
bool is_router(std::string_view module) { return module.ends_with(".mlp.gate"); }

}  // namespace

void LayerFormats::add(const WeightSpec& spec, WeightFormat format) {
  layers_.push_back({spec.name, spec.kind, format});
}

std::vector<WeightFormat> LayerFormats::quantized_formats() const {
  std::vector<WeightFormat> list;
  for (const Layer& layer : layers_) {
    if (!is_plain(layer.format) && std::find(list.begin(), list.end(), layer.format) == list.end())
      list.push_back(layer.format);
  }
  std::sort(list.begin(), list.end());
  return list;
}

namespace {

// Appends `kind`'s patterns in this method; false if it has none.
bool add_patterns(LayerKind kind, QuantMethod method, std::vector<std::string>& names) {
  if (method == QuantMethod::gptq) method = QuantMethod::compressed_tensors;
  bool found = false;
  for (const KindPattern& row : kKindPatterns) {
    if (row.kind != kind || row.method != method) continue;
    names.emplace_back(row.pattern);
    found = true;
  }
  return found;
}

}  // namespace

std::vector<std::string> LayerFormats::names_of(WeightFormat format, QuantMethod method) const {
  std::vector<std::string> names;
  for (const LayerKind kind : {LayerKind::attn, LayerKind::mlp, LayerKind::experts, LayerKind::other}) {
    const auto of_kind = [&](const Layer& layer) { return layer.kind == kind; };
    const auto matches = [&](const Layer& layer) {
      return layer.kind == kind && (is_plain(format) ? is_plain(layer.format) : layer.format == format);
    };
    const auto count = std::count_if(layers_.begin(), layers_.end(), matches);
    if (count == 0) continue;
    const bool all = count == std::count_if(layers_.begin(), layers_.end(), of_kind);
    if (all && add_patterns(kind, method, names)) continue;
    for (const Layer& layer : layers_) {
      if (matches(layer)) names.push_back(layer.module);
    }
  }
  return names;
}

// Embeddings are no linear layers: nobody expects them in the list. The routers are, one pattern for all.
std::vector<std::string> LayerFormats::plain_names(QuantMethod method) const {
  std::vector<std::string> names = names_of(WeightFormat::bf16, method);
  std::erase_if(names, is_embedding);
  if (method == QuantMethod::fp8) return names;
  const auto routers = std::erase_if(names, is_router);
  if (routers > 0) names.emplace_back(method == QuantMethod::modelopt ? "*.mlp.gate" : "re:.*mlp\\.gate$");
  return names;
}

formats::QuantizationClaim LayerFormats::claim(const formats::HfConfig& source, bool has_mtp,
                                               const std::optional<formats::GptqClaim>& gptq) const {
  const std::vector<WeightFormat> quantized = quantized_formats();
  formats::QuantizationClaim claim{.method = gptq ? QuantMethod::gptq : method_of(quantized)};
  if (gptq) claim.gptq = *gptq;
  if (claim.method == QuantMethod::none) return claim;
  for (const WeightFormat format : quantized) {
    formats::QuantizedGroup group{.format = format, .targets = {"Linear"}};
    if (quantized.size() > 1) {
      group.targets = names_of(format, claim.method);
    } else {
      const auto embedded = [&](const Layer& l) { return is_embedding(l.module) && l.format == format; };
      if (std::any_of(layers_.begin(), layers_.end(), embedded)) group.targets.emplace_back("Embedding");
    }
    claim.groups.push_back(std::move(group));
  }
  claim.ignore = plain_names(claim.method);
  // DeepSeek's FP8 checkpoints keep their MTP layers in FP8.
  const bool mtp_stays_fp8 = claim.method == QuantMethod::fp8 && source.quantization.method == "fp8";
  if (has_mtp && !mtp_stays_fp8) {
    for (std::int64_t i = 0; i < std::max<std::int64_t>(1, source.num_nextn_predict_layers); ++i)
      claim.ignore.push_back(mtp_name(source.num_hidden_layers + i, claim.method));
  }
  return claim;
}

}  // namespace nibble::models
