// Layers with random weights, and what they need to run.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "core/arena.h"
#include "kernels/device.h"
#include "layers/context.h"
#include "layers/parameter.h"
#include "tests/support/random.h"

namespace nibble::testing {

// A float32 matrix [n, k] beside the packed weight made of it.
struct Matrix {
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::vector<float> values;
  [[nodiscard]] double at(std::int64_t row, std::int64_t column) const {
    return static_cast<double>(values[static_cast<std::size_t>(row * k + column)]);
  }
};

class LayerFixture {
 public:
  explicit LayerFixture(std::uint64_t seed, const std::string& isa = "scalar")
      : device(kernels::make_device({.num_threads = 2, .isa = isa}).value()), random(seed) {}

  // Uniform in +-1/sqrt(k).
  Matrix matrix(std::int64_t n, std::int64_t k);
  // Packs matrices of one shape as the groups of `weight`, whose shape they have.
  void fill(kernels::Weight& weight, const std::vector<Matrix>& groups);
  void fill(layers::Parameter& parameter, const std::vector<float>& values);

  // Runs fn(ctx) first counting, then for real with exactly the scratch that was counted.
  template <class Fn>
  void run(Fn&& fn) {
    Arena counter;
    const kernels::KernelTable counting = kernels::counting_kernels();
    layers::Context count_ctx{
        .table = counting, .exec = device->exec(), .arena = counter, .comm = comm::single()};
    fn(count_ctx);
    scratch_bytes = counter.peak();
    Arena arena(scratch_bytes);
    layers::Context ctx{
        .table = device->table(), .exec = device->exec(), .arena = arena, .comm = comm::single()};
    fn(ctx);
  }

  std::unique_ptr<kernels::Device> device;
  Random random;
  std::size_t scratch_bytes = 0;  // of the last run
};

inline TensorView view(std::vector<float>& values, std::int64_t rows, std::int64_t columns) {
  return make_view(values.data(), DType::f32, {rows, columns});
}

// x [m, k] * w^T in double.
std::vector<double> product(const std::vector<float>& x, const Matrix& w);

// |actual - expected| <= tolerance everywhere; a NaN fails.
void expect_close(const std::vector<float>& actual, const std::vector<double>& expected, double tolerance);

}  // namespace nibble::testing
