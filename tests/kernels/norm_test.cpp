// rms_norm and add.
#include <gtest/gtest.h>

#include "tests/kernels/expect.h"
#include "tests/kernels/host_tensor.h"

namespace nibble::kernels::testing {
namespace {

using ::nibble::testing::Random;

class NormTest : public KernelTest {};
NIB_KERNEL_TESTS(NormTest);

std::vector<Bounded> normed(std::span<const float> x, std::span<const float> weight, float eps) {
  const auto d = static_cast<std::int64_t>(weight.size());
  std::vector<Bounded> y;
  for (std::size_t begin = 0; begin < x.size(); begin += weight.size()) {
    double squares = 0.0;
    for (std::size_t j = 0; j < weight.size(); ++j) squares += std::pow(static_cast<double>(x[begin + j]), 2);
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(d) + static_cast<double>(eps));
    for (std::size_t j = 0; j < weight.size(); ++j) {
      const double value = static_cast<double>(x[begin + j]) * scale * static_cast<double>(weight[j]);
      y.push_back({.value = value, .bound = std::abs(value) * sum_rounding(d) + 0x1p-126});
    }
  }
  return y;
}

TEST_P(NormTest, RmsNorm) {
  Random random(30);
  for (const std::int64_t d : {1, 7, 16, 64, 100, 129, 1536}) {
    for (const std::int64_t m : {0, 1, 3, 40}) {
      const std::vector<float> weight = random.floats(d, 0.1F, 2.0F);
      const std::vector<float> x_values = activations(random, m * d);
      const HostTensor x({m, d}, x_values, 9);
      const HostTensor y({m, d}, 2);
      device().table().rms_norm(device().exec(),
                                {.x = x.view(), .weight = weight.data(), .eps = 1e-6F, .y = y.view()});
      EXPECT_TRUE(within_bounds(y.values(), normed(x_values, weight, 1e-6F))) << "m=" << m << " d=" << d;
      EXPECT_TRUE(y.guards_intact()) << "m=" << m << " d=" << d;
    }
  }
}

TEST_P(NormTest, RmsNormInPlace) {
  Random random(31);
  const std::vector<float> weight = random.floats(77);
  const std::vector<float> x_values = activations(random, 5 * 77);
  const HostTensor x({5, 77}, x_values, 3);
  device().table().rms_norm(device().exec(),
                            {.x = x.view(), .weight = weight.data(), .eps = 1e-5F, .y = x.view()});
  EXPECT_TRUE(within_bounds(x.values(), normed(x_values, weight, 1e-5F)));
  EXPECT_TRUE(x.guards_intact());
}

TEST_P(NormTest, RmsNormOfASum) {
  Random random(34);
  for (const std::int64_t d : {1, 33, 1536, 9001}) {
    for (const std::int64_t m : {0, 1, 7}) {
      const std::vector<float> weight = random.floats(d, 0.1F, 2.0F);
      const std::vector<float> a = activations(random, m * d);
      const std::vector<float> b = activations(random, m * d);
      const HostTensor x({m, d}, a, 9);
      const HostTensor add({m, d}, b, 4);
      const HostTensor y({m, d}, 2);
      device().table().rms_norm(
          device().exec(),
          {.x = x.view(), .weight = weight.data(), .eps = 1e-6F, .y = y.view(), .add = add.view()});
      std::vector<float> sum;
      for (std::size_t i = 0; i < a.size(); ++i) sum.push_back(a[i] + b[i]);
      EXPECT_TRUE(same_bits(x.values(), sum)) << "m=" << m << " d=" << d;
      EXPECT_TRUE(same_bits(add.values(), b)) << "m=" << m << " d=" << d;
      EXPECT_TRUE(within_bounds(y.values(), normed(sum, weight, 1e-6F))) << "m=" << m << " d=" << d;
      EXPECT_TRUE(x.guards_intact() && y.guards_intact()) << "m=" << m << " d=" << d;
    }
  }
}

// Rows of long prompts come out as they do alone.
TEST_P(NormTest, ManyRows) {
  constexpr std::int64_t kRows = 530;
  Random random(35);
  for (const std::int64_t d : {132, 2048, 7168}) {
    for (const bool adds : {false, true}) {
      SCOPED_TRACE(fmt::format("d={} adds={}", d, adds));
      const std::vector<float> weight = random.floats(d, 0.1F, 2.0F);
      const HostTensor weights({1, d}, weight, 0, HostTensor::kAligned);
      const std::vector<float> a = activations(random, kRows * d);
      const std::vector<float> b = activations(random, kRows * d);
      const HostTensor x({kRows, d}, a, 8, HostTensor::kAligned);
      const HostTensor add({kRows, d}, b, 4, HostTensor::kAligned);
      const HostTensor y({kRows, d}, 12, HostTensor::kAligned);
      const auto run = [&](const TensorView& in, const TensorView& more, const TensorView& out) {
        RmsNormArgs args{.x = in, .weight = weights.row(0), .eps = 1e-6F, .y = out};
        if (adds) args.add = more;
        device().table().rms_norm(device().exec(), args);
      };
      run(x.view(), add.view(), y.view());
      std::vector<float> sum = a;
      for (std::size_t i = 0; adds && i < sum.size(); ++i) sum[i] += b[i];
      const std::vector<float> result = y.values();
      EXPECT_TRUE(within_bounds(result, normed(sum, weight, 1e-6F)));
      EXPECT_TRUE(same_bits(x.values(), sum));
      EXPECT_TRUE(x.guards_intact() && add.guards_intact() && y.guards_intact());
      for (const std::int64_t i : {std::int64_t{0}, std::int64_t{133}, kRows - 1}) {
        const auto part = [&](const std::vector<float>& values) {
          return std::span(values).subspan(i * d, d);
        };
        const HostTensor alone({1, d}, part(a), 0, HostTensor::kAligned);
        const HostTensor add_alone({1, d}, part(b), 0, HostTensor::kAligned);
        const HostTensor y_alone({1, d}, 0, HostTensor::kAligned);
        run(alone.view(), add_alone.view(), y_alone.view());
        EXPECT_TRUE(same_bits(y_alone.values(), part(result))) << "row " << i;
      }
      if (HasFailure()) return;
    }
  }
}

// A zero row stays zero; eps decides for tiny rows; large rows do not overflow.
TEST_P(NormTest, RmsNormOfUnusualMagnitudes) {
  constexpr std::int64_t kD = 33;
  Random random(32);
  const std::vector<float> weight = random.floats(kD, 0.5F, 1.5F);
  std::vector<float> x_values(4 * kD, 0.0F);
  for (std::size_t j = 0; j < kD; ++j) {
    x_values[kD + j] = random.uniform(-1e-6F, 1e-6F);
    x_values[2 * kD + j] = random.uniform(-1e15F, 1e15F);
    x_values[3 * kD + j] = -0.0F;
  }
  const HostTensor x({4, kD}, x_values);
  const HostTensor y({4, kD});
  device().table().rms_norm(device().exec(),
                            {.x = x.view(), .weight = weight.data(), .eps = 1e-6F, .y = y.view()});
  EXPECT_TRUE(within_bounds(y.values(), normed(x_values, weight, 1e-6F)));
}

TEST_P(NormTest, Add) {
  Random random(33);
  for (const std::int64_t d : {1, 15, 16, 130}) {
    for (const std::int64_t m : {0, 1, 9}) {
      const std::vector<float> a = random.floats(m * d);
      const std::vector<float> b = random.floats(m * d);
      const HostTensor x({m, d}, a, 3);
      const HostTensor y({m, d}, b, 5);
      device().table().add(device().exec(), {.x = x.view(), .y = y.view()});
      std::vector<float> expected;
      for (std::size_t i = 0; i < a.size(); ++i) expected.push_back(a[i] + b[i]);
      EXPECT_TRUE(same_bits(x.values(), expected)) << "m=" << m << " d=" << d;
      EXPECT_TRUE(x.guards_intact());
    }
  }
}

}  // namespace
}  // namespace nibble::kernels::testing
