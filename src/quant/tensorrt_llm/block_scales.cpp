#include "quant/tensorrt_llm/block_scales.h"

#include "core/check.h"

namespace nibble::quant::tensorrt_llm {
namespace {

constexpr std::int64_t kAtomRows = 128;
constexpr std::int64_t kAtomColumns = 4;
constexpr std::int64_t kAtomBytes = kAtomRows * kAtomColumns;
constexpr std::int64_t kInnerRows = 32;

// Calls fn(linear index, swizzled index) for every scale.
template <class Fn>
void for_each_scale(const ScaleShape& shape, Fn&& fn) {
  std::size_t linear = 0;
  for (std::int64_t b = 0; b < shape.batch; ++b) {
    for (std::int64_t row = 0; row < shape.rows; ++row) {
      for (std::int64_t column = 0; column < shape.columns; ++column) {
        fn(linear++, static_cast<std::size_t>(swizzled_offset(shape, b, row, column)));
      }
    }
  }
}

}  // namespace

std::int64_t swizzled_offset(const ScaleShape& shape, std::int64_t b, std::int64_t row,
                             std::int64_t column) noexcept {
  const std::int64_t atoms_per_row = shape.padded_columns() / kAtomColumns;
  const std::int64_t atom = row / kAtomRows * atoms_per_row + column / kAtomColumns;
  const std::int64_t quarter = row % kAtomRows / kInnerRows;
  const std::int64_t inside =
      row % kInnerRows * (kAtomBytes / kInnerRows) + quarter * kAtomColumns + column % kAtomColumns;
  return b * shape.padded_rows() * shape.padded_columns() + atom * kAtomBytes + inside;
}

std::vector<std::byte> swizzle_block_scales(std::span<const std::byte> linear, const ScaleShape& shape) {
  NIB_CHECK(static_cast<std::int64_t>(linear.size()) == shape.linear_bytes(),
            "{} bytes of linear scales, expected {}", linear.size(), shape.linear_bytes());
  std::vector<std::byte> swizzled(static_cast<std::size_t>(shape.swizzled_bytes()), std::byte{0});
  for_each_scale(shape, [&](std::size_t from, std::size_t to) { swizzled[to] = linear[from]; });
  return swizzled;
}

std::vector<std::byte> unswizzle_block_scales(std::span<const std::byte> swizzled, const ScaleShape& shape) {
  NIB_CHECK(static_cast<std::int64_t>(swizzled.size()) == shape.swizzled_bytes(),
            "{} bytes of swizzled scales, expected {}", swizzled.size(), shape.swizzled_bytes());
  std::vector<std::byte> linear(static_cast<std::size_t>(shape.linear_bytes()));
  for_each_scale(shape, [&](std::size_t to, std::size_t from) { linear[to] = swizzled[from]; });
  return linear;
}

}  // namespace nibble::quant::tensorrt_llm
