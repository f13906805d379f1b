// What a step must read and compute, from the weight list alone.
#pragma once

#include <cstdint>
#include <vector>

#include "models/loadable_model.h"
#include "models/model.h"
#include "models/weight_spec.h"

namespace nibble::models {

struct ModelCosts {
  std::size_t weight_bytes = 0;         // all of it
  std::size_t every_step_bytes = 0;     // read once in every step
  std::size_t embedding_row_bytes = 0;  // read per token
  std::size_t expert_bytes = 0;         // all routed experts of all layers
  std::size_t cache_token_bytes = 0;    // cache entries of all layers per token
  std::int64_t num_parameters = 0;
  std::int64_t every_token_params = 0;  // multiplied with each token
  std::int64_t logit_params = 0;        // multiplied with each token whose logits are wanted
  std::int64_t expert_params = 0;       // all routed experts of all layers
  std::int64_t num_experts = 0;         // per layer
  std::int64_t topk = 0;
  double attention_mults_per_pair = 0;  // all layers, per query and visible key
};

// Fills everything the weights determine; the last six fields but expert_params and logit_params are
// the model's to set. Norms and biases count as read every step.
ModelCosts weight_costs(const std::vector<WeightSpec>& specs, const WeightBytes& bytes_of);

ActiveBytes active_bytes(const ModelCosts& costs, std::int64_t num_tokens, std::int64_t context_len);

// A prefill from position 0 of which the last token's logits are wanted.
double prefill_flops(const ModelCosts& costs, std::int64_t num_tokens);

}  // namespace nibble::models
