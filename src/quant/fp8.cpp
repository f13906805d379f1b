// fp8: w[n, k] = e4m3(codes[n, k]) * scales[n / group_n, k / group_k]; blocks at the edges are partial.
// DeepSeek's checkpoints have blocks of 128 x 128 and call the scales weight_scale_inv, yet they
// multiply (docs/formats.md); others have one scale per row or per tensor.
#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "quant/codec.h"
#include "quant/float8.h"
#include "quant/scales.h"

namespace nibble::quant {
namespace {

float scale(const MatrixView& m, std::int64_t row, std::int64_t kk) {
  return load_scale(m.scales, m.scale_dtype, row / m.rows_per_scale() * m.num_groups() + kk / m.group_k());
}

void dequantize_row(const MatrixView& m, std::int64_t row, float* out) {
  const std::uint8_t* codes = byte_row(m.codes, row, m.k);
  for (std::int64_t begin = 0; begin < m.k; begin += m.group_k()) {
    const float s = scale(m, row, begin);
    const std::int64_t end = std::min(begin + m.group_k(), m.k);
    for (std::int64_t kk = begin; kk < end; ++kk) out[kk] = e4m3_to_float(codes[kk]) * s;
  }
}

bool may_be_nonfinite(const MatrixView& m, std::int64_t row) {
  const std::uint8_t* codes = byte_row(m.codes, row, m.k);
  std::uint8_t found = 0;
  for (std::int64_t kk = 0; kk < m.k; ++kk) found |= (codes[kk] & 0x7FU) == 0x7FU ? 1U : 0U;
  for (std::int64_t begin = 0; begin < m.k; begin += m.group_k()) {
    found |= std::isfinite(scale(m, row, begin) * kE4m3Max) ? 0U : 1U;
  }
  return found != 0;
}

}  // namespace

constinit const Codec kFp8Codec = {.format = WeightFormat::fp8,
                                   .dequantize_row = dequantize_row,
                                   .may_be_nonfinite = may_be_nonfinite,
                                   .scale = scale};

}  // namespace nibble::quant
