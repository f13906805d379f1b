// Small IEEE-like floating point formats: sign, kExponentBits, kMantissaBits, gradual underflow.
// Decoding and round-to-nearest-even encoding in integer arithmetic, usable in constant expressions;
// what the codes at the top of the range mean (infinity, NaN, numbers) is left to each format.
#pragma once

#include <bit>
#include <cstdint>

namespace nibble::quant {

template <int kExponentBits, int kMantissaBits, int kBias>
struct Minifloat {
  static constexpr int kSignShift = kExponentBits + kMantissaBits;
  static constexpr std::uint32_t kMagnitudeMask = (1U << kSignShift) - 1U;

  // The value of `code`, taking every exponent as an ordinary one. Exact: all formats here fit into
  // float32 (bf16's subnormals are float32 subnormals).
  static constexpr float decode(std::uint32_t code) noexcept {
    const std::uint32_t exponent = (code & kMagnitudeMask) >> kMantissaBits;
    const std::uint32_t mantissa = code & ((1U << kMantissaBits) - 1U);
    const bool negative = ((code >> kSignShift) & 1U) != 0;
    float magnitude = 0.0F;
    if (exponent == 0) {
      constexpr float kUnit = power_of_two(1 - kBias - kMantissaBits);
      magnitude = static_cast<float>(mantissa) * kUnit;
    } else {
      const std::uint32_t fraction = mantissa << (23 - kMantissaBits);
      const int biased = static_cast<int>(exponent) - kBias + 127;
      magnitude = std::bit_cast<float>((static_cast<std::uint32_t>(biased) << 23) | fraction);
    }
    return negative ? -magnitude : magnitude;
  }

  // The code nearest to |x|, ties to even, as if exponents went on for ever: a result above the
  // format's largest code means overflow. x is not NaN; infinity gives a code above all others.
  static constexpr std::uint32_t encode_magnitude(float x) noexcept {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x) & 0x7FFFFFFFU;
    const std::uint32_t exponent = bits >> 23;
    const std::uint32_t mantissa = (bits & 0x7FFFFFU) | (exponent != 0 ? 0x800000U : 0U);
    int target = (exponent != 0 ? static_cast<int>(exponent) : 1) - 127 + kBias;
    int shift = 23 - kMantissaBits;
    if (target < 1) {  // subnormal in the target
      shift += 1 - target;
      target = 1;
    }
    if (shift > 25) return 0;  // below half of the smallest code
    const std::uint32_t kept = mantissa >> shift;
    const std::uint32_t rest = mantissa & ((1U << shift) - 1U);
    const std::uint32_t half = 1U << (shift - 1);
    const bool up = rest > half || (rest == half && (kept & 1U) != 0);
    return (static_cast<std::uint32_t>(target - 1) << kMantissaBits) + kept + (up ? 1U : 0U);
  }

  static constexpr std::uint32_t sign_of(float x) noexcept {
    return (std::bit_cast<std::uint32_t>(x) >> 31) << kSignShift;
  }

 private:
  // 2^e for e in [-149, 127].
  static constexpr float power_of_two(int e) noexcept {
    return e >= -126 ? std::bit_cast<float>(static_cast<std::uint32_t>(e + 127) << 23)
                     : std::bit_cast<float>(1U << (e + 149));
  }
};

constexpr bool is_nan(float x) noexcept {
  return (std::bit_cast<std::uint32_t>(x) & 0x7FFFFFFFU) > 0x7F800000U;
}

}  // namespace nibble::quant
