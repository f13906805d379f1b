// f32, f16 and bf16: rounded to nearest even; what would round to infinity becomes the largest number.
#include <algorithm>
#include <cstring>

#include "quant/encode/encoder.h"
#include "quant/float16.h"

namespace nibble::quant {
namespace {

std::uint32_t encode_f32(float w) { return std::bit_cast<std::uint32_t>(w); }

std::uint16_t encode_f16(float w) {
  constexpr float kLargest = 65504.0F;
  return float_to_f16(std::clamp(w, -kLargest, kLargest));
}

std::uint16_t encode_bf16(float w) {
  constexpr float kLargest = 0x1.FEp127F;
  return float_to_bf16(std::clamp(w, -kLargest, kLargest));
}

template <class Code, Code (*kEncode)(float)>
void encode_rows(const float* rows, std::int64_t row_begin, std::int64_t row_end, const EncodeTarget& out) {
  constexpr auto kBytes = static_cast<std::int64_t>(sizeof(Code));
  std::uint8_t* codes = out.codes + row_begin * out.view.k * kBytes;
  for (std::int64_t i = 0; i < (row_end - row_begin) * out.view.k; ++i) {
    const Code code = kEncode(rows[i]);
    std::memcpy(codes + i * kBytes, &code, sizeof(code));
  }
}

}  // namespace

constinit const Encoder kF32Encoder = {.format = WeightFormat::f32,
                                       .encode_rows = encode_rows<std::uint32_t, encode_f32>};
constinit const Encoder kF16Encoder = {.format = WeightFormat::f16,
                                       .encode_rows = encode_rows<std::uint16_t, encode_f16>};
constinit const Encoder kBf16Encoder = {.format = WeightFormat::bf16,
                                        .encode_rows = encode_rows<std::uint16_t, encode_bf16>};

}  // namespace nibble::quant
