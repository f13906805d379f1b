// Comparisons of float results in tests.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <span>

namespace nibble::testing {

// Same bits, or both NaN.
inline bool same_float(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

// Every element equal bit by bit (NaN equals NaN); names the first that is not.
inline ::testing::AssertionResult same_floats(std::span<const float> actual,
                                              std::span<const float> expected) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure() << actual.size() << " elements, expected " << expected.size();
  }
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (!same_float(actual[i], expected[i])) {
      return ::testing::AssertionFailure()
             << "element " << i << " is " << actual[i] << " (0x" << std::hex
             << std::bit_cast<std::uint32_t>(actual[i]) << "), expected " << expected[i] << " (0x"
             << std::bit_cast<std::uint32_t>(expected[i]) << ")";
    }
  }
  return ::testing::AssertionSuccess();
}

// |actual - expected| <= tolerance for every element; tolerance is one number or one per element.
// A NaN or infinity on one side only is a failure.
inline ::testing::AssertionResult close_floats(std::span<const float> actual,
                                               std::span<const double> expected,
                                               std::span<const double> tolerance) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure() << actual.size() << " elements, expected " << expected.size();
  }
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double bound = tolerance[tolerance.size() == 1 ? 0 : i];
    if (!(std::abs(static_cast<double>(actual[i]) - expected[i]) <= bound)) {
      return ::testing::AssertionFailure()
             << "element " << i << " is " << actual[i] << ", expected " << expected[i] << " within " << bound;
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace nibble::testing
