// Scales as checkpoints store them.
#pragma once

#include <cstdint>

#include "core/check.h"
#include "core/dtype.h"
#include "quant/codec.h"
#include "quant/e8m0.h"
#include "quant/float16.h"

namespace nibble::quant {

// Scale i of an array of F32, BF16, F16 or F8_E8M0, exactly.
inline float load_scale(const std::byte* scales, DType dtype, std::int64_t i) {
  switch (dtype) {
    case DType::f32: return load<float>(scales, i);
    case DType::bf16: return bf16_to_float(load<std::uint16_t>(scales, i));
    case DType::f16: return f16_to_float(load<std::uint16_t>(scales, i));
    case DType::f8_e8m0: return e8m0_to_float(load<std::uint8_t>(scales, i));
    default: break;
  }
  NIB_CHECK(false, "scales are F32, BF16, F16 or F8_E8M0, not {}", dtype_name(dtype));
}

}  // namespace nibble::quant
