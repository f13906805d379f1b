// GPTQ against a naive float64 version of the paper's algorithm, against rounding to nearest, and at the
// edges: dead channels, indefinite Hessians, groups that do not fit batches.
#include "quant/gptq/gptq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "quant/encode/int_scale.h"
#include "quant/float16.h"
#include "quant/gptq/hessian.h"
#include "quant/int_layouts.h"
#include "quant/int_packing.h"
#include "tests/quant/encode_support.h"

namespace nibble::quant {
namespace {

using ::nibble::testing::Random;
using testing::bell;
using ::testing::HasSubstr;

// Weights and inputs of a layer: inputs are mixtures of a few common directions, with channels of unequal
// size, as activations of language models are.
struct Layer {
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t m = 0;
  std::vector<float> w;  // [n, k]
  std::vector<float> x;  // [m, k]

  [[nodiscard]] HessianAccumulator hessian(ThreadPool& threads) const {
    HessianAccumulator h = HessianAccumulator::allocate(k).value();
    h.add(x.data(), m, threads);
    return h;
  }
};

Layer correlated_layer(std::int64_t n, std::int64_t k, std::int64_t m = 512) {
  constexpr std::int64_t kDirections = 24;
  Random random(77);
  Layer layer{.n = n, .k = k, .m = m, .w = {}, .x = {}};
  for (std::int64_t i = 0; i < n * k; ++i) layer.w.push_back(bell(random, 0.05F));
  const std::vector<float> directions = random.floats(kDirections * k);
  std::vector<float> sizes;
  for (std::int64_t i = 0; i < k; ++i) sizes.push_back(std::exp(random.uniform(-1.5F, 1.5F)));
  for (std::int64_t r = 0; r < m; ++r) {
    const std::vector<float> mix = random.floats(kDirections);
    for (std::int64_t i = 0; i < k; ++i) {
      float sum = 0.3F * random.uniform(-1.0F, 1.0F);
      for (std::int64_t d = 0; d < kDirections; ++d) {
        sum += mix[static_cast<std::size_t>(d)] * directions[static_cast<std::size_t>(d * k + i)];
      }
      layer.x.push_back(sum * sizes[static_cast<std::size_t>(i)]);
    }
  }
  return layer;
}

std::vector<float> decode(const MatrixView& m) {
  std::vector<float> weights(static_cast<std::size_t>(m.n * m.k));
  dequantize_rows(m, 0, m.n, weights.data());
  return weights;
}

// The only scale of a row, F16.
std::uint16_t copy_scale(const MatrixView& m, std::int64_t row) {
  std::uint16_t scale;
  std::memcpy(&scale, m.scales + row * 2, sizeof(scale));
  return scale;
}

// ||(W - Q) X^T||^2 in float64.
double output_error(const Layer& layer, const std::vector<float>& q) {
  double sum = 0.0;
  for (std::int64_t row = 0; row < layer.n; ++row) {
    for (std::int64_t r = 0; r < layer.m; ++r) {
      double y = 0.0;
      for (std::int64_t i = 0; i < layer.k; ++i) {
        const auto at = static_cast<std::size_t>(row * layer.k + i);
        y += (static_cast<double>(layer.w[at]) - static_cast<double>(q[at])) *
             static_cast<double>(layer.x[static_cast<std::size_t>(r * layer.k + i)]);
      }
      sum += y * y;
    }
  }
  return sum;
}

GptqMatrix quantize(const Layer& layer, const GptqOptions& options, bool act_order = false,
                    int num_threads = 2) {
  ThreadPool threads(num_threads);
  const HessianAccumulator h = layer.hessian(threads);
  const HessianFactor factor =
      HessianFactor::compute(h.upper(), layer.k, {.act_order = act_order}, threads).value();
  return gptq_quantize(layer.w.data(), layer.n, factor, options, threads).value();
}

EncodedMatrix round_to_nearest(const Layer& layer, const GptqOptions& options) {
  EncodedMatrix rtn = EncodedMatrix::allocate(layer.n, layer.k,
                                              {.format = options.format,
                                               .group_k = options.group_k,
                                               .scale_dtype = DType::f16,
                                               .scales = options.scales,
                                               .zero_points = options.zero_points})
                          .value();
  encode_rows(layer.w.data(), 0, layer.n, rtn);
  return rtn;
}

struct Variant {
  const char* name;
  GptqOptions options;
  bool act_order;
};

std::vector<Variant> variants() {
  using enum WeightFormat;
  return {
      {"symmetric", {.format = int4, .group_k = 64}, false},
      {"zero points", {.format = int4, .group_k = 64, .zero_points = true}, false},
      {"act order", {.format = int4, .group_k = 64}, true},
      {"act order, zero points", {.format = int4, .group_k = 32, .zero_points = true}, true},
      {"act order, static groups", {.format = int4, .group_k = 64, .static_groups = true}, true},
      {"static groups", {.format = int4, .group_k = 128, .static_groups = true}, false},
      {"whole rows", {.format = int4, .group_k = kWholeRow}, false},
      {"searched", {.format = int4, .group_k = 64, .scales = ScaleRule::searched}, false},
      {"groups of 96", {.format = int4, .group_k = 96}, false},
      {"groups of 160", {.format = int4, .group_k = 160}, true},
      {"int8", {.format = int8}, false},
      {"int8, act order, zero points", {.format = int8, .group_k = 64, .zero_points = true}, true},
  };
}

TEST(Gptq, BeatsRoundingToNearestOnCorrelatedInputs) {
  const Layer layer = correlated_layer(40, 352);
  for (const Variant& v : variants()) {
    const GptqMatrix gptq = quantize(layer, v.options, v.act_order);
    const double gptq_error = output_error(layer, decode(gptq.view()));
    const double rtn_error = output_error(layer, decode(round_to_nearest(layer, v.options).view()));
    EXPECT_LT(gptq_error, 0.5 * rtn_error) << v.name;
    EXPECT_TRUE(check_finite(gptq.view(), "w").ok()) << v.name;
    EXPECT_TRUE(check_integer_layout(gptq.view(), "w").ok()) << v.name;
  }
}

// Rounding the strongest channels first pays when channels are of unequal size.
TEST(Gptq, ActOrderHelps) {
  const Layer layer = correlated_layer(40, 352);
  const GptqOptions options{.format = WeightFormat::int4, .group_k = 64, .zero_points = true};
  EXPECT_LT(output_error(layer, decode(quantize(layer, options, true).view())),
            output_error(layer, decode(quantize(layer, options, false).view())));
}

// Sum over rows of (w - q) H (w - q)^T: what the algorithm believes it has lost.
TEST(Gptq, LossIsTheQuadraticForm) {
  const Layer layer = correlated_layer(9, 200);
  for (const Variant& v : variants()) {
    const GptqMatrix gptq = quantize(layer, v.options, v.act_order);
    const std::vector<float> q = decode(gptq.view());
    double damped = output_error(layer, q);
    double mean = 0.0;
    for (const float x : layer.x) mean += static_cast<double>(x) * static_cast<double>(x) / 200.0;
    for (std::size_t i = 0; i < q.size(); ++i) {
      const double error = static_cast<double>(layer.w[i]) - static_cast<double>(q[i]);
      damped += 0.01 * mean * error * error;
    }
    EXPECT_NEAR(gptq.loss, damped, 2e-3 * damped) << v.name;
  }
}

// The paper's algorithm without blocks: invert H, round a channel, compensate, eliminate it from H^-1.
// The scales of a group come from the weights as they are when its first channel is rounded.
std::vector<float> naive_gptq(const Layer& layer, std::int64_t group_k) {
  const std::int64_t k = layer.k;
  std::vector<double> h(static_cast<std::size_t>(k * k));
  double mean = 0.0;
  for (std::int64_t i = 0; i < k; ++i) {
    for (std::int64_t j = 0; j < k; ++j) {
      for (std::int64_t r = 0; r < layer.m; ++r) {
        h[static_cast<std::size_t>(i * k + j)] +=
            static_cast<double>(layer.x[static_cast<std::size_t>(r * k + i)]) *
            static_cast<double>(layer.x[static_cast<std::size_t>(r * k + j)]);
      }
    }
    mean += h[static_cast<std::size_t>(i * k + i)] / static_cast<double>(k);
  }
  std::vector<double> inverse(h.size());
  for (std::int64_t i = 0; i < k; ++i) {
    h[static_cast<std::size_t>(i * k + i)] += 0.01 * mean;
    inverse[static_cast<std::size_t>(i * k + i)] = 1.0;
  }
  for (std::int64_t p = 0; p < k; ++p) {  // Gauss and Jordan; no pivoting, H is positive definite
    const double pivot = h[static_cast<std::size_t>(p * k + p)];
    for (std::int64_t j = 0; j < k; ++j) {
      h[static_cast<std::size_t>(p * k + j)] /= pivot;
      inverse[static_cast<std::size_t>(p * k + j)] /= pivot;
    }
    for (std::int64_t i = 0; i < k; ++i) {
      const double factor = h[static_cast<std::size_t>(i * k + p)];
      if (i == p || factor == 0.0) continue;
      for (std::int64_t j = 0; j < k; ++j) {
        h[static_cast<std::size_t>(i * k + j)] -= factor * h[static_cast<std::size_t>(p * k + j)];
        inverse[static_cast<std::size_t>(i * k + j)] -= factor * inverse[static_cast<std::size_t>(p * k + j)];
      }
    }
  }
  std::vector<double> w(layer.w.begin(), layer.w.end());
  std::vector<float> q(layer.w.size());
  std::vector<double> scales(static_cast<std::size_t>(layer.n));
  for (std::int64_t i = 0; i < k; ++i) {
    for (std::int64_t row = 0; i % group_k == 0 && row < layer.n; ++row) {
      const auto first = w.begin() + row * k + i;
      const std::vector<float> group(first, first + std::min(group_k, k - i));
      const IntScaleRule rule{.scale_dtype = DType::f16};
      scales[static_cast<std::size_t>(row)] = static_cast<double>(
          choose_int_scale(group.data(), static_cast<std::int64_t>(group.size()), rule).scale);
    }
    const double diagonal = inverse[static_cast<std::size_t>(i * k + i)];
    for (std::int64_t row = 0; row < layer.n; ++row) {
      const double scale = scales[static_cast<std::size_t>(row)];
      const double code =
          std::clamp(std::nearbyint(w[static_cast<std::size_t>(row * k + i)] / scale), -8.0, 7.0);
      q[static_cast<std::size_t>(row * k + i)] = static_cast<float>(code * scale);
      const double error = (w[static_cast<std::size_t>(row * k + i)] - code * scale) / diagonal;
      for (std::int64_t j = i; j < k; ++j) {
        w[static_cast<std::size_t>(row * k + j)] -= error * inverse[static_cast<std::size_t>(i * k + j)];
      }
    }
    for (std::int64_t a = i + 1; a < k; ++a) {
      const double factor = inverse[static_cast<std::size_t>(a * k + i)] / diagonal;
      for (std::int64_t b = i + 1; b < k; ++b) {
        inverse[static_cast<std::size_t>(a * k + b)] -= factor * inverse[static_cast<std::size_t>(i * k + b)];
      }
    }
  }
  return q;
}

// Groups of 160 and 96 fit no batch of 128; their scales must not miss compensations that are under way.
TEST(Gptq, EqualsTheNaiveAlgorithm) {
  const Layer layer = correlated_layer(12, 320);
  for (const std::int64_t group_k : {320, 160, 96, 64}) {
    const std::vector<float> actual =
        decode(quantize(layer, {.format = WeightFormat::int4, .group_k = group_k}).view());
    const std::vector<float> expected = naive_gptq(layer, group_k);
    // A tie that float32 breaks otherwise moves all later weights of its row a little; few may differ.
    std::int64_t num_different = 0;
    for (std::size_t i = 0; i < actual.size(); ++i) num_different += actual[i] != expected[i] ? 1 : 0;
    EXPECT_LE(num_different, 40) << "of " << actual.size() << ", groups of " << group_k;
    EXPECT_NEAR(output_error(layer, actual), output_error(layer, expected),
                0.02 * output_error(layer, expected));
  }
}

// Without correlation there is nothing to compensate.
TEST(Gptq, IdentityHessianRoundsToNearest) {
  const Layer layer = correlated_layer(33, 160, 1);
  std::vector<float> identity(160 * 160, 0.0F);
  for (std::size_t i = 0; i < 160; ++i) identity[i * 161] = 2.0F;
  ThreadPool threads(2);
  for (const bool zero_points : {false, true}) {
    const GptqOptions options{.format = WeightFormat::int4, .group_k = 32, .zero_points = zero_points};
    const HessianFactor factor = HessianFactor::compute(identity, 160, {}, threads).value();
    const GptqMatrix gptq = gptq_quantize(layer.w.data(), layer.n, factor, options, threads).value();
    const EncodedMatrix rtn = round_to_nearest(layer, options);
    EXPECT_TRUE(std::ranges::equal(gptq.matrix.codes(), rtn.codes()));
    EXPECT_TRUE(std::ranges::equal(gptq.matrix.scales(), rtn.scales()));
    EXPECT_TRUE(std::ranges::equal(gptq.matrix.zeros(), rtn.zeros()));
  }
}

TEST(Gptq, SameOnAnyNumberOfThreads) {
  const Layer layer = correlated_layer(70, 192);
  const GptqOptions options{.format = WeightFormat::int4, .group_k = 64, .zero_points = true};
  const GptqMatrix one = quantize(layer, options, true, 1);
  const GptqMatrix three = quantize(layer, options, true, 3);
  EXPECT_TRUE(std::ranges::equal(one.matrix.codes(), three.matrix.codes()));
  EXPECT_TRUE(std::ranges::equal(one.matrix.scales(), three.matrix.scales()));
  EXPECT_EQ(one.g_idx, three.g_idx);
  EXPECT_EQ(one.loss, three.loss);
}

TEST(Gptq, GroupsOfActOrder) {
  const Layer layer = correlated_layer(8, 176);
  const GptqOptions options{.format = WeightFormat::int4, .group_k = 64};
  const GptqMatrix reordered = quantize(layer, options, true);
  ASSERT_EQ(reordered.g_idx.size(), 176U);
  std::map<std::int32_t, int> sizes;
  for (const std::int32_t group : reordered.g_idx) ++sizes[group];
  EXPECT_EQ(sizes, (std::map<std::int32_t, int>{{0, 64}, {1, 64}, {2, 48}}));
  EXPECT_FALSE(std::ranges::is_sorted(reordered.g_idx));
  // The channel with the largest inputs is rounded first, so it is in group 0.
  std::vector<double> power(176);
  for (std::size_t i = 0; i < layer.x.size(); ++i)
    power[i % 176] += static_cast<double>(layer.x[i]) * static_cast<double>(layer.x[i]);
  EXPECT_EQ(reordered.g_idx[static_cast<std::size_t>(std::ranges::max_element(power) - power.begin())], 0);
  EXPECT_TRUE(reordered.view().grouping.act_order);
  EXPECT_TRUE(packed_bytes(reordered.view(), MatrixLayout::gptq).ok());
  GptqOptions fixed = options;
  fixed.static_groups = true;
  EXPECT_TRUE(quantize(layer, fixed, true).g_idx.empty());
  EXPECT_FALSE(quantize(layer, fixed, true).view().grouping.act_order);
}

// Channels that no input ever reached keep their weights, rounded to nearest, and disturb nobody.
TEST(Gptq, DeadChannels) {
  Layer layer = correlated_layer(8, 96);
  for (std::int64_t r = 0; r < layer.m; ++r) {
    for (const std::int64_t i : {0, 50, 95}) layer.x[static_cast<std::size_t>(r * 96 + i)] = 0.0F;
  }
  const GptqMatrix gptq = quantize(layer, {.format = WeightFormat::int4, .group_k = kWholeRow});
  const std::vector<float> q = decode(gptq.view());
  for (std::int64_t row = 0; row < 8; ++row) {
    const float scale = f16_to_float(copy_scale(gptq.view(), row));
    for (const std::int64_t i : {0, 50, 95}) {
      const auto at = static_cast<std::size_t>(row * 96 + i);
      EXPECT_LE(std::abs(q[at] - layer.w[at]), 0.5001F * scale);
    }
  }
  Layer silent = layer;
  std::ranges::fill(silent.x, 0.0F);
  EXPECT_TRUE(check_finite(quantize(silent, {.format = WeightFormat::int4}).view(), "w").ok());
}

TEST(HessianFactor, FewerInputsThanChannelsNeedDamping) {
  const Layer layer = correlated_layer(1, 96, 10);
  ThreadPool threads(2);
  const HessianAccumulator h = layer.hessian(threads);
  const auto undamped = HessianFactor::compute(h.upper(), 96, {.damp_percent = 0.0}, threads);
  ASSERT_FALSE(undamped.ok());
  EXPECT_EQ(undamped.error().code, ErrorCode::bad_input);
  EXPECT_THAT(undamped.error().message, HasSubstr("not positive definite"));
  EXPECT_EQ(HessianFactor::compute(h.upper(), 96, {}, threads).value().damp_percent(), 0.01);
}

TEST(HessianFactor, DampingRisesUntilItSuffices) {
  ThreadPool threads(1);
  // Eigenvalues 1 + b and 1 - b.
  const auto with_off_diagonal = [&](float b) {
    const std::vector<float> h{1.0F, b, b, 1.0F};
    return HessianFactor::compute(h, 2, {}, threads);
  };
  EXPECT_EQ(with_off_diagonal(0.9F).value().damp_percent(), 0.01);
  EXPECT_NEAR(with_off_diagonal(1.05F).value().damp_percent(), 0.1, 1e-12);
  EXPECT_NEAR(with_off_diagonal(1.5F).value().damp_percent(), 1.0, 1e-12);
  ASSERT_FALSE(with_off_diagonal(2.5F).ok());
  EXPECT_THAT(with_off_diagonal(2.5F).error().message, HasSubstr("not positive definite"));
}

TEST(HessianFactor, NumbersMustBeFinite) {
  ThreadPool threads(1);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const std::vector<float> h{1.0F, bad, 0.0F, 1.0F};
    const auto factor = HessianFactor::compute(h, 2, {}, threads);
    ASSERT_FALSE(factor.ok());
    EXPECT_THAT(factor.error().message, HasSubstr("[0, 1]"));
  }
  EXPECT_FALSE(HessianFactor::compute(std::vector<float>{-1.0F}, 1, {}, threads).ok());
}

TEST(Gptq, OtherFormatsAreRefused) {
  ThreadPool threads(1);
  const HessianFactor factor = HessianFactor::compute(std::vector<float>{1.0F}, 1, {}, threads).value();
  const float w = 1.0F;
  EXPECT_FALSE(gptq_quantize(&w, 1, factor, {.format = WeightFormat::mxfp4}, threads).ok());
  EXPECT_FALSE(gptq_quantize(&w, 1, factor, {.format = WeightFormat::int4}, threads).ok());  // odd k
  EXPECT_TRUE(gptq_quantize(&w, 1, factor, {.format = WeightFormat::int8}, threads).ok());
}

}  // namespace
}  // namespace nibble::quant
