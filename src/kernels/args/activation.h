// Arguments of activation quantisation.
#pragma once

#include "core/tensor.h"
#include "quant/scheme.h"

namespace nibble::kernels {

// y = x as a scheme's activation format holds it. On the CPU the result is the dequantised float32 values,
// so that products with it equal those of the codes up to the order of sums.
struct QuantizeActivationArgs {
  TensorView x;  // [m, k] f32
  quant::ActivationFormat format;
  TensorView y;  // [m, k] f32; may be x
};

}  // namespace nibble::kernels
