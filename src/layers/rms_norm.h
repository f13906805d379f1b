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

  // x += add, then the norm of x. add: [m, dim] f32; y may be neither.
  void forward_add(Context& ctx, TensorView x, TensorView add, TensorView y) const;

  // For loading, once.
  [[nodiscard]] Parameter& weight() noexcept { return weight_; }
  [[nodiscard]] const Parameter& weight() const noexcept { return weight_; }
  [[nodiscard]] float eps() const noexcept { return eps_; }

 private:
  Parameter weight_;
  float eps_;
};

}  // namespace nibble::layers
