// topk_gate against an oracle that sorts in double precision, and on ties.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "tests/kernels/expect.h"
#include "tests/kernels/host_tensor.h"
#include "tests/kernels/matrices.h"

namespace nibble::kernels::testing {
namespace {

using ::nibble::testing::Random;

struct GateCase {
  const char* name;
  std::int64_t num_experts;
  bool has_bias;
  ScoringFunc scoring;
  GroupScore group_score;
  std::int32_t n_group;
  std::int32_t topk_group;
  std::int32_t topk;
  bool norm_topk_prob;
  float scaling;
};

const GateCase kGateCases[] = {
    {"V2-Lite", 64, false, ScoringFunc::softmax, GroupScore::max, 1, 1, 6, false, 1.0F},
    {"V2", 160, false, ScoringFunc::softmax, GroupScore::max, 8, 3, 6, false, 16.0F},
    {"V2 normalised", 20, false, ScoringFunc::softmax, GroupScore::max, 4, 2, 3, true, 1.0F},
    {"V3", 256, true, ScoringFunc::sigmoid, GroupScore::top2_sum, 8, 4, 8, true, 2.5F},
    {"V3 without groups", 33, true, ScoringFunc::sigmoid, GroupScore::top2_sum, 1, 1, 5, true, 2.5F},
    {"384 experts", 384, true, ScoringFunc::sigmoid, GroupScore::top2_sum, 1, 1, 6, true, 2.5F},
    {"128 experts", 128, false, ScoringFunc::softmax, GroupScore::top2_sum, 16, 5, 7, true, 1.0F},
    {"groups of one", 4, true, ScoringFunc::sigmoid, GroupScore::top2_sum, 4, 2, 2, false, 1.0F},
    {"one expert", 1, true, ScoringFunc::sigmoid, GroupScore::top2_sum, 1, 1, 1, true, 1.0F},
    {"all experts", 8, false, ScoringFunc::softmax, GroupScore::max, 2, 2, 8, false, 1.0F},
};

struct Route {
  std::vector<std::int32_t> ids;
  std::vector<double> weights;
};

// Indices of the `count` largest values, ties to the lower index.
std::vector<std::size_t> largest(const std::vector<double>& values, std::size_t count) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });
  order.resize(count);
  return order;
}

std::vector<double> scores_of(const GateCase& c, std::span<const float> logits) {
  std::vector<double> scores;
  double sum = 0.0;
  for (const float logit : logits) {
    const auto z = static_cast<double>(logit);
    scores.push_back(c.scoring == ScoringFunc::softmax ? std::exp(z) : 1.0 / (1.0 + std::exp(-z)));
    sum += scores.back();
  }
  if (c.scoring == ScoringFunc::softmax) {
    for (double& s : scores) s /= sum;
  }
  return scores;
}

Route route(const GateCase& c, std::span<const float> logits, std::span<const float> bias) {
  const std::vector<double> scores = scores_of(c, logits);
  std::vector<double> choice = scores;
  for (std::size_t e = 0; e < bias.size(); ++e) choice[e] += static_cast<double>(bias[e]);
  if (c.n_group > 1) {
    const auto size = static_cast<std::ptrdiff_t>(c.num_experts / c.n_group);
    std::vector<double> group_scores;
    for (std::ptrdiff_t g = 0; g < c.n_group; ++g) {
      std::vector<double> members(choice.begin() + g * size, choice.begin() + (g + 1) * size);
      std::sort(members.rbegin(), members.rend());
      const bool pair = c.group_score == GroupScore::top2_sum && size > 1;
      group_scores.push_back(pair ? members[0] + members[1] : members[0]);
    }
    const auto kept = largest(group_scores, static_cast<std::size_t>(c.topk_group));
    for (std::size_t e = 0; e < choice.size(); ++e) {
      const std::size_t group = e / static_cast<std::size_t>(size);
      if (std::find(kept.begin(), kept.end(), group) == kept.end()) {
        choice[e] = -std::numeric_limits<double>::infinity();
      }
    }
  }
  std::vector<std::size_t> chosen = largest(choice, static_cast<std::size_t>(c.topk));
  std::sort(chosen.begin(), chosen.end());
  Route result;
  double sum = 0.0;
  for (const std::size_t e : chosen) sum += scores[e];
  for (const std::size_t e : chosen) {
    result.ids.push_back(static_cast<std::int32_t>(e));
    const double normed = c.norm_topk_prob ? scores[e] / (sum + 1e-20) : scores[e];
    result.weights.push_back(normed * static_cast<double>(c.scaling));
  }
  return result;
}

class TopkGateTest : public KernelTest {
 protected:
  // Runs the kernel on m rows of logits.
  static std::pair<std::vector<std::int32_t>, std::vector<float>> gate(const GateCase& c, std::int64_t m,
                                                                       std::span<const float> logits,
                                                                       std::span<const float> bias) {
    const HostTensor view({m, c.num_experts}, logits, 3);
    TopkGateArgs inputs{};
    inputs.logits = view.view();
    return run(c, inputs, bias);
  }

  // Of `inputs` only what the logits come from is looked at.
  static std::pair<std::vector<std::int32_t>, std::vector<float>> run(const GateCase& c,
                                                                      const TopkGateArgs& inputs,
                                                                      std::span<const float> bias) {
    const std::int64_t m = inputs.logits.dim(0);
    const auto slots = static_cast<std::size_t>(m * c.topk);
    std::vector<std::int32_t> ids(slots, -7);
    std::vector<float> weights(slots, NAN);
    device().table().topk_gate(device().exec(), {.logits = inputs.logits,
                                                 .gate = inputs.gate,
                                                 .x = inputs.x,
                                                 .correction_bias = bias.empty() ? nullptr : bias.data(),
                                                 .scoring = c.scoring,
                                                 .group_score = c.group_score,
                                                 .n_group = c.n_group,
                                                 .topk_group = c.topk_group,
                                                 .topk = c.topk,
                                                 .norm_topk_prob = c.norm_topk_prob,
                                                 .routed_scaling_factor = c.scaling,
                                                 .topk_ids = ids.data(),
                                                 .topk_weights = weights.data()});
    return {ids, weights};
  }
};
NIB_KERNEL_TESTS(TopkGateTest);

TEST_P(TopkGateTest, AgreesWithSorting) {
  Random random(70);
  for (const GateCase& c : kGateCases) {
    SCOPED_TRACE(c.name);
    for (const std::int64_t m : {0, 1, 50}) {
      const std::vector<float> logits = random.floats(m * c.num_experts, -4.0F, 4.0F);
      // Biases on both sides of zero, large enough to matter and to make choices negative.
      const std::vector<float> bias =
          c.has_bias ? random.floats(c.num_experts, -1.5F, 0.8F) : std::vector<float>();
      const auto [ids, weights] = gate(c, m, logits, bias);
      for (std::int64_t i = 0; i < m; ++i) {
        const auto experts = static_cast<std::size_t>(c.num_experts);
        const Route expected =
            route(c, std::span(logits).subspan(static_cast<std::size_t>(i) * experts, experts), bias);
        for (std::size_t j = 0; j < expected.ids.size(); ++j) {
          const std::size_t at = static_cast<std::size_t>(i * c.topk) + j;
          ASSERT_EQ(ids[at], expected.ids[j]) << "token " << i;
          ASSERT_NEAR(static_cast<double>(weights[at]), expected.weights[j],
                      1e-5 * expected.weights[j] + 1e-12)
              << "token " << i;
        }
      }
    }
  }
}

// Logits made by the op itself equal those of an exact product before it.
TEST_P(TopkGateTest, MakesItsLogits) {
  Random random(71);
  for (const GateCase& c : kGateCases) {
    for (const quant::WeightFormat format : {quant::WeightFormat::bf16, quant::WeightFormat::f32}) {
      for (const std::int64_t k : {1, 130, 1088}) {
        for (const std::int64_t m : {1, 3, 40, 70}) {
          SCOPED_TRACE(fmt::format("{}: {} experts, k={} m={}", c.name, c.num_experts, k, m));
          const PackedGroups gate = random_groups(device(), random, format, 1, c.num_experts, k);
          const HostTensor x({m, k}, activations(random, m * k), 2, HostTensor::kAligned);
          const HostTensor room({m, c.num_experts});
          const HostTensor logits({m, c.num_experts});
          device().table().linear(
              device().exec(),
              {.x = x.view(), .w = gate.packed, .y = logits.view(), .precision = Precision::exact});
          const auto [ids, weights] = this->gate(c, m, logits.values(), {});
          TopkGateArgs inputs{};
          inputs.logits = room.view();
          inputs.gate = &gate.packed;
          inputs.x = x.view();
          const auto [own_ids, own_weights] = run(c, inputs, {});
          EXPECT_EQ(own_ids, ids);
          for (std::size_t i = 0; i < weights.size(); ++i) {
            ASSERT_NEAR(own_weights[i], weights[i], 1e-4 * std::abs(weights[i]) + 1e-12);
          }
          EXPECT_TRUE(x.guards_intact() && room.guards_intact());
        }
      }
    }
  }
}

TEST_P(TopkGateTest, TiesGoToTheLowerIndex) {
  for (const GateCase& c : kGateCases) {
    SCOPED_TRACE(c.name);
    const std::vector<float> logits(static_cast<std::size_t>(c.num_experts), 0.5F);
    const std::vector<float> bias(c.has_bias ? static_cast<std::size_t>(c.num_experts) : 0U, 0.25F);
    const auto [ids, weights] = gate(c, 1, logits, bias);
    for (std::int32_t j = 0; j < c.topk; ++j) EXPECT_EQ(ids[static_cast<std::size_t>(j)], j);
  }
}

// The last of several equal experts is left out, wherever they stand.
TEST_P(TopkGateTest, TieAtTheBorder) {
  const GateCase c{"", 8, false, ScoringFunc::sigmoid, GroupScore::max, 1, 1, 3, false, 1.0F};
  const std::vector<float> logits{0.0F, 2.0F, 1.0F, -1.0F, 1.0F, 1.0F, 0.0F, 1.0F};
  const auto [ids, weights] = gate(c, 1, logits, {});
  EXPECT_EQ(ids, (std::vector<std::int32_t>{1, 2, 4}));
}

// The bias takes part in choosing, never in the weight; a masked group stays out even if all that is
// kept has a negative choice score.
TEST_P(TopkGateTest, BiasOnlyChooses) {
  const GateCase c{"", 4, true, ScoringFunc::sigmoid, GroupScore::top2_sum, 2, 1, 2, false, 1.0F};
  const std::vector<float> logits{3.0F, 3.0F, -3.0F, -3.0F};
  const std::vector<float> bias{-5.0F, -5.0F, -1.0F, -1.0F};
  const auto [ids, weights] = gate(c, 1, logits, bias);
  EXPECT_EQ(ids, (std::vector<std::int32_t>{2, 3}));
  const double sigmoid = 1.0 / (1.0 + std::exp(3.0));
  EXPECT_NEAR(weights[0], sigmoid, 1e-6);
  EXPECT_NEAR(weights[1], sigmoid, 1e-6);
}

TEST_P(TopkGateTest, LargeLogits) {
  const std::vector<float> logits{500.0F, 499.0F, -500.0F, 0.0F, 498.5F, -1.0F, 2.0F, 300.0F};
  for (const ScoringFunc scoring : {ScoringFunc::softmax, ScoringFunc::sigmoid}) {
    const GateCase c{"", 8, false, scoring, GroupScore::max, 1, 1, 2, true, 1.0F};
    const auto [ids, weights] = gate(c, 1, logits, {});
    EXPECT_EQ(ids, (std::vector<std::int32_t>{0, 1}));
    EXPECT_NEAR(weights[0] + weights[1], 1.0, 1e-6);
  }
}

// Scores that all underflow to zero are still normalised to a number.
TEST_P(TopkGateTest, VanishingScores) {
  const GateCase c{"", 4, false, ScoringFunc::sigmoid, GroupScore::max, 1, 1, 2, true, 1.0F};
  const std::vector<float> logits(4, -200.0F);
  const auto [ids, weights] = gate(c, 1, logits, {});
  EXPECT_EQ(weights[0], 0.0F);
  EXPECT_EQ(weights[1], 0.0F);
}

// Broken logits give some route in range rather than a crash; they are reported where logits are read.
TEST_P(TopkGateTest, NanLogits) {
  for (const GateCase& c : kGateCases) {
    std::vector<float> logits(static_cast<std::size_t>(c.num_experts), NAN);
    const std::vector<float> bias(c.has_bias ? static_cast<std::size_t>(c.num_experts) : 0U, 0.25F);
    const auto [ids, weights] = gate(c, 1, logits, bias);
    for (const std::int32_t id : ids) {
      EXPECT_GE(id, 0);
      EXPECT_LT(id, c.num_experts);
    }
  }
}

}  // namespace
}  // namespace nibble::kernels::testing
