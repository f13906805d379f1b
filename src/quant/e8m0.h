// E8M0 ("ue8m0"): the power of two 2^(code - 127); 255 is NaN; no zero, no sign.
#pragma once

#include <bit>
#include <cstdint>

namespace nibble::quant {

inline constexpr std::uint8_t kE8m0Nan = 255;

// Exact. 2^-127 (code 0) is a float32 subnormal: shifting the code into the exponent would give 0.
constexpr float e8m0_to_float(std::uint8_t code) noexcept {
  if (code == 0) return std::bit_cast<float>(0x00400000U);
  if (code == kE8m0Nan) return std::bit_cast<float>(0x7FC00000U);
  return std::bit_cast<float>(static_cast<std::uint32_t>(code) << 23);
}

// The smallest power of two >= x for x > 0; saturates to 2^127. Zero and negative x give the smallest
// code, NaN gives NaN.
constexpr std::uint8_t float_to_e8m0_ceil(float x) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return kE8m0Nan;
  if ((bits >> 31) != 0 || bits <= 0x00400000U) return 0;
  const std::uint32_t code = (bits >> 23) + ((bits & 0x7FFFFFU) != 0 ? 1U : 0U);
  return static_cast<std::uint8_t>(code < 254U ? code : 254U);
}

}  // namespace nibble::quant
