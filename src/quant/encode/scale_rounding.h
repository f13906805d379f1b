// Scales rounded to the type they are stored in, before any code is chosen against them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/check.h"
#include "core/dtype.h"
#include "quant/float16.h"

namespace nibble::quant {

// The F32, BF16 or F16 nearest to `scale` (>= 0) that neither vanishes nor overflows: from 2^-126 (F16: its
// subnormal 2^-24) to 2^119 (F16: 65504), which times 448, the largest fp8 value, is a float32.
inline float round_scale(float scale, DType dtype) noexcept {
  constexpr float kSmallest = 0x1p-126F;
  constexpr float kSmallestF16 = 0x1p-24F;
  constexpr float kLargestF16 = 65504.0F;
  constexpr float kLargest = 0x1p119F;
  switch (dtype) {
    case DType::f16: return f16_to_float(float_to_f16(std::clamp(scale, kSmallestF16, kLargestF16)));
    case DType::bf16: return bf16_to_float(float_to_bf16(std::clamp(scale, kSmallest, kLargest)));
    default: return std::clamp(scale, kSmallest, kLargest);
  }
}

// Writes a rounded scale as element i.
inline void store_scale(std::byte* scales, DType dtype, std::int64_t i, float scale) {
  const auto put = [&](auto value) {
    std::memcpy(scales + i * static_cast<std::int64_t>(sizeof(value)), &value, sizeof(value));
  };
  switch (dtype) {
    case DType::f32: return put(scale);
    case DType::bf16: return put(float_to_bf16(scale));
    case DType::f16: return put(float_to_f16(scale));
    default: break;
  }
  NIB_CHECK(false, "scales are written as F32, BF16 or F16, not {}", dtype_name(dtype));
}

}  // namespace nibble::quant
