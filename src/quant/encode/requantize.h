// From one format to another, a few rows at a time on all threads: what `nibble quantize` does with every
// matrix.
#pragma once

#include <string_view>
#include <vector>

#include "core/thread_pool.h"
#include "nibble/result.h"
#include "quant/encode/encode.h"

namespace nibble::quant {

// What encoding did to a matrix, for reports. Sums of several matrices add up.
struct EncodeError {
  double squared_error = 0.0;  // sum of (w - decoded)^2
  double squares = 0.0;        // sum of w^2
  float max_error = 0.0F;      // largest |w - decoded|

  EncodeError& operator+=(const EncodeError& other) noexcept;
  // sqrt(squared_error / squares): 0 = exact; 0 for a matrix of zeros.
  [[nodiscard]] double relative() const noexcept;
};

// rows[(row - row_begin) * k + kk] against what `encoded` (canonical) holds.
EncodeError measure_error(const float* rows, std::int64_t row_begin, std::int64_t row_end,
                          const MatrixView& encoded);

// The same of a whole matrix of any layout against what was made of it.
EncodeError measure_error(const MatrixView& source, const MatrixView& encoded, ThreadPool& threads);

// Largest |w| of a matrix of any layout, or infinity or NaN if it has one: nvfp4's global scale needs it.
// Integer layouts: after check_integer_layout.
float abs_max(const MatrixView& matrix, ThreadPool& threads);

// All weights, [n, k]; as abs_max.
std::vector<float> decode_matrix(const MatrixView& matrix, ThreadPool& threads);

// out = encoded(decoded(source)) and what that did to it; shapes are equal. bad_input naming `name` and the
// value that no valid checkpoint holds. Result and error do not depend on the number of threads.
Result<EncodeError> requantize(const MatrixView& source, EncodedMatrix& out, std::string_view name,
                               ThreadPool& threads);

}  // namespace nibble::quant
