// mxfp4 and nvfp4: the scale rules, ties, and the search.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quant/e2m1.h"
#include "quant/e8m0.h"
#include "quant/encode/encode.h"
#include "quant/encode/lane_rounding.h"
#include "quant/float8.h"
#include "tests/quant/encode_support.h"
#include "tests/support/paths.h"
#include "tests/support/safetensors_reader.h"

namespace nibble::quant {
namespace {

using ::nibble::testing::Random;
using testing::copy_of;
using testing::encode;
using testing::weight_cases;
using testing::Weights;

// Floats of any exponent and sign, the golden inputs, and every midpoint with its neighbours.
std::vector<float> finite_floats() {
  std::vector<float> values;
  Random random(5);
  for (int i = 0; i < 200000; ++i)
    values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random.next())));
  for (int i = 0; i < 100000; ++i)
    values.push_back(std::ldexp(random.uniform(-2.0F, 2.0F), static_cast<int>(random.below(20)) - 12));
  for (int code = 0; code < 0x7E; ++code) {
    const float middle = 0.5F * (kE4m3Values[static_cast<std::size_t>(code)] +
                                 kE4m3Values[static_cast<std::size_t>(code) + 1]);
    for (const float x : {middle, std::nextafter(middle, 0.0F), std::nextafter(middle, 1e9F)}) {
      values.push_back(x);
      values.push_back(-x);
    }
  }
  for (const float x : {0.25F, 0.75F, 1.25F, 1.75F, 2.5F, 3.5F, 5.0F, 6.0F, 464.0F, 0.0F, -0.0F})
    values.push_back(x);
  const ::nibble::testing::SafetensorsReader golden(::nibble::testing::test_data("golden") /
                                                    "codecs.safetensors");
  for (const float x : golden.at("encode.x").values<float>()) values.push_back(x);
  std::erase_if(values, [](float x) { return !std::isfinite(x); });
  return values;
}

TEST(LaneRounding, EqualsTheScalarCodecs) {
  for (const float x : finite_floats()) {
    ASSERT_EQ(e2m1_lane(x), float_to_e2m1_saturated(x)) << x;
    ASSERT_EQ(e2m1_round_lane(std::abs(x)), kE2m1Values[float_to_e2m1_saturated(std::abs(x))]) << x;
    ASSERT_EQ(e4m3_lane(x), float_to_e4m3_saturated(x)) << x;
  }
}

TEST(LaneRounding, IntegersTieToEven) {
  for (int i = -300; i <= 300; ++i) {
    const auto x = static_cast<float>(i);
    EXPECT_EQ(round_lane(x), i);
    EXPECT_EQ(round_lane(x + 0.5F), i % 2 == 0 ? i : i + 1);
    EXPECT_EQ(round_lane(x + 0.4999F), i);
  }
}

// One group whose largest weight is amax.
Weights group_of(float amax, std::int64_t k) {
  Weights w{.name = "group", .n = 1, .k = k, .values = std::vector<float>(static_cast<std::size_t>(k), 0.0F)};
  w.values[3] = -amax;
  return w;
}

int mxfp4_exponent(float amax) {
  const auto scales =
      copy_of<std::uint8_t>(encode(group_of(amax, 32), {.format = WeightFormat::mxfp4}).scales());
  return scales.at(0) - 127;
}

// The column "ceil" of the worked table; OCP's floor rule would give 0 for 6.1 ... 7.5 and -2 for 1.75.
TEST(EncodeMxfp4, ScaleIsTheCeilingOfDeepSeek) {
  const std::pair<float, int> cases[] = {{4.0F, 0},  {5.9F, 0},       {6.0F, 0},  {6.1F, 1},      {6.9F, 1},
                                         {7.0F, 1},  {7.5F, 1},       {8.0F, 1},  {1.5F, -2},     {1.75F, -1},
                                         {3.0F, -1}, {3.0000003F, 0}, {12.0F, 1}, {12.000001F, 2}};
  for (const auto& [amax, exponent] : cases) EXPECT_EQ(mxfp4_exponent(amax), exponent) << amax;
  // Against the formula at every power of two.
  for (int e = -120; e <= 120; ++e) {
    EXPECT_EQ(mxfp4_exponent(std::ldexp(6.0F, e)), e);
    EXPECT_EQ(mxfp4_exponent(std::ldexp(std::nextafter(6.0F, 7.0F), e)), e + 1);
  }
}

TEST(EncodeMxfp4, ScaleStaysBetweenTwoToTheMinus126AndWhatDecodes) {
  EXPECT_EQ(mxfp4_exponent(0.0F), -126);
  EXPECT_EQ(mxfp4_exponent(0x1p-149F), -126);
  EXPECT_EQ(mxfp4_exponent(0x1.8p-124F), -126);
  EXPECT_EQ(mxfp4_exponent(0x1.9p-124F), -125);
  EXPECT_EQ(mxfp4_exponent(std::numeric_limits<float>::max()), 125);
}

TEST(EncodeMxfp4, TiesGoToEvenCodes) {
  Weights w = group_of(6.0F, 32);
  const float midpoints[] = {0.25F, 0.75F, 1.25F, 1.75F, 2.5F, 3.5F, 5.0F};
  std::copy(std::begin(midpoints), std::end(midpoints), w.values.begin() + 4);
  const auto codes = copy_of<std::uint8_t>(encode(w, {.format = WeightFormat::mxfp4}).codes());
  EXPECT_EQ(codes.at(1), 0xF0);  // weights 2 and 3: 0 and -6, the even k in the low nibble
  EXPECT_EQ(codes.at(2), 0x20);
  EXPECT_EQ(codes.at(3), 0x42);
  EXPECT_EQ(codes.at(4), 0x64);
  EXPECT_EQ(codes.at(5), 0x06);
}

// Least squared error of one group over all exponents, in float64.
double best_mxfp4_error(const float* w) {
  double best = std::numeric_limits<double>::infinity();
  for (int code = 1; code <= 252; ++code) {
    const double scale = std::exp2(code - 127);
    double sum = 0.0;
    for (int i = 0; i < 32; ++i) {
      double least = std::numeric_limits<double>::infinity();
      for (const float value : kE2m1Values) {
        least = std::min(least, std::abs(static_cast<double>(w[i]) - static_cast<double>(value) * scale));
      }
      sum += least * least;
    }
    best = std::min(best, sum);
  }
  return best;
}

// Two candidates are enough: no other exponent has a smaller error.
TEST(EncodeMxfp4, SearchFindsTheBestOfAllExponents) {
  for (const Weights& w : weight_cases(2, 320)) {
    if (w.name == "denormal" || w.name == "huge") continue;
    double best = 0.0;
    for (std::int64_t begin = 0; begin < w.n * w.k; begin += 32)
      best += best_mxfp4_error(w.values.data() + begin);
    const double found =
        testing::squared_error(w, encode(w, {.format = WeightFormat::mxfp4, .scales = ScaleRule::searched}));
    EXPECT_NEAR(found, best, 1e-4 * best) << w.name;
  }
}

// The block of the format notes: x_i = 0.1 i (-1)^i under a matrix amax of 2.
TEST(EncodeNvfp4, WorkedBlock) {
  Weights w{.name = "worked", .n = 1, .k = 32, .values = std::vector<float>(32, 0.0F)};
  for (std::size_t i = 0; i < 16; ++i)
    w.values[i] = 0.1F * static_cast<float>(i) * (i % 2 == 0 ? 1.0F : -1.0F);
  w.values[20] = 2.0F;
  EXPECT_FLOAT_EQ(nvfp4_global_scale(2.0F), 7.4404762e-4F);
  const EncodedMatrix encoded = encode(w, {.format = WeightFormat::nvfp4});
  EXPECT_EQ(copy_of<std::uint8_t>(encoded.scales()), (std::vector<std::uint8_t>{0x7A, 0x7E}));
  const auto codes = copy_of<std::uint8_t>(encoded.codes());
  const std::vector<std::uint8_t> expected{0x90, 0xB2, 0xC3, 0xD5, 0xE5, 0xE6, 0xF7, 0xF7};
  EXPECT_EQ(std::vector(codes.begin(), codes.begin() + 8), expected);
}

TEST(EncodeNvfp4, ZeroBlocksHaveScaleOneAndTinyBlocksTheSmallest) {
  Weights w{.name = "blocks", .n = 1, .k = 48, .values = std::vector<float>(48, 0.0F)};
  w.values[0] = 2688.0F;  // global scale 1
  w.values[16] = 0.004F;  // scale 0.004 / 6 rounds to 0, which would lose the block
  for (const ScaleRule rule : {ScaleRule::plain, ScaleRule::searched}) {
    const EncodedMatrix encoded = encode(w, {.format = WeightFormat::nvfp4, .scales = rule});
    EXPECT_EQ(copy_of<std::uint8_t>(encoded.scales()), (std::vector<std::uint8_t>{0x7E, 0x01, 0x38}));
    EXPECT_EQ(testing::decode(encoded)[16], 0x1p-8F);
  }
}

TEST(EncodeNvfp4, GlobalScaleIsUsable) {
  EXPECT_EQ(nvfp4_global_scale(0.0F), 1.0F);
  EXPECT_EQ(nvfp4_global_scale(2688.0F), 1.0F);
  EXPECT_GT(nvfp4_global_scale(0x1p-149F), 0.0F);
  EXPECT_TRUE(std::isfinite(nvfp4_global_scale(std::numeric_limits<float>::max()) * 6.0F * 448.0F));
}

// The search looks at eleven scales; all 126 would hardly find better ones.
TEST(EncodeNvfp4, SearchIsCloseToTheBestOfAllScales) {
  const Weights w = weight_cases(4, 160)[0];
  const float global = nvfp4_global_scale(w.amax());
  double best = 0.0;
  for (std::int64_t begin = 0; begin < w.n * w.k; begin += 16) {
    double least_sum = std::numeric_limits<double>::infinity();
    for (int code = 1; code < 0x7F; ++code) {
      const double scale =
          static_cast<double>(e4m3_to_float(static_cast<std::uint8_t>(code))) * static_cast<double>(global);
      double sum = 0.0;
      for (std::int64_t i = begin; i < begin + 16; ++i) {
        double least = std::numeric_limits<double>::infinity();
        for (const float value : kE2m1Values) {
          least = std::min(least, std::abs(static_cast<double>(w.values[static_cast<std::size_t>(i)]) -
                                           static_cast<double>(value) * scale));
        }
        sum += least * least;
      }
      least_sum = std::min(least_sum, sum);
    }
    best += least_sum;
  }
  const double found =
      testing::squared_error(w, encode(w, {.format = WeightFormat::nvfp4, .scales = ScaleRule::searched}));
  EXPECT_LE(found, 1.01 * best);
}

}  // namespace
}  // namespace nibble::quant
