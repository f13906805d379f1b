// RmsNorm: y = x / sqrt(mean(x^2) + eps) * weight, in float32 (Zhang and Sennrich 2019).
#pragma once

#include "layers/context.h"
#include "layers/parameter.h"

namespace nibble::layers {

class RmsNorm {
 public:
  RmsNorm(std::int64_t dim, float eps) : weight_{.size = dim}, eps_(eps) {}

  // x, y: [m, dim] f32, rows may be strided; y may be x.
  void forward(Context& ctx, TensorView x, TensorView y) const;

  // For loading, once.
  [[nodiscard]] Parameter& weight() noexcept { return weight_; }

 private:
  Parameter weight_;
  float eps_;
};

}  // namespace nibble::layers
