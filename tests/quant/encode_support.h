// What the encoder tests share: encoding in one call, inputs of many kinds, and the oracle.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "quant/encode/encode.h"
#include "tests/support/random.h"

namespace nibble::quant::testing {

struct Weights {
  std::string name;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::vector<float> values;

  [[nodiscard]] float amax() const { return abs_max(values); }
};

// About normal: the sum of four uniform numbers.
inline float bell(::nibble::testing::Random& random, float width) {
  float sum = 0.0F;
  for (int i = 0; i < 4; ++i) sum += random.uniform(-width, width);
  return sum;
}

// Matrices as checkpoints have them, and those that break encoders: blocks of zeros, outliers, numbers at
// both ends of float32, values of one sign.
inline std::vector<Weights> weight_cases(std::int64_t n, std::int64_t k) {
  ::nibble::testing::Random random(2026);
  const auto fill = [&](const char* name, auto&& value) {
    Weights w{.name = name, .n = n, .k = k, .values = {}};
    for (std::int64_t i = 0; i < n * k; ++i) w.values.push_back(value(i));
    return w;
  };
  return {
      fill("bell", [&](std::int64_t) { return bell(random, 0.02F); }),
      fill("uniform", [&](std::int64_t) { return random.uniform(-1.0F, 1.0F); }),
      fill("positive", [&](std::int64_t) { return random.uniform(0.5F, 3.0F); }),
      fill("outliers", [&](std::int64_t i) { return bell(random, 0.01F) * (i % 97 == 0 ? 40.0F : 1.0F); }),
      fill("zero blocks", [&](std::int64_t i) { return i / 64 % 2 == 0 ? 0.0F : bell(random, 1.0F); }),
      fill("zeros", [&](std::int64_t) { return 0.0F; }),
      fill(
          "magnitudes",
          [&](std::int64_t i) { return std::ldexp(bell(random, 1.0F), static_cast<int>(i / 32 % 60) - 30); }),
      fill("denormal", [&](std::int64_t) { return bell(random, 1.0F) * 0x1p-140F; }),
      fill("huge", [&](std::int64_t) { return random.uniform(-3.4e38F, 3.4e38F); }),
  };
}

// Encodes all rows in one call; throws if the options do not fit.
inline EncodedMatrix encode(const Weights& w, EncodeOptions options) {
  if (options.format == WeightFormat::nvfp4) options.global_scale = nvfp4_global_scale(w.amax());
  EncodedMatrix encoded = EncodedMatrix::allocate(w.n, w.k, options).value();
  encode_rows(w.values.data(), 0, w.n, encoded);
  return encoded;
}

inline std::vector<float> decode(const EncodedMatrix& encoded) {
  const MatrixView m = encoded.view();
  std::vector<float> out(static_cast<std::size_t>(m.n * m.k));
  dequantize_rows(m, 0, m.n, out.data());
  return out;
}

// Sum of (w - decoded)^2 in float64.
inline double squared_error(const Weights& w, const EncodedMatrix& encoded) {
  const std::vector<float> decoded = decode(encoded);
  double sum = 0.0;
  for (std::size_t i = 0; i < decoded.size(); ++i) {
    const double error = static_cast<double>(w.values[i]) - static_cast<double>(decoded[i]);
    sum += error * error;
  }
  return sum;
}

template <class T>
std::vector<T> copy_of(std::span<const std::byte> bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

}  // namespace nibble::quant::testing
