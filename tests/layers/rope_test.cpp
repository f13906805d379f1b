#include "layers/rope.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/layers/fixture.h"

namespace nibble::layers {
namespace {

RopeConfig v3_rope() {
  return {
      .dim = 64,
      .theta = 10000.0,
      .yarn = YarnConfig{
          .factor = 40.0, .mscale = 1.0, .mscale_all_dim = 1.0, .original_max_position_embeddings = 4096}};
}

void expect_relative(double actual, double expected) {
  EXPECT_NEAR(actual, expected, 1e-6 * std::abs(expected));
}

// DeepSeek-V3's frequencies to nine digits: pairs up to 10 are kept, from 23 on divided by 40.
TEST(Rope, YarnFrequenciesOfV3) {
  const std::vector<float> f = rope_frequencies(v3_rope());
  ASSERT_EQ(f.size(), 32U);
  expect_relative(f[0], 1.0);
  expect_relative(f[10], 0.0562341325);
  expect_relative(f[11], 0.0390069266);
  expect_relative(f[16], 0.0055);
  expect_relative(f[23], 3.3338036e-5);
  expect_relative(f[31], 3.3338036e-6);
}

// A longer original context and base: the blend runs from pair 15 to 25.
TEST(Rope, YarnFrequenciesOfALongerContext) {
  const std::vector<float> f =
      rope_frequencies({.dim = 64,
                        .theta = 160000.0,
                        .yarn = YarnConfig{.factor = 16.0, .original_max_position_embeddings = 65536}});
  expect_relative(f[15], 3.6355386e-3);
  expect_relative(f[16], 2.265625e-3);
  expect_relative(f[20], 2.96977778e-4);
  expect_relative(f[25], 5.3723127e-6);
  expect_relative(f[31], 5.6805290e-7);
}

TEST(Rope, WithoutYarnFrequenciesArePowers) {
  const std::vector<float> f = rope_frequencies({.dim = 8, .theta = 100.0});
  for (std::size_t i = 0; i < 4; ++i)
    expect_relative(f[i], std::pow(100.0, -2.0 * static_cast<double>(i) / 8.0));
}

// An original context so short that the blend has no width.
TEST(Rope, DegenerateRampIsFinite) {
  const std::vector<float> f = rope_frequencies(
      {.dim = 8, .theta = 10000.0, .yarn = YarnConfig{.factor = 4.0, .original_max_position_embeddings = 1}});
  for (const float value : f) EXPECT_TRUE(std::isfinite(value) && value > 0.0F);
  expect_relative(f[0], 1.0);
  expect_relative(f[3], 0.001 / 4.0);
}

TEST(Rope, MagnitudeCorrections) {
  RopeConfig config = v3_rope();
  expect_relative(yarn_softmax_factor(config), 1.8738542071);
  EXPECT_EQ(rope_attention_factor(config), 1.0);
  config.yarn->mscale = config.yarn->mscale_all_dim = 0.707;
  expect_relative(yarn_softmax_factor(config), 1.5896261651);
  expect_relative(yarn_softmax_factor(config) / std::sqrt(192.0), 0.1147213868);
  EXPECT_EQ(rope_attention_factor(config), 1.0);
  config.yarn->mscale = 1.0;
  expect_relative(rope_attention_factor(config), 1.3688879454 / 1.2608037774);
  config.yarn->mscale_all_dim = 0.0;  // no softmax factor; cos and sin take it all
  EXPECT_EQ(yarn_softmax_factor(config), 1.0);
  expect_relative(rope_attention_factor(config), 1.3688879454);
  config.yarn.reset();
  EXPECT_EQ(yarn_softmax_factor(config), 1.0);
  EXPECT_EQ(rope_attention_factor(config), 1.0);
}

TEST(Rope, RotatesNeighbouringPairs) {
  testing::LayerFixture fixture(1);
  Rope rope({.dim = 4, .theta = 100.0});
  rope.build_tables(3000, fixture.device->exec());
  EXPECT_EQ(rope.max_positions(), 3000);
  const std::vector<std::int32_t> positions{0, 1, 2999};
  std::vector<float> x = fixture.random.floats(3 * 2 * 4);
  std::vector<double> expected;
  for (std::size_t i = 0; i < x.size(); i += 2) {
    const double frequency = i % 4 == 0 ? 1.0 : 0.1;
    const double angle = static_cast<double>(positions[i / 8]) * frequency;
    const double a = static_cast<double>(x[i]);
    const double b = static_cast<double>(x[i + 1]);
    expected.push_back(a * std::cos(angle) - b * std::sin(angle));
    expected.push_back(a * std::sin(angle) + b * std::cos(angle));
  }
  Arena arena(64);
  Context ctx{.table = fixture.device->table(),
              .exec = fixture.device->exec(),
              .arena = arena,
              .comm = comm::single()};
  rope.forward(ctx, make_view(x.data(), DType::f32, {3, 2, 4}), positions.data());
  testing::expect_close(x, expected, 1e-4);  // angles near 3000 are rounded to float32
}

}  // namespace
}  // namespace nibble::layers
