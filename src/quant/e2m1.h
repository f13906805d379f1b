// E2M1 (FP4): bit 3 sign, bits 2..1 exponent (bias 1), bit 0 mantissa; code 8 is -0. Two codes share a
// byte along k, the even k in the low nibble (docs/formats.md).
#pragma once

#include <array>
#include <cstdint>

#include "quant/minifloat.h"

namespace nibble::quant {

inline constexpr float kE2m1Max = 6.0F;

inline constexpr std::array<float, 16> kE2m1Values = {0.0F,  0.5F,  1.0F,  1.5F,  2.0F,  3.0F,  4.0F,  6.0F,
                                                      -0.0F, -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F};

// The two values of a byte, low nibble first: half as many look-ups.
using E2m1Pair = std::array<float, 2>;
constexpr std::array<E2m1Pair, 256> make_e2m1_pairs() noexcept {
  std::array<E2m1Pair, 256> pairs{};
  for (std::size_t byte = 0; byte < pairs.size(); ++byte) {
    pairs[byte] = {kE2m1Values[byte & 0xFU], kE2m1Values[byte >> 4U]};
  }
  return pairs;
}
inline constexpr std::array<E2m1Pair, 256> kE2m1Pairs = make_e2m1_pairs();

// Rounds to nearest even and saturates to 6. Keeps the sign of zero; NaN counts as +0.
constexpr std::uint8_t float_to_e2m1_saturated(float x) noexcept {
  using E2m1 = Minifloat<2, 1, 1>;
  if (is_nan(x)) return 0;
  const std::uint32_t code = E2m1::encode_magnitude(x);
  return static_cast<std::uint8_t>(E2m1::sign_of(x) | (code < 7U ? code : 7U));
}

}  // namespace nibble::quant
