// Linear: y = x * W^T, W [out_features, in_features] in whatever format the device packed it.
#pragma once

#include "kernels/args/linear.h"
#include "layers/context.h"
#include "layers/quantized_input.h"

namespace nibble::layers {

class Linear {
 public:
  // The weight may still be without data (shape only); it must be loaded before the first forward
  // that is not run with counting kernels. precision: see kernels::Precision.
  explicit Linear(kernels::Weight weight, kernels::Precision precision = kernels::Precision::fast)
      : weight_(std::move(weight)), precision_(precision) {}
  Linear(std::int64_t out_features, std::int64_t in_features,
         kernels::Precision precision = kernels::Precision::fast)
      : Linear(kernels::Weight{.shape = {.n = out_features, .k = in_features}}, precision) {}

  // x: [m, in_features] f32, y: [m, out_features] f32; rows may be strided. x is quantised first if the
  // weight's scheme says so.
  void forward(Context& ctx, TensorView x, TensorView y) const;
  // The same for an input that other layers share; it is not recorded as a LinearInput here.
  void forward(Context& ctx, const QuantizedInput& x, TensorView y) const;
  // y = x * W^T of this layer and other_y of the other, which shares the input.
  void forward_with(Context& ctx, const QuantizedInput& x, TensorView y, const Linear& other,
                    TensorView other_y) const;
  // y += x * W^T.
  void forward_add(Context& ctx, TensorView x, TensorView y) const;

  [[nodiscard]] const kernels::Weight& weight() const noexcept { return weight_; }
  [[nodiscard]] quant::ActivationFormat activations() const noexcept { return weight_.shape.activations; }
  // For loading, once.
  [[nodiscard]] kernels::Weight& weight() noexcept { return weight_; }

 private:
  // x as the product takes it.
  [[nodiscard]] TensorView input(Context& ctx, TensorView x) const;
  void run(Context& ctx, TensorView x, TensorView y, bool accumulate) const;

  kernels::Weight weight_;
  kernels::Precision precision_;
};

}  // namespace nibble::layers
