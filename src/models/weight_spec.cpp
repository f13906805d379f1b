#include "models/weight_spec.h"

#include <unordered_set>

namespace nibble::models {

std::string_view layer_kind_name(LayerKind kind) noexcept {
  switch (kind) {
    case LayerKind::attn: return "attn";
    case LayerKind::mlp: return "mlp";
    case LayerKind::experts: return "experts";
    case LayerKind::other: return "other";
  }
  return "other";
}

WeightSpec matrix_spec(std::string name, LayerKind kind, ShardRule shard, kernels::Weight& weight,
                       std::int64_t group) {
  const kernels::WeightShape& shape = weight.shape;
  return {.name = std::move(name),
          .kind = kind,
          .shard = shard,
          .use = kind == LayerKind::experts ? WeightUse::some_experts : WeightUse::every_token,
          .n = shape.n,
          .k = shape.k,
          .blocks = {{.weight = &weight, .group = group, .rows = shape.n}}};
}

WeightSpec vector_spec(std::string name, LayerKind kind, layers::Parameter& vector) {
  return {.name = std::move(name), .kind = kind, .vector = &vector};
}

std::vector<WeightEntry> distinct_weights(const std::vector<WeightSpec>& specs) {
  std::vector<WeightEntry> entries;
  std::unordered_set<const kernels::Weight*> seen;
  for (const WeightSpec& spec : specs) {
    for (const RowBlock& block : spec.blocks) {
      if (seen.insert(block.weight).second) entries.push_back({block.weight, spec.kind, spec.use});
    }
  }
  return entries;
}

}  // namespace nibble::models
