// From one format to another, a few rows at a time on all threads: what online quantisation and
// `nibble quantize` do with every tensor.
#pragma once

#include "core/thread_pool.h"
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

// Largest |w| of a canonical matrix, or infinity or NaN if it has one: nvfp4's global scale needs it, and
// every quantiser refuses what is not finite (check_finite finds the place for the message).
float abs_max(const MatrixView& matrix, ThreadPool& threads);

// out = encoded(decoded(source)); shapes are equal, source is canonical and finite. The result and the
// error do not depend on the number of threads.
EncodeError requantize(const MatrixView& source, EncodedMatrix& out, ThreadPool& threads);

// The same without looking at the error, which takes as long as the plain 4-bit encoders themselves.
void requantize_unmeasured(const MatrixView& source, EncodedMatrix& out, ThreadPool& threads);

}  // namespace nibble::quant
