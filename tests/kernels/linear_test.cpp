// embed, linear, linear_pair, gated_linear, head_linear and head_linear_transposed on every tier and format.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <utility>

#include "core/check.h"
#include "quant/float16.h"
#include "tests/kernels/cases.h"
#include "tests/kernels/expect.h"
#include "tests/kernels/host_tensor.h"
#include "tests/kernels/matrices.h"
#include "tests/support/compare.h"

namespace nibble::kernels::testing {
namespace {

using ::nibble::testing::Random;

class LinearTest : public KernelTest {
 protected:
  // x * w^T on this tier; checks against the oracle and that only y was written.
  static void check_linear(Random& random, const PackedGroups& w, std::int64_t m, bool accumulate,
                           Precision precision) {
    const std::int64_t n = w.packed.shape.n;
    const std::int64_t k = w.packed.shape.k;
    const std::vector<float> x_values = activations(random, m * k);
    const HostTensor x({m, k}, x_values, 5);
    const std::vector<float> y_before = random.floats(m * n);
    const HostTensor y = accumulate ? HostTensor({m, n}, y_before, 3) : HostTensor({m, n}, 3);
    device().table().linear(
        device().exec(),
        {.x = x.view(), .w = w.packed, .y = y.view(), .accumulate = accumulate, .precision = precision});
    const bool bf16 = bf16_products() && precision == Precision::fast;
    std::vector<Bounded> expected = product(exact(x_values), w.weights[0], m, n, k, bf16);
    if (accumulate) {
      for (std::size_t i = 0; i < expected.size(); ++i) {
        expected[i].value += static_cast<double>(y_before[i]);
        expected[i].bound += 2.0 * kEpsF32 * (std::abs(expected[i].value) + std::abs(y_before[i]));
      }
    }
    EXPECT_TRUE(within_bounds(y.values(), expected)) << "m=" << m << " accumulate=" << accumulate;
    EXPECT_TRUE(y.guards_intact()) << "m=" << m;
  }
};
NIB_KERNEL_TESTS(LinearTest);

TEST_P(LinearTest, AgreesWithDoublePrecision) {
  Random random(10);
  for (const MatrixCase& c : kMatrixCases) {
    SCOPED_TRACE(case_name(c));
    const PackedGroups w = random_groups(device(), random, c.format, 1, c.n, c.k, c.grouping);
    for (const std::int64_t m : kTokenCounts) {
      if (!is_worth_testing(c, m)) continue;
      check_linear(random, w, m, m % 2 == 0, Precision::fast);
      check_linear(random, w, m, m % 2 == 1, Precision::exact);
    }
    if (HasFailure()) return;
  }
}

// Each of a pair is what it is alone, whether or not one launch makes both: sizes that share and that end
// tiles.
TEST_P(LinearTest, PairsOfOneInput) {
  Random random(13);
  for (const auto& row : quant::formats()) {
    const std::int64_t k = row.group_k > 1 ? 448 : 390;
    for (const auto& [n, other_n] : {std::pair<std::int64_t, std::int64_t>{40, 23}, {16, 300}, {257, 1}}) {
      const PackedGroups first = random_groups(device(), random, row.format, 1, n, k);
      const PackedGroups second = random_groups(device(), random, row.format, 1, other_n, k);
      for (const std::int64_t m : {1, 2, 7, 33}) {
        SCOPED_TRACE(fmt::format("{} {} + {} m={}", row.name, n, other_n, m));
        const std::vector<float> x_values = activations(random, m * k);
        const HostTensor x({m, k}, x_values, 5);
        const HostTensor y({m, n}, 3);
        const HostTensor other_y({m, other_n}, 2);
        device().table().linear_pair(device().exec(), {.x = x.view(),
                                                       .first = first.packed,
                                                       .first_y = y.view(),
                                                       .second = second.packed,
                                                       .second_y = other_y.view()});
        const std::vector<Bounded> exact_x = exact(x_values);
        EXPECT_TRUE(within_bounds(y.values(), product(exact_x, first.weights[0], m, n, k, bf16_products())));
        EXPECT_TRUE(within_bounds(other_y.values(),
                                  product(exact_x, second.weights[0], m, other_n, k, bf16_products())));
        EXPECT_TRUE(y.guards_intact() && other_y.guards_intact());
      }
    }
    if (HasFailure()) return;
  }
}

// Large prompts go through other loops than small batches.
TEST_P(LinearTest, ManyTokens) {
  Random random(11);
  for (const auto& row : quant::formats()) {
    SCOPED_TRACE(row.name);
    const PackedGroups w = random_groups(device(), random, row.format, 1, 40, row.group_k > 1 ? 160 : 150);
    check_linear(random, w, 611, false, Precision::fast);
    check_linear(random, w, 611, true, Precision::exact);
  }
}

// Routers of long prompts: aligned rows, sums of one sign, which grow, and inputs of very different sizes.
TEST_P(LinearTest, ExactProductsOfManyTokens) {
  struct Size {
    std::int64_t m;
    std::int64_t n;
    std::int64_t k;
  };
  constexpr Size kSizes[] = {{49, 16, 4},     {64, 40, 64},    {65, 130, 132},  {127, 64, 2048},
                             {257, 256, 512}, {600, 200, 100}, {1100, 136, 64}, {70, 20, 7168}};
  Random random(13);
  for (const auto format : {quant::WeightFormat::bf16, quant::WeightFormat::f32}) {
    for (const Size size : kSizes) {
      SCOPED_TRACE(fmt::format("{} m={} n={} k={}", quant::format_name(format), size.m, size.n, size.k));
      PackedGroups w = random_groups(device(), random, format, 1, size.n, size.k);
      for (const bool grows : {false, true}) {
        std::vector<float> x_values = activations(random, size.m * size.k);
        if (grows) {
          // Products with row 0 of the weights are all positive.
          for (std::size_t i = 0; i < x_values.size(); ++i) {
            const float sign = w.weights[0][i % static_cast<std::size_t>(size.k)] < 0.0F ? -1.0F : 1.0F;
            x_values[i] = std::abs(x_values[i]) * sign;
          }
        } else {
          for (std::size_t i = 0; i < x_values.size(); i += 7) x_values[i] *= 1e30F;
        }
        const HostTensor x({size.m, size.k}, x_values, 8, HostTensor::kAligned);
        const std::vector<float> y_before = random.floats(size.m * size.n);
        const HostTensor y =
            grows ? HostTensor({size.m, size.n}, y_before, 3) : HostTensor({size.m, size.n}, 3);
        device().table().linear(device().exec(), {.x = x.view(),
                                                  .w = w.packed,
                                                  .y = y.view(),
                                                  .accumulate = grows,
                                                  .precision = Precision::exact});
        std::vector<Bounded> expected = product(exact(x_values), w.weights[0], size.m, size.n, size.k, false);
        for (std::size_t i = 0; grows && i < expected.size(); ++i) {
          expected[i].value += static_cast<double>(y_before[i]);
          expected[i].bound += 2.0 * kEpsF32 * (std::abs(expected[i].value) + std::abs(y_before[i]));
        }
        EXPECT_TRUE(within_bounds(y.values(), expected));
        EXPECT_TRUE(x.guards_intact() && y.guards_intact());
      }
      if (HasFailure()) return;
    }
  }
}

// Scales at the ends of their ranges: 2^-127 is a subnormal, and bf16 or float32 shortcuts break there.
TEST_P(LinearTest, ExtremeScales) {
  Random random(12);
  for (const int scale : {0, 1, 2, 100, 150, 200}) {
    SCOPED_TRACE(scale);
    PackedGroups w = random_groups(device(), random, quant::WeightFormat::mxfp4, 1, 20, 64);
    std::fill(w.sources[0]->scales.begin(), w.sources[0]->scales.end(), std::byte(scale));
    w.weights[0] = w.sources[0]->dequantised();
    w.packed = pack(device(), w.sources);
    // Activations that bring the products back into range.
    std::vector<float> x_values = random.floats(3 * 64);
    for (float& v : x_values) v = std::ldexp(v, std::min(120, 127 - scale));
    const HostTensor x({3, 64}, x_values);
    const HostTensor y({3, 20});
    device().table().linear(device().exec(),
                            {.x = x.view(), .w = w.packed, .y = y.view(), .precision = Precision::exact});
    std::vector<Bounded> expected = product(exact(x_values), w.weights[0], 3, 20, 64, false);
    EXPECT_TRUE(within_bounds(y.values(), expected));
  }
}

// [n, k] codes that between them take every finite value of the format.
std::unique_ptr<StoredMatrix> every_code(quant::WeightFormat format) {
  Random random(21);
  const std::int64_t n = format == quant::WeightFormat::bf16  ? 255
                         : format == quant::WeightFormat::f16 ? 248
                                                              : 20;
  auto m = random_matrix(random, format, n, 256);
  if (format != quant::WeightFormat::f16 && format != quant::WeightFormat::bf16) return m;
  const std::uint32_t infinity = format == quant::WeightFormat::f16 ? 0x7C00U : 0x7F80U;
  std::size_t at = 0;
  for (std::uint32_t code = 0; code < 0x10000U; ++code) {
    if ((code & 0x7FFFU) >= infinity) continue;
    m->codes[at++] = std::byte(code & 0xFFU);
    m->codes[at++] = std::byte(code >> 8);
  }
  return m;
}

// Activations that are 1 in one place and 0 elsewhere read the weights out one by one: every code must
// come through the tier's decoder as it is, subnormals included, in batches and alone.
TEST_P(LinearTest, OneHotActivationsReadTheWeights) {
  constexpr std::int64_t kK = 256;
  for (const auto& row : quant::formats()) {
    SCOPED_TRACE(row.name);
    std::vector<std::unique_ptr<StoredMatrix>> sources;
    sources.push_back(every_code(row.format));
    const std::int64_t n = sources[0]->view.n;
    const std::vector<float> weights = sources[0]->dequantised();
    const Weight packed = pack(device(), sources);
    const bool rounds = bf16_products() && row.group_k == 0;
    const auto expect_column = [&](const float* y, std::int64_t kk) {
      for (std::int64_t r = 0; r < n; ++r) {
        const auto w = static_cast<double>(weights[static_cast<std::size_t>(r * kK + kk)]);
        // Two roundings where a scale is folded in another order; flushed subnormals where bf16 products are.
        const double bound =
            std::abs(w) * (rounds ? 2.0 * kEpsBf16 : 4.0 * kEpsF32) + (rounds ? 0x1p-126 : 0x1p-149);
        ASSERT_NEAR(static_cast<double>(y[r]), w, bound) << "row " << r << " column " << kk;
      }
    };
    std::vector<float> identity(kK * kK, 0.0F);
    for (std::size_t i = 0; i < kK; ++i) identity[i * kK + i] = 1.0F;
    const HostTensor x({kK, kK}, identity);
    const HostTensor y({kK, n});
    device().table().linear(device().exec(), {.x = x.view(), .w = packed, .y = y.view()});
    for (std::int64_t kk = 0; kk < kK; ++kk) expect_column(y.row(kk), kk);
    for (std::int64_t kk = 0; kk < kK; kk += 5) {
      device().table().linear(device().exec(),
                              {.x = x.view().rows(kk, kk + 1), .w = packed, .y = y.view().rows(0, 1)});
      expect_column(y.row(0), kk);
    }
  }
}

TEST_P(LinearTest, SameForAnyNumberOfThreads) {
  Random random(13);
  for (const auto& row : quant::formats()) {
    SCOPED_TRACE(row.name);
    constexpr std::int64_t kM = 19;
    const std::int64_t n = 330;
    const std::int64_t k = row.group_k > 1 ? 288 : 251;
    const PackedGroups w = random_groups(device(), random, row.format, 1, n, k);
    const std::vector<float> x_values = activations(random, kM * k);
    const HostTensor x({kM, k}, x_values);
    std::vector<float> first;
    for (const int threads : {1, 2, 3}) {
      const HostTensor y({kM, n});
      device(threads).table().linear(device(threads).exec(), {.x = x.view(), .w = w.packed, .y = y.view()});
      if (threads == 1) first = y.values();
      EXPECT_TRUE(same_bits(y.values(), first)) << threads << " threads";
    }
  }
}

// Row 0 of a batch of 64 and the same row alone.
TEST_P(LinearTest, ARowDoesNotFeelTheOthers) {
  Random random(14);
  for (const auto& row : quant::formats()) {
    SCOPED_TRACE(row.name);
    constexpr std::int64_t kM = 64;
    const std::int64_t n = 50;
    const std::int64_t k = row.group_k > 1 ? 288 : 251;
    const PackedGroups w = random_groups(device(), random, row.format, 1, n, k);
    std::vector<float> x_values = activations(random, kM * k);
    // One token's values must not leak into another's, not even as NaN.
    std::fill_n(x_values.begin() + k, k, NAN);
    const HostTensor x({kM, k}, x_values);
    const HostTensor y({kM, n});
    device().table().linear(device().exec(), {.x = x.view(), .w = w.packed, .y = y.view()});
    for (const std::int64_t i : {std::int64_t{0}, std::int64_t{2}, kM - 1}) {
      const auto x_row =
          std::span(x_values).subspan(static_cast<std::size_t>(i * k), static_cast<std::size_t>(k));
      const HostTensor x_alone({1, k}, x_row);
      const HostTensor y_alone({1, n});
      device().table().linear(device().exec(), {.x = x_alone.view(), .w = w.packed, .y = y_alone.view()});
      std::vector<Bounded> expected = product(exact(x_row), w.weights[0], 1, n, k, bf16_products());
      const std::vector<float> alone = y_alone.values();
      EXPECT_TRUE(within_bounds(std::span(y.row(i), static_cast<std::size_t>(n)), expected)) << "row " << i;
      for (std::size_t j = 0; j < expected.size(); ++j) expected[j].value = static_cast<double>(alone[j]);
      EXPECT_TRUE(within_bounds(std::span(y.row(i), static_cast<std::size_t>(n)), expected)) << "row " << i;
    }
  }
}

TEST_P(LinearTest, Gated) {
  Random random(15);
  for (const MatrixCase& c : kMatrixCases) {
    SCOPED_TRACE(case_name(c));
    const PackedGroups gate = random_groups(device(), random, c.format, 1, c.n, c.k, c.grouping);
    const PackedGroups up = random_groups(device(), random, c.format, 1, c.n, c.k, c.grouping);
    for (const std::int64_t m : {0, 1, 3, 17, 65}) {
      if (!is_worth_testing(c, m)) continue;
      const std::vector<float> x_values = activations(random, m * c.k);
      const HostTensor x({m, c.k}, x_values, 7);
      const HostTensor y({m, c.n}, 2);
      device().table().gated_linear(device().exec(),
                                    {.x = x.view(), .gate = gate.packed, .up = up.packed, .y = y.view()});
      const auto g = product(exact(x_values), gate.weights[0], m, c.n, c.k, bf16_products());
      const auto u = product(exact(x_values), up.weights[0], m, c.n, c.k, bf16_products());
      std::vector<Bounded> expected;
      for (std::size_t i = 0; i < g.size(); ++i) expected.push_back(gated(g[i], u[i]));
      EXPECT_TRUE(within_bounds(y.values(), expected)) << "m=" << m;
      EXPECT_TRUE(y.guards_intact()) << "m=" << m;
    }
    if (HasFailure()) return;
  }
}

// Gate and up need not have the same format.
TEST_P(LinearTest, GatedWithTwoFormats) {
  Random random(16);
  const PackedGroups gate = random_groups(device(), random, quant::WeightFormat::mxfp4, 1, 36, 96);
  const PackedGroups up = random_groups(device(), random, quant::WeightFormat::bf16, 1, 36, 96);
  for (const std::int64_t m : {1, 20}) {
    const std::vector<float> x_values = activations(random, m * 96);
    const HostTensor x({m, 96}, x_values);
    const HostTensor y({m, 36});
    device().table().gated_linear(device().exec(),
                                  {.x = x.view(), .gate = gate.packed, .up = up.packed, .y = y.view()});
    const auto g = product(exact(x_values), gate.weights[0], m, 36, 96, bf16_products());
    const auto u = product(exact(x_values), up.weights[0], m, 36, 96, bf16_products());
    std::vector<Bounded> expected;
    for (std::size_t i = 0; i < g.size(); ++i) expected.push_back(gated(g[i], u[i]));
    EXPECT_TRUE(within_bounds(y.values(), expected)) << "m=" << m;
  }
}

constexpr std::int64_t kHeads = 3;

// Row i, head h of [m, heads, d] values.
std::span<const Bounded> head_row(const std::vector<Bounded>& values, std::int64_t i, std::int64_t h,
                                  std::int64_t d) {
  return std::span(values).subspan(static_cast<std::size_t>((i * kHeads + h) * d),
                                   static_cast<std::size_t>(d));
}

TEST_P(LinearTest, PerHead) {
  Random random(17);
  for (const MatrixCase& c : kMatrixCases) {
    SCOPED_TRACE(case_name(c));
    const PackedGroups w = random_groups(device(), random, c.format, kHeads, c.n, c.k, c.grouping);
    for (const std::int64_t m : {0, 1, 2, 5, 33}) {
      if (!is_worth_testing(c, m)) continue;
      for (const bool shared : {false, true}) {
        const std::vector<float> x_values = activations(random, m * c.k * (shared ? 1 : kHeads));
        const HostTensor x =
            shared ? HostTensor({m, c.k}, x_values, 5) : HostTensor({m, kHeads, c.k}, x_values, 5);
        const HostTensor y({m, kHeads, c.n}, 3);
        device().table().head_linear(device().exec(), {.x = x.view(), .w = w.packed, .y = y.view()});
        const std::vector<Bounded> xs = exact(x_values);
        std::vector<Bounded> expected;
        for (std::int64_t i = 0; i < m; ++i) {
          for (std::int64_t h = 0; h < kHeads; ++h) {
            const auto row = shared ? std::span(xs).subspan(static_cast<std::size_t>(i * c.k),
                                                            static_cast<std::size_t>(c.k))
                                    : head_row(xs, i, h, c.k);
            const auto head =
                product(row, w.weights[static_cast<std::size_t>(h)], 1, c.n, c.k, bf16_products());
            expected.insert(expected.end(), head.begin(), head.end());
          }
        }
        EXPECT_TRUE(within_bounds(y.values(), expected)) << "m=" << m << " shared=" << shared;
        EXPECT_TRUE(y.guards_intact()) << "m=" << m << " shared=" << shared;
        if (device().table().rebuilt(128, 64, 128) == DType::f32) continue;
        std::vector<std::uint16_t> codes(static_cast<std::size_t>(m * kHeads * c.n));
        device().table().head_linear(
            device().exec(),
            {.x = x.view(), .w = w.packed, .y = make_view(codes.data(), DType::bf16, {m, kHeads, c.n})});
        std::vector<std::uint16_t> rounded;
        for (const float value : y.values()) rounded.push_back(quant::float_to_bf16(value));
        EXPECT_EQ(codes, rounded) << "m=" << m << " shared=" << shared;
      }
    }
    if (HasFailure()) return;
  }
}

TEST_P(LinearTest, PerHeadTransposed) {
  Random random(18);
  for (const MatrixCase& c : kMatrixCases) {
    SCOPED_TRACE(case_name(c));
    const PackedGroups w = random_groups(device(), random, c.format, kHeads, c.n, c.k, c.grouping);
    std::vector<std::vector<float>> transposed;
    for (const std::vector<float>& head : w.weights) {
      std::vector<float>& t = transposed.emplace_back();
      for (std::int64_t kk = 0; kk < c.k; ++kk) {
        for (std::int64_t row = 0; row < c.n; ++row)
          t.push_back(head[static_cast<std::size_t>(row * c.k + kk)]);
      }
    }
    for (const std::int64_t m : {0, 1, 2, 5, 33}) {
      if (!is_worth_testing(c, m)) continue;
      const std::vector<float> x_values = activations(random, m * kHeads * c.n);
      const HostTensor x({m, kHeads, c.n}, x_values, 5);
      const HostTensor y({m, kHeads, c.k}, 3);
      device().table().head_linear_transposed(device().exec(), {.x = x.view(), .w = w.packed, .y = y.view()});
      const std::vector<Bounded> xs = exact(x_values);
      std::vector<Bounded> expected;
      for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t h = 0; h < kHeads; ++h) {
          const auto head = product(head_row(xs, i, h, c.n), transposed[static_cast<std::size_t>(h)], 1, c.k,
                                    c.n, bf16_products());
          expected.insert(expected.end(), head.begin(), head.end());
        }
      }
      EXPECT_TRUE(within_bounds(y.values(), expected)) << "m=" << m;
      EXPECT_TRUE(y.guards_intact()) << "m=" << m;
    }
    if (HasFailure()) return;
  }
}

TEST_P(LinearTest, EmbedIsExact) {
  Random random(19);
  for (const MatrixCase& c : kMatrixCases) {
    SCOPED_TRACE(case_name(c));
    const PackedGroups table = random_groups(device(), random, c.format, 1, c.n, c.k, c.grouping);
    std::vector<std::int32_t> ids;
    for (int i = 0; i < 9; ++i) ids.push_back(static_cast<std::int32_t>(random.below(c.n)));
    const HostTensor y({9, c.k}, 4);
    device().table().embed(device().exec(), {.ids = ids.data(), .table = table.packed, .y = y.view()});
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto k = static_cast<std::size_t>(c.k);
      const auto expected = std::span(table.weights[0]).subspan(static_cast<std::size_t>(ids[i]) * k, k);
      EXPECT_TRUE(
          ::nibble::testing::same_floats(std::span(y.row(static_cast<std::int64_t>(i)), k), expected));
    }
    EXPECT_TRUE(y.guards_intact());
  }
}

TEST_P(LinearTest, EmbedRefusesForeignIds) {
  if (gpu()) GTEST_SKIP() << "ids are not read on the host";
  Random random(20);
  const PackedGroups table = random_groups(device(), random, quant::WeightFormat::bf16, 1, 10, 8);
  const HostTensor y({1, 8});
  for (const std::int32_t id : {-1, 10}) {
    EXPECT_THROW(device().table().embed(device().exec(), {.ids = &id, .table = table.packed, .y = y.view()}),
                 InternalError);
  }
}

}  // namespace
}  // namespace nibble::kernels::testing
