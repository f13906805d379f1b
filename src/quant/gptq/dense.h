// The dense linear algebra that GPTQ needs, row-major, on plain loops. Private to quant/gptq.
#pragma once

#include <cstdint>

#include "core/thread_pool.h"

namespace nibble::quant {

// A matrix in memory: element (i, j) at data[i * stride + j].
template <class T>
struct Rows {
  T* data = nullptr;
  std::int64_t stride = 0;

  [[nodiscard]] T* row(std::int64_t i) const noexcept { return data + i * stride; }
  [[nodiscard]] Rows from(std::int64_t i, std::int64_t j) const noexcept { return {row(i) + j, stride}; }
};

// C[rows, columns] -= A[rows, depth] * B[depth, columns], on the calling thread. For float and double.
template <class T>
void subtract_product(Rows<const T> a, Rows<const T> b, Rows<T> c, std::int64_t rows, std::int64_t depth,
                      std::int64_t columns);

// A = L L^T in place: reads and writes the lower triangle, leaves rubbish above it. Returns false if A is
// not positive definite (or holds NaN).
bool cholesky(Rows<double> a, std::int64_t n, ThreadPool& threads);

// out[j, i] = (L^-1)[n - 1 - j, n - 1 - i]: the inverse of a lower triangular matrix, turned by 180 degrees,
// which is upper triangular; zeros below. `l` keeps its value.
void invert_lower_turned(Rows<const double> l, std::int64_t n, Rows<float> out, ThreadPool& threads);

}  // namespace nibble::quant
