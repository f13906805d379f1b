// Sampling against its definition: sort, add up, stop. The arithmetic is that of integers, so that ids must
// be equal on every tier.
#include "kernels/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/kernels/host_tensor.h"
#include "tests/kernels/tiers.h"
#include "tests/support/random.h"

namespace nibble::kernels::testing {
namespace {

using ::nibble::testing::Random;

__extension__ using Wide = unsigned __int128;

constexpr float kMax = std::numeric_limits<float>::max();

// Known answers of the Random123 distribution's kat_vectors (philox4x32, 10 rounds).
TEST(Philox, KnownAnswers) {
  using sampling::philox4x32;
  using sampling::PhiloxBlock;
  EXPECT_EQ(philox4x32({{0, 0, 0, 0}}, 0, 0),
            (PhiloxBlock{{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}));
  EXPECT_EQ(philox4x32({{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}}, 0xffffffff, 0xffffffff),
            (PhiloxBlock{{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}));
  EXPECT_EQ(philox4x32({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
            (PhiloxBlock{{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}));
}

TEST(Philox, BitsFillTheirRange) {
  constexpr int kDraws = 20000;
  std::vector<int> counts(10, 0);
  for (std::uint64_t i = 0; i < kDraws; ++i)
    ++counts[sampling::high_product(sampling::philox_bits(7, i), 10)];
  double chi_square = 0;
  for (const int count : counts) chi_square += std::pow(count - kDraws / 10.0, 2) / (kDraws / 10.0);
  EXPECT_LT(chi_square, 27.9);  // 99.9 % of 9 degrees of freedom
  EXPECT_NE(sampling::philox_bits(7, 0), sampling::philox_bits(8, 0));
  EXPECT_NE(sampling::philox_bits(7, 0), sampling::philox_bits(std::uint64_t{7} << 32, 0));
}

TEST(SamplingArithmetic, WeightsAreExponentials) {
  const auto full = static_cast<double>(sampling::kFullWeight);
  for (const float temperature : {0.3F, 1.0F, 7.5F}) {
    const float scale = sampling::exponent_scale(temperature);
    EXPECT_EQ(sampling::weight_of(3.25F, 3.25F, scale), sampling::kFullWeight);
    std::uint64_t last = sampling::kFullWeight;
    for (int i = 0; i < 100000; ++i) {
      const float distance = static_cast<float>(i) * temperature * 0.0003F;
      const std::uint64_t weight = sampling::weight_of(-distance, 0.0F, scale);
      const double exact = full * std::exp(-static_cast<double>(distance) / static_cast<double>(temperature));
      // Three roundings of the exponent, then of its fraction, and the polynomial.
      const double bound = (3 * static_cast<double>(distance / temperature) + 1) * 0x1p-24 + 0x1p-27;
      ASSERT_NEAR(static_cast<double>(weight), exact, exact * bound + 1) << distance;
      ASSERT_LE(weight, last) << "a weight rises at " << distance;
      last = weight;
    }
    EXPECT_EQ(last, 0U);
  }
}

TEST(SamplingArithmetic, ExtremesHaveWeights) {
  EXPECT_EQ(sampling::weight_of(-kMax, kMax, sampling::exponent_scale(1e30F)), 0U);
  EXPECT_EQ(sampling::weight_of(-kMax, kMax, sampling::exponent_scale(1e-45F)), 0U);
  EXPECT_EQ(sampling::weight_of(kMax, kMax, sampling::exponent_scale(1e-45F)), sampling::kFullWeight);
  EXPECT_GT(sampling::weight_of(0, kMax, sampling::exponent_scale(kMax)), sampling::kFullWeight / 3);
  EXPECT_EQ(sampling::weight_at(sampling::kNoWeight), 0U);
  EXPECT_EQ(sampling::weight_at(sampling::kNoWeight - 1), 1U);
}

TEST(SamplingArithmetic, ProductsAreExact) {
  Random random(3);
  for (int i = 0; i < 10000; ++i) {
    const std::uint64_t a = random.next() >> random.below(64);
    const std::uint64_t b = random.next() >> random.below(64);
    ASSERT_EQ(sampling::high_product(a, b), static_cast<std::uint64_t>((Wide{a} * b) >> 64)) << a << ' ' << b;
    const float top_p = random.uniform(0, 1);
    const std::uint64_t share = sampling::scaled_up(top_p, 32);
    ASSERT_EQ(static_cast<double>(share), std::ceil(std::ldexp(static_cast<double>(top_p), 32)));
    ASSERT_EQ(sampling::wanted_mass(a / 2, top_p),
              static_cast<std::uint64_t>((Wide{a / 2} * share + 0xFFFFFFFFU) >> 32));
  }
  EXPECT_EQ(sampling::wanted_mass(std::uint64_t{1} << 62, 1), std::uint64_t{1} << 62);
}

TEST(SamplingArithmetic, KeysOrderLikeLogits) {
  const float values[] = {kMax, 3.5F, 1e-40F, 0.0F, -1e-40F, -3.5F, -kMax};
  for (std::size_t i = 0; i < std::size(values); ++i) {
    EXPECT_EQ(sampling::logit_of(sampling::key_of(values[i])), values[i]);
    if (i == 0) continue;
    EXPECT_LT(sampling::key_of(values[i - 1]), sampling::key_of(values[i]));
  }
  EXPECT_EQ(sampling::key_of(-0.0F), sampling::key_of(0.0F));
}

// The id a row must give. `logits` are changed by penalties.
std::int32_t defined_id(std::vector<float> logits, const SampleRow& row,
                        const std::vector<TokenCount>& history) {
  for (const float logit : logits) {
    if (!std::isfinite(logit)) return kNotFinite;
  }
  for (std::int32_t i = row.history_begin; i < row.history_end; ++i) {
    const auto [id, generated] = history[static_cast<std::size_t>(i)];
    double l = static_cast<double>(logits[static_cast<std::size_t>(id)]);
    l = static_cast<double>(static_cast<float>(l > 0 ? l / static_cast<double>(row.repetition_penalty)
                                                     : l * static_cast<double>(row.repetition_penalty)));
    l -= static_cast<double>(row.frequency_penalty) * generated;
    l -= generated > 0 ? static_cast<double>(row.presence_penalty) : 0.0;
    logits[static_cast<std::size_t>(id)] =
        static_cast<float>(std::clamp(l, -static_cast<double>(kMax), static_cast<double>(kMax)));
  }
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](std::int32_t id) { return logits[static_cast<std::size_t>(id)]; };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return logit(a) > logit(b); });
  if (row.temperature == 0) return order.front();
  if (row.top_k > 0) order.resize(std::min(order.size(), static_cast<std::size_t>(row.top_k)));
  const float scale = sampling::exponent_scale(row.temperature);
  const auto weight = [&](std::int32_t id) {
    return sampling::weight_of(logit(id), logit(order.front()), scale);
  };
  const auto mass = [&] {
    std::uint64_t sum = 0;
    for (const std::int32_t id : order) sum += weight(id);
    return sum;
  };
  if (row.top_p < 1) {
    const Wide wanted = Wide{mass()} * sampling::scaled_up(row.top_p, 32);
    std::uint64_t sum = 0;
    std::size_t size = 0;
    while (Wide{sum} << 32 < wanted) sum += weight(order[size++]);
    order.resize(size);
  }
  const double least = static_cast<double>(row.min_p) * static_cast<double>(sampling::kFullWeight);
  const std::int32_t best = order.front();
  std::erase_if(order,
                [&](std::int32_t id) { return id != best && static_cast<double>(weight(id)) < least; });
  std::uint64_t target =
      static_cast<std::uint64_t>((Wide{sampling::philox_bits(row.seed, row.index)} * mass()) >> 64);
  std::sort(order.begin() + 1, order.end());
  std::inplace_merge(order.begin(), order.begin() + 1, order.end());
  for (const std::int32_t id : order) {
    const std::uint64_t w = sampling::weight_of(logit(id), logit(best), scale);
    if (target < w) return id;
    target -= w;
  }
  return -2;
}

// Logits of one kind each: spread as of a model, peaked, flat, with many ties, of all magnitudes.
std::vector<float> make_logits(Random& random, std::int64_t vocabulary, int kind) {
  std::vector<float> logits = random.floats(vocabulary, -1, 1);
  for (float& l : logits) {
    switch (kind) {
      case 0: l = 3 * (l + random.uniform(-1, 1) + random.uniform(-1, 1)); break;
      case 1: l = l > 0.999F ? 20 * l : 5 * l; break;
      case 2: l = 1.5F; break;
      case 3:
        l = std::round(4 * (l + random.uniform(-1, 1))) * (random.below(2) == 0 ? 0.25F : -0.25F);
        break;
      case 4: l = std::ldexp(l, static_cast<int>(random.below(250)) - 125); break;
      default: l = random.below(3) == 0 ? 0.0F : -0.0F; break;
    }
  }
  return logits;
}
constexpr int kKinds = 6;

SampleRow make_row(Random& random, std::int64_t vocabulary) {
  const float temperatures[] = {0.0F, 0.05F, 0.7F, 1.0F, 1.0F, 4.0F, 1e30F};
  const float top_ps[] = {1.0F, 1.0F, 0.95F, 0.5F, 0.01F, 1e-9F};
  const float min_ps[] = {0.0F, 0.0F, 0.05F, 1.0F};
  const std::int32_t top_ks[] = {
      0, 0, 2, 20, 1000, static_cast<std::int32_t>(vocabulary), std::numeric_limits<std::int32_t>::max()};
  const auto one_of = [&](const auto& values) {
    return values[random.below(static_cast<std::int64_t>(std::size(values)))];
  };
  return {.seed = random.next(),
          .index = random.next() >> 40,
          .temperature = one_of(temperatures),
          .top_k = one_of(top_ks),
          .top_p = one_of(top_ps),
          .min_p = one_of(min_ps)};
}

// Gives a row penalties on some ids.
void add_history(Random& random, std::int64_t vocabulary, SampleRow& row, std::vector<TokenCount>& history) {
  row.history_begin = static_cast<std::int32_t>(history.size());
  const std::int64_t step = 1 + vocabulary / 50;
  for (std::int64_t id = random.below(step); id < vocabulary; id += 1 + random.below(step)) {
    history.push_back({static_cast<std::int32_t>(id), static_cast<std::int32_t>(random.below(4))});
  }
  row.history_end = static_cast<std::int32_t>(history.size());
  row.presence_penalty = random.uniform(-2, 2);
  row.frequency_penalty = random.uniform(-2, 2);
  row.repetition_penalty = random.uniform(0.5F, 2);
}

class SamplingTest : public ::testing::TestWithParam<TierCase> {};

// Samples a batch of m rows and compares every id.
void check_batch(const TierCase& tier, std::int64_t m, std::int64_t vocabulary, std::uint64_t seed,
                 std::int64_t lead) {
  Random random(seed);
  const HostTensor logits({m, vocabulary}, lead == HostTensor::kAligned ? 4 : 3, lead);
  std::vector<SampleRow> rows;
  std::vector<TokenCount> history;
  std::vector<std::int32_t> want;
  for (std::int64_t i = 0; i < m; ++i) {
    std::vector<float> row = make_logits(random, vocabulary, static_cast<int>(random.below(kKinds)));
    if (random.below(8) == 0) {
      const float bad[] = {NAN, INFINITY, -INFINITY};
      row[static_cast<std::size_t>(random.below(vocabulary))] = bad[random.below(3)];
    }
    rows.push_back(make_row(random, vocabulary));
    if (random.below(3) == 0) add_history(random, vocabulary, rows.back(), history);
    std::copy(row.begin(), row.end(), logits.row(i));
    want.push_back(defined_id(row, rows.back(), history));
  }
  std::vector<std::int32_t> ids(static_cast<std::size_t>(m) + 1, -7);
  Device& device = device_of(tier);
  device.table().sample(
      device.exec(),
      {.logits = logits.view(), .rows = rows.data(), .history = history.data(), .ids = ids.data()});
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const SampleRow& r = rows[i];
    EXPECT_EQ(ids[i], want[i]) << "row " << i << " of " << m << ", vocabulary " << vocabulary
                               << ", temperature " << r.temperature << ", top_k " << r.top_k << ", top_p "
                               << r.top_p << ", min_p " << r.min_p << ", history "
                               << r.history_end - r.history_begin;
  }
  EXPECT_EQ(ids.back(), -7);
  EXPECT_TRUE(logits.guards_intact());
}

TEST_P(SamplingTest, SmallVocabularies) {
  for (const std::int64_t vocabulary : {1, 2, 3, 31, 61, 512, 1000}) {
    for (const std::int64_t m : {1, 2, 70}) {
      check_batch(GetParam(), m, vocabulary, static_cast<std::uint64_t>(vocabulary * 100 + m),
                  HostTensor::kUnaligned);
    }
  }
}

TEST_P(SamplingTest, VocabulariesOfModels) {
  for (const std::int64_t vocabulary : {4099, 32000, 102400, 129280}) {
    check_batch(GetParam(), 24, vocabulary, static_cast<std::uint64_t>(vocabulary), HostTensor::kAligned);
  }
}

TEST_P(SamplingTest, AVocabularyLargerThanSharedMemory) {
  check_batch(GetParam(), 6, 500'001, 5, HostTensor::kUnaligned);
}

TEST_P(SamplingTest, NoRows) {
  Device& device = device_of(GetParam());
  const HostTensor logits({1, 10});
  device.table().sample(
      device.exec(),
      {.logits = logits.view().rows(0, 0), .rows = nullptr, .history = nullptr, .ids = nullptr});
  EXPECT_TRUE(logits.guards_intact());
}

INSTANTIATE_TEST_SUITE_P(Tiers, SamplingTest, ::testing::ValuesIn(available_tiers()),
                         [](const auto& tier) { return tier.param.name; });

}  // namespace
}  // namespace nibble::kernels::testing
