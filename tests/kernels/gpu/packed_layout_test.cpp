// Weights in GPU memory lie as kernels/cuda/layout.h says, whatever pieces they were packed in.
#include "kernels/cuda/layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "tests/kernels/cases.h"
#include "tests/kernels/matrices.h"
#include "tests/kernels/tiers.h"

namespace nibble::kernels::testing {
namespace {

using ::nibble::testing::Random;
using quant::WeightFormat;

Device& gpu() { return device_of(available_tiers().front()); }

std::vector<std::byte> downloaded(const Buffer& buffer) {
  std::vector<std::byte> bytes(buffer.size());
  gpu().exec().memory().download(bytes, buffer.data());
  return bytes;
}

Weight allocated(const StoredMatrix& source) {
  Result<Weight> weight = gpu().allocate_weight({.format = source.view.format,
                                                 .num_groups = 1,
                                                 .n = source.view.n,
                                                 .k = source.view.k,
                                                 .grouping = source.view.grouping});
  EXPECT_TRUE(weight.ok());
  return std::move(weight).value();
}

// The bits of one code, in the low bits. Columns of padding decode to zero, rows that are not there are 0.
std::uint32_t code_of(const StoredMatrix& source, std::int64_t row, std::int64_t k) {
  const int bits = quant::format_row(source.view.format).bits;
  if (row >= source.view.n) return 0;
  if (k >= source.view.k) return source.view.format == WeightFormat::int4 ? 8 : 0;
  const std::int64_t bit = (row * source.view.k + k) * bits;
  std::uint32_t code = 0;
  std::memcpy(&code, source.codes.data() + bit / 8, static_cast<std::size_t>(std::max(bits / 8, 1)));
  return bits == 4 ? (code >> bit % 8) & 15U : code;
}

std::uint32_t at_bits(std::uint32_t value, int from, int count, int to) {
  return ((value >> from) & ((1U << count) - 1U)) << to;
}

// Code a0..a3 in a half word of 4-bit codes.
std::uint32_t placed(WeightFormat format, std::uint32_t code, int a) {
  if (format == WeightFormat::int4) return code << (4 * a);
  switch (a) {
    case 0: return at_bits(code, 3, 1, 15) | at_bits(code, 0, 3, 6);
    case 1: return at_bits(code, 3, 1, 12) | at_bits(code, 0, 3, 3);
    case 2: return at_bits(code, 3, 1, 9) | at_bits(code, 0, 3, 0);
    default: return at_bits(code, 3, 1, 14) | at_bits(code, 1, 2, 10) | at_bits(code, 0, 1, 13);
  }
}

// Word `index` (of block_bytes / 4) of a block.
std::uint32_t expected_word(const StoredMatrix& source, std::int64_t tile, std::int64_t block, int index) {
  const WeightFormat format = source.view.format;
  const int vector = index / 128;
  const int lane = index % 128 / 4;
  const int word = index % 4;
  // The code of A fragment a of a step, its even (0) or odd (1) k.
  const auto code = [&](int step, int a, int odd) {
    const std::int64_t row = tile * 16 + lane / 4 + a % 2 * 8;
    const std::int64_t k = block * 64 + step * 16 + a / 2 * 8 + lane % 4 * 2 + odd;
    return code_of(source, row, k);
  };
  switch (quant::format_row(format).bits) {
    case 4: {
      std::uint32_t value = 0;
      for (int a = 0; a < 4; ++a) {
        value |= placed(format, code(word, a, 0), a) | (placed(format, code(word, a, 1), a) << 16);
      }
      return value;
    }
    case 8: {
      const int step = 2 * vector + word / 2;
      const int a = word % 2 * 2;
      return code(step, a + 1, 0) | (code(step, a, 0) << 8) | (code(step, a + 1, 1) << 16) |
             (code(step, a, 1) << 24);
    }
    case 16: return code(vector, word, 0) | (code(vector, word, 1) << 16);
    default: return code(vector / 2, vector % 2 * 2 + word / 2, word % 2);
  }
}

TEST(PackedLayout, Codes) {
  Random random(1);
  for (const MatrixCase& c : kMatrixCases) {
    // Scales may go into the codes of NVFP4, and act-order sorts columns.
    if (c.format == WeightFormat::nvfp4 || c.grouping.act_order) continue;
    SCOPED_TRACE(case_name(c));
    const auto source = random_matrix(random, c.format, c.n, c.k, c.grouping);
    Weight weight = allocated(*source);
    gpu().pack_rows(weight, 0, 0, source->view, 0, c.n);
    const cuda::PackedLayout layout = cuda::packed_layout(weight.shape);
    const std::vector<std::byte> codes = downloaded(weight.codes);
    const int words = static_cast<int>(layout.tile_code_bytes / layout.num_blocks / 4);
    std::size_t at = 0;
    for (std::int64_t tile = 0; tile < layout.num_tiles; ++tile) {
      for (std::int64_t block = 0; block < layout.num_blocks; ++block) {
        for (int index = 0; index < words; ++index, at += 4) {
          std::uint32_t word = 0;
          std::memcpy(&word, codes.data() + at, 4);
          ASSERT_EQ(word, expected_word(*source, tile, block, index))
              << "tile " << tile << " block " << block << " word " << index;
        }
      }
    }
  }
}

// Pieces of odd sizes, the last rows first, equal one piece.
TEST(PackedLayout, Pieces) {
  Random random(2);
  for (const MatrixCase& c : kMatrixCases) {
    SCOPED_TRACE(case_name(c));
    const auto source = random_matrix(random, c.format, c.n, c.k, c.grouping);
    Weight whole = allocated(*source);
    gpu().pack_rows(whole, 0, 0, source->view, 0, c.n);
    Weight pieces = allocated(*source);
    for (std::int64_t end = c.n; end > 0;) {
      const std::int64_t begin = std::max<std::int64_t>(0, end - 1 - random.below(40));
      gpu().pack_rows(pieces, 0, begin, source->view, begin, end - begin);
      end = begin;
    }
    EXPECT_EQ(downloaded(pieces.codes), downloaded(whole.codes));
    EXPECT_EQ(downloaded(pieces.scales), downloaded(whole.scales));
  }
}

// More rows than go through staging memory at once, from several threads.
TEST(PackedLayout, ManyRows) {
  constexpr std::int64_t kRows = 1200;
  constexpr std::int64_t kStrip = 304;
  Random random(3);
  const auto source = random_matrix(random, WeightFormat::bf16, kRows, 2048);
  Weight whole = allocated(*source);
  gpu().pack_rows(whole, 0, 0, source->view, 0, kRows);
  Weight strips = allocated(*source);
  gpu().exec().threads().parallel_for((kRows + kStrip - 1) / kStrip, [&](std::int64_t i, int) {
    gpu().pack_rows(strips, 0, i * kStrip, source->view, i * kStrip, std::min(kStrip, kRows - i * kStrip));
  });
  EXPECT_EQ(downloaded(strips.codes), downloaded(whole.codes));
}

}  // namespace
}  // namespace nibble::kernels::testing
