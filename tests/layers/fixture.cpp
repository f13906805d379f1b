#include "tests/layers/fixture.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

namespace nibble::testing {

Matrix LayerFixture::matrix(std::int64_t n, std::int64_t k) {
  const float bound = 1.0F / std::sqrt(static_cast<float>(k));
  return {.n = n, .k = k, .values = random.floats(n * k, -bound, bound)};
}

void LayerFixture::fill(kernels::Weight& weight, const std::vector<Matrix>& groups) {
  weight.shape.format = quant::WeightFormat::f32;
  ASSERT_EQ(weight.shape.num_groups, static_cast<std::int64_t>(groups.size()));
  weight = device->allocate_weight(weight.shape).value();
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const Matrix& m = groups[g];
    ASSERT_EQ(weight.shape.n, m.n);
    ASSERT_EQ(weight.shape.k, m.k);
    const quant::MatrixView source{.format = quant::WeightFormat::f32,
                                   .n = m.n,
                                   .k = m.k,
                                   .codes = reinterpret_cast<const std::byte*>(m.values.data())};
    device->pack_rows(weight, static_cast<std::int64_t>(g), 0, source, 0, m.n);
  }
}

void LayerFixture::fill(layers::Parameter& parameter, const std::vector<float>& values) {
  ASSERT_EQ(parameter.size, static_cast<std::int64_t>(values.size()));
  parameter.values = Buffer(values.size() * sizeof(float));
  std::memcpy(parameter.values.data(), values.data(), values.size() * sizeof(float));
}

std::vector<double> product(const std::vector<float>& x, const Matrix& w) {
  const std::int64_t m = static_cast<std::int64_t>(x.size()) / w.k;
  std::vector<double> y;
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t row = 0; row < w.n; ++row) {
      double sum = 0;
      for (std::int64_t c = 0; c < w.k; ++c)
        sum += static_cast<double>(x[static_cast<std::size_t>(i * w.k + c)]) * w.at(row, c);
      y.push_back(sum);
    }
  }
  return y;
}

void expect_close(const std::vector<float>& actual, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_TRUE(std::abs(static_cast<double>(actual[i]) - expected[i]) <= tolerance)
        << "element " << i << " is " << actual[i] << ", expected " << expected[i];
  }
}

}  // namespace nibble::testing
