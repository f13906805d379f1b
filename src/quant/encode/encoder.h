// What a weight format must say to be written: one Encoder per format, in its own file; encode.cpp holds
// the table. Private to quant/.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quant/encode/encode.h"

namespace nibble::quant {

// Where encoders write; `view` gives shape and grouping.
struct EncodeTarget {
  const MatrixView& view;
  const EncodeOptions& options;
  std::uint8_t* codes;
  std::byte* scales;
  std::int8_t* zeros;
};

struct Encoder {
  WeightFormat format;
  // rows[0] is row row_begin; ranges are whole blocks of group_n rows.
  void (*encode_rows)(const float* rows, std::int64_t row_begin, std::int64_t row_end,
                      const EncodeTarget& out);
};

extern const Encoder kF32Encoder;
extern const Encoder kF16Encoder;
extern const Encoder kBf16Encoder;
extern const Encoder kFp8Encoder;
extern const Encoder kMxfp4Encoder;
extern const Encoder kNvfp4Encoder;
extern const Encoder kInt8Encoder;
extern const Encoder kInt4Encoder;

// Largest |w| as its bits, which compare like the magnitudes; infinity and NaN are above all numbers.
inline std::uint32_t abs_max_bits(const float* w, std::int64_t count) noexcept {
  std::int32_t largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto bits = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(w[i]) & 0x7FFFFFFFU);
    largest = bits > largest ? bits : largest;
  }
  return static_cast<std::uint32_t>(largest);
}

// Sums of squares are taken in lanes: compilers do not reorder float additions.
inline constexpr std::int64_t kLanes = 16;

// The sum of kCount (a multiple of 4) lanes.
template <std::size_t kCount>
float sum_lanes(const std::array<float, kCount>& lanes) noexcept {
  std::array<float, 4> sums{};
  for (std::size_t i = 0; i < kCount; i += 4) {
    for (std::size_t j = 0; j < 4; ++j) sums[j] += lanes[i + j];
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// A searched scale must beat this bound, so that rounding (of reciprocals and sums, in float32) can never
// make it worse than the plain one, whose squared error in units of its scale is `plain_error`.
constexpr float search_bound(float plain_error) noexcept { return plain_error * (1.0F - 0x1p-16F) - 1e-9F; }

// Two codes a byte, low nibble first.
inline void pack_nibbles(const std::uint8_t* codes, std::int64_t num_bytes, std::uint8_t* out) noexcept {
  for (std::int64_t i = 0; i < num_bytes; ++i) {
    std::uint16_t pair;
    std::memcpy(&pair, codes + 2 * i, sizeof(pair));
    out[i] = static_cast<std::uint8_t>((pair & 0xFU) | (pair >> 4U));
  }
}

}  // namespace nibble::quant
