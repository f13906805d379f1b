// dequantize_rows and check_finite on matrices laid out by hand.
#include "quant/matrix_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/check.h"
#include "quant/e2m1.h"
#include "quant/e8m0.h"
#include "quant/float16.h"
#include "quant/float8.h"
#include "tests/support/compare.h"
#include "tests/support/random.h"

namespace nibble::quant {
namespace {

using ::nibble::testing::Random;
using ::nibble::testing::same_floats;
using ::testing::AllOf;
using ::testing::HasSubstr;

template <class T>
const std::byte* bytes_of(const std::vector<T>& values) {
  return reinterpret_cast<const std::byte*>(values.data());
}

std::vector<float> dequantize(const MatrixView& m) {
  std::vector<float> out(static_cast<std::size_t>(m.n * m.k));
  dequantize_rows(m, 0, m.n, out.data());
  return out;
}

std::vector<std::uint8_t> random_bytes(Random& random, std::int64_t count, int low, int high) {
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count));
  for (auto& b : bytes) b = static_cast<std::uint8_t>(low + random.below(high - low + 1));
  return bytes;
}

// 130 x 200: two rows and 72 columns beyond the full blocks.
struct Fp8Case {
  std::int64_t n = 130;
  std::int64_t k = 200;
  std::vector<std::uint8_t> codes;
  std::vector<float> scales{0.5F, 3.0F, 0.1F, 7.0e-3F};

  Fp8Case() {
    Random random(11);
    codes = random_bytes(random, n * k, 0, 0x7E);
    for (std::size_t i = 0; i < codes.size(); i += 3) codes[i] |= 0x80U;
  }
  [[nodiscard]] MatrixView view() const {
    return {
        .format = WeightFormat::fp8, .n = n, .k = k, .codes = bytes_of(codes), .scales = bytes_of(scales)};
  }
  [[nodiscard]] std::vector<float> expected() const {
    std::vector<float> out;
    for (std::int64_t r = 0; r < n; ++r) {
      for (std::int64_t c = 0; c < k; ++c) {
        const auto code = codes[static_cast<std::size_t>(r * k + c)];
        out.push_back(e4m3_to_float(code) * scales[static_cast<std::size_t>((r / 128) * 2 + c / 128)]);
      }
    }
    return out;
  }
};

TEST(MatrixView, Fp8BlocksAtTheEdges) {
  const Fp8Case fp8;
  EXPECT_TRUE(same_floats(dequantize(fp8.view()), fp8.expected()));
}

TEST(MatrixView, Fp8ScalesMayBeBf16OrE8m0) {
  Fp8Case fp8;
  fp8.scales = {0.5F, 2.0F, 0x1p-20F, 8.0F};
  std::vector<std::uint16_t> bf16;
  std::vector<std::uint8_t> e8m0;
  for (const float s : fp8.scales) {
    bf16.push_back(float_to_bf16(s));
    e8m0.push_back(float_to_e8m0_ceil(s));
  }
  MatrixView m = fp8.view();
  m.scale_dtype = DType::bf16;
  m.scales = bytes_of(bf16);
  EXPECT_TRUE(same_floats(dequantize(m), fp8.expected()));
  m.scale_dtype = DType::f8_e8m0;
  m.scales = bytes_of(e8m0);
  EXPECT_TRUE(same_floats(dequantize(m), fp8.expected()));
  m.scale_dtype = DType::i32;
  EXPECT_THROW(dequantize(m), InternalError);
}

TEST(MatrixView, RowRangesEqualTheWhole) {
  const Fp8Case fp8;
  const MatrixView m = fp8.view();
  const std::vector<float> whole = dequantize(m);
  std::vector<float> part(static_cast<std::size_t>(3 * m.k));
  dequantize_rows(m, 127, 130, part.data());
  EXPECT_TRUE(same_floats(part, std::span(whole).subspan(static_cast<std::size_t>(127 * m.k))));
  dequantize_rows(m, 130, 130, nullptr);
  EXPECT_THROW(dequantize_rows(m, 129, 131, part.data()), InternalError);
}

TEST(MatrixView, Mxfp4AllCodesTimesAllScales) {
  std::vector<std::uint8_t> codes;
  std::vector<std::uint8_t> scales;
  std::vector<float> expected;
  for (int scale = 0; scale < 256; ++scale) {
    scales.push_back(static_cast<std::uint8_t>(scale));
    for (int i = 0; i < 16; ++i) codes.push_back(static_cast<std::uint8_t>(i | ((15 - i) << 4)));
    for (int i = 0; i < 16; ++i) {
      for (const int code : {i, 15 - i}) {
        const double value =
            static_cast<double>(kE2m1Values[static_cast<std::size_t>(code)]) * std::exp2(scale - 127);
        expected.push_back(scale == 255 ? std::numeric_limits<float>::quiet_NaN()
                                        : static_cast<float>(value));
      }
    }
  }
  const MatrixView m{.format = WeightFormat::mxfp4,
                     .n = 4,
                     .k = 64 * 32,
                     .codes = bytes_of(codes),
                     .scales = bytes_of(scales)};
  EXPECT_TRUE(same_floats(dequantize(m), expected));
}

TEST(MatrixView, Nvfp4AllCodesTimesAllScales) {
  const float global = 0.00123F;
  std::vector<std::uint8_t> codes;
  std::vector<std::uint8_t> scales;
  std::vector<float> expected;
  for (int scale = 0; scale < 256; ++scale) {
    scales.push_back(static_cast<std::uint8_t>(scale));
    for (int i = 0; i < 16; i += 2) codes.push_back(static_cast<std::uint8_t>(i | ((i + 1) << 4)));
    for (std::size_t i = 0; i < 16; ++i) {
      const float product = kE2m1Values[i] * e4m3_to_float(static_cast<std::uint8_t>(scale));
      expected.push_back(product * global);
    }
  }
  const MatrixView m{.format = WeightFormat::nvfp4,
                     .n = 2,
                     .k = 128 * 16,
                     .codes = bytes_of(codes),
                     .scales = bytes_of(scales),
                     .global_scale = global};
  EXPECT_TRUE(same_floats(dequantize(m), expected));
}

TEST(MatrixView, PlainFormats) {
  Random random(3);
  const std::vector<float> values = random.floats(5 * 7, -1e3F, 1e3F);
  EXPECT_TRUE(same_floats(
      dequantize({.format = WeightFormat::f32, .n = 5, .k = 7, .codes = bytes_of(values)}), values));
  std::vector<std::uint16_t> bf16;
  std::vector<std::uint16_t> f16;
  std::vector<float> bf16_values;
  std::vector<float> f16_values;
  for (const float v : values) {
    bf16.push_back(float_to_bf16(v));
    bf16_values.push_back(bf16_to_float(bf16.back()));
    f16.push_back(float_to_f16(v));
    f16_values.push_back(f16_to_float(f16.back()));
  }
  EXPECT_TRUE(same_floats(dequantize({.format = WeightFormat::bf16, .n = 5, .k = 7, .codes = bytes_of(bf16)}),
                          bf16_values));
  EXPECT_TRUE(same_floats(dequantize({.format = WeightFormat::f16, .n = 5, .k = 7, .codes = bytes_of(f16)}),
                          f16_values));
}

// Mapped files promise no alignment: the same bytes moved by one give the same values.
TEST(MatrixView, UnalignedPointers) {
  const Fp8Case fp8;
  std::vector<std::byte> scales(fp8.scales.size() * sizeof(float) + 1);
  std::memcpy(scales.data() + 1, fp8.scales.data(), scales.size() - 1);
  MatrixView m = fp8.view();
  m.scales = scales.data() + 1;
  EXPECT_TRUE(same_floats(dequantize(m), fp8.expected()));

  const std::vector<float> values = Random(4).floats(6);
  std::vector<std::byte> moved(values.size() * sizeof(float) + 1);
  std::memcpy(moved.data() + 1, values.data(), moved.size() - 1);
  const MatrixView plain{.format = WeightFormat::f32, .n = 2, .k = 3, .codes = moved.data() + 1};
  EXPECT_TRUE(same_floats(dequantize(plain), values));
  EXPECT_TRUE(check_finite(plain, "w").ok());
}

TEST(MatrixView, GroupsMustBeWhole) {
  const MatrixView m{.format = WeightFormat::mxfp4, .n = 1, .k = 48};
  EXPECT_THROW(dequantize_rows(m, 0, 0, nullptr), InternalError);
}

TEST(CheckFinite, EmptyMatricesAreFine) {
  for (const FormatRow& row : formats())
    EXPECT_TRUE(check_finite({.format = row.format}, "w").ok()) << row.name;
}

TEST(CheckFinite, NamesTheWeight) {
  std::vector<float> values(12, 1.0F);
  values[7] = std::numeric_limits<float>::infinity();
  const Status status = check_finite({.format = WeightFormat::f32, .n = 3, .k = 4, .codes = bytes_of(values)},
                                     "model.norm.weight");
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::bad_input);
  EXPECT_THAT(status.error().message, AllOf(HasSubstr("model.norm.weight"), HasSubstr("row 1"),
                                            HasSubstr("column 3"), HasSubstr("inf")));
}

TEST(CheckFinite, LooksAtTheRowsItIsGiven) {
  std::vector<float> values(12, 1.0F);
  values[7] = std::numeric_limits<float>::infinity();
  const MatrixView m{.format = WeightFormat::f32, .n = 3, .k = 4, .codes = bytes_of(values)};
  EXPECT_TRUE(check_finite(m, 0, 1, "w").ok());
  EXPECT_TRUE(check_finite(m, 2, 3, "w").ok());
  const Status status = check_finite(m, 1, 2, "w");
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("row 1"));  // of the matrix, not of those looked at
  EXPECT_THROW((void)check_finite(m, 1, 4, "w"), InternalError);
}

TEST(CheckFinite, SixteenBitFormats) {
  std::vector<std::uint16_t> codes(100, 0x3C00);
  const MatrixView f16{.format = WeightFormat::f16, .n = 4, .k = 25, .codes = bytes_of(codes)};
  EXPECT_TRUE(check_finite(f16, "w").ok());
  codes[99] = 0x7C01;
  EXPECT_FALSE(check_finite(f16, "w").ok());
  MatrixView bf16 = f16;
  bf16.format = WeightFormat::bf16;
  EXPECT_TRUE(check_finite(bf16, "w").ok());
  codes[0] = 0xFF80;
  EXPECT_FALSE(check_finite(bf16, "w").ok());
}

TEST(CheckFinite, Fp8CodesAndScales) {
  Fp8Case fp8;
  EXPECT_TRUE(check_finite(fp8.view(), "w").ok());
  fp8.codes[static_cast<std::size_t>(129 * fp8.k + 199)] = 0xFF;
  Status status = check_finite(fp8.view(), "w");
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, AllOf(HasSubstr("row 129"), HasSubstr("column 199"), HasSubstr("nan")));

  fp8 = Fp8Case();
  fp8.scales[3] = std::numeric_limits<float>::quiet_NaN();
  status = check_finite(fp8.view(), "w");
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message,
              AllOf(HasSubstr("row 128"), HasSubstr("column 128"), HasSubstr("scale is nan")));

  fp8.scales[3] = 1e38F;  // finite, but products overflow
  EXPECT_FALSE(check_finite(fp8.view(), "w").ok());
}

TEST(CheckFinite, Mxfp4Scales) {
  std::vector<std::uint8_t> codes(3 * 32, 0x31);
  std::vector<std::uint8_t> scales{0, 1, 127, 252, 253, 254};
  const MatrixView m{
      .format = WeightFormat::mxfp4, .n = 3, .k = 64, .codes = bytes_of(codes), .scales = bytes_of(scales)};
  EXPECT_TRUE(check_finite(m, "w").ok());  // 1.5 * 2^127 is still a number
  codes[3 * 32 - 1] = 0x70;
  EXPECT_FALSE(check_finite(m, "w").ok());  // 6 * 2^127 is not
  codes[3 * 32 - 1] = 0x00;
  EXPECT_TRUE(check_finite(m, "w").ok());
  scales[5] = 255;
  const Status status = check_finite(m, "w");
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, AllOf(HasSubstr("row 2"), HasSubstr("column 32"), HasSubstr("nan")));
}

TEST(CheckFinite, Nvfp4Scales) {
  const std::vector<std::uint8_t> codes(2 * 16, 0x22);
  std::vector<std::uint8_t> scales(4, 0x38);
  MatrixView m{
      .format = WeightFormat::nvfp4, .n = 2, .k = 32, .codes = bytes_of(codes), .scales = bytes_of(scales)};
  EXPECT_TRUE(check_finite(m, "w").ok());
  m.global_scale = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(check_finite(m, "w").ok());
  m.global_scale = 1.0F;
  scales[2] = 0xFF;
  const Status status = check_finite(m, "w");
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, AllOf(HasSubstr("row 1"), HasSubstr("column 0")));
}

}  // namespace
}  // namespace nibble::quant
