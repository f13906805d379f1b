#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <numeric>

#include "core/check.h"
#include "quant/gptq/dense.h"
#include "quant/gptq/gptq.h"

namespace nibble::quant {
namespace {

constexpr double kMaxDampPercent = 1.0;

// The diagonal, with the mean of the others for channels without input.
struct Diagonal {
  std::vector<double> values;
  double mean = 1.0;
};

Diagonal diagonal_of(std::span<const float> hessian, std::int64_t k) {
  Diagonal diagonal;
  double sum = 0.0;
  std::int64_t alive = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    diagonal.values.push_back(static_cast<double>(hessian[static_cast<std::size_t>(i * k + i)]));
    sum += diagonal.values.back();
    alive += diagonal.values.back() != 0.0 ? 1 : 0;
  }
  if (alive != 0) diagonal.mean = sum / static_cast<double>(alive);
  std::ranges::replace(diagonal.values, 0.0, diagonal.mean);
  return diagonal;
}

Status check_hessian(std::span<const float> hessian, std::int64_t k) {
  for (std::int64_t i = 0; i < k; ++i) {
    for (std::int64_t j = i; j < k; ++j) {
      const float value = hessian[static_cast<std::size_t>(i * k + j)];
      if (std::isfinite(value) && (i != j || value >= 0.0F)) continue;
      return bad_input(fmt::format(
          "Hessian element [{}, {}] is {}; expected finite sums of calibration inputs", i, j, value));
    }
  }
  return {};
}

std::vector<std::int32_t> order_of(const Diagonal& diagonal, bool act_order) {
  std::vector<std::int32_t> order(diagonal.values.size());
  std::iota(order.begin(), order.end(), 0);
  if (!act_order) return order;
  std::ranges::stable_sort(order, std::greater{},
                           [&](std::int32_t i) { return diagonal.values[static_cast<std::size_t>(i)]; });
  return order;
}

// The lower triangle of the permuted, damped Hessian, turned by 180 degrees: the Cholesky factor of that
// is the turned factor R of H = R R^T with R upper triangular, and U = R^-1.
void fill_turned(std::span<const float> hessian, const Diagonal& diagonal,
                 std::span<const std::int32_t> order, double damping, Rows<double> out, ThreadPool& threads) {
  const auto k = static_cast<std::int64_t>(order.size());
  threads.parallel_for(k, [&](std::int64_t i, int) {
    const std::int64_t row = order[static_cast<std::size_t>(k - 1 - i)];
    for (std::int64_t j = 0; j < i; ++j) {
      const std::int64_t column = order[static_cast<std::size_t>(k - 1 - j)];
      const auto [low, high] = std::minmax(row, column);
      out.row(i)[j] = static_cast<double>(hessian[static_cast<std::size_t>(low * k + high)]);
    }
    out.row(i)[i] = diagonal.values[static_cast<std::size_t>(row)] + damping;
  });
}

}  // namespace

Result<HessianFactor> HessianFactor::compute(std::span<const float> hessian, std::int64_t k,
                                             const HessianOptions& options, ThreadPool& threads) {
  NIB_CHECK(static_cast<std::int64_t>(hessian.size()) == k * k, "Hessian of {} elements, expected {}",
            hessian.size(), k * k);
  NIB_TRY_STATUS(check_hessian(hessian, k));
  const Diagonal diagonal = diagonal_of(hessian, k);
  HessianFactor factor;
  factor.order_ = order_of(diagonal, options.act_order);
  factor.act_order_ = options.act_order;
  try {
    const Buffer lower(static_cast<std::size_t>(k * k) * sizeof(double));
    const Rows<double> l{lower.as<double>(), k};
    for (double damp = options.damp_percent;; damp = std::min(damp * 10.0, kMaxDampPercent)) {
      fill_turned(hessian, diagonal, factor.order_, damp * diagonal.mean, l, threads);
      factor.damp_percent_ = damp;
      if (cholesky(l, k, threads)) break;
      if (damp <= 0.0 || damp >= kMaxDampPercent) {
        return bad_input(
            fmt::format("the Hessian of {} input channels is not positive definite with damping of {} of "
                        "its diagonal; use more calibration text or more damping",
                        k, damp));
      }
    }
    factor.upper_ = Buffer(static_cast<std::size_t>(k * k) * sizeof(float));
    invert_lower_turned({l.data, k}, k, {factor.upper_.as<float>(), k}, threads);
  } catch (const std::bad_alloc&) {
    return out_of_memory(
        fmt::format("no memory to factor the Hessian of {} input channels ({} MiB)", k, k * k * 12 >> 20));
  }
  return factor;
}

}  // namespace nibble::quant
