// What a weight format must say about itself: one Codec per format, in its own file; codecs.cpp holds
// the table. Private to quant/.
#pragma once

#include <cstdint>
#include <cstring>

#include "quant/matrix_view.h"

namespace nibble::quant {

struct Codec {
  WeightFormat format;

  // out[k] = the weights of one row.
  void (*dequantize_row)(const MatrixView& matrix, std::int64_t row, float* out);

  // False only if every weight of the row is certainly finite: the fast first look of check_finite.
  bool (*may_be_nonfinite)(const MatrixView& matrix, std::int64_t row);

  // The scale that multiplies weight (row, kk); null for unscaled formats.
  float (*scale)(const MatrixView& matrix, std::int64_t row, std::int64_t kk);
};

extern const Codec kF32Codec;
extern const Codec kF16Codec;
extern const Codec kBf16Codec;
extern const Codec kFp8Codec;
extern const Codec kMxfp4Codec;
extern const Codec kNvfp4Codec;
extern const Codec kInt8Codec;
extern const Codec kInt4Codec;

const Codec& codec(WeightFormat format);

// Element i of an array that may be unaligned.
template <class T>
T load(const std::byte* data, std::int64_t i) noexcept {
  T value;
  std::memcpy(&value, data + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

inline const std::uint8_t* byte_row(const std::byte* data, std::int64_t row,
                                    std::int64_t row_bytes) noexcept {
  return reinterpret_cast<const std::uint8_t*>(data) + row * row_bytes;
}

}  // namespace nibble::quant
