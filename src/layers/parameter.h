// Parameter: a learned float32 vector (norm weights, biases) owned by a layer. Empty until loaded.
#pragma once

#include <cstdint>

#include "core/buffer.h"

namespace nibble::layers {

struct Parameter {
  std::int64_t size = 0;
  Buffer values;  // size float32 values once loaded, where kernels read them

  [[nodiscard]] const float* f32() const noexcept { return values.as<const float>(); }
};

}  // namespace nibble::layers
