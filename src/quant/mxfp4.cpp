// mxfp4: w[n, k] = e2m1(codes[n, k]) * 2^(scales[n, k / 32] - 127) (OCP MX). Products
// are exact in float32, also with scale code 0 (2^-127).
#include "quant/codec.h"
#include "quant/e2m1.h"
#include "quant/e8m0.h"

namespace nibble::quant {
namespace {

constexpr std::int64_t kGroup = 32;
// From here on 6 * scale overflows float32, or the scale is NaN.
constexpr std::uint8_t kFirstUnsafeScale = 253;

float scale(const MatrixView& m, std::int64_t row, std::int64_t kk) {
  return e8m0_to_float(byte_row(m.scales, row, m.k / kGroup)[kk / kGroup]);
}

void dequantize_row(const MatrixView& m, std::int64_t row, float* out) {
  const std::uint8_t* codes = byte_row(m.codes, row, m.k / 2);
  for (std::int64_t begin = 0; begin < m.k; begin += kGroup) {
    const float s = scale(m, row, begin);
    for (std::int64_t kk = begin; kk < begin + kGroup; kk += 2) {
      const E2m1Pair& pair = kE2m1Pairs[codes[kk / 2]];
      out[kk] = pair[0] * s;
      out[kk + 1] = pair[1] * s;
    }
  }
}

// Every code is a number; only scales can spoil a weight.
bool may_be_nonfinite(const MatrixView& m, std::int64_t row) {
  const std::uint8_t* scales = byte_row(m.scales, row, m.k / kGroup);
  std::uint8_t found = 0;
  for (std::int64_t g = 0; g < m.k / kGroup; ++g) found |= scales[g] >= kFirstUnsafeScale ? 1U : 0U;
  return found != 0;
}

}  // namespace

constinit const Codec kMxfp4Codec = {.format = WeightFormat::mxfp4,
                                     .dequantize_row = dequantize_row,
                                     .may_be_nonfinite = may_be_nonfinite,
                                     .scale = scale};

}  // namespace nibble::quant
