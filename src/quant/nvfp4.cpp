// nvfp4: w[n, k] = e2m1(codes[n, k]) * e4m3(scales[n, k / 16]) * global_scale, multiplied in this order:
// the first product is exact, the second rounds once (ModelOpt).
#include <cmath>

#include "quant/codec.h"
#include "quant/e2m1.h"
#include "quant/float8.h"

namespace nibble::quant {
namespace {

constexpr std::int64_t kGroup = 16;

float group_scale(const MatrixView& m, std::int64_t row, std::int64_t kk) {
  return e4m3_to_float(byte_row(m.scales, row, m.k / kGroup)[kk / kGroup]);
}

float scale(const MatrixView& m, std::int64_t row, std::int64_t kk) {
  return group_scale(m, row, kk) * m.global_scale;
}

void dequantize_row(const MatrixView& m, std::int64_t row, float* out) {
  const std::uint8_t* codes = byte_row(m.codes, row, m.k / 2);
  for (std::int64_t begin = 0; begin < m.k; begin += kGroup) {
    const float s = group_scale(m, row, begin);
    for (std::int64_t kk = begin; kk < begin + kGroup; kk += 2) {
      const E2m1Pair& pair = kE2m1Pairs[codes[kk / 2]];
      out[kk] = pair[0] * s * m.global_scale;
      out[kk + 1] = pair[1] * s * m.global_scale;
    }
  }
}

bool may_be_nonfinite(const MatrixView& m, std::int64_t row) {
  const std::uint8_t* scales = byte_row(m.scales, row, m.k / kGroup);
  std::uint8_t found = std::isfinite(kE2m1Max * kE4m3Max * m.global_scale) ? 0U : 1U;
  for (std::int64_t g = 0; g < m.k / kGroup; ++g) found |= (scales[g] & 0x7FU) == 0x7FU ? 1U : 0U;
  return found != 0;
}

}  // namespace

constinit const Codec kNvfp4Codec = {.format = WeightFormat::nvfp4,
                                     .dequantize_row = dequantize_row,
                                     .may_be_nonfinite = may_be_nonfinite,
                                     .scale = scale};

}  // namespace nibble::quant
