// Power-of-two scales that never saturate.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace nibble::quant {

// Code of the smallest power of two s with amax <= kMax * s: 2^ceil(log2(amax / kMax)), exactly, without
// a division. At least 2^-126 (code 1), as DeepSeek's kernels have it: code 0 is a float32 subnormal that
// fast decoders take for zero; at most so large that kMax * s is finite. amax_bits: those of a finite,
// non-negative float.
template <int kMax>
constexpr std::uint8_t e8m0_scale(std::uint32_t amax_bits) noexcept {
  constexpr std::uint32_t kMaxBits = std::bit_cast<std::uint32_t>(static_cast<float>(kMax));
  constexpr std::uint32_t kMantissa = kMaxBits & 0x7FFFFFU;
  constexpr int kExponent = static_cast<int>(kMaxBits >> 23U) - 127;
  // Mantissas above kMax's carry into the exponent.
  const auto exponent = static_cast<int>((amax_bits + (0x7FFFFFU - kMantissa)) >> 23U) - kExponent;
  return static_cast<std::uint8_t>(std::clamp(exponent, 1, 254 - kExponent));
}

}  // namespace nibble::quant
