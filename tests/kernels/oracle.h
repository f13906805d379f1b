// Double-precision results with a bound on what a correct float32 (or bf16-product) kernel may differ.
//
// A sum of k products in float32 has, in any order, an error of at most about k eps sum |x w|; errors of
// real data add up like a random walk, so the bounds below grow with sqrt(k) and catch a single missing
// term at any k used here. With bf16 operands each product is off by two roundings of 2^-9.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace nibble::kernels::testing {

struct Bounded {
  double value = 0.0;
  double bound = 0.0;
};

inline constexpr double kEpsF32 = 0x1p-24;
inline constexpr double kEpsBf16 = 0x1p-9;
// Relative error granted to a kernel's exp.
inline constexpr double kExpError = 2e-6;

// Rounding of a float32 sum of k terms, relative to the sum of their magnitudes.
inline double sum_rounding(std::int64_t k) {
  return kEpsF32 * (8.0 + 2.0 * std::sqrt(static_cast<double>(k)));
}

// sum x[i] * w[i]; x is anything indexable. Errors of x, if it has bounds, are carried along.
inline Bounded dot(std::span<const Bounded> x, std::span<const float> w, bool bf16_products) {
  Bounded sum;
  double l1 = 0.0;
  double squares = 0.0;
  for (std::size_t i = 0; i < w.size(); ++i) {
    const double product = x[i].value * static_cast<double>(w[i]);
    sum.value += product;
    sum.bound += x[i].bound * std::abs(static_cast<double>(w[i]));
    l1 += std::abs(product);
    squares += product * product;
  }
  sum.bound += sum_rounding(static_cast<std::int64_t>(w.size())) * l1;
  if (bf16_products) sum.bound += kEpsBf16 * std::min(2.01 * l1, 8.0 * std::sqrt(squares));
  // Products of the smallest magnitudes may be flushed to zero.
  sum.bound += static_cast<double>(w.size()) * 0x1p-126;
  return sum;
}

inline std::vector<Bounded> exact(std::span<const float> values) {
  std::vector<Bounded> result;
  for (const float v : values) result.push_back({.value = static_cast<double>(v)});
  return result;
}

// silu(gate) * up.
inline Bounded gated(const Bounded& gate, const Bounded& up) {
  const double silu = gate.value / (1.0 + std::exp(-gate.value));
  // |silu'| < 1.1 everywhere.
  const double silu_bound = 1.1 * gate.bound + std::abs(silu) * (kExpError + 8.0 * kEpsF32);
  return {.value = silu * up.value,
          .bound = silu_bound * (std::abs(up.value) + up.bound) + std::abs(silu) * up.bound +
                   4.0 * kEpsF32 * std::abs(silu * up.value) + 0x1p-126};
}

// y rows: x [m, k] times w [n, k] transposed, row-major [m, n].
inline std::vector<Bounded> product(std::span<const Bounded> x, std::span<const float> w, std::int64_t m,
                                    std::int64_t n, std::int64_t k, bool bf16_products) {
  std::vector<Bounded> y;
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t row = 0; row < n; ++row) {
      y.push_back(dot(x.subspan(static_cast<std::size_t>(i * k), static_cast<std::size_t>(k)),
                      w.subspan(static_cast<std::size_t>(row * k), static_cast<std::size_t>(k)),
                      bf16_products));
    }
  }
  return y;
}

}  // namespace nibble::kernels::testing
