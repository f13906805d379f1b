// Rounding to small float formats without branches and tables, so that loops over it vectorise on any
// instruction set. The same results as Minifloat (quant/minifloat.h) for finite, clamped input.
//
// Adding 2^(e + 23 - mantissa bits) to a magnitude in [2^e, 2^(e + 1)) pushes all but the kept mantissa
// bits out of float32, rounding to nearest even; the sum's low bits count steps of 2^(e - mantissa bits).
// Below the smallest normal number e stays at its exponent, which is gradual underflow.
#pragma once

#include <bit>
#include <cstdint>

#include "quant/e2m1.h"
#include "quant/float8.h"

namespace nibble::quant {

template <int kMantissaBits, int kMinExponent>
struct LaneRounding {
  static constexpr std::uint32_t kShift = 23 - kMantissaBits;
  static constexpr std::uint32_t kMinBinade = static_cast<std::uint32_t>(kMinExponent + 127) << 23U;

  // 2^max(e, kMinExponent) as bits.
  static std::uint32_t binade(float magnitude) noexcept {
    const float power = std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) & 0x7F800000U);
    constexpr float kMin = std::bit_cast<float>(kMinBinade);
    return std::bit_cast<std::uint32_t>(power > kMin ? power : kMin);
  }

  // The nearest value; magnitude in [0, largest value].
  static float round(float magnitude) noexcept {
    const float magic = std::bit_cast<float>(binade(magnitude) + (kShift << 23U));
    return (magnitude + magic) - magic;
  }

  // Its code.
  static std::uint32_t code(float magnitude) noexcept {
    const std::uint32_t power = binade(magnitude);
    const float magic = std::bit_cast<float>(power + (kShift << 23U));
    const std::uint32_t steps =
        std::bit_cast<std::uint32_t>(magnitude + magic) - std::bit_cast<std::uint32_t>(magic);
    return ((power - kMinBinade) >> kShift) + steps;
  }
};

using E2m1Lanes = LaneRounding<1, 0>;
using E4m3Lanes = LaneRounding<3, -6>;

inline float abs_lane(float x) noexcept {
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & 0x7FFFFFFFU);
}

inline float min_lane(float a, float b) noexcept { return a < b ? a : b; }
inline float max_lane(float a, float b) noexcept { return a > b ? a : b; }

// The nearest integer, ties to even; |x| < 2^22.
inline constexpr float kIntegerMagic = 0x1.8p23F;
inline int round_lane(float x) noexcept {
  return std::bit_cast<std::int32_t>(x + kIntegerMagic) - std::bit_cast<std::int32_t>(kIntegerMagic);
}

// float_to_e2m1_saturated of finite x.
inline std::uint32_t e2m1_lane(float x) noexcept {
  const std::uint32_t sign = (std::bit_cast<std::uint32_t>(x) >> 31U) << 3U;
  return sign | E2m1Lanes::code(min_lane(abs_lane(x), kE2m1Max));
}

// float_to_e4m3_saturated of finite x.
inline std::uint32_t e4m3_lane(float x) noexcept {
  const std::uint32_t sign = (std::bit_cast<std::uint32_t>(x) >> 31U) << 7U;
  return sign | E4m3Lanes::code(min_lane(abs_lane(x), kE4m3Max));
}

}  // namespace nibble::quant
