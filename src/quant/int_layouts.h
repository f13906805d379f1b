// Integer layouts of other tools, brought into the canonical one a few rows at a time.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "nibble/result.h"
#include "quant/matrix_view.h"

namespace nibble::quant {

// Memory of canonical rows; may be used again and again.
struct RowBuffer {
  std::vector<std::byte> codes;
  std::vector<float> scales;
  std::vector<std::int8_t> zeros;
};

// Rows [row_begin, row_end) of `matrix` in the canonical layout: a matrix of row_end - row_begin rows
// whose pointers lead into `matrix` (if its layout is canonical already) or into `buffer`. Row ranges of
// fp8 matrices must begin at a multiple of group_n.
MatrixView canonical_rows(const MatrixView& matrix, std::int64_t row_begin, std::int64_t row_end,
                          RowBuffer& buffer);

// What the shapes of an integer matrix cannot tell, once per matrix: that every g_idx is a group, no scale
// zero or not finite, and that zero points and
// channel order are trivial where `grouping` promises it. Errors name `name`, the place and the value.
Status check_integer_layout(const MatrixView& matrix, std::string_view name);

// Bytes of the canonical codes of one row.
std::int64_t code_row_bytes(WeightFormat format, std::int64_t k) noexcept;

}  // namespace nibble::quant
