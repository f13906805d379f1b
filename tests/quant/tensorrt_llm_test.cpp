// TensorRT-LLM's scale swizzle and row shuffles: check values of its definitions, bijections, round trips.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "core/check.h"
#include "quant/tensorrt_llm/block_scales.h"
#include "quant/tensorrt_llm/row_shuffle.h"
#include "tests/support/random.h"

namespace nibble::quant::tensorrt_llm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Rows of `row_bytes` bytes; the first byte of each is its number.
std::vector<std::byte> numbered_rows(std::int64_t rows, std::int64_t row_bytes) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(rows * row_bytes));
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i) / row_bytes;
    bytes[i] = static_cast<std::byte>(
        static_cast<std::int64_t>(i) % row_bytes == 0 ? row : 7 * row + static_cast<std::int64_t>(i));
  }
  return bytes;
}

std::vector<int> row_numbers(const std::vector<std::byte>& bytes, std::size_t row_bytes) {
  std::vector<int> numbers;
  for (std::size_t i = 0; i < bytes.size(); i += row_bytes) numbers.push_back(std::to_integer<int>(bytes[i]));
  return numbers;
}

std::vector<std::byte> random_bytes(std::int64_t count) {
  ::nibble::testing::Random random(static_cast<std::uint64_t>(count));
  std::vector<std::byte> bytes;
  for (std::int64_t i = 0; i < count; ++i) bytes.push_back(static_cast<std::byte>(1 + random.below(255)));
  return bytes;
}

TEST(BlockScales, CheckValues) {
  const ScaleShape shape{.rows = 256, .columns = 8};
  EXPECT_EQ(swizzled_offset(shape, 0, 0, 0), 0);
  EXPECT_EQ(swizzled_offset(shape, 0, 1, 0), 16);
  EXPECT_EQ(swizzled_offset(shape, 0, 32, 0), 4);
  EXPECT_EQ(swizzled_offset(shape, 0, 0, 4), 512);
  EXPECT_EQ(swizzled_offset(shape, 0, 33, 5), 533);
  EXPECT_EQ(swizzled_offset(shape, 0, 128, 0), 1024);
  EXPECT_EQ(swizzled_offset({.batch = 3, .rows = 256, .columns = 8}, 2, 33, 5), 2 * 2048 + 533);
  // Batches of padded matrices: 130 rows count as 256, 5 columns as 8.
  EXPECT_EQ(swizzled_offset({.batch = 2, .rows = 130, .columns = 5}, 1, 0, 0), 2048);
}

// The variant with m % 128 / 4 fails this one.
TEST(BlockScales, IsABijection) {
  const ScaleShape shape{.batch = 2, .rows = 256, .columns = 8};
  std::set<std::int64_t> offsets;
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t row = 0; row < 256; ++row) {
      for (std::int64_t column = 0; column < 8; ++column)
        offsets.insert(swizzled_offset(shape, b, row, column));
    }
  }
  EXPECT_EQ(offsets.size(), 4096U);
  EXPECT_EQ(*offsets.begin(), 0);
  EXPECT_EQ(*offsets.rbegin(), 4095);
}

TEST(BlockScales, RoundTripsWithPaddingOfZeros) {
  for (const ScaleShape& shape : {ScaleShape{1, 128, 4}, ScaleShape{1, 1, 1}, ScaleShape{3, 130, 7},
                                  ScaleShape{2, 576, 6}, ScaleShape{1, 0, 4}, ScaleShape{0, 128, 4}}) {
    const std::vector<std::byte> linear = random_bytes(shape.linear_bytes());
    const std::vector<std::byte> swizzled = swizzle_block_scales(linear, shape);
    EXPECT_EQ(unswizzle_block_scales(swizzled, shape), linear);
    const auto num_zeros = std::ranges::count(swizzled, std::byte{0});
    EXPECT_EQ(num_zeros, shape.swizzled_bytes() - shape.linear_bytes());
  }
  EXPECT_THROW(static_cast<void>(swizzle_block_scales(random_bytes(5), {1, 2, 2})), InternalError);
}

// The new order of old rows, as the kernels need it. Using the table as a gather list gives the rows of the
// second expectation instead.
TEST(RowShuffle, BlocksOf16) {
  const std::vector<std::byte> rows = numbered_rows(16, 3);
  const auto shuffled = shuffle_matrix_a({rows, 16}, 64);
  ASSERT_TRUE(shuffled.ok());
  EXPECT_THAT(row_numbers(*shuffled, 3), ElementsAre(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
  std::vector<int> table;
  for (std::int64_t r = 0; r < 16; ++r) table.push_back(static_cast<int>(shuffled_row(r, 16)));
  EXPECT_THAT(table, ElementsAre(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
  EXPECT_NE(row_numbers(*shuffled, 3), table);
}

TEST(RowShuffle, BlocksOf32) {
  const std::vector<std::byte> rows = numbered_rows(64, 5);
  const auto shuffled = shuffle_matrix_a({rows, 64}, 128);
  ASSERT_TRUE(shuffled.ok());
  std::vector<int> expected;
  for (int block = 0; block < 2; ++block) {
    for (int first = 0; first < 4; ++first) {
      for (int r = first; r < 32; r += 4) expected.push_back(32 * block + r);
    }
  }
  EXPECT_EQ(row_numbers(*shuffled, 5), expected);
  EXPECT_EQ(shuffled_row(1, 32), 8);
  EXPECT_EQ(shuffled_row(4, 32), 1);
  EXPECT_EQ(shuffled_row(31, 32), 31);
}

TEST(RowShuffle, RoundTrips) {
  for (const std::int64_t tile : {16, 64, 128, 256}) {
    const std::vector<std::byte> rows = random_bytes(96 * 11);
    const auto shuffled = shuffle_matrix_a({rows, 96}, tile);
    ASSERT_TRUE(shuffled.ok());
    EXPECT_NE(*shuffled, rows);
    EXPECT_NE(*shuffle_matrix_a({*shuffled, 96}, tile), rows) << "the map is no involution";
    EXPECT_EQ(*unshuffle_matrix_a({*shuffled, 96}, tile), rows);
  }
}

TEST(RowShuffle, RowsMustFillBlocks) {
  const std::vector<std::byte> rows = random_bytes(48);
  EXPECT_TRUE(shuffle_matrix_a({rows, 48}, 64).ok());
  const auto refused = shuffle_matrix_a({rows, 48}, 128);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::bad_input);
  EXPECT_THAT(refused.error().message, HasSubstr("48 rows cannot be shuffled"));
  EXPECT_FALSE(unshuffle_matrix_a({rows, 8}, 64).ok());
}

// The same permutation on the linear scales, then the swizzle: row r of the weights and its scales stay
// together. (Swizzling alone, or first, breaks that.)
TEST(RowShuffle, ScalesFollowTheirRows) {
  constexpr std::int64_t kRows = 256;
  constexpr std::int64_t kColumns = 8;
  const std::vector<std::byte> weights = numbered_rows(kRows, 4);
  const std::vector<std::byte> scales = random_bytes(kRows * kColumns);
  for (const std::int64_t tile : {64, 128}) {
    const auto moved_weights = shuffle_matrix_a({weights, kRows}, tile);
    const auto moved_scales = shuffle_matrix_sf_a(scales, kRows, kColumns, tile);
    ASSERT_TRUE(moved_weights.ok() && moved_scales.ok());
    const std::vector<int> old_rows = row_numbers(*moved_weights, 4);
    const ScaleShape shape{.rows = kRows, .columns = kColumns};
    for (std::int64_t row = 0; row < kRows; ++row) {
      for (std::int64_t column = 0; column < kColumns; ++column) {
        const auto old =
            static_cast<std::size_t>(old_rows[static_cast<std::size_t>(row)] * kColumns + column);
        ASSERT_EQ((*moved_scales)[static_cast<std::size_t>(swizzled_offset(shape, 0, row, column))],
                  scales[old]);
      }
    }
    EXPECT_NE(*moved_scales, swizzle_block_scales(scales, shape));
    EXPECT_EQ(*unshuffle_matrix_sf_a(*moved_scales, kRows, kColumns, tile), scales);
  }
  EXPECT_THAT(shuffle_matrix_sf_a(random_bytes(64 * 4), 64, 4, 64).error().message,
              HasSubstr("multiples of 128 x 4"));
  EXPECT_FALSE(shuffle_matrix_sf_a(random_bytes(128 * 6), 128, 6, 64).ok());
  EXPECT_FALSE(unshuffle_matrix_sf_a(random_bytes(128 * 6), 128, 6, 64).ok());
}

TEST(RowShuffle, GateAndUpRowsAlternate) {
  const std::vector<std::byte> rows = numbered_rows(8, 2);
  const auto reordered = reorder_rows_for_gated_act_gemm({rows, 8});
  ASSERT_TRUE(reordered.ok());
  EXPECT_THAT(row_numbers(*reordered, 2), ElementsAre(0, 4, 1, 5, 2, 6, 3, 7));
  EXPECT_EQ(*restore_rows_of_gated_act_gemm({*reordered, 8}), rows);
  EXPECT_FALSE(reorder_rows_for_gated_act_gemm({rows, 1}).ok());
  EXPECT_TRUE(reorder_rows_for_gated_act_gemm({}).ok());
}

// Reorder, then shuffle: the order matters.
TEST(RowShuffle, GatedMlpEndToEnd) {
  const std::vector<std::byte> rows = numbered_rows(32, 2);
  const auto reordered = reorder_rows_for_gated_act_gemm({rows, 32});
  const auto shuffled = shuffle_matrix_a({*reordered, 32}, 64);
  EXPECT_THAT(row_numbers(*shuffled, 2),
              ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23,  //
                          8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31));
  const auto other_order = reorder_rows_for_gated_act_gemm({*shuffle_matrix_a({rows, 32}, 64), 32});
  EXPECT_NE(*other_order, *shuffled);
}

}  // namespace
}  // namespace nibble::quant::tensorrt_llm
