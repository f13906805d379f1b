// Rope: rotary position embedding of interleaved pairs (2j, 2j+1), with YaRN (Peng et al. 2023) as
// transformers computes it: frequencies and angles in float32.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/buffer.h"
#include "layers/context.h"

namespace nibble::layers {

struct YarnConfig {
  double factor = 1.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double mscale = 1.0;
  double mscale_all_dim = 0.0;
  std::int64_t original_max_position_embeddings = 4096;
};

struct RopeConfig {
  std::int64_t dim = 0;  // values that are rotated, even
  double theta = 10000.0;
  std::optional<YarnConfig> yarn;
};

// [dim / 2] radians per position.
std::vector<float> rope_frequencies(const RopeConfig& config);

// YaRN's magnitude correction: 0.1 * mscale * ln(factor) + 1, or 1 for factor <= 1.
double yarn_mscale(double factor, double mscale);

// What cos and sin are multiplied by: m(mscale) / m(mscale_all_dim), and m(1) if either is 0.
double rope_attention_factor(const RopeConfig& config);

// What the softmax scale head_dim^-0.5 is multiplied by: m(mscale_all_dim)^2.
double yarn_softmax_factor(const RopeConfig& config);

class Rope {
 public:
  explicit Rope(const RopeConfig& config) : config_(config) {}

  // Tables for positions [0, max_positions), in the memory of `exec`. Throws std::bad_alloc. Before the
  // first forward that is not run with counting kernels.
  void build_tables(std::int64_t max_positions, kernels::Exec& exec);

  // Rotates x in place. x: [m, heads, dim] or [m, dim] f32, strided; positions: [m], inside the tables.
  void forward(Context& ctx, TensorView x, const std::int32_t* positions) const;

  // [max_positions, dim / 2] f32.
  [[nodiscard]] TensorView cos() const { return table(cos_); }
  [[nodiscard]] TensorView sin() const { return table(sin_); }
  [[nodiscard]] std::int64_t max_positions() const noexcept { return max_positions_; }

 private:
  [[nodiscard]] TensorView table(const Buffer& values) const;

  RopeConfig config_;
  std::int64_t max_positions_ = 0;
  Buffer cos_;
  Buffer sin_;
};

}  // namespace nibble::layers
