// fp8_block: w[n, k] = e4m3(codes[n, k]) * scales[n / 128, k / 128]; blocks at the edges are partial.
// The checkpoint calls the scales weight_scale_inv, yet they multiply (docs/formats.md).
#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "quant/codec.h"
#include "quant/e8m0.h"
#include "quant/float16.h"
#include "quant/float8.h"

namespace nibble::quant {
namespace {

constexpr std::int64_t kBlock = 128;

// Scale of the 128 x 128 block (block_row, block_column).
float block_scale(const MatrixView& m, std::int64_t block_row, std::int64_t block_column) {
  const std::int64_t i = block_row * ((m.k + kBlock - 1) / kBlock) + block_column;
  switch (m.scale_dtype) {
    case DType::f32: return load<float>(m.scales, i);
    case DType::bf16: return bf16_to_float(load<std::uint16_t>(m.scales, i));
    case DType::f8_e8m0: return e8m0_to_float(load<std::uint8_t>(m.scales, i));
    default: break;
  }
  NIB_CHECK(false, "scales of fp8_block are F32, BF16 or F8_E8M0, not {}", dtype_name(m.scale_dtype));
}

float scale(const MatrixView& m, std::int64_t row, std::int64_t kk) {
  return block_scale(m, row / kBlock, kk / kBlock);
}

void dequantize_row(const MatrixView& m, std::int64_t row, float* out) {
  const std::uint8_t* codes = byte_row(m.codes, row, m.k);
  for (std::int64_t begin = 0; begin < m.k; begin += kBlock) {
    const float s = scale(m, row, begin);
    const std::int64_t end = std::min(begin + kBlock, m.k);
    for (std::int64_t kk = begin; kk < end; ++kk) out[kk] = e4m3_to_float(codes[kk]) * s;
  }
}

bool may_be_nonfinite(const MatrixView& m, std::int64_t row) {
  const std::uint8_t* codes = byte_row(m.codes, row, m.k);
  std::uint8_t found = 0;
  for (std::int64_t kk = 0; kk < m.k; ++kk) found |= (codes[kk] & 0x7FU) == 0x7FU ? 1U : 0U;
  for (std::int64_t begin = 0; begin < m.k; begin += kBlock) {
    found |= std::isfinite(scale(m, row, begin) * kE4m3Max) ? 0U : 1U;
  }
  return found != 0;
}

}  // namespace

constinit const Codec kFp8BlockCodec = {.format = WeightFormat::fp8_block,
                                        .dequantize_row = dequantize_row,
                                        .may_be_nonfinite = may_be_nonfinite,
                                        .scale = scale};

}  // namespace nibble::quant
