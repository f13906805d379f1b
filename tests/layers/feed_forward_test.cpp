// Linear, norms, embedding, head, gated MLP, router and experts, used on their own against plain loops.
#include <gtest/gtest.h>

#include <cmath>

#include "layers/embedding.h"
#include "layers/fused_moe.h"
#include "layers/gated_mlp.h"
#include "layers/linear.h"
#include "layers/lm_head.h"
#include "layers/rms_norm.h"
#include "layers/router.h"
#include "tests/layers/fixture.h"

namespace nibble::layers {
namespace {

using testing::expect_close;
using testing::LayerFixture;
using testing::Matrix;
using testing::product;
using testing::view;

constexpr double kTolerance = 2e-5;  // sums of some hundred products of magnitude below 1 in float32

double silu(double x) { return x / (1.0 + std::exp(-x)); }

std::vector<double> gated_mlp(const std::vector<float>& x, const Matrix& gate, const Matrix& up,
                              const Matrix& down) {
  const std::vector<double> g = product(x, gate);
  const std::vector<double> u = product(x, up);
  std::vector<float> inner;
  for (std::size_t i = 0; i < g.size(); ++i) inner.push_back(static_cast<float>(silu(g[i]) * u[i]));
  return product(inner, down);
}

TEST(Linear, ForwardAndForwardAdd) {
  LayerFixture f(1);
  Linear linear(37, 65);
  const Matrix w = f.matrix(37, 65);
  f.fill(linear.weight(), {w});
  std::vector<float> x = f.random.floats(3 * 65);
  std::vector<float> y(3 * 37, NAN);
  std::vector<double> expected = product(x, w);
  f.run([&](Context& ctx) { linear.forward(ctx, view(x, 3, 65), view(y, 3, 37)); });
  expect_close(y, expected, kTolerance);

  Arena arena(64);
  Context ctx{.table = f.device->table(), .exec = f.device->exec(), .arena = arena, .comm = comm::single()};
  linear.forward_add(ctx, view(x, 3, 65), view(y, 3, 37));
  for (double& v : expected) v *= 2.0;
  expect_close(y, expected, 2 * kTolerance);
}

TEST(Linear, WrongShapeIsOurBug) {
  LayerFixture f(2);
  const Linear linear(4, 8);
  std::vector<float> x(16);
  std::vector<float> y(16);
  EXPECT_THROW(f.run([&](Context& ctx) { linear.forward(ctx, view(x, 1, 9), view(y, 1, 4)); }),
               InternalError);
  EXPECT_THROW(f.run([&](Context& ctx) { linear.forward(ctx, view(x, 2, 8), view(y, 1, 4)); }),
               InternalError);
}

TEST(RmsNorm, MatchesItsFormula) {
  LayerFixture f(3);
  RmsNorm norm(50, 0.5F);
  const std::vector<float> weight = f.random.floats(50);
  f.fill(norm.weight(), weight);
  std::vector<float> x = f.random.floats(2 * 50);
  std::vector<double> expected;
  for (std::size_t row = 0; row < 2; ++row) {
    double squares = 0;
    for (std::size_t i = 0; i < 50; ++i) squares += std::pow(static_cast<double>(x[row * 50 + i]), 2);
    for (std::size_t i = 0; i < 50; ++i) {
      expected.push_back(static_cast<double>(x[row * 50 + i]) / std::sqrt(squares / 50 + 0.5) *
                         static_cast<double>(weight[i]));
    }
  }
  Arena arena(64);
  Context ctx{.table = f.device->table(), .exec = f.device->exec(), .arena = arena, .comm = comm::single()};
  norm.forward(ctx, view(x, 2, 50), view(x, 2, 50));  // in place
  expect_close(x, expected, kTolerance);
}

TEST(LmHead, TiedUsesTheEmbeddingTable) {
  LayerFixture f(4);
  Embedding embedding(20, 24);
  const Matrix table = f.matrix(20, 24);
  f.fill(embedding.table(), {table});
  const LmHead head(embedding);
  EXPECT_TRUE(head.is_tied());
  const std::vector<std::int32_t> ids{19, 0};
  std::vector<float> rows(2 * 24, NAN);
  std::vector<float> logits(2 * 20, NAN);
  f.run([&](Context& ctx) {
    embedding.forward(ctx, ids.data(), view(rows, 2, 24));
    head.forward(ctx, view(rows, 2, 24), view(logits, 2, 20));
  });
  for (std::int64_t i = 0; i < 24; ++i) {
    EXPECT_EQ(static_cast<double>(rows[static_cast<std::size_t>(i)]), table.at(19, i));
    EXPECT_EQ(static_cast<double>(rows[static_cast<std::size_t>(24 + i)]), table.at(0, i));
  }
  expect_close(logits, product(rows, table), kTolerance);
}

TEST(GatedMlp, MatchesItsFormula) {
  LayerFixture f(5);
  GatedMlp mlp(40, 72);
  const Matrix gate = f.matrix(72, 40);
  const Matrix up = f.matrix(72, 40);
  const Matrix down = f.matrix(40, 72);
  f.fill(mlp.gate_proj(), {gate});
  f.fill(mlp.up_proj(), {up});
  f.fill(mlp.down_proj(), {down});
  std::vector<float> x = f.random.floats(5 * 40, -3.0F, 3.0F);
  std::vector<float> y(5 * 40, NAN);
  f.run([&](Context& ctx) { mlp.forward(ctx, view(x, 5, 40), view(y, 5, 40)); });
  expect_close(y, gated_mlp(x, gate, up, down), kTolerance);
  EXPECT_GT(f.scratch_bytes, 0U);
}

TEST(Experts, RoutedSumOfGatedMlps) {
  LayerFixture f(6);
  constexpr std::int64_t kExperts = 6;
  constexpr std::int64_t kHidden = 32;
  constexpr std::int64_t kInner = 20;
  Router router({.hidden_size = kHidden,
                 .n_routed_experts = kExperts,
                 .num_experts_per_tok = 2,
                 .scoring_func = kernels::ScoringFunc::sigmoid,
                 .group_score = kernels::GroupScore::top2_sum,
                 .n_group = 2,
                 .topk_group = 1,
                 .norm_topk_prob = true,
                 .routed_scaling_factor = 2.5F,
                 .has_correction_bias = true});
  FusedMoe moe(kExperts, kHidden, kInner);
  std::vector<Matrix> gate;
  std::vector<Matrix> up;
  std::vector<Matrix> down;
  for (std::int64_t e = 0; e < kExperts; ++e) {
    gate.push_back(f.matrix(kInner, kHidden));
    up.push_back(f.matrix(kInner, kHidden));
    down.push_back(f.matrix(kHidden, kInner));
  }
  f.fill(moe.gate_proj(), gate);
  f.fill(moe.up_proj(), up);
  f.fill(moe.down_proj(), down);
  f.fill(router.weight(), {f.matrix(kExperts, kHidden)});
  // The bias alone decides: group 1 (experts 3 to 5) wins, and of it experts 3 and 5.
  f.fill(router.correction_bias(), {0, 0, 0, 10, 0, 10});

  constexpr std::int64_t kTokens = 7;
  std::vector<float> x = f.random.floats(kTokens * kHidden);
  std::vector<float> y(kTokens * kHidden, 1.0F);
  std::vector<std::int32_t> ids(kTokens * 2);
  std::vector<float> weights(kTokens * 2);
  f.run([&](Context& ctx) {
    const bool counting = ctx.arena.counting();
    const TensorView id_view = make_view(ids.data(), DType::i32, {kTokens, 2});
    router.forward(ctx, view(x, kTokens, kHidden), id_view, view(weights, kTokens, 2));
    if (!counting)
      moe.forward_add(ctx, QuantizedInput(ctx, view(x, kTokens, kHidden), {}), id_view,
                      view(weights, kTokens, 2), view(y, kTokens, kHidden));
  });
  std::vector<double> expected(y.size(), 1.0);
  for (std::size_t t = 0; t < kTokens; ++t) {
    EXPECT_EQ(ids[2 * t], 3);
    EXPECT_EQ(ids[2 * t + 1], 5);
    EXPECT_NEAR(weights[2 * t] + weights[2 * t + 1], 2.5, 1e-5);
    const auto token = x.begin() + static_cast<std::ptrdiff_t>(t) * kHidden;
    for (std::size_t j = 0; j < 2; ++j) {
      const auto e = static_cast<std::size_t>(ids[2 * t + j]);
      const std::vector<double> out = gated_mlp({token, token + kHidden}, gate[e], up[e], down[e]);
      for (std::size_t i = 0; i < out.size(); ++i) {
        expected[t * kHidden + i] += static_cast<double>(weights[2 * t + j]) * out[i];
      }
    }
  }
  expect_close(y, expected, kTolerance);
}

}  // namespace
}  // namespace nibble::layers
