// int8 and int4: w[n, k] = (code[n, k] - zero[n, g]) * scale[n, g], g = k / group_k or g_idx[k]. Codes
// and zeros are centred (unsigned codes of other tools minus 2^(bits - 1)); the difference is exact.
#include <algorithm>
#include <cmath>

#include "quant/codec.h"
#include "quant/scales.h"

namespace nibble::quant {
namespace {

std::int64_t group_of(const MatrixView& m, std::int64_t kk) {
  return m.grouping.act_order ? load<std::int32_t>(m.g_idx, kk) : kk / m.group_k();
}

float group_scale(const MatrixView& m, std::int64_t row, std::int64_t group) {
  return load_scale(m.scales, m.scale_dtype, row / m.rows_per_scale() * m.num_groups() + group);
}

float scale(const MatrixView& m, std::int64_t row, std::int64_t kk) {
  return group_scale(m, row, group_of(m, kk));
}

int zero(const MatrixView& m, std::int64_t row, std::int64_t group) {
  return m.grouping.zero_points ? load<std::int8_t>(m.zeros, row * m.num_groups() + group) : 0;
}

int int8_code(const MatrixView& m, std::int64_t row, std::int64_t kk) {
  return load<std::int8_t>(m.codes, row * m.k + kk);
}

int int4_code(const MatrixView& m, std::int64_t row, std::int64_t kk) {
  const std::uint8_t byte = byte_row(m.codes, row, m.k / 2)[kk / 2];
  return (kk % 2 == 0 ? byte & 0x0F : byte >> 4) - 8;
}

// Whole groups at a time where the order of k allows it: no division by group_k in the inner loop.
template <int (*kCode)(const MatrixView&, std::int64_t, std::int64_t)>
void dequantize_row(const MatrixView& m, std::int64_t row, float* out) {
  if (m.grouping.act_order) {
    for (std::int64_t kk = 0; kk < m.k; ++kk) {
      const int difference = kCode(m, row, kk) - zero(m, row, group_of(m, kk));
      out[kk] = static_cast<float>(difference) * scale(m, row, kk);
    }
    return;
  }
  for (std::int64_t begin = 0; begin < m.k; begin += m.group_k()) {
    const float s = scale(m, row, begin);
    const int z = zero(m, row, begin / m.group_k());
    const std::int64_t end = std::min(begin + m.group_k(), m.k);
    for (std::int64_t kk = begin; kk < end; ++kk) out[kk] = static_cast<float>(kCode(m, row, kk) - z) * s;
  }
}

// Only scales can spoil a weight.
bool may_be_nonfinite(const MatrixView& m, std::int64_t row) {
  constexpr float kMaxDifference = 255.0F;
  bool found = false;
  for (std::int64_t g = 0; g < m.num_groups(); ++g) {
    found |= !std::isfinite(group_scale(m, row, g) * kMaxDifference);
  }
  return found;
}

}  // namespace

constinit const Codec kInt8Codec = {.format = WeightFormat::int8,
                                    .dequantize_row = dequantize_row<int8_code>,
                                    .may_be_nonfinite = may_be_nonfinite,
                                    .scale = scale};

constinit const Codec kInt4Codec = {.format = WeightFormat::int4,
                                    .dequantize_row = dequantize_row<int4_code>,
                                    .may_be_nonfinite = may_be_nonfinite,
                                    .scale = scale};

}  // namespace nibble::quant
