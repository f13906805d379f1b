// int4 and int8 decoding against the formula, and what check_integer_layout refuses.
#include "quant/int_layouts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/quant/int_support.h"
#include "tests/support/compare.h"

namespace nibble::quant {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::IntMatrix;
using testing::pack;
using testing::PackedMatrix;
using testing::random_int_matrix;

// (code - zero) * scale from the parts, one weight at a time.
std::vector<float> by_formula(const IntMatrix& m) {
  const MatrixView view = m.view();
  const bool int4 = view.format == WeightFormat::int4;
  std::vector<float> weights;
  for (std::int64_t i = 0; i < view.n * view.k; ++i) {
    const std::int64_t row = i / view.k;
    const std::int64_t kk = i % view.k;
    const std::int64_t group =
        view.grouping.act_order ? m.g_idx[static_cast<std::size_t>(kk)] : kk / view.group_k();
    const auto g = static_cast<std::size_t>(row * view.num_groups() + group);
    const int code = int4 ? ((m.codes[static_cast<std::size_t>(i / 2)] >> (4 * (i % 2))) & 15) - 8
                          : static_cast<std::int8_t>(m.codes[static_cast<std::size_t>(i)]);
    const int zero = view.grouping.zero_points ? m.zeros[g] : 0;
    weights.push_back(static_cast<float>(code - zero) * f16_to_float(m.scales[g]));
  }
  return weights;
}

TEST(IntCodecs, EveryGroupingByTheFormula) {
  for (const WeightFormat format : {WeightFormat::int4, WeightFormat::int8}) {
    for (const std::int64_t group : {0, 32, 64, 150}) {
      for (const int flags : {0, 1, 2, 3}) {
        const IntMatrix m = random_int_matrix(
            {.format = format,
             .n = 5,
             .k = 150,
             .grouping = {.group_k = group, .zero_points = (flags & 1) != 0, .act_order = (flags & 2) != 0}});
        std::vector<float> actual(5 * 150);
        dequantize_rows(m.view(), 0, 5, actual.data());
        EXPECT_TRUE(::nibble::testing::same_floats(actual, by_formula(m)))
            << format_name(format) << ", group " << group << ", flags " << flags;
        EXPECT_TRUE(check_finite(m.view(), "w").ok());
      }
    }
  }
}

TEST(IntCodecs, InfiniteScalesAreFound) {
  IntMatrix m = random_int_matrix({.format = WeightFormat::int4, .n = 3, .k = 256, .grouping = {}});
  m.scales[3] = 0x7C00;  // row 1, group 1
  const Status status = check_finite(m.view(), "w");
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, AllOf(HasSubstr("row 1"), HasSubstr("scale is inf")));
}

TEST(CheckIntegerLayout, GroupsOutOfRange) {
  IntMatrix m = random_int_matrix(
      {.format = WeightFormat::int4, .n = 8, .k = 256, .grouping = {.group_k = 64, .act_order = true}});
  const PackedMatrix packed = pack(m.view(), MatrixLayout::gptq);
  EXPECT_TRUE(check_integer_layout(packed.view, "w").ok());
  for (const std::int32_t group : {4, -1, 1 << 30}) {
    m.g_idx[17] = group;
    const Status status = check_integer_layout(m.view(), "layers.3.gate");
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::bad_input);
    EXPECT_THAT(status.error().message, AllOf(HasSubstr("layers.3.gate"), HasSubstr("g_idx[17]"),
                                              HasSubstr(std::to_string(group)), HasSubstr("0 to 3")));
  }
}

// desc_act false promises k / group_size; files store it all the same.
TEST(CheckIntegerLayout, PromisedOrder) {
  const IntMatrix m =
      random_int_matrix({.format = WeightFormat::int4, .n = 8, .k = 256, .grouping = {.group_k = 64}});
  PackedMatrix packed = pack(m.view(), MatrixLayout::gptq);
  EXPECT_TRUE(check_integer_layout(packed.view, "w").ok());
  packed.g_idx[100 * 4] = std::byte{2};
  const Status status = check_integer_layout(packed.view, "w");
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, AllOf(HasSubstr("g_idx[100] is 2"), HasSubstr("expected 1")));
}

// sym true promises the middle; both versions and AWQ are looked at.
TEST(CheckIntegerLayout, PromisedSymmetry) {
  const IntMatrix m = random_int_matrix({.format = WeightFormat::int4, .n = 16, .k = 256, .grouping = {}});
  for (const MatrixLayout layout : {MatrixLayout::gptq, MatrixLayout::gptq_v2, MatrixLayout::awq}) {
    PackedMatrix packed = pack(m.view(), layout);
    EXPECT_TRUE(check_integer_layout(packed.view, "w").ok());
    packed.zeros[12] ^= std::byte{0x01};  // group 1, rows 8 ..., field 0
    const Status status = check_integer_layout(packed.view, "w");
    ASSERT_FALSE(status.ok());
    EXPECT_THAT(status.error().message, AllOf(HasSubstr("row 8, group 1"), HasSubstr("expected 8")));
  }
}

}  // namespace
}  // namespace nibble::quant
