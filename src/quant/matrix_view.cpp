#include "quant/matrix_view.h"

#include <fmt/format.h>

#include <cmath>
#include <vector>

#include "core/check.h"
#include "quant/codec.h"

namespace nibble::quant {
namespace {

// Formats of one fixed group have whole groups only: their scale tensor is [n, k / group_k].
void check_shape(const MatrixView& m) {
  const FormatRow& row = format_row(m.format);
  const bool whole_groups = row.any_group || row.group_k == 0 || m.k % row.group_k == 0;
  NIB_CHECK(m.n >= 0 && m.k >= 0 && whole_groups && m.k % row.codes_per_byte_group == 0,
            "{} matrix [{}, {}]: k must be a multiple of {}", row.name, m.n, m.k,
            row.any_group ? row.codes_per_byte_group : row.group_k);
  NIB_CHECK(m.layout == MatrixLayout::rows, "{} matrix [{}, {}] is not in the canonical layout", row.name,
            m.n, m.k);
}

void check_rows(const MatrixView& m, std::int64_t row_begin, std::int64_t row_end) {
  check_shape(m);
  NIB_CHECK(row_begin >= 0 && row_begin <= row_end && row_end <= m.n, "rows {}..{} of {}", row_begin, row_end,
            m.n);
}

Error nonfinite_weight(const MatrixView& m, std::string_view name, std::int64_t row, std::int64_t column,
                       float value) {
  const Codec& c = codec(m.format);
  const std::string because =
      c.scale == nullptr ? "" : fmt::format(", its scale is {}", c.scale(m, row, column));
  return bad_input(fmt::format(
      "{}: weight at row {}, column {} is {}{} ({}); expected finite numbers: the file is damaged", name, row,
      column, value, because, format_name(m.format)));
}

}  // namespace

void dequantize_rows(const MatrixView& matrix, std::int64_t row_begin, std::int64_t row_end, float* out) {
  check_rows(matrix, row_begin, row_end);
  const Codec& c = codec(matrix.format);
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    c.dequantize_row(matrix, row, out + (row - row_begin) * matrix.k);
  }
}

Status check_finite(const MatrixView& matrix, std::string_view name) {
  return check_finite(matrix, 0, matrix.n, name);
}

Status check_finite(const MatrixView& matrix, std::int64_t row_begin, std::int64_t row_end,
                    std::string_view name) {
  check_rows(matrix, row_begin, row_end);
  const Codec& c = codec(matrix.format);
  std::vector<float> weights;
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    if (!c.may_be_nonfinite(matrix, row)) continue;
    weights.resize(static_cast<std::size_t>(matrix.k));
    c.dequantize_row(matrix, row, weights.data());
    for (std::int64_t column = 0; column < matrix.k; ++column) {
      const float value = weights[static_cast<std::size_t>(column)];
      if (!std::isfinite(value)) return nonfinite_weight(matrix, name, row, column, value);
    }
  }
  return {};
}

}  // namespace nibble::quant
