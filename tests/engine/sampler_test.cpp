#include "engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/device.h"
#include "tests/support/random.h"

namespace nibble::engine {
namespace {

using ::testing::HasSubstr;

const std::vector<TokenId> kNoTokens;

Backend cpu() {
  static const std::unique_ptr<kernels::Device> device =
      std::move(kernels::make_device({.kind = DeviceKind::cpu, .num_threads = 2})).value();
  return {.table = device->table(), .exec = device->exec()};
}

TokenId sample_one(Sampler& sampler, std::vector<float> logits, const SamplingParams& params,
                   const std::vector<TokenId>& tokens, std::int32_t num_prompt) {
  sampler.clear();
  sampler.add(params, tokens, num_prompt);
  const auto vocab_size = static_cast<std::int64_t>(logits.size());
  return sampler.sample(make_view(logits.data(), DType::f32, {1, vocab_size})).front();
}

TokenId sample(const std::vector<float>& logits, const SamplingParams& params,
               const std::vector<TokenId>& tokens = kNoTokens, std::int32_t num_prompt = 0) {
  Sampler sampler(cpu(), static_cast<std::int32_t>(logits.size()), 1);
  return sample_one(sampler, logits, params, tokens, num_prompt);
}

// How often each token is drawn; every draw is one token further into a reply, as in a real request.
std::vector<int> histogram(const std::vector<float>& logits, const SamplingParams& params, int num_draws) {
  Sampler sampler(cpu(), static_cast<std::int32_t>(logits.size()), 1);
  std::vector<int> counts(logits.size(), 0);
  std::vector<TokenId> tokens;
  for (int i = 0; i < num_draws; ++i) {
    tokens.push_back(0);
    ++counts[static_cast<std::size_t>(sample_one(sampler, logits, params, tokens, 0))];
  }
  return counts;
}

// Pearson's statistic over the tokens that have a chance; tokens without one must not be drawn.
double chi_square(const std::vector<int>& counts, const std::vector<double>& probabilities) {
  const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
  double statistic = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (probabilities[i] == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i << " has no chance";
      continue;
    }
    const double expected = total * probabilities[i];
    statistic += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return statistic;
}

// log p in, logits out: the distribution at temperature 1 is p.
std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)) + 3.0F);
  return logits;
}

constexpr int kDraws = 20000;
const std::vector<double> kDistribution{0.1, 0.3, 0.02, 0.25, 0.18, 0.15};

TEST(Sampler, GreedyTakesTheLargestAndOfEqualOnesTheLowestId) {
  EXPECT_EQ(sample({0, 3, 1}, {}), 1);
  EXPECT_EQ(sample({1, 3, 3, 3}, {}), 1);
  EXPECT_EQ(sample({-5, -5}, {}), 0);
  EXPECT_EQ(sample({1, 3, 3, 2}, {.temperature = 1.5F, .top_k = 1}), 1) << "top_k 1 is greedy";
}

TEST(Sampler, DrawsFromTheDistribution) {
  const auto counts = histogram(logits_of(kDistribution), {.temperature = 1.0F, .seed = 1}, kDraws);
  EXPECT_LT(chi_square(counts, kDistribution), 20.5);  // 99.9 % of 5 degrees of freedom
}

TEST(Sampler, TemperatureSharpensAndFlattens) {
  for (const double temperature : {0.5, 2.0}) {
    std::vector<double> expected;
    for (const double p : kDistribution) expected.push_back(std::pow(p, 1 / temperature));
    const double total = std::accumulate(expected.begin(), expected.end(), 0.0);
    for (double& p : expected) p /= total;
    const auto counts = histogram(logits_of(kDistribution),
                                  {.temperature = static_cast<float>(temperature), .seed = 2}, kDraws);
    EXPECT_LT(chi_square(counts, expected), 20.5) << "temperature " << temperature;
  }
}

TEST(Sampler, TopKKeepsTheKLargest) {
  const auto counts =
      histogram(logits_of(kDistribution), {.temperature = 1.0F, .top_k = 3, .seed = 3}, kDraws);
  EXPECT_LT(chi_square(counts, {0, 0.3 / 0.73, 0, 0.25 / 0.73, 0.18 / 0.73, 0}), 13.8);
}

TEST(Sampler, TopKPrefersLowIdsAtTheEdge) {
  const auto counts = histogram({1, 1, 1, 1}, {.temperature = 1.0F, .top_k = 2, .seed = 3}, 1000);
  EXPECT_EQ(counts[0] + counts[1], 1000);
  EXPECT_GT(counts[0], 400);
  EXPECT_GT(counts[1], 400);
}

TEST(Sampler, TopPKeepsTheShortestRunThatReachesTheMass) {
  // Sorted: 0.3, 0.25, 0.18, ...: 0.54 is reached by two, 0.56 by three.
  const SamplingParams two{.temperature = 1.0F, .top_p = 0.54F, .seed = 4};
  EXPECT_LT(
      chi_square(histogram(logits_of(kDistribution), two, kDraws), {0, 0.3 / 0.55, 0, 0.25 / 0.55, 0, 0}),
      10.8);
  const SamplingParams three{.temperature = 1.0F, .top_p = 0.56F, .seed = 4};
  EXPECT_LT(chi_square(histogram(logits_of(kDistribution), three, kDraws),
                       {0, 0.3 / 0.73, 0, 0.25 / 0.73, 0.18 / 0.73, 0}),
            13.8);
  EXPECT_EQ(sample({0, 5, 1}, {.temperature = 1.0F, .top_p = 1e-6F, .seed = 9}), 1) << "one always stays";
}

TEST(Sampler, TopPAppliesToWhatTopKLeft) {
  // 0.3 and 0.25 are left: 0.545 and 0.455 after renormalising, so 0.53 keeps the first alone.
  const SamplingParams params{.temperature = 1.0F, .top_k = 2, .top_p = 0.53F, .seed = 5};
  EXPECT_EQ(histogram(logits_of(kDistribution), params, 500)[1], 500);
}

TEST(Sampler, TopPReachesFarIntoAFlatDistribution) {
  constexpr int kVocab = 1000;
  const auto counts =
      histogram(std::vector<float>(kVocab, 0.0F), {.temperature = 1.0F, .top_p = 0.5F, .seed = 6}, 1500);
  for (std::size_t id = kVocab / 2; id < kVocab; ++id) EXPECT_EQ(counts[id], 0) << id;
  EXPECT_GT(std::count_if(counts.begin(), counts.end(), [](int n) { return n > 0; }), 430);
}

// The definition: sort, add up, stop when the mass is reached.
TEST(Sampler, TopPKeepsTheRightSetOfManyTokens) {
  testing::Random random(12);
  const std::vector<float> logits = random.floats(2000, -5, 5);
  std::vector<std::pair<double, std::size_t>> sorted;
  double total = 0;
  for (std::size_t id = 0; id < logits.size(); ++id) {
    sorted.emplace_back(-std::exp(static_cast<double>(logits[id])), id);
    total -= sorted.back().first;
  }
  std::sort(sorted.begin(), sorted.end());
  for (const float top_p : {0.05F, 0.5F, 0.9F}) {
    std::vector<bool> kept(logits.size(), false);
    double mass = 0;
    std::size_t num_kept = 0;
    for (; mass < static_cast<double>(top_p) * total; ++num_kept) {
      kept[sorted[num_kept].second] = true;
      mass -= sorted[num_kept].first;
    }
    const auto counts = histogram(logits, {.temperature = 1.0F, .top_p = top_p, .seed = 13}, 3000);
    std::size_t num_drawn = 0;
    for (std::size_t id = 0; id < counts.size(); ++id) {
      if (counts[id] == 0) continue;
      ++num_drawn;
      EXPECT_TRUE(kept[id]) << "token " << id << " at top_p " << top_p;
    }
    EXPECT_GT(num_drawn, std::min<std::size_t>(num_kept, 300) / 2);
  }
}

TEST(Sampler, MinPIsRelativeToTheMostProbable) {
  const SamplingParams params{.temperature = 1.0F, .min_p = 0.55F, .seed = 7};  // at least 0.165
  EXPECT_LT(chi_square(histogram(logits_of(kDistribution), params, kDraws),
                       {0, 0.3 / 0.73, 0, 0.25 / 0.73, 0.18 / 0.73, 0}),
            13.8);
}

TEST(Sampler, TemperatureComesBeforeTopPAndMinP) {
  // At temperature 2 the ratio 0.15 / 0.3 becomes 0.707, which min_p 0.6 keeps; at 1 it would not.
  const auto counts =
      histogram(logits_of(kDistribution), {.temperature = 2.0F, .min_p = 0.6F, .seed = 8}, 5000);
  EXPECT_GT(counts[5], 500);
  EXPECT_EQ(counts[0], 0);  // 0.577
}

TEST(Sampler, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogits) {
  const SamplingParams params{.repetition_penalty = 2.0F};
  EXPECT_EQ(sample({4, 3, -9}, params, {0}, 1), 1) << "4 / 2 < 3, and the prompt counts";
  EXPECT_EQ(sample({4, 3, -9}, params, {0, 0, 0}, 1), 1) << "once, however often it occurred";
  EXPECT_EQ(sample({5, 1.5F, -9}, {.repetition_penalty = 2.0F}, {0, 0, 0}, 1), 0) << "5 / 2, not 5 / 8";
  EXPECT_EQ(sample({-1, -1.5F, -9}, params, {0}, 1), 1) << "-1 * 2 < -1.5";
}

TEST(Sampler, PresenceAndFrequencyPenaltiesCountGeneratedTokensOnly) {
  const SamplingParams presence{.presence_penalty = 1.5F};
  EXPECT_EQ(sample({4, 3, 0}, presence, {0, 2}, 2), 0) << "a prompt token is free";
  EXPECT_EQ(sample({4, 3, 0}, presence, {0, 0}, 1), 1);
  EXPECT_EQ(sample({6, 4, 0}, presence, {0, 0, 0, 0}, 1), 0) << "once, however often";
  const SamplingParams frequency{.frequency_penalty = 0.6F};
  EXPECT_EQ(sample({4, 3, 0}, frequency, {0, 0}, 1), 0) << "4 - 0.6 > 3";
  EXPECT_EQ(sample({4, 3, 0}, frequency, {0, 0, 0}, 1), 1) << "4 - 1.2 < 3";
}

TEST(Sampler, PenaltiesLeaveNoTraceForTheNextRequest) {
  Sampler sampler(cpu(), 3, 1);
  EXPECT_EQ(sample_one(sampler, {4, 3, 0}, {.presence_penalty = 2.0F}, {0, 0}, 1), 1);
  EXPECT_EQ(sample_one(sampler, {4, 3, 0}, {.presence_penalty = 2.0F}, {2}, 1), 0);
}

TEST(Sampler, RowsAreSampledByTheirOwnParametersAndHistories) {
  Sampler sampler(cpu(), 3, 4);
  std::vector<float> logits{4, 3, 0, 4, 3, 0, 4, 3, 0, 4, NAN, 0};
  sampler.add({}, kNoTokens, 0);
  sampler.add({.presence_penalty = 2.0F}, std::vector<TokenId>{2, 0}, 1);
  sampler.add({.repetition_penalty = 10.0F}, std::vector<TokenId>{0, 1}, 2);
  sampler.add({.repetition_penalty = 10.0F}, std::vector<TokenId>{1}, 1);
  const auto tokens = sampler.sample(make_view(logits.data(), DType::f32, {4, 3}));
  EXPECT_EQ(std::vector<TokenId>(tokens.begin(), tokens.end()),
            (std::vector<TokenId>{0, 1, 0, kernels::kNotFinite}));
}

TEST(Sampler, ExtremeLogitsStayInOrder) {
  const float max = std::numeric_limits<float>::max();
  EXPECT_EQ(sample({-max, max, 0}, {.temperature = 1e-30F, .seed = 1}), 1);
  EXPECT_EQ(sample({-max, max, 0}, {.temperature = 1e30F, .top_p = 0.9F, .min_p = 0.1F, .seed = 1}), 1);
  EXPECT_EQ(sample({max, 1, 0}, {.temperature = 1.0F, .repetition_penalty = 1e-30F, .seed = 1}, {0}, 1), 0);
}

TEST(Sampler, TheSameSeedGivesTheSameTokens) {
  testing::Random random(11);
  const std::vector<float> logits = random.floats(50, -2, 2);
  const auto draw = [&](std::uint64_t seed) {
    std::vector<TokenId> tokens{0};
    for (int i = 0; i < 20; ++i)
      tokens.push_back(sample(logits, {.temperature = 1.0F, .seed = seed}, tokens, 1));
    return tokens;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(CheckSampling, NamesFieldValueAndRange) {
  const auto message = [](const SamplingParams& params) {
    const Status status = check_sampling(params, 100);
    if (status.ok()) return std::string("ok");
    EXPECT_EQ(status.error().code, ErrorCode::bad_input);
    return status.error().message;
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(message({}), "ok");
  EXPECT_EQ(message({.temperature = 2.0F,
                     .top_k = 5,
                     .top_p = 0.1F,
                     .min_p = 1.0F,
                     .presence_penalty = -2.0F,
                     .frequency_penalty = 2.0F,
                     .repetition_penalty = 0.1F,
                     .stop_token_ids = {0, 99}}),
            "ok");
  for (const float bad : {-0.1F, nan, inf})
    EXPECT_THAT(message({.temperature = bad}), HasSubstr("temperature is"));
  EXPECT_THAT(message({.top_k = -1}), HasSubstr("top_k is -1, must be at least 0"));
  for (const float bad : {0.0F, 1.1F, -1.0F, nan}) EXPECT_THAT(message({.top_p = bad}), HasSubstr("top_p"));
  for (const float bad : {-0.1F, 1.1F, nan}) EXPECT_THAT(message({.min_p = bad}), HasSubstr("min_p"));
  for (const float bad : {-2.1F, 2.1F, nan}) {
    EXPECT_THAT(message({.presence_penalty = bad}), HasSubstr("presence_penalty"));
    EXPECT_THAT(message({.frequency_penalty = bad}), HasSubstr("frequency_penalty"));
  }
  for (const float bad : {0.0F, -1.0F, nan, inf})
    EXPECT_THAT(message({.repetition_penalty = bad}), HasSubstr("repetition_penalty"));
  EXPECT_THAT(message({.max_tokens = 0}), HasSubstr("max_tokens is 0"));
  EXPECT_THAT(message({.stop_token_ids = {100}}),
              HasSubstr("stop token id 100 is outside the vocabulary [0, 100)"));
  EXPECT_THAT(message({.stop_token_ids = {-1}}), HasSubstr("stop token id -1"));
}

}  // namespace
}  // namespace nibble::engine
