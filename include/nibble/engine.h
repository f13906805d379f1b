// Engine: runs many sequences on one model, a ragged batch per step.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nibble/result.h"
#include "nibble/types.h"

namespace nibble {

struct SamplingParams {
  float temperature = 0.0F;         // 0 = greedy
  std::int32_t top_k = 0;           // 0 = off
  float top_p = 1.0F;               // (0, 1]
  float min_p = 0.0F;               // [0, 1]
  float presence_penalty = 0.0F;    // [-2, 2], over generated tokens
  float frequency_penalty = 0.0F;   // [-2, 2], over generated tokens
  float repetition_penalty = 1.0F;  // > 0, over prompt and generated tokens
  std::uint64_t seed = 0;           // same seed, prompt and parameters: same tokens
  std::int32_t max_tokens = 256;    // >= 1
  bool ignore_eos = false;
  std::vector<TokenId> stop_token_ids;  // besides the model's end-of-sequence tokens
};

enum class FinishReason : std::uint8_t { none, stop, length, cancelled, error };
std::string_view finish_reason_name(FinishReason reason) noexcept;

using RequestId = std::uint64_t;

// One token of one request, or its end.
struct EngineEvent {
  RequestId request = 0;
  std::optional<TokenId> token;  // absent in a pure end event
  FinishReason finish = FinishReason::none;
  Error error;  // meaningful when finish == error
};

struct EngineStats {
  std::int64_t num_running = 0;
  std::int64_t num_waiting = 0;
  std::int64_t pages_used = 0;
  std::int64_t pages_total = 0;
  std::int64_t prompt_tokens = 0;
  std::int64_t generated_tokens = 0;
  std::int64_t preemptions = 0;
};

}  // namespace nibble
