// The dense algebra under GPTQ against the definitions.
#include "quant/gptq/dense.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "quant/gptq/hessian.h"
#include "tests/support/random.h"

namespace nibble::quant {
namespace {

using ::nibble::testing::Random;

template <class T>
std::vector<T> random_values(std::int64_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<T> values;
  for (std::int64_t i = 0; i < count; ++i) values.push_back(static_cast<T>(random.uniform(-1.0F, 1.0F)));
  return values;
}

// Odd sizes, strides wider than the rows, and a rim that must stay untouched.
template <class T>
void check_subtract_product(std::int64_t rows, std::int64_t depth, std::int64_t columns) {
  const std::int64_t a_stride = depth + 3;
  const std::int64_t b_stride = columns + 5;
  const auto a = random_values<T>(rows * a_stride, 1);
  const auto b = random_values<T>(depth * b_stride + 1, 2);
  const auto before = random_values<T>((rows + 1) * b_stride, 3);
  std::vector<T> c = before;
  subtract_product<T>({a.data(), a_stride}, {b.data(), b_stride}, {c.data(), b_stride}, rows, depth, columns);
  for (std::int64_t i = 0; i <= rows; ++i) {
    for (std::int64_t j = 0; j < b_stride; ++j) {
      const auto at = static_cast<std::size_t>(i * b_stride + j);
      double expected = static_cast<double>(before[at]);
      for (std::int64_t p = 0; i < rows && j < columns && p < depth; ++p) {
        expected -= static_cast<double>(a[static_cast<std::size_t>(i * a_stride + p)]) *
                    static_cast<double>(b[static_cast<std::size_t>(p * b_stride + j)]);
      }
      ASSERT_NEAR(static_cast<double>(c[at]), expected, sizeof(T) == 4 ? 2e-4 : 1e-11)
          << rows << " x " << depth << " x " << columns << " at " << i << ", " << j;
    }
  }
}

TEST(GptqDense, SubtractProduct) {
  for (const std::int64_t rows : {0, 1, 4, 7}) {
    for (const std::int64_t depth : {0, 1, 64, 300}) {
      for (const std::int64_t columns : {0, 1, 8, 21}) {
        check_subtract_product<float>(rows, depth, columns);
        check_subtract_product<double>(rows, depth, columns);
      }
    }
  }
}

// A A^T / n + 0.1: positive definite.
std::vector<double> positive_definite(std::int64_t n) {
  const auto a = random_values<double>(n * n, static_cast<std::uint64_t>(n));
  std::vector<double> h(static_cast<std::size_t>(n * n));
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = i == j ? 0.1 : 0.0;
      for (std::int64_t p = 0; p < n; ++p) {
        sum += a[static_cast<std::size_t>(i * n + p)] * a[static_cast<std::size_t>(j * n + p)] /
               static_cast<double>(n);
      }
      h[static_cast<std::size_t>(i * n + j)] = sum;
    }
  }
  return h;
}

TEST(GptqDense, CholeskyAndItsInverse) {
  for (const std::int64_t n : {1, 2, 31, 64, 65, 200}) {
    for (const int num_threads : {1, 3}) {
      ThreadPool threads(num_threads);
      const std::vector<double> h = positive_definite(n);
      std::vector<double> l = h;
      ASSERT_TRUE(cholesky({l.data(), n}, n, threads));
      std::vector<float> turned(h.size(), 7.0F);
      invert_lower_turned({l.data(), n}, n, {turned.data(), n}, threads);
      double worst = 0.0;
      double worst_inverse = 0.0;
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t j = 0; j < n; ++j) {
          double product = 0.0;
          double unit = 0.0;
          for (std::int64_t p = 0; p <= std::min(i, j); ++p) {
            product += l[static_cast<std::size_t>(i * n + p)] * l[static_cast<std::size_t>(j * n + p)];
          }
          for (std::int64_t p = j; p <= i; ++p) {
            unit += l[static_cast<std::size_t>(i * n + p)] *
                    static_cast<double>(turned[static_cast<std::size_t>((n - 1 - p) * n + n - 1 - j)]);
          }
          worst = std::max(worst, std::abs(product - h[static_cast<std::size_t>(i * n + j)]));
          worst_inverse = std::max(worst_inverse, std::abs(unit - (i == j ? 1.0 : 0.0)));
          if (i > j) {
            ASSERT_EQ(turned[static_cast<std::size_t>(i * n + j)], 0.0F);
          }
        }
      }
      EXPECT_LT(worst, 1e-12) << n;
      EXPECT_LT(worst_inverse, 1e-5) << n;
    }
  }
}

TEST(GptqDense, IndefiniteMatricesAreSeen) {
  ThreadPool threads(2);
  for (const std::int64_t bad : {0, 63, 64, 99}) {
    std::vector<double> h = positive_definite(100);
    h[static_cast<std::size_t>(bad * 101)] = -1.0;
    EXPECT_FALSE(cholesky({h.data(), 100}, 100, threads)) << bad;
    h = positive_definite(100);
    h[static_cast<std::size_t>(bad * 101)] = std::numeric_limits<double>::quiet_NaN();
    EXPECT_FALSE(cholesky({h.data(), 100}, 100, threads)) << bad;
  }
}

TEST(HessianAccumulator, SumsOverCalls) {
  constexpr std::int64_t kK = 75;
  constexpr std::int64_t kRows = 700;
  const auto x = random_values<float>(kRows * kK, 4);
  ThreadPool one(1);
  ThreadPool three(3);
  HessianAccumulator whole = HessianAccumulator::allocate(kK).value();
  whole.add(x.data(), kRows, one);
  HessianAccumulator again = HessianAccumulator::allocate(kK).value();
  again.add(x.data(), kRows, three);
  HessianAccumulator parts = HessianAccumulator::allocate(kK).value();
  parts.add(x.data(), 1, three);
  parts.add(x.data() + kK, 0, three);
  parts.add(x.data() + kK, kRows - 1, three);
  EXPECT_EQ(parts.num_rows(), kRows);
  for (std::int64_t i = 0; i < kK; ++i) {
    for (std::int64_t j = i; j < kK; ++j) {
      double expected = 0.0;
      for (std::int64_t r = 0; r < kRows; ++r) {
        expected += static_cast<double>(x[static_cast<std::size_t>(r * kK + i)]) *
                    static_cast<double>(x[static_cast<std::size_t>(r * kK + j)]);
      }
      const auto at = static_cast<std::size_t>(i * kK + j);
      ASSERT_NEAR(static_cast<double>(whole.upper()[at]), expected, 1e-3);
      ASSERT_NEAR(static_cast<double>(parts.upper()[at]), expected, 1e-3);
      ASSERT_EQ(again.upper()[at], whole.upper()[at]);
    }
  }
}

}  // namespace
}  // namespace nibble::quant
