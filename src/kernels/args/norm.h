// Arguments of element-wise ops.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace nibble::kernels {

// y = x / sqrt(mean(x^2) + eps) * weight, all in float32. y may be x.
struct RmsNormArgs {
  TensorView x;         // [m, d] f32, rows may be strided
  const float* weight;  // [d]
  float eps;
  TensorView y;  // [m, d] f32, rows may be strided
  // [m, d] f32, rows may be strided, or rank 0 = nothing: added to x first. x keeps the sum; y may then be
  // neither.
  TensorView add{};
};

// x += y.
struct AddArgs {
  TensorView x;  // [m, d] f32
  TensorView y;  // [m, d] f32
};

}  // namespace nibble::kernels
