#include "quant/activations.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quant/float8.h"

namespace nibble::quant {
namespace {

constexpr std::int64_t kFp8Group = 128;
constexpr float kFloor = 1e-12F;

float max_magnitude(const float* x, std::int64_t k) {
  float largest = 0.0F;
  for (std::int64_t i = 0; i < k; ++i) largest = std::max(largest, std::fabs(x[i]));
  return largest;
}

bool all_finite(const float* x, std::int64_t k) {
  bool finite = true;
  for (std::int64_t i = 0; i < k; ++i) finite &= std::isfinite(x[i]);
  return finite;
}

void fp8_group(const float* x, std::int64_t k, float* y) {
  const float scale = std::max(max_magnitude(x, k), kFloor) / kE4m3Max;
  for (std::int64_t i = 0; i < k; ++i) y[i] = e4m3_to_float(float_to_e4m3_saturated(x[i] / scale)) * scale;
}

void int8_token(const float* x, std::int64_t k, float* y) {
  // Adding and taking off 1.5 * 2^23 rounds to the nearest integer, ties to even.
  constexpr float kRound = 12582912.0F;
  const float scale = std::max(max_magnitude(x, k), kFloor) / 127.0F;
  for (std::int64_t i = 0; i < k; ++i) {
    const float code = (x[i] / scale + kRound) - kRound;
    y[i] = std::clamp(code, -128.0F, 127.0F) * scale;
  }
}

}  // namespace

void quantize_dequantize(ActivationFormat format, const float* x, std::int64_t k, float* y) {
  const bool plain = format == ActivationFormat::none || !all_finite(x, k);
  if (plain) {
    if (y != x) std::memmove(y, x, static_cast<std::size_t>(k) * sizeof(float));
  } else if (format == ActivationFormat::int8) {
    int8_token(x, k, y);
  } else {
    for (std::int64_t begin = 0; begin < k; begin += kFp8Group) {
      fp8_group(x + begin, std::min(kFp8Group, k - begin), y + begin);
    }
  }
}

}  // namespace nibble::quant
