// sin_cos against the library's functions.
#include "layers/sin_cos.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace nibble::layers {
namespace {

TEST(SinCos, IsThatOfTheLibrary) {
  // Dense over the first turns, then ever wider, to the angle of position 10^6.
  for (double x = 0.0; x < 1e6; x += 1e-3 + x * 1e-5) {
    const auto angle = static_cast<double>(static_cast<float>(x));
    const SinCos got = sin_cos(angle);
    ASSERT_NEAR(got.sin, std::sin(angle), 3e-16) << angle;
    ASSERT_NEAR(got.cos, std::cos(angle), 3e-16) << angle;
  }
}

TEST(SinCos, QuadrantsAndNegativeAngles) {
  for (int i = -40; i <= 40; ++i) {
    const double angle = i * std::numbers::pi / 8.0;
    const SinCos got = sin_cos(angle);
    EXPECT_NEAR(got.sin, std::sin(angle), 3e-16) << i;
    EXPECT_NEAR(got.cos, std::cos(angle), 3e-16) << i;
  }
  EXPECT_EQ(sin_cos(0.0).sin, 0.0);
  EXPECT_EQ(sin_cos(0.0).cos, 1.0);
}

}  // namespace
}  // namespace nibble::layers
