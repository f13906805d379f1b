#include "engine/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.h"
#include "engine/philox.h"

namespace nibble::engine {
namespace {

// OpenAI's range of presence and frequency penalties.
constexpr float kMaxPenalty = 2.0F;
// Below this many candidates sorting is cheaper than selecting on.
constexpr std::size_t kSortedAtOnce = 64;

TokenId argmax(std::span<const float> logits) {
  // max_element keeps the first, that is the lowest id, of equal values.
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

Error out_of_range(const char* field, double value, const char* range) {
  return bad_input(fmt::format("{} is {}, must be {}", field, value, range));
}

// The more probable first; of equal ones the lower id. By logit, because weights of unlikely tokens
// all underflow to zero.
constexpr auto kByLogit = [](const auto& a, const auto& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
};

// False for NaN.
bool within(float value, float low, float high) { return value >= low && value <= high; }

}  // namespace

Status check_sampling(const SamplingParams& p, std::int32_t vocab_size) {
  if (!(p.temperature >= 0 && std::isfinite(p.temperature))) {
    return out_of_range("temperature", p.temperature, "finite and at least 0");
  }
  if (p.top_k < 0) return out_of_range("top_k", p.top_k, "at least 0 (0 = off)");
  if (!(p.top_p > 0 && p.top_p <= 1)) return out_of_range("top_p", p.top_p, "above 0 and at most 1");
  if (!within(p.min_p, 0, 1)) return out_of_range("min_p", p.min_p, "from 0 to 1");
  if (!within(p.presence_penalty, -kMaxPenalty, kMaxPenalty)) {
    return out_of_range("presence_penalty", p.presence_penalty, "from -2 to 2");
  }
  if (!within(p.frequency_penalty, -kMaxPenalty, kMaxPenalty)) {
    return out_of_range("frequency_penalty", p.frequency_penalty, "from -2 to 2");
  }
  if (!(p.repetition_penalty > 0 && std::isfinite(p.repetition_penalty))) {
    return out_of_range("repetition_penalty", p.repetition_penalty, "finite and above 0 (1 = off)");
  }
  if (p.max_tokens < 1) return out_of_range("max_tokens", p.max_tokens, "at least 1");
  for (const TokenId id : p.stop_token_ids) {
    if (id < 0 || id >= vocab_size) {
      return bad_input(fmt::format("stop token id {} is outside the vocabulary [0, {})", id, vocab_size));
    }
  }
  return {};
}

Sampler::Sampler(std::int32_t vocab_size) {
  candidates_.reserve(static_cast<std::size_t>(vocab_size));
  counts_.resize(static_cast<std::size_t>(vocab_size), 0);
}

TokenId Sampler::sample(std::span<float> logits, const SamplingParams& params,
                        std::span<const TokenId> tokens, std::int32_t num_prompt) {
  NIB_CHECK(logits.size() == counts_.size(), "{} logits for a vocabulary of {}", logits.size(),
            counts_.size());
  penalize(logits, params, tokens, num_prompt);
  const TokenId best = argmax(logits);
  if (params.temperature == 0 || params.top_k == 1) return best;

  candidates_.clear();
  for (std::size_t id = 0; id < logits.size(); ++id) {
    candidates_.push_back({.id = static_cast<TokenId>(id), .logit = logits[id]});
  }
  // Dividing by the temperature keeps the order, so top-k may come first and save exponentials.
  if (params.top_k > 0) keep_top_k(params.top_k);
  const float max = logits[static_cast<std::size_t>(best)];
  for (Candidate& c : candidates_) c.weight = std::exp((c.logit - max) / params.temperature);
  if (params.top_p < 1) keep_top_p(params.top_p);
  if (params.min_p > 0) keep_min_p(params.min_p);
  const auto index = tokens.size() - static_cast<std::size_t>(num_prompt);
  return draw(philox_uniform(params.seed, index));
}

void Sampler::penalize(std::span<float> logits, const SamplingParams& params, std::span<const TokenId> tokens,
                       std::int32_t num_prompt) {
  const bool has_counts = params.presence_penalty != 0 || params.frequency_penalty != 0;
  if (!has_counts && params.repetition_penalty == 1) return;
  // A count is one more than the number of occurrences among generated tokens; 0 = not penalised yet.
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::int32_t& count = counts_[static_cast<std::size_t>(tokens[i])];
    count = std::max(count, 1) + (i >= static_cast<std::size_t>(num_prompt) ? 1 : 0);
  }
  for (const TokenId id : tokens) {
    const auto at = static_cast<std::size_t>(id);
    if (counts_[at] == 0) continue;  // done at an earlier occurrence
    const std::int32_t generated = counts_[at] - 1;
    counts_[at] = 0;
    float& logit = logits[at];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    logit -= params.frequency_penalty * static_cast<float>(generated);
    if (generated > 0) logit -= params.presence_penalty;
    logit = std::clamp(logit, std::numeric_limits<float>::lowest(), std::numeric_limits<float>::max());
  }
}

void Sampler::keep_top_k(std::int32_t top_k) {
  const auto k = static_cast<std::size_t>(top_k);
  if (k >= candidates_.size()) return;
  std::nth_element(candidates_.begin(), candidates_.begin() + top_k, candidates_.end(), kByLogit);
  candidates_.resize(k);
  sort_by_id();
}

// Selecting leaves an order of the standard library's choosing; sums and draws go by id.
void Sampler::sort_by_id() {
  std::sort(candidates_.begin(), candidates_.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
}

void Sampler::keep_top_p(double top_p) {
  const auto mass_of = [this](std::size_t begin, std::size_t end) {
    double sum = 0;
    for (std::size_t i = begin; i < end; ++i) sum += candidates_[i].weight;
    return sum;
  };
  const auto at = [this](std::size_t i) { return candidates_.begin() + static_cast<std::ptrdiff_t>(i); };
  const double wanted = top_p * mass_of(0, candidates_.size());
  // The run ends in [begin, end): halve that, as in quickselect, but by mass instead of by rank.
  std::size_t begin = 0;
  std::size_t end = candidates_.size();
  double mass = 0;  // of all before begin, each at least as probable as all from begin on
  while (end - begin > kSortedAtOnce) {
    const std::size_t middle = begin + (end - begin) / 2;
    std::nth_element(at(begin), at(middle), at(end), kByLogit);
    const double half = mass_of(begin, middle);
    if (mass + half >= wanted) {
      end = middle;
    } else {
      begin = middle;
      mass += half;
    }
  }
  std::sort(at(begin), at(end), kByLogit);
  while (begin < end && mass < wanted) mass += candidates_[begin++].weight;
  candidates_.resize(std::max<std::size_t>(begin, 1));
  sort_by_id();
}

void Sampler::keep_min_p(double min_p) {
  // The most probable candidate has weight 1 and is never dropped.
  std::erase_if(candidates_, [min_p](const Candidate& c) { return c.weight < min_p; });
}

TokenId Sampler::draw(double uniform) const {
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  const double target = uniform * total;
  double sum = 0;
  for (const Candidate& c : candidates_) {
    sum += c.weight;
    if (target < sum) return c.id;
  }
  // Only rounding can lead here; the last candidate that has a chance at all.
  const auto last =
      std::find_if(candidates_.rbegin(), candidates_.rend(), [](const auto& c) { return c.weight > 0; });
  return last->id;
}

}  // namespace nibble::engine
