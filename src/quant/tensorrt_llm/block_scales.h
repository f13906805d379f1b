// The block scales of NVFP4 and MXFP4 as TensorRT-LLM, cuBLASLt and tcgen05 expect them ("swizzled",
// block_scale_interleave). Only tensors that travel to and from those libraries need this; checkpoints and
// nibble itself keep scales row-major.
//
// A linear scale matrix [rows, columns] (columns = k / 16 or k / 32, one byte each) is padded with zeros to
// multiples of 128 rows and 4 columns and cut into atoms of 128 x 4 = 512 bytes. Row m and column c of
// matrix b of a batch lie at
//
//   b * padded bytes  +  (m / 128) * (padded columns / 4) * 512  +  (c / 4) * 512
//     + (m % 32) * 16  +  (m % 128 / 32) * 4  +  c % 4
//
// Inside an atom, 32 inner rows of 16 bytes hold the four 32-row quarters side by side. (Copies of this
// formula circulate that have m % 128 / 4 in the middle; they are not a bijection.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace nibble::quant::tensorrt_llm {

// A batch of linear scale matrices, one after the other.
struct ScaleShape {
  std::int64_t batch = 1;
  std::int64_t rows = 0;
  std::int64_t columns = 0;

  [[nodiscard]] std::int64_t padded_rows() const noexcept { return (rows + 127) / 128 * 128; }
  [[nodiscard]] std::int64_t padded_columns() const noexcept { return (columns + 3) / 4 * 4; }
  [[nodiscard]] std::int64_t linear_bytes() const noexcept { return batch * rows * columns; }
  [[nodiscard]] std::int64_t swizzled_bytes() const noexcept {
    return batch * padded_rows() * padded_columns();
  }
};

// Where scale (b, row, column) lies in the swizzled bytes.
std::int64_t swizzled_offset(const ScaleShape& shape, std::int64_t b, std::int64_t row,
                             std::int64_t column) noexcept;

// Linear bytes to swizzled ones, padding zero. Precondition: linear.size() == shape.linear_bytes().
std::vector<std::byte> swizzle_block_scales(std::span<const std::byte> linear, const ScaleShape& shape);

// The inverse; padding is dropped. Precondition: swizzled.size() == shape.swizzled_bytes().
std::vector<std::byte> unswizzle_block_scales(std::span<const std::byte> swizzled, const ScaleShape& shape);

}  // namespace nibble::quant::tensorrt_llm
