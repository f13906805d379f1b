// Scale and zero point of one group of integer codes; shared by the round-to-nearest encoders and GPTQ.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "quant/encode/encode.h"
#include "quant/encode/lane_rounding.h"

namespace nibble::quant {

// w = (code - zero) * scale with codes and zeros centred, as in MatrixView. Symmetric: zero 0.
struct IntScale {
  float scale = 1.0F;
  int zero = 0;
};

// What a group's scale depends on besides its weights.
struct IntScaleRule {
  int bits = 4;  // 4 or 8
  bool zero_points = false;
  DType scale_dtype = DType::bf16;  // the scale is rounded to it
  ScaleRule scales = ScaleRule::plain;

  // The codes in use: 4 bits [-8, 7], 8 bits [-127, 127], with zero points [-128, 127].
  [[nodiscard]] int min_code() const noexcept { return bits == 4 ? -8 : zero_points ? -128 : -127; }
  [[nodiscard]] int max_code() const noexcept { return bits == 4 ? 7 : 127; }
};

// Chooses them for w[0 .. count), all finite.
IntScale choose_int_scale(const float* w, std::int64_t count, const IntScaleRule& rule);

// The centred code nearest to w: clamp(round(w / scale) + zero), ties to even.
inline int int_code(float w, const IntScale& s, int min_code, int max_code) noexcept {
  const auto low = static_cast<float>(min_code - s.zero);
  const auto high = static_cast<float>(max_code - s.zero);
  return round_lane(clamp_lane(w / s.scale, low, high)) + s.zero;
}

}  // namespace nibble::quant
