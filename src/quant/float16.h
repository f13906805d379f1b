// bf16 (1-8-7) and f16 (1-5-10, IEEE half). Decoding is exact; encoding rounds to nearest even,
// overflows to infinity and keeps NaN.
#pragma once

#include <bit>
#include <cstdint>

#include "quant/minifloat.h"

namespace nibble::quant {

constexpr float bf16_to_float(std::uint16_t code) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(code) << 16);
}

constexpr std::uint16_t float_to_bf16(float x) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if (is_nan(x)) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);  // quiet, so that it stays NaN
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

constexpr float f16_to_float(std::uint16_t code) noexcept {
  if ((code & 0x7C00U) != 0x7C00U) return Minifloat<5, 10, 15>::decode(code);
  const auto wide = static_cast<std::uint32_t>(code);
  return std::bit_cast<float>(((wide & 0x8000U) << 16) | 0x7F800000U | ((wide & 0x3FFU) << 13));
}

constexpr std::uint16_t float_to_f16(float x) noexcept {
  using F16 = Minifloat<5, 10, 15>;
  constexpr std::uint32_t kInfinity = 0x7C00U;
  if (is_nan(x)) return static_cast<std::uint16_t>(F16::sign_of(x) | 0x7E00U);
  const std::uint32_t code = F16::encode_magnitude(x);
  return static_cast<std::uint16_t>(F16::sign_of(x) | (code < kInfinity ? code : kInfinity));
}

}  // namespace nibble::quant
