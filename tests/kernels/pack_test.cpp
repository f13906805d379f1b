// Packed weights hold exactly the weights of their source, whatever rows were packed in whichever pieces.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/cpu/layout.h"
#include "tests/kernels/cases.h"
#include "tests/kernels/expect.h"
#include "tests/kernels/matrices.h"
#include "tests/kernels/tiers.h"
#include "tests/support/compare.h"

namespace nibble::kernels::testing {
namespace {

using ::nibble::testing::Random;
using ::nibble::testing::same_floats;
using quant::WeightFormat;

Device& any_device() { return device_of({.name = "scalar", .isa = "scalar", .bf16_products = false}); }

std::vector<float> unpacked_row(const Weight& weight, std::int64_t group, std::int64_t row) {
  std::vector<float> out(static_cast<std::size_t>(weight.shape.k), NAN);
  cpu::decode_row(weight, group, row, out.data());
  return out;
}

void expect_rows(const Weight& weight, std::int64_t group, std::int64_t row, const StoredMatrix& source,
                 std::int64_t src_row, std::int64_t rows) {
  const std::vector<float> expected = source.dequantised();
  const auto k = static_cast<std::size_t>(source.view.k);
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto row_values = std::span(expected).subspan(static_cast<std::size_t>(src_row + r) * k, k);
    ASSERT_TRUE(same_floats(unpacked_row(weight, group, row + r), row_values))
        << "group " << group << " row " << row + r;
  }
}

TEST(Pack, WholeMatrices) {
  Random random(1);
  for (const MatrixCase& c : kMatrixCases) {
    SCOPED_TRACE(case_name(c));
    const PackedGroups groups = random_groups(any_device(), random, c.format, 2, c.n, c.k, c.grouping);
    for (std::int64_t g = 0; g < 2; ++g) {
      expect_rows(groups.packed, g, 0, *groups.sources[static_cast<std::size_t>(g)], 0, c.n);
    }
  }
}

// kv_b_proj holds, head after head, 24 rows of keys and 20 of values: neither starts on a panel border,
// and fp8 scale blocks change inside a slice.
TEST(Pack, HeadSlices) {
  constexpr std::int64_t kHeads = 5;
  constexpr std::int64_t kKeyRows = 24;
  constexpr std::int64_t kValueRows = 40;
  Random random(2);
  for (const auto& row : quant::formats()) {
    SCOPED_TRACE(row.name);
    const quant::WeightFormat format = row.format;
    const std::int64_t k = row.group_k > 1 ? 160 : 67;
    const auto source = random_matrix(random, format, kHeads * (kKeyRows + kValueRows), k);
    Device& device = any_device();
    Result<Weight> keys =
        device.allocate_weight({.format = format, .num_groups = kHeads, .n = kKeyRows, .k = k});
    Result<Weight> values =
        device.allocate_weight({.format = format, .num_groups = kHeads, .n = kValueRows, .k = k});
    ASSERT_TRUE(keys.ok() && values.ok());
    for (std::int64_t h = 0; h < kHeads; ++h) {
      const std::int64_t begin = h * (kKeyRows + kValueRows);
      device.pack_rows(*keys, h, 0, source->view, begin, kKeyRows);
      device.pack_rows(*values, h, 0, source->view, begin + kKeyRows, kValueRows);
    }
    for (std::int64_t h = 0; h < kHeads; ++h) {
      const std::int64_t begin = h * (kKeyRows + kValueRows);
      expect_rows(*keys, h, 0, *source, begin, kKeyRows);
      expect_rows(*values, h, 0, *source, begin + kKeyRows, kValueRows);
    }
  }
}

// Two sources (q_a_proj and kv_a_proj, say) packed under one another, in pieces of odd size and in
// descending order, with another global scale each.
TEST(Pack, PiecesOfSeveralSources) {
  constexpr std::int64_t kRows = 53;
  Random random(3);
  for (const auto& row : quant::formats()) {
    SCOPED_TRACE(row.name);
    const std::int64_t k = row.group_k > 1 ? 96 : 33;
    const auto upper = random_matrix(random, row.format, kRows, k);
    auto lower = random_matrix(random, row.format, kRows, k);
    lower->view.global_scale *= 3.0F;
    Device& device = any_device();
    Result<Weight> weight =
        device.allocate_weight({.format = row.format, .num_groups = 1, .n = 2 * kRows, .k = k});
    ASSERT_TRUE(weight.ok());
    const std::int64_t pieces[][2] = {{40, 13}, {11, 29}, {0, 11}};
    for (const auto& [begin, count] : pieces) {
      device.pack_rows(*weight, 0, kRows + begin, lower->view, begin, count);
      device.pack_rows(*weight, 0, begin, upper->view, begin, count);
    }
    expect_rows(*weight, 0, 0, *upper, 0, kRows);
    expect_rows(*weight, 0, kRows, *lower, 0, kRows);
  }
}

// Every tier's vector code packs the very bytes that scalar code does: rows shorter and longer than its
// vectors with tails of all lengths, whole panels and parts of panels.
TEST(Pack, EveryTierPacksTheSameBytes) {
  Random random(4);
  for (const auto& row : quant::formats()) {
    const std::int64_t unit = row.any_group ? row.codes_per_byte_group : row.group_k > 1 ? row.group_k : 1;
    for (const std::int64_t k : {unit, 7 * unit, 33 * unit, 70 * unit, 129 * unit}) {
      const auto source = random_matrix(random, row.format, 91, k);
      const auto packed_by = [&](Device& device) {
        Result<Weight> weight =
            device.allocate_weight({.format = row.format, .num_groups = 1, .n = 88, .k = k});
        EXPECT_TRUE(weight.ok());
        device.pack_rows(*weight, 0, 0, source->view, 3, 37);    // two panels and part of the third
        device.pack_rows(*weight, 0, 37, source->view, 40, 51);  // the rest of it, two panels, and a part
        return std::move(weight).value();
      };
      const Weight expected = packed_by(any_device());
      for (const TierCase& tier : available_tiers()) {
        SCOPED_TRACE(::testing::Message() << row.name << " k " << k << " by " << tier.name);
        const Weight packed = packed_by(device_of(tier));
        EXPECT_TRUE(std::ranges::equal(packed.codes.bytes(), expected.codes.bytes()));
        EXPECT_TRUE(std::ranges::equal(packed.scales.bytes(), expected.scales.bytes()));
      }
    }
  }
}

// Every E4M3 code that is a number, under every E8M0 scale whose products are numbers.
TEST(Pack, Fp8ScalesOfAllMagnitudes) {
  StoredMatrix source;
  source.view = {.format = WeightFormat::fp8, .n = 2, .k = 128, .scale_dtype = DType::f8_e8m0};
  for (int i = 0; i < 256; ++i) source.codes.push_back(std::byte((i & 0x7F) == 0x7F ? 0 : i));
  source.scales.resize(1);
  source.view.codes = source.codes.data();
  source.view.scales = source.scales.data();
  Device& device = any_device();
  for (int scale = 0; scale <= 245; ++scale) {
    SCOPED_TRACE(scale);
    source.scales[0] = std::byte(scale);
    Result<Weight> weight = device.allocate_weight({.format = WeightFormat::fp8, .n = 2, .k = 128});
    ASSERT_TRUE(weight.ok());
    device.pack_rows(*weight, 0, 0, source.view, 0, 2);
    expect_rows(*weight, 0, 0, source, 0, 2);
  }
}

TEST(Pack, Mxfp4ScalesOfAllMagnitudes) {
  StoredMatrix source;
  source.view = {.format = WeightFormat::mxfp4, .n = 253, .k = 32};
  for (int row = 0; row < 253; ++row) {
    for (int i = 0; i < 16; ++i) source.codes.push_back(std::byte(i | ((15 - i) << 4)));
    source.scales.push_back(std::byte(row));
  }
  source.view.codes = source.codes.data();
  source.view.scales = source.scales.data();
  Device& device = any_device();
  Result<Weight> weight = device.allocate_weight({.format = WeightFormat::mxfp4, .n = 253, .k = 32});
  ASSERT_TRUE(weight.ok());
  device.pack_rows(*weight, 0, 0, source.view, 0, 253);
  expect_rows(*weight, 0, 0, source, 0, 253);
}

TEST(Pack, SizesAreThoseAnnounced) {
  for (const MatrixCase& c : kMatrixCases) {
    const WeightShape shape{.format = c.format, .num_groups = 3, .n = c.n, .k = c.k};
    const Result<Weight> weight = any_device().allocate_weight(shape);
    ASSERT_TRUE(weight.ok());
    EXPECT_EQ(weight.value().bytes(), any_device().weight_bytes(shape)) << case_name(c);
  }
}

TEST(Pack, ImpossibleSizesAreRefused) {
  const Result<Weight> weight = any_device().allocate_weight(
      {.format = WeightFormat::bf16, .num_groups = 1 << 20, .n = 1 << 20, .k = 1 << 20});
  ASSERT_FALSE(weight.ok());
  EXPECT_EQ(weight.error().code, ErrorCode::out_of_memory);
}

TEST(Pack, DummyWeightsAreRepeatableAndOfOrdinarySize) {
  for (const auto& row : quant::formats()) {
    SCOPED_TRACE(row.name);
    const WeightShape shape{.format = row.format, .num_groups = 2, .n = 48, .k = 256};
    Result<Weight> a = any_device().allocate_weight(shape);
    Result<Weight> b = any_device().allocate_weight(shape);
    Result<Weight> other = any_device().allocate_weight(shape);
    any_device().fill_dummy(*a, 7);
    any_device().fill_dummy(*b, 7);
    any_device().fill_dummy(*other, 8);
    double squares = 0.0;
    bool any_difference = false;
    for (std::int64_t g = 0; g < 2; ++g) {
      for (std::int64_t r = 0; r < shape.n; ++r) {
        const std::vector<float> values = unpacked_row(*a, g, r);
        EXPECT_TRUE(same_floats(values, unpacked_row(*b, g, r)));
        any_difference |= !same_floats(values, unpacked_row(*other, g, r));
        for (const float v : values) squares += static_cast<double>(v) * static_cast<double>(v);
      }
    }
    EXPECT_TRUE(any_difference);
    const double rms = std::sqrt(squares / static_cast<double>(2 * shape.n * shape.k));
    EXPECT_GT(rms * 16.0, 0.3);  // 1 / sqrt(k) = 1 / 16
    EXPECT_LT(rms * 16.0, 3.0);
  }
}

}  // namespace
}  // namespace nibble::kernels::testing
