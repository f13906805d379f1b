// The Hessian of a linear layer's squared output error, up to a factor: H = X^T X over calibration inputs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/buffer.h"
#include "core/thread_pool.h"
#include "nibble/result.h"

namespace nibble::quant {

// Adds up activations as they come; one per distinct input of linear layers (gate and up share theirs).
// Memory: 4 k^2 bytes.
class HessianAccumulator {
 public:
  // out_of_memory if k^2 floats are not there.
  static Result<HessianAccumulator> allocate(std::int64_t k);

  // H += X^T X for rows x[m, k]. float32; sums of up to 256 rows are added at a time. Not from several
  // threads at once; the result does not depend on the number of threads.
  void add(const float* x, std::int64_t m, ThreadPool& threads);

  [[nodiscard]] std::int64_t k() const noexcept { return k_; }
  [[nodiscard]] std::int64_t num_rows() const noexcept { return num_rows_; }

  // [k, k]; elements below the diagonal are not maintained.
  [[nodiscard]] std::span<const float> upper() const noexcept {
    return {sums_.as<float>(), static_cast<std::size_t>(k_ * k_)};
  }

 private:
  HessianAccumulator() = default;

  std::int64_t k_ = 0;
  std::int64_t num_rows_ = 0;
  Buffer sums_;
  std::vector<float> transposed_;  // scratch of add
};

}  // namespace nibble::quant
