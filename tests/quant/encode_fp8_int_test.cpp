// fp8, int8 and int4: scale rules, blocks, dtypes of scales, zero points; requantisation on threads.
#include <gtest/gtest.h>

#include <cmath>

#include "quant/encode/encode.h"
#include "quant/encode/requantize.h"
#include "quant/float16.h"
#include "tests/quant/encode_support.h"

namespace nibble::quant {
namespace {

using testing::copy_of;
using testing::decode;
using testing::encode;
using testing::weight_cases;
using testing::Weights;

// Largest |w| of rows [r0, r1) and columns [c0, c1).
float block_max(const Weights& w, std::int64_t r0, std::int64_t r1, std::int64_t c0, std::int64_t c1) {
  float largest = 0.0F;
  for (std::int64_t r = r0; r < std::min(r1, w.n); ++r) {
    for (std::int64_t c = c0; c < std::min(c1, w.k); ++c) {
      largest = std::max(largest, std::abs(w.values[static_cast<std::size_t>(r * w.k + c)]));
    }
  }
  return largest;
}

TEST(EncodeFp8, BlocksOf128AlsoAtTheEdges) {
  const Weights w = weight_cases(130, 200)[0];
  const auto scales = copy_of<float>(encode(w, {.format = WeightFormat::fp8}).scales());
  ASSERT_EQ(scales.size(), 4U);
  for (std::int64_t i = 0; i < 4; ++i) {
    const std::int64_t r = i / 2 * 128;
    const std::int64_t c = i % 2 * 128;
    EXPECT_EQ(scales[static_cast<std::size_t>(i)], block_max(w, r, r + 128, c, c + 128) / 448.0F);
  }
}

TEST(EncodeFp8, PerChannelAndPerTensor) {
  const Weights w = weight_cases(5, 96)[0];
  const EncodedMatrix channel = encode(w, {.format = WeightFormat::fp8, .group_k = kWholeRow, .group_n = 1});
  const auto scales = copy_of<float>(channel.scales());
  ASSERT_EQ(scales.size(), 5U);
  EXPECT_EQ(scales[4], block_max(w, 4, 5, 0, 96) / 448.0F);
  const EncodedMatrix tensor = encode(w, {.format = WeightFormat::fp8, .group_k = kWholeRow, .group_n = 5});
  EXPECT_EQ(copy_of<float>(tensor.scales()), std::vector<float>{w.amax() / 448.0F});
}

TEST(EncodeFp8, PowerOfTwoScalesNeverSaturate) {
  const Weights w = weight_cases(256, 256)[6];
  const EncodedMatrix encoded = encode(w, {.format = WeightFormat::fp8, .scale_dtype = DType::f8_e8m0});
  const auto scales = copy_of<std::uint8_t>(encoded.scales());
  for (std::int64_t i = 0; i < 4; ++i) {
    const std::int64_t r = i / 2 * 128;
    const std::int64_t c = i % 2 * 128;
    const int expected =
        static_cast<int>(std::ceil(std::log2(block_max(w, r, r + 128, c, c + 128) / 448.0F)));
    EXPECT_EQ(scales[static_cast<std::size_t>(i)] - 127, expected);
  }
}

TEST(EncodeInt8, ScaleIsAmaxOver127PerRow) {
  const Weights w = weight_cases(4, 100)[1];
  const EncodedMatrix f32 = encode(w, {.format = WeightFormat::int8, .scale_dtype = DType::f32});
  EXPECT_EQ(f32.view().group_k(), 100);
  EXPECT_EQ(copy_of<float>(f32.scales()).at(2), block_max(w, 2, 3, 0, 100) / 127.0F);
  const EncodedMatrix bf16 = encode(w, {.format = WeightFormat::int8});
  EXPECT_EQ(bf16.view().scale_dtype, DType::bf16);
  EXPECT_EQ(copy_of<std::uint16_t>(bf16.scales()).at(2), float_to_bf16(block_max(w, 2, 3, 0, 100) / 127.0F));
}

// +-amax / 7.5 = +-7.5: the code -8 exists, +8 does not, and either is half a step away.
TEST(EncodeInt4, SymmetricScaleIsAmaxOver7Point5) {
  const Weights w{.name = "row", .n = 1, .k = 6, .values = {7.5F, -7.5F, 0.5F, 1.5F, -0.49F, 0.0F}};
  const EncodedMatrix encoded = encode(w, {.format = WeightFormat::int4});
  EXPECT_EQ(copy_of<std::uint16_t>(encoded.scales()), std::vector<std::uint16_t>{float_to_bf16(1.0F)});
  EXPECT_EQ(copy_of<std::uint8_t>(encoded.codes()), (std::vector<std::uint8_t>{0x0F, 0xA8, 0x88}));
}

// AWQ's rule: s = (max - min) / 15, z = round(-min / s); both ends of the range are codes.
TEST(EncodeInt4, ZeroPoints) {
  const Weights w{.name = "row", .n = 1, .k = 4, .values = {-1.0F, 2.75F, 0.0F, 0.26F}};
  const EncodedMatrix encoded =
      encode(w, {.format = WeightFormat::int4, .scale_dtype = DType::f32, .zero_points = true});
  EXPECT_EQ(copy_of<float>(encoded.scales()), std::vector<float>{0.25F});
  EXPECT_EQ(copy_of<std::int8_t>(encoded.zeros()), std::vector<std::int8_t>{4 - 8});
  EXPECT_EQ(copy_of<std::uint8_t>(encoded.codes()), (std::vector<std::uint8_t>{0xF0, 0x54}));
  EXPECT_EQ(decode(encoded), (std::vector<float>{-1.0F, 2.75F, 0.0F, 0.25F}));
}

// Zero stays exactly zero although the range lies on one side of it.
TEST(EncodeInt4, ZeroIsInEveryRange) {
  const Weights w{.name = "row", .n = 2, .k = 2, .values = {3.0F, 1.5F, -3.0F, -1.0F}};
  const EncodedMatrix encoded =
      encode(w, {.format = WeightFormat::int4, .scale_dtype = DType::f32, .zero_points = true});
  EXPECT_EQ(copy_of<std::int8_t>(encoded.zeros()), (std::vector<std::int8_t>{-8, 7}));
  EXPECT_FLOAT_EQ(decode(encoded)[0], 3.0F);
  EXPECT_FLOAT_EQ(decode(encoded)[2], -3.0F);
}

TEST(EncodeInt4, TheLastGroupMayBeShort) {
  const Weights w = weight_cases(2, 150)[0];
  const EncodedMatrix encoded = encode(w, {.format = WeightFormat::int4, .scale_dtype = DType::f32});
  const auto scales = copy_of<float>(encoded.scales());
  ASSERT_EQ(scales.size(), 4U);
  EXPECT_EQ(scales[3], block_max(w, 1, 2, 128, 150) / 7.5F);
}

MatrixView view_of(const Weights& w) {
  return {.format = WeightFormat::f32,
          .n = w.n,
          .k = w.k,
          .codes = reinterpret_cast<const std::byte*>(w.values.data())};
}

TEST(Requantize, SameBytesAndErrorOnAnyNumberOfThreads) {
  const Weights w = weight_cases(1000, 352)[0];
  for (const EncodeOptions& options :
       {EncodeOptions{.format = WeightFormat::fp8}, EncodeOptions{.format = WeightFormat::mxfp4},
        EncodeOptions{.format = WeightFormat::int4, .scales = ScaleRule::searched, .zero_points = true}}) {
    const EncodedMatrix expected = encode(w, options);
    const double expected_error = testing::squared_error(w, expected);
    for (const int num_threads : {1, 2, 5}) {
      ThreadPool threads(num_threads);
      EncodedMatrix actual = EncodedMatrix::allocate(w.n, w.k, options).value();
      const EncodeError error = requantize(view_of(w), actual, "m", threads).value();
      EXPECT_TRUE(std::ranges::equal(actual.codes(), expected.codes()));
      EXPECT_TRUE(std::ranges::equal(actual.scales(), expected.scales()));
      EXPECT_TRUE(std::ranges::equal(actual.zeros(), expected.zeros()));
      EXPECT_NEAR(error.squared_error, expected_error, 1e-6 * expected_error);
      const EncodeError again = measure_error(view_of(w), actual.view(), threads);
      EXPECT_EQ(again.squared_error, error.squared_error);
    }
  }
}

TEST(Requantize, ErrorsInFloat64) {
  const Weights w = weight_cases(3, 70)[0];
  const EncodedMatrix encoded = encode(w, {.format = WeightFormat::int4});
  const std::vector<float> decoded = decode(encoded);
  double squares = 0.0;
  float largest = 0.0F;
  for (std::size_t i = 0; i < decoded.size(); ++i) {
    squares += static_cast<double>(w.values[i]) * static_cast<double>(w.values[i]);
    largest = std::max(largest, std::abs(w.values[i] - decoded[i]));
  }
  const EncodeError error = measure_error(w.values.data(), 0, 3, encoded.view());
  EXPECT_NEAR(error.squared_error, testing::squared_error(w, encoded), 1e-9 * squares);
  EXPECT_NEAR(error.squares, squares, 1e-12 * squares);
  EXPECT_EQ(error.max_error, largest);
  EXPECT_NEAR(error.relative(), std::sqrt(error.squared_error / squares), 1e-9);
  EncodeError sum = error;
  sum += EncodeError{.squared_error = 1.0, .squares = 2.0, .max_error = 100.0F};
  EXPECT_EQ(sum.max_error, 100.0F);
  EXPECT_EQ(sum.squares, error.squares + 2.0);
  EXPECT_EQ(EncodeError{}.relative(), 0.0);
}

TEST(Requantize, Fp8ToMxfp4GoesThroughFloat32) {
  const Weights w = weight_cases(256, 256)[0];
  const EncodedMatrix fp8 = encode(w, {.format = WeightFormat::fp8});
  ThreadPool threads(2);
  EncodedMatrix actual = EncodedMatrix::allocate(w.n, w.k, {.format = WeightFormat::mxfp4}).value();
  ASSERT_TRUE(requantize(fp8.view(), actual, "m", threads).ok());
  EXPECT_EQ(decode_matrix(fp8.view(), threads), decode(fp8));
  Weights decoded = w;
  decoded.values = decode(fp8);
  const EncodedMatrix expected = encode(decoded, {.format = WeightFormat::mxfp4});
  EXPECT_TRUE(std::ranges::equal(actual.codes(), expected.codes()));
  EXPECT_TRUE(std::ranges::equal(actual.scales(), expected.scales()));
  EXPECT_EQ(abs_max(fp8.view(), threads), decoded.amax());
}

TEST(Requantize, NamesWhatIsNotFinite) {
  Weights w = weight_cases(50, 64)[0];
  w.values[31 * 64 + 7] = std::numeric_limits<float>::infinity();
  ThreadPool threads(2);
  EncodedMatrix out = EncodedMatrix::allocate(w.n, w.k, {.format = WeightFormat::mxfp4}).value();
  const auto error = requantize(view_of(w), out, "the matrix", threads);
  ASSERT_FALSE(error.ok());
  EXPECT_EQ(error.error().code, ErrorCode::bad_input);
  for (const char* word : {"the matrix", "row 31", "column 7"}) {
    EXPECT_NE(error.error().message.find(word), std::string::npos) << error.error().message;
  }
}

TEST(Requantize, AbsMaxSeesNan) {
  Weights w = weight_cases(50, 64)[0];
  ThreadPool threads(2);
  EXPECT_EQ(abs_max(view_of(w), threads), w.amax());
  w.values[49 * 64 + 63] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(abs_max(view_of(w), threads)));
}

}  // namespace
}  // namespace nibble::quant
