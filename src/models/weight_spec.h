// WeightSpec: one tensor a model wants from a checkpoint: its name, shape, where it goes and how it
// would be split over devices. Plain data: loading, dummy weights, planning and cost figures all work
// from the same list, and a model says nothing about number formats.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/weight.h"
#include "layers/parameter.h"

namespace nibble::models {

// Kinds a quantisation scheme may treat differently.
enum class LayerKind : std::uint8_t { attn, mlp, experts, other };
std::string_view layer_kind_name(LayerKind kind) noexcept;

// How tensor parallelism splits it: by output rows, by input columns, by whole experts, not at all.
enum class ShardRule : std::uint8_t { replicate, column, row, expert };

// What a step reads of it; the basis of bytes-per-token and operation counts.
enum class WeightUse : std::uint8_t {
  every_token,     // multiplied with every token
  some_experts,    // with the tokens that were routed to its group
  embedding_rows,  // one row per token is copied
  logit_rows,      // multiplied with the tokens whose logits are wanted
};

// Rows [src_row, src_row + rows) of the checkpoint's matrix go to rows [row, ...) of a group.
struct RowBlock {
  kernels::Weight* weight = nullptr;
  std::int64_t group = 0;
  std::int64_t row = 0;
  std::int64_t src_row = 0;
  std::int64_t rows = 0;
};

struct WeightSpec {
  std::string name;  // of a matrix: the module, without ".weight"; of a vector: the tensor
  LayerKind kind = LayerKind::other;
  ShardRule shard = ShardRule::replicate;
  WeightUse use = WeightUse::every_token;
  // A matrix [n, k] and the rows of weights it fills, or
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::vector<RowBlock> blocks;
  // a vector of vector->size values, kept in float32.
  layers::Parameter* vector = nullptr;

  [[nodiscard]] bool is_matrix() const noexcept { return vector == nullptr; }
  [[nodiscard]] std::int64_t num_parameters() const noexcept { return is_matrix() ? n * k : vector->size; }
};

// The whole matrix goes to one group of `weight`, whose shape it has.
WeightSpec matrix_spec(std::string name, LayerKind kind, ShardRule shard, kernels::Weight& weight,
                       std::int64_t group = 0);
WeightSpec vector_spec(std::string name, LayerKind kind, layers::Parameter& vector);

// The distinct weights of a list with the kind and use of the specs that fill them, in list order.
struct WeightEntry {
  kernels::Weight* weight = nullptr;
  LayerKind kind = LayerKind::other;
  WeightUse use = WeightUse::every_token;
};
std::vector<WeightEntry> distinct_weights(const std::vector<WeightSpec>& specs);

}  // namespace nibble::models
