// Assertions and data shared by the kernel tests.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <span>
#include <string>

#include "tests/kernels/oracle.h"
#include "tests/kernels/tiers.h"
#include "tests/support/random.h"

namespace nibble::kernels::testing {

// Every value within its bound; a NaN or infinity fails.
inline ::testing::AssertionResult within_bounds(std::span<const float> actual,
                                                std::span<const Bounded> expected) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure() << actual.size() << " values, expected " << expected.size();
  }
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double difference = std::abs(static_cast<double>(actual[i]) - expected[i].value);
    if (!(difference <= expected[i].bound)) {
      return ::testing::AssertionFailure()
             << "value " << i << " of " << actual.size() << " is " << actual[i] << ", expected "
             << expected[i].value << " within " << expected[i].bound;
    }
  }
  return ::testing::AssertionSuccess();
}

inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

// Activations: ordinary values with zeros, negative zeros and a few large ones, as residual streams
// have them.
inline std::vector<float> activations(::nibble::testing::Random& random, std::int64_t count) {
  std::vector<float> x = random.floats(count, -2.0F, 2.0F);
  for (float& v : x) {
    const std::int64_t kind = random.below(40);
    if (kind == 0) v = 0.0F;
    if (kind == 1) v = -0.0F;
    if (kind == 2) v *= 1000.0F;
  }
  return x;
}

// Fixture of tests that run on every tier.
class KernelTest : public ::testing::TestWithParam<TierCase> {
 protected:
  static Device& device(int num_threads = 2) { return device_of(GetParam(), num_threads); }
  static bool bf16_products() { return GetParam().bf16_products; }
  static bool gpu() { return GetParam().gpu; }
};

inline std::string tier_name(const ::testing::TestParamInfo<TierCase>& info) { return info.param.name; }

}  // namespace nibble::kernels::testing

#define NIB_KERNEL_TESTS(Fixture) \
  INSTANTIATE_TEST_SUITE_P(Tiers, Fixture, ::testing::ValuesIn(available_tiers()), tier_name)
