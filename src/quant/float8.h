// FP8 codecs. Encoders round to nearest even.
//
// E4M3 "fn": bias 7, no infinity, 0x7F and 0xFF are NaN, largest 448. E5M2: bias 15, IEEE-like with
// infinities, largest 57344. The plain encoders overflow to NaN (E4M3) or infinity (E5M2), as
// PyTorch's casts do; the saturating ones clamp to the largest finite value (infinity too), as CUDA's
// satfinite conversions do. NaN stays NaN in all of them.
#pragma once

#include <array>
#include <cstdint>

namespace nibble::quant {

inline constexpr float kE4m3Max = 448.0F;
inline constexpr float kE5m2Max = 57344.0F;

// Values of all 256 codes.
extern const std::array<float, 256> kE4m3Values;
extern const std::array<float, 256> kE5m2Values;

inline float e4m3_to_float(std::uint8_t code) noexcept { return kE4m3Values[code]; }
inline float e5m2_to_float(std::uint8_t code) noexcept { return kE5m2Values[code]; }

std::uint8_t float_to_e4m3(float x) noexcept;
std::uint8_t float_to_e4m3_saturated(float x) noexcept;
std::uint8_t float_to_e5m2(float x) noexcept;
std::uint8_t float_to_e5m2_saturated(float x) noexcept;

}  // namespace nibble::quant
