// The layouts of GPTQ, AWQ and compressed-tensors: words by hand, round trips, refusals.
#include "quant/int_packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/quant/int_support.h"
#include "tests/support/compare.h"

namespace nibble::quant {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using testing::IntMatrix;
using testing::IntShape;
using testing::pack;
using testing::PackedMatrix;
using testing::random_int_matrix;
using enum MatrixLayout;

std::vector<std::uint32_t> words_of(const std::vector<std::byte>& bytes) {
  std::vector<std::uint32_t> words(bytes.size() / 4);
  std::memcpy(words.data(), bytes.data(), bytes.size());
  return words;
}

// Canonical int4 codes from unsigned values, row by row.
IntMatrix int4_matrix(std::int64_t n, std::int64_t k, const std::vector<unsigned>& values) {
  IntMatrix m = random_int_matrix({.format = WeightFormat::int4, .n = n, .k = k, .grouping = {}});
  for (std::size_t i = 0; i < m.codes.size(); ++i) {
    m.codes[i] = static_cast<std::uint8_t>(values[2 * i] | (values[2 * i + 1] << 4U));
  }
  return m;
}

// 1 ... 8 along k of row 0; other rows hold zeros.
TEST(IntPacking, GptqWord) {
  std::vector<unsigned> values(64, 0);
  for (unsigned i = 0; i < 8; ++i) values[i] = i + 1;
  const IntMatrix m = int4_matrix(8, 8, values);
  EXPECT_EQ(words_of(pack(m.view(), gptq).codes),
            (std::vector<std::uint32_t>{0x87654321U, 0, 0, 0, 0, 0, 0, 0}));
}

// 1 ... 8 along n of column 0.
TEST(IntPacking, AwqWord) {
  std::vector<unsigned> values(64, 0);
  for (unsigned i = 0; i < 8; ++i) values[i * 8] = i + 1;
  Grouping whole{.group_k = 8};
  IntMatrix m = int4_matrix(8, 8, values);
  m.shape.grouping = whole;
  EXPECT_EQ(words_of(pack(m.view(), awq).codes),
            (std::vector<std::uint32_t>{0x86427531U, 0, 0, 0, 0, 0, 0, 0}));
}

TEST(IntPacking, CompressedTensorsWord) {
  const IntMatrix m = int4_matrix(1, 10, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10});
  EXPECT_EQ(words_of(pack(m.view(), ct_packed).codes),
            (std::vector<std::uint32_t>{0x87654321U, 0x000000A9U}));
  EXPECT_TRUE(pack(m.view(), ct_packed).zeros.empty());
}

TEST(IntPacking, SymmetricZeros) {
  const IntMatrix int4 = random_int_matrix({.format = WeightFormat::int4, .n = 16, .k = 256, .grouping = {}});
  EXPECT_THAT(words_of(pack(int4.view(), gptq).zeros), Each(0x77777777U));
  EXPECT_THAT(words_of(pack(int4.view(), gptq_v2).zeros), Each(0x88888888U));
  EXPECT_THAT(words_of(pack(int4.view(), awq).zeros), Each(0x88888888U));
  const IntMatrix int8 = random_int_matrix({.format = WeightFormat::int8, .n = 16, .k = 256, .grouping = {}});
  EXPECT_THAT(words_of(pack(int8.view(), gptq).zeros), Each(0x7F7F7F7FU));
  EXPECT_THAT(words_of(pack(int8.view(), gptq_v2).zeros), Each(0x80808080U));
}

// Zero point 0 is stored as 15 in version 1, without a borrow from its neighbours.
TEST(IntPacking, GptqV1WrapsAround) {
  IntMatrix m = random_int_matrix(
      {.format = WeightFormat::int4, .n = 8, .k = 32, .grouping = {.group_k = 32, .zero_points = true}});
  for (std::size_t row = 0; row < 8; ++row)
    m.zeros[row] = static_cast<std::int8_t>(static_cast<int>(row) - 8);
  const PackedMatrix v1 = pack(m.view(), gptq);
  EXPECT_EQ(words_of(v1.zeros), std::vector<std::uint32_t>{0x6543210FU});
  EXPECT_EQ(words_of(pack(m.view(), gptq_v2).zeros), std::vector<std::uint32_t>{0x76543210U});
  EXPECT_EQ(words_of(pack(m.view(), awq).zeros), std::vector<std::uint32_t>{0x75316420U});
  RowBuffer buffer;
  const MatrixView back = canonical_rows(v1.view, 0, 8, buffer);
  EXPECT_EQ(std::memcmp(back.zeros, m.zeros.data(), 8), 0);
}

std::vector<IntShape> shapes() {
  std::vector<IntShape> shapes;
  for (const WeightFormat format : {WeightFormat::int4, WeightFormat::int8}) {
    for (const auto& [n, k, group] : {std::tuple{8, 32, 32},
                                      {24, 64, 32},
                                      {40, 352, 128},
                                      {16, 96, 96},
                                      {7, 54, 54},
                                      {13, 130, 64},
                                      {1, 2, 2},
                                      {9, 34, 32}}) {
      for (const bool zero_points : {false, true}) {
        for (const bool act_order : {false, true}) {
          shapes.push_back(
              {.format = format,
               .n = n,
               .k = k,
               .grouping = {.group_k = group, .zero_points = zero_points, .act_order = act_order}});
        }
      }
    }
  }
  return shapes;
}

// Rows [begin, end) come back as they were: codes, scales, zeros, and so the weights.
void expect_same_rows(const MatrixView& canonical, const MatrixView& packed, std::int64_t begin,
                      std::int64_t end) {
  RowBuffer buffer;
  RowBuffer unused;
  const MatrixView back = canonical_rows(packed, begin, end, buffer);
  const MatrixView expected = canonical_rows(canonical, begin, end, unused);
  const auto num_codes =
      static_cast<std::size_t>((end - begin) * code_row_bytes(canonical.format, canonical.k));
  EXPECT_EQ(std::memcmp(back.codes, expected.codes, num_codes), 0);
  std::vector<float> actual_weights(static_cast<std::size_t>((end - begin) * canonical.k));
  std::vector<float> expected_weights(actual_weights.size());
  dequantize_rows(back, 0, end - begin, actual_weights.data());
  dequantize_rows(expected, 0, end - begin, expected_weights.data());
  EXPECT_TRUE(::nibble::testing::same_floats(actual_weights, expected_weights));
}

TEST(IntPacking, RoundTrips) {
  int num_checked = 0;
  for (const IntShape& shape : shapes()) {
    const IntMatrix m = random_int_matrix(shape);
    for (const MatrixLayout layout : {gptq, gptq_v2, awq, ct_packed}) {
      if (!packed_bytes(m.view(), layout).ok()) continue;
      const PackedMatrix packed = pack(m.view(), layout);
      EXPECT_TRUE(check_integer_layout(packed.view, "w").ok());
      SCOPED_TRACE(::testing::Message() << "layout " << static_cast<int>(layout) << ", "
                                        << format_name(shape.format) << " " << shape.n << " x " << shape.k);
      expect_same_rows(m.view(), packed.view, 0, shape.n);
      expect_same_rows(m.view(), packed.view, shape.n / 3, shape.n - shape.n / 4);
      ++num_checked;
    }
  }
  EXPECT_GE(num_checked, 100);
}

TEST(IntPacking, LayoutsHoldWhatTheirWordsHold) {
  using enum WeightFormat;
  const Grouping plain;
  const Grouping reordered{.act_order = true};
  const struct {
    IntShape shape;
    MatrixLayout layout;
    const char* message;
  } cases[] = {
      {{int4, 12, 64, plain},
       gptq,
       "12 output channels cannot be stored in GPTQ words; expected a multiple of 8"},
      {{int4, 12, 128, plain}, awq, "12 output channels"},
      {{int8, 6, 64, plain}, gptq_v2, "expected a multiple of 4"},
      {{int4, 8, 36, plain}, gptq, "36 input channels cannot be stored in GPTQ words"},
      {{int4, 8, 192, plain}, awq, "192 input channels in groups of 128"},
      {{int8, 8, 128, plain}, awq, "int8 weights cannot be stored as AWQ; expected int4"},
      {{int4, 8, 128, reordered}, awq, "act_order"},
  };
  for (const auto& c : cases) {
    const IntMatrix m = random_int_matrix(c.shape);
    const auto bytes = packed_bytes(m.view(), c.layout);
    ASSERT_FALSE(bytes.ok()) << c.message;
    EXPECT_EQ(bytes.error().code, ErrorCode::bad_input);
    EXPECT_THAT(bytes.error().message, HasSubstr(c.message));
  }
  MatrixView bf16_scales = random_int_matrix({int4, 8, 128, plain}).view();
  bf16_scales.scale_dtype = DType::bf16;
  EXPECT_THAT(packed_bytes(bf16_scales, gptq).error().message, HasSubstr("BF16 scales"));
  EXPECT_TRUE(packed_bytes(bf16_scales, ct_packed).ok());
  EXPECT_FALSE(packed_bytes({.format = mxfp4, .n = 8, .k = 32}, gptq).ok());
  EXPECT_FALSE(packed_bytes(bf16_scales, rows).ok());
}

// Each layout read as another must not give the same weights: the tests above can tell them apart.
TEST(IntPacking, MixedUpLayoutsAreSeen) {
  const IntMatrix m = random_int_matrix(
      {.format = WeightFormat::int4, .n = 64, .k = 64, .grouping = {.group_k = 64, .zero_points = true}});
  std::vector<float> expected(64 * 64);
  dequantize_rows(m.view(), 0, 64, expected.data());
  const auto decoded_as = [&](const PackedMatrix& packed, MatrixLayout layout) {
    MatrixView view = packed.view;
    view.layout = layout;
    RowBuffer buffer;
    std::vector<float> weights(expected.size());
    dequantize_rows(canonical_rows(view, 0, 64, buffer), 0, 64, weights.data());
    return weights;
  };
  const PackedMatrix v1 = pack(m.view(), gptq);
  EXPECT_EQ(decoded_as(v1, gptq), expected);
  EXPECT_NE(decoded_as(v1, gptq_v2), expected);
  PackedMatrix sequential = pack(m.view(), awq);
  EXPECT_EQ(decoded_as(sequential, awq), expected);
  // AWQ words whose fields are in order.
  for (std::size_t i = 0; i < sequential.codes.size(); i += 4) {
    std::uint32_t word;
    std::memcpy(&word, sequential.codes.data() + i, 4);
    std::uint32_t ordered = 0;
    for (const unsigned field : {0U, 4U, 1U, 5U, 2U, 6U, 3U, 7U})
      ordered = (ordered >> 4U) | (((word >> (4 * field)) & 15U) << 28U);
    std::memcpy(sequential.codes.data() + i, &ordered, 4);
  }
  EXPECT_NE(decoded_as(sequential, awq), expected);
}

}  // namespace
}  // namespace nibble::quant
