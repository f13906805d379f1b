// Sampler: one row of logits to one token.
//
// Order of operations: repetition penalty (Hugging Face's definition), frequency and presence
// penalties (OpenAI's), temperature, top-k, top-p, min-p, draw.
//  - repetition_penalty r, over prompt and generated tokens: a logit l becomes l / r if l > 0, else l * r.
//  - frequency_penalty f, presence_penalty p, over generated tokens: l -= f * count + p * (count > 0).
//  - temperature 0 takes the largest logit now; of equal ones the lowest id.
//  - top-k keeps the k largest; at the edge lower ids win.
//  - top-p renormalises and keeps the shortest run, from the most probable down, whose mass reaches p.
//  - min-p keeps what is at least min_p times as probable as the most probable.
//  - the draw inverts the cumulative distribution at philox_uniform(seed, index of the token).
// Probabilities are summed in double in a fixed order, so equal logits give equal tokens in every batch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nibble/engine.h"
#include "nibble/result.h"
#include "nibble/types.h"

namespace nibble::engine {

// bad_input naming the field, the value and the range allowed.
Status check_sampling(const SamplingParams& params, std::int32_t vocab_size);

class Sampler {
 public:
  explicit Sampler(std::int32_t vocab_size);

  // `logits` [vocab_size], finite; penalties change them in place. `tokens`: the sequence so far, the
  // first num_prompt of which are the prompt. `params` have passed check_sampling.
  TokenId sample(std::span<float> logits, const SamplingParams& params, std::span<const TokenId> tokens,
                 std::int32_t num_prompt);

 private:
  struct Candidate {
    TokenId id = 0;
    float logit = 0;
    float weight = 0;  // exp((logit - max) / temperature): probability but for a common factor
  };

  void penalize(std::span<float> logits, const SamplingParams& params, std::span<const TokenId> tokens,
                std::int32_t num_prompt);
  void keep_top_k(std::int32_t top_k);
  void sort_by_id();
  void keep_top_p(double top_p);
  void keep_min_p(double min_p);
  [[nodiscard]] TokenId draw(double uniform) const;

  std::vector<Candidate> candidates_;
  std::vector<std::int32_t> counts_;  // all zero between calls
};

}  // namespace nibble::engine
