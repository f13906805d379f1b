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

// Bits of finite magnitudes compare like signed integers, and so they are compared here: compilers
// vectorise that everywhere, while float comparisons might trap and stay branches.
inline std::int32_t min_lane(std::int32_t a, std::int32_t b) noexcept { return a < b ? a : b; }
inline std::int32_t max_lane(std::int32_t a, std::int32_t b) noexcept { return a > b ? a : b; }

inline std::int32_t abs_bits(float x) noexcept { return std::bit_cast<std::int32_t>(x) & 0x7FFFFFFF; }
inline float abs_lane(float x) noexcept { return std::bit_cast<float>(abs_bits(x)); }

template <int kSignBit, int kMantissaBits, int kMinExponent>
struct LaneRounding {
  static constexpr std::int32_t kShift = 23 - kMantissaBits;
  static constexpr std::int32_t kMinBinade = (kMinExponent + 127) << 23;

  // 2^max(e, kMinExponent) as bits.
  static std::int32_t binade(std::int32_t magnitude_bits) noexcept {
    return max_lane(magnitude_bits & 0x7F800000, kMinBinade);
  }

  // The value nearest to min(magnitude, limit); limit is at most the largest value.
  static float round(float magnitude, float limit) noexcept {
    const std::int32_t bits =
        min_lane(std::bit_cast<std::int32_t>(magnitude), std::bit_cast<std::int32_t>(limit));
    const float magic = std::bit_cast<float>(binade(bits) + (kShift << 23));
    return (std::bit_cast<float>(bits) + magic) - magic;
  }

  // The code of min(|x|, limit), with the sign of x above it.
  static std::uint32_t signed_code(float x, float limit) noexcept {
    const std::int32_t bits = min_lane(abs_bits(x), std::bit_cast<std::int32_t>(limit));
    const std::int32_t power = binade(bits);
    const std::int32_t magic = power + (kShift << 23);
    const float sum = std::bit_cast<float>(bits) + std::bit_cast<float>(magic);
    const std::int32_t steps = std::bit_cast<std::int32_t>(sum) - magic;
    const std::int32_t code = ((power - kMinBinade) >> kShift) + steps;
    return static_cast<std::uint32_t>(code) | (std::bit_cast<std::uint32_t>(x) >> 31U) << kSignBit;
  }
};

using E2m1Lanes = LaneRounding<3, 1, 0>;
using E4m3Lanes = LaneRounding<7, 3, -6>;

// float_to_e2m1_saturated of finite x, and its magnitude.
inline std::uint32_t e2m1_lane(float x) noexcept { return E2m1Lanes::signed_code(x, kE2m1Max); }
inline float e2m1_round_lane(float magnitude) noexcept { return E2m1Lanes::round(magnitude, kE2m1Max); }

// float_to_e4m3_saturated of finite x.
inline std::uint32_t e4m3_lane(float x) noexcept { return E4m3Lanes::signed_code(x, kE4m3Max); }

// The nearest integer, ties to even; |x| < 2^22.
inline constexpr float kIntegerMagic = 0x1.8p23F;
inline int round_lane(float x) noexcept {
  return std::bit_cast<std::int32_t>(x + kIntegerMagic) - std::bit_cast<std::int32_t>(kIntegerMagic);
}
inline float clamp_lane(float x, float low, float high) noexcept {
  const float above = x < high ? x : high;
  return above > low ? above : low;
}

}  // namespace nibble::quant
