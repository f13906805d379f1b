#include "engine/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "core/memory_space.h"

namespace nibble::engine {
namespace {

// OpenAI's range of presence and frequency penalties.
constexpr float kMaxPenalty = 2.0F;

Error out_of_range(const char* field, double value, const char* range) {
  return bad_input(fmt::format("{} is {}, must be {}", field, value, range));
}

// False for NaN.
bool within(float value, float low, float high) { return value >= low && value <= high; }

bool has_penalties(const SamplingParams& p) {
  return p.presence_penalty != 0 || p.frequency_penalty != 0 || p.repetition_penalty != 1;
}

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

Sampler::Sampler(Backend backend, std::int32_t vocab_size, std::int32_t max_num_seqs)
    : backend_(backend), counts_(static_cast<std::size_t>(vocab_size), 0) {
  const auto num_rows = static_cast<std::size_t>(max_num_seqs);
  rows_.reserve(num_rows);
  reserve(num_rows, 0);
}

void Sampler::clear() {
  rows_.clear();
  history_.clear();
}

void Sampler::add(const SamplingParams& params, std::span<const TokenId> tokens, std::int32_t num_prompt) {
  const std::size_t begin = history_.size();
  if (has_penalties(params)) add_history(tokens, num_prompt);
  rows_.push_back({.seed = params.seed,
                   .index = tokens.size() - static_cast<std::size_t>(num_prompt),
                   .temperature = params.temperature,
                   .top_k = params.top_k,
                   .top_p = params.top_p,
                   .min_p = params.min_p,
                   .presence_penalty = params.presence_penalty,
                   .frequency_penalty = params.frequency_penalty,
                   .repetition_penalty = params.repetition_penalty,
                   .history_begin = static_cast<std::int32_t>(begin),
                   .history_end = static_cast<std::int32_t>(history_.size())});
}

void Sampler::add_history(std::span<const TokenId> tokens, std::int32_t num_prompt) {
  history_.reserve(history_.size() + std::min(tokens.size(), counts_.size()));
  // A count is one more than the number of occurrences among generated tokens; 0 = not seen.
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::int32_t& count = counts_[static_cast<std::size_t>(tokens[i])];
    count = std::max(count, 1) + (i >= static_cast<std::size_t>(num_prompt) ? 1 : 0);
  }
  for (const TokenId id : tokens) {
    std::int32_t& count = counts_[static_cast<std::size_t>(id)];
    if (count == 0) continue;  // told at an earlier occurrence
    history_.push_back({.id = id, .generated = count - 1});
    count = 0;
  }
}

Sampler::Places Sampler::places(std::size_t num_rows, std::size_t history_size) {
  const std::size_t history = num_rows * sizeof(kernels::SampleRow);
  const std::size_t ids = history + history_size * sizeof(kernels::TokenCount);
  return {.history = history, .ids = ids, .end = ids + num_rows * sizeof(TokenId)};
}

void Sampler::reserve(std::size_t num_rows, std::size_t history_size) {
  const std::size_t bytes = places(num_rows, history_size).end;
  if (bytes <= staging_.size()) return;
  MemorySpace& memory = backend_.exec.memory();
  const std::size_t room = std::bit_ceil(bytes);
  Buffer staging = memory.allocate_staging(room);
  if (!memory.is_host()) arrays_ = memory.allocate(room);
  staging_ = std::move(staging);
}

std::span<const TokenId> Sampler::sample(const TensorView& logits) {
  NIB_CHECK(logits.dim(0) == static_cast<std::int64_t>(rows_.size()) &&
                logits.dim(1) == static_cast<std::int64_t>(counts_.size()),
            "[{}, {}] logits for {} rows of a vocabulary of {}", logits.dim(0), logits.dim(1), rows_.size(),
            counts_.size());
  reserve(rows_.size(), history_.size());
  const Places at = places(rows_.size(), history_.size());
  std::memcpy(staging_.data(), rows_.data(), at.history);
  if (!history_.empty()) std::memcpy(staging_.data() + at.history, history_.data(), at.ids - at.history);

  MemorySpace& memory = backend_.exec.memory();
  std::byte* const arrays = memory.is_host() ? staging_.data() : arrays_.data();
  if (!memory.is_host()) memory.upload(arrays, staging_.bytes().first(at.ids));
  backend_.table.sample(backend_.exec,
                        {.logits = logits,
                         .rows = reinterpret_cast<const kernels::SampleRow*>(arrays),
                         .history = reinterpret_cast<const kernels::TokenCount*>(arrays + at.history),
                         .ids = reinterpret_cast<std::int32_t*>(arrays + at.ids)});
  const std::span<std::byte> ids = staging_.bytes().subspan(at.ids, at.end - at.ids);
  if (!memory.is_host()) memory.download(ids, arrays + at.ids);
  return {reinterpret_cast<const TokenId*>(ids.data()), rows_.size()};
}

}  // namespace nibble::engine
