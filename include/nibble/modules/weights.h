// Weights that are handed to a module: matrices in host memory. A module packs them for its device, in the
// number format of its scheme, and keeps no pointer to them.
#pragma once

#include <cstdint>
#include <span>

namespace nibble {

// A row-major matrix [rows, columns] of float32, or of bfloat16 as the upper halves of float32.
struct HostMatrix {
  HostMatrix() = default;
  HostMatrix(std::span<const float> values, std::int64_t num_rows, std::int64_t num_columns)
      : f32(values), rows(num_rows), columns(num_columns) {}
  HostMatrix(std::span<const std::uint16_t> values, std::int64_t num_rows, std::int64_t num_columns)
      : bf16(values), rows(num_rows), columns(num_columns) {}

  std::span<const float> f32;
  std::span<const std::uint16_t> bf16;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};

}  // namespace nibble
