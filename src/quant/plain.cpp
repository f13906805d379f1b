// f32, f16 and bf16: elements without scales.
#include "quant/codec.h"
#include "quant/float16.h"

namespace nibble::quant {
namespace {

float decode_f32(std::uint32_t bits) { return std::bit_cast<float>(bits); }

// kExponent: the exponent field; all ones means infinity or NaN.
template <class Bits, float (*kDecode)(Bits), Bits kExponent>
struct Plain {
  static const std::byte* row_begin(const MatrixView& m, std::int64_t row) {
    return m.codes + row * m.k * static_cast<std::int64_t>(sizeof(Bits));
  }

  static void dequantize_row(const MatrixView& m, std::int64_t row, float* out) {
    const std::byte* codes = row_begin(m, row);
    for (std::int64_t kk = 0; kk < m.k; ++kk) out[kk] = kDecode(load<Bits>(codes, kk));
  }

  static bool may_be_nonfinite(const MatrixView& m, std::int64_t row) {
    const std::byte* codes = row_begin(m, row);
    Bits found = 0;
    for (std::int64_t kk = 0; kk < m.k; ++kk) {
      const auto exponent = static_cast<Bits>(load<Bits>(codes, kk) & kExponent);
      found = static_cast<Bits>(found | (exponent == kExponent ? 1U : 0U));
    }
    return found != 0;
  }

  static constexpr Codec codec(WeightFormat format) {
    return {.format = format,
            .dequantize_row = dequantize_row,
            .may_be_nonfinite = may_be_nonfinite,
            .scale = nullptr};
  }
};

}  // namespace

constinit const Codec kF32Codec = Plain<std::uint32_t, decode_f32, 0x7F800000U>::codec(WeightFormat::f32);
constinit const Codec kF16Codec = Plain<std::uint16_t, f16_to_float, 0x7C00U>::codec(WeightFormat::f16);
constinit const Codec kBf16Codec = Plain<std::uint16_t, bf16_to_float, 0x7F80U>::codec(WeightFormat::bf16);

}  // namespace nibble::quant
