#include "quant/gptq/hessian.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>

#include "quant/gptq/dense.h"

namespace nibble::quant {
namespace {

constexpr std::int64_t kRowsPerPass = 256;
constexpr std::int64_t kColumnsPerTask = 32;

}  // namespace

Result<HessianAccumulator> HessianAccumulator::allocate(std::int64_t k) {
  HessianAccumulator hessian;
  hessian.k_ = k;
  try {
    hessian.sums_ = Buffer(static_cast<std::size_t>(k * k) * sizeof(float));
  } catch (const std::bad_alloc&) {
    return out_of_memory(
        fmt::format("no memory for the Hessian of {} input channels ({} MiB)", k, k * k >> 18));
  }
  return hessian;
}

void HessianAccumulator::add(const float* x, std::int64_t m, ThreadPool& threads) {
  const Rows<float> sums{sums_.as<float>(), k_};
  for (std::int64_t begin = 0; begin < m; begin += kRowsPerPass) {
    const std::int64_t rows = std::min(kRowsPerPass, m - begin);
    const Rows<const float> pass{x + begin * k_, k_};
    transposed_.resize(static_cast<std::size_t>(k_ * rows));
    threads.parallel_for((k_ + kColumnsPerTask - 1) / kColumnsPerTask, [&](std::int64_t task, int) {
      const std::int64_t first = task * kColumnsPerTask;
      const std::int64_t last = std::min(first + kColumnsPerTask, k_);
      // Negative, since products are subtracted.
      const Rows<float> minus_xt{transposed_.data() + first * rows, rows};
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t i = first; i < last; ++i) minus_xt.row(i - first)[r] = -pass.row(r)[i];
      }
      subtract_product<float>({minus_xt.data, rows}, pass.from(0, first), sums.from(first, first),
                              last - first, rows, k_ - first);
    });
  }
  num_rows_ += m;
}

}  // namespace nibble::quant
