// All weights of a matrix of any layout, on the calling thread.
#pragma once

#include <vector>

#include "quant/int_layouts.h"
#include "quant/matrix_view.h"

namespace nibble::testing {

inline std::vector<float> decoded(const quant::MatrixView& matrix) {
  quant::RowBuffer buffer;
  std::vector<float> values(static_cast<std::size_t>(matrix.n * matrix.k));
  quant::dequantize_rows(quant::canonical_rows(matrix, 0, matrix.n, buffer), 0, matrix.n, values.data());
  return values;
}

}  // namespace nibble::testing
