// Weight: one packed weight matrix, or a group of equal-shaped ones (all experts, all heads), in the
// layout of the backend that packed it. Opaque above kernels/.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "quant/scheme.h"

namespace nibble::kernels {

struct WeightShape {
  quant::WeightFormat format = quant::WeightFormat::bf16;
  std::int64_t num_groups = 1;  // matrices packed one after another
  std::int64_t n = 0;           // output features of one matrix
  std::int64_t k = 0;           // input features
  quant::Grouping grouping;     // of all matrices alike
  // What inputs must have gone through before they are multiplied; not a matter of packing.
  quant::ActivationFormat activations = quant::ActivationFormat::none;
};

struct Weight {
  WeightShape shape;
  Buffer codes;                        // backend layout
  Buffer scales;                       // backend layout; empty for unscaled formats
  std::int64_t codes_group_bytes = 0;  // distance between two groups
  std::int64_t scales_group_bytes = 0;

  [[nodiscard]] bool empty() const noexcept { return codes.empty(); }
  [[nodiscard]] std::size_t bytes() const noexcept { return codes.size() + scales.size(); }
};

}  // namespace nibble::kernels
