// How rows of logits are sampled. Small enough for device code to include.
#pragma once

#include <cstdint>

namespace nibble::kernels {

// How one row of logits becomes a token. In this order:
//  - repetition penalty r, for ids in the row's history: a logit l becomes l / r if l > 0, else l * r;
//  - frequency penalty f and presence penalty p, for those that were generated: l -= f * count, l -= p;
//  - temperature 0 or top-k 1 take the largest logit; of equal ones the lowest id;
//  - top-k keeps the k largest; at the edge lower ids win;
//  - top-p renormalises and keeps the shortest run, from the most probable down, whose mass reaches p;
//  - min-p keeps what is at least min_p times as probable as the most probable;
//  - the draw inverts the cumulative distribution, by id, at philox_bits(seed, index).
// Probabilities are integers (sampling.h): the same logits give the same id on every device.
struct SampleRow {
  std::uint64_t seed = 0;
  std::uint64_t index = 0;  // of the token in the reply
  float temperature = 0;    // finite, >= 0
  std::int32_t top_k = 0;   // 0 = off
  float top_p = 1;          // (0, 1]
  float min_p = 0;          // [0, 1]
  float presence_penalty = 0;
  float frequency_penalty = 0;
  float repetition_penalty = 1;
  std::int32_t history_begin = 0;  // its tokens: history[begin, end); none without penalties
  std::int32_t history_end = 0;
  std::int32_t unused = 0;
};

// An id of a sequence, and how often it was generated (0: it is in the prompt only).
struct TokenCount {
  std::int32_t id = 0;
  std::int32_t generated = 0;
};

// In SampleArgs::ids: the row has a logit that is NaN or infinite.
inline constexpr std::int32_t kNotFinite = -1;

}  // namespace nibble::kernels
