// What holds for the encoders of every format: the nearest code, finite results, independence of rows.
#include "quant/encode/encode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/check.h"
#include "quant/e2m1.h"
#include "quant/encode/requantize.h"
#include "quant/float16.h"
#include "quant/float8.h"
#include "tests/quant/encode_support.h"
#include "tests/support/compare.h"

namespace nibble::quant {
namespace {

using ::nibble::testing::Random;
using ::nibble::testing::same_floats;
using testing::copy_of;
using testing::decode;
using testing::encode;
using ::testing::HasSubstr;
using testing::weight_cases;
using testing::Weights;

struct FormatCase {
  std::string name;
  EncodeOptions options;
};

std::vector<FormatCase> format_cases() {
  using enum WeightFormat;
  constexpr auto kSearched = ScaleRule::searched;
  return {
      {"f32", {.format = f32}},
      {"f16", {.format = f16}},
      {"bf16", {.format = bf16}},
      {"fp8", {.format = fp8}},
      {"fp8 bf16 scales", {.format = fp8, .scale_dtype = DType::bf16}},
      {"fp8 e8m0 scales", {.format = fp8, .scale_dtype = DType::f8_e8m0}},
      {"fp8 channel", {.format = fp8, .group_k = kWholeRow, .group_n = 1}},
      {"mxfp4", {.format = mxfp4}},
      {"mxfp4 searched", {.format = mxfp4, .scales = kSearched}},
      {"nvfp4", {.format = nvfp4}},
      {"nvfp4 searched", {.format = nvfp4, .scales = kSearched}},
      {"int8", {.format = int8}},
      {"int8 f16 groups", {.format = int8, .group_k = 64, .scale_dtype = DType::f16}},
      {"int8 zeros", {.format = int8, .zero_points = true}},
      {"int4", {.format = int4}},
      {"int4 f16 searched", {.format = int4, .group_k = 32, .scale_dtype = DType::f16, .scales = kSearched}},
      {"int4 zeros", {.format = int4, .zero_points = true}},
      {"int4 zeros searched", {.format = int4, .scales = kSearched, .zero_points = true}},
      {"int4 rows", {.format = int4, .group_k = kWholeRow, .scale_dtype = DType::f32}},
  };
}

// All weights that code (row, kk) could stand for, under the scale and zero point that are stored.
std::vector<double> values_of(const MatrixView& m, std::int64_t row, std::int64_t kk) {
  MatrixView one = m;  // a row of all codes, one after the other, sharing the group of kk
  std::vector<double> values;
  const auto with_scale = [&](double code) {
    const std::int64_t block_row = m.group_n != 0 ? row / m.group_n : row;
    const std::int64_t i = block_row * m.num_groups() + kk / m.group_k();
    const std::span scales(m.scales, static_cast<std::size_t>((i + 1) * dtype_bits(m.scale_dtype) / 8));
    double scale = 0.0;
    switch (m.scale_dtype) {
      case DType::f32: scale = static_cast<double>(copy_of<float>(scales).back()); break;
      case DType::bf16:
        scale = static_cast<double>(bf16_to_float(copy_of<std::uint16_t>(scales).back()));
        break;
      case DType::f16:
        scale = static_cast<double>(f16_to_float(copy_of<std::uint16_t>(scales).back()));
        break;
      case DType::f8_e8m0: scale = std::exp2(std::to_integer<int>(scales.back()) - 127); break;
      case DType::f8_e4m3:
        scale = static_cast<double>(e4m3_to_float(std::to_integer<std::uint8_t>(scales.back())));
        break;
      default: ADD_FAILURE() << dtype_name(m.scale_dtype);
    }
    values.push_back(code * scale * static_cast<double>(one.global_scale));
  };
  const int bits = format_row(m.format).bits;
  for (int code = 0; code < 1 << bits; ++code) {
    switch (m.format) {
      case WeightFormat::mxfp4:
      case WeightFormat::nvfp4:
        with_scale(static_cast<double>(kE2m1Values[static_cast<std::size_t>(code)]));
        break;
      case WeightFormat::fp8:
        if ((code & 0x7F) != 0x7F)
          with_scale(static_cast<double>(e4m3_to_float(static_cast<std::uint8_t>(code))));
        break;
      default: {
        const int zero = m.zeros == nullptr
                             ? 0
                             : static_cast<std::int8_t>(m.zeros[row * m.num_groups() + kk / m.group_k()]);
        const int centred = code - (1 << (bits - 1));
        if (m.zeros == nullptr && centred == -128) break;  // symmetric int8 stays within +-127
        with_scale(static_cast<double>(centred - zero));
      }
    }
  }
  return values;
}

// No code would have been nearer (up to what float32 division can tell apart).
TEST(Encode, NearestCodeByExhaustiveSearch) {
  for (const Weights& w : weight_cases(3, 160)) {
    for (const auto& [name, options] : format_cases()) {
      const EncodedMatrix encoded = encode(w, options);
      const MatrixView m = encoded.view();
      if (m.num_groups() == 0) continue;
      const std::vector<float> decoded = decode(encoded);
      for (std::int64_t i = 0; i < w.n * w.k; ++i) {
        const auto weight = static_cast<double>(w.values[static_cast<std::size_t>(i)]);
        double least = std::numeric_limits<double>::infinity();
        for (const double value : values_of(m, i / w.k, i % w.k))
          least = std::min(least, std::abs(weight - value));
        const double error = std::abs(weight - static_cast<double>(decoded[static_cast<std::size_t>(i)]));
        ASSERT_LE(error, least + 2e-6 * std::abs(weight) + 0x1p-149)
            << name << ", " << w.name << ", element " << i;
      }
    }
  }
}

TEST(Encode, EverythingDecodesToFiniteNumbers) {
  for (const Weights& w : weight_cases(130, 320)) {
    for (const auto& [name, options] : format_cases()) {
      const EncodedMatrix encoded = encode(w, options);
      const Status status = check_finite(encoded.view(), "w");
      EXPECT_TRUE(status.ok()) << name << ", " << w.name << ": "
                               << (status.ok() ? "" : status.error().message);
    }
  }
}

TEST(Encode, ZerosStayZeros) {
  const Weights zeros{.name = "zeros", .n = 2, .k = 128, .values = std::vector<float>(256, 0.0F)};
  for (const auto& [name, options] : format_cases()) {
    EXPECT_TRUE(same_floats(decode(encode(zeros, options)), zeros.values)) << name;
  }
}

// Small relative errors for weights as models have them: what each format is good for.
TEST(Encode, ErrorIsThatOfTheFormat) {
  const Weights bell = weight_cases(128, 256)[0];
  ThreadPool threads(1);
  const MatrixView source{.format = WeightFormat::f32,
                          .n = bell.n,
                          .k = bell.k,
                          .codes = reinterpret_cast<const std::byte*>(bell.values.data())};
  for (const auto& [name, options] : format_cases()) {
    EncodeOptions with_global = options;
    with_global.global_scale = nvfp4_global_scale(bell.amax());
    EncodedMatrix encoded = EncodedMatrix::allocate(bell.n, bell.k, with_global).value();
    const double error = requantize(source, encoded, "m", threads).value().relative();
    const int bits = format_row(options.format).bits;
    EXPECT_LT(error, bits == 4 ? 0.13 : bits == 8 ? 0.03 : bits == 16 ? 0.002 : 1e-9) << name;
    EXPECT_GT(error, bits == 4 ? 0.05 : bits == 8 ? 0.003 : bits == 16 ? 1e-5 : -1.0) << name;
  }
}

// A scale search never loses, whatever the weights.
TEST(Encode, SearchedScalesAreNeverWorse) {
  for (const Weights& w : weight_cases(7, 320)) {
    for (const auto& [name, options] : format_cases()) {
      EncodeOptions plain = options;
      plain.scales = ScaleRule::plain;
      EncodeOptions searched = options;
      searched.scales = ScaleRule::searched;
      const double plain_error = testing::squared_error(w, encode(w, plain));
      const double searched_error = testing::squared_error(w, encode(w, searched));
      EXPECT_LE(searched_error, plain_error) << name << ", " << w.name;
      const bool gains = options.format == WeightFormat::mxfp4 || options.format == WeightFormat::nvfp4 ||
                         options.format == WeightFormat::int4;
      if (gains && w.name == "bell") {
        EXPECT_LT(searched_error, 0.99 * plain_error) << name;
      }
    }
  }
}

TEST(Encode, RowsDoNotDependOnTheCallTheyCameIn) {
  const Weights w = weight_cases(300, 160)[3];
  for (const auto& [name, options] : format_cases()) {
    const EncodedMatrix whole = encode(w, options);
    EncodedMatrix parts = EncodedMatrix::allocate(w.n, w.k, whole.options()).value();
    for (std::int64_t begin = 256; begin >= 0; begin -= 128) {
      encode_rows(w.values.data() + begin * w.k, begin, std::min<std::int64_t>(begin + 128, w.n), parts);
    }
    EXPECT_TRUE(std::ranges::equal(parts.codes(), whole.codes())) << name;
    EXPECT_TRUE(std::ranges::equal(parts.scales(), whole.scales())) << name;
    EXPECT_TRUE(std::ranges::equal(parts.zeros(), whole.zeros())) << name;
  }
}

TEST(Encode, RowRangesAreWholeBlocks) {
  const Weights w = weight_cases(200, 128)[0];
  EncodedMatrix fp8 = EncodedMatrix::allocate(w.n, w.k, {.format = WeightFormat::fp8}).value();
  EXPECT_EQ(fp8.rows_per_block(), 128);
  EXPECT_THROW(encode_rows(w.values.data(), 0, 64, fp8), InternalError);
  EXPECT_THROW(encode_rows(w.values.data(), 64, 128, fp8), InternalError);
  EXPECT_THROW(encode_rows(w.values.data(), 128, 201, fp8), InternalError);
  encode_rows(w.values.data(), 128, 200, fp8);
}

TEST(Encode, ShapesAndOptionsThatDoNotFitAreRefused) {
  using enum WeightFormat;
  const struct {
    std::int64_t n;
    std::int64_t k;
    EncodeOptions options;
    const char* message;
  } cases[] = {
      {4, 48, {.format = mxfp4}, "48 input channels cannot be encoded as mxfp4; expected a multiple of 32"},
      {4, 24, {.format = nvfp4}, "expected a multiple of 16"},
      {4, 33, {.format = int4}, "expected a multiple of 2"},
      {4, 64, {.format = int4, .group_k = 48}, "groups of 48 in int4; expected a multiple of 32"},
      {4, 64, {.format = int8, .group_k = -2}, "groups of -2 in int8"},
      {4, 64, {.format = mxfp4, .group_k = 64}, "mxfp4 has groups of 32, not groups of 64"},
      {4, 64, {.format = bf16, .group_k = 64}, "bf16 has no groups"},
      {4, 64, {.format = int8, .group_n = 128}, "only fp8 has blocks of rows"},
      {4, 64, {.format = fp8, .zero_points = true}, "fp8 has no zero points"},
      {4, 64, {.format = fp8, .scale_dtype = DType::i8}, "I8 scales of fp8; expected F32"},
      {4, 64, {.format = int4, .scale_dtype = DType::f8_e8m0}, "expected BF16"},
      {4, 64, {.format = nvfp4, .scale_dtype = DType::f32}, "expected F8_E4M3"},
      {-1, 64, {.format = int8}, "-1 x 64"},
      {std::int64_t{1} << 40, 64, {.format = int8}, "at most"},
  };
  for (const auto& c : cases) {
    const auto encoded = EncodedMatrix::allocate(c.n, c.k, c.options);
    ASSERT_FALSE(encoded.ok()) << c.message;
    EXPECT_EQ(encoded.error().code, ErrorCode::bad_input);
    EXPECT_THAT(encoded.error().message, HasSubstr(c.message));
  }
}

TEST(Encode, EmptyMatrices) {
  for (const auto& [name, options] : format_cases()) {
    for (const auto& [n, k] : {std::pair{0, 64}, std::pair{5, 0}, std::pair{0, 0}}) {
      auto encoded = EncodedMatrix::allocate(n, k, options);
      ASSERT_TRUE(encoded.ok()) << name;
      encode_rows(nullptr, 0, n, *encoded);
    }
  }
}

TEST(AbsMax, FindsWhatCannotBeEncoded) {
  std::vector<float> w = Random(9).floats(1001, -2.0F, 2.0F);
  w[17] = -2.5F;
  EXPECT_EQ(abs_max(w), 2.5F);
  EXPECT_EQ(abs_max({}), 0.0F);
  w[1000] = -std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isinf(abs_max(w)));
  w[3] = -std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(abs_max(w)));
}

}  // namespace
}  // namespace nibble::quant
