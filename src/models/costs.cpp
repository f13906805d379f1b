#include "models/costs.h"

#include <algorithm>
#include <cmath>

namespace nibble::models {

ModelCosts weight_costs(const std::vector<WeightSpec>& specs, const WeightBytes& bytes_of) {
  ModelCosts costs;
  for (const WeightSpec& spec : specs) {
    const std::int64_t params = spec.num_parameters();
    costs.num_parameters += params;
    if (!spec.is_matrix()) {
      const std::size_t bytes = static_cast<std::size_t>(params) * sizeof(float);
      costs.weight_bytes += bytes;
      costs.every_step_bytes += bytes;
      continue;
    }
    switch (spec.use) {
      case WeightUse::every_token: costs.every_token_params += params; break;
      case WeightUse::some_experts: costs.expert_params += params; break;
      case WeightUse::logit_rows: costs.logit_params += params; break;
      case WeightUse::embedding_rows: break;
    }
  }
  for (const WeightEntry& entry : distinct_weights(specs)) {
    const std::size_t bytes = bytes_of(*entry.weight);
    costs.weight_bytes += bytes;
    switch (entry.use) {
      case WeightUse::every_token:
      case WeightUse::logit_rows: costs.every_step_bytes += bytes; break;
      case WeightUse::some_experts: costs.expert_bytes += bytes; break;
      case WeightUse::embedding_rows:
        costs.embedding_row_bytes +=
            bytes / static_cast<std::size_t>(std::max<std::int64_t>(1, entry.weight->shape.n));
        break;
    }
  }
  return costs;
}

ActiveBytes active_bytes(const ModelCosts& costs, std::int64_t num_tokens, std::int64_t context_len) {
  const auto tokens = static_cast<std::size_t>(num_tokens);
  ActiveBytes active;
  active.weights = costs.every_step_bytes + tokens * costs.embedding_row_bytes;
  if (costs.num_experts > 0) {
    // Different experts that tokens choose under uniform routing, as a part of all.
    const double missed = 1.0 - static_cast<double>(costs.topk) / static_cast<double>(costs.num_experts);
    const double used = 1.0 - std::pow(missed, static_cast<double>(num_tokens));
    active.weights += static_cast<std::size_t>(std::llround(used * static_cast<double>(costs.expert_bytes)));
  }
  active.cache = tokens * static_cast<std::size_t>(context_len) * costs.cache_token_bytes;
  return active;
}

double prefill_flops(const ModelCosts& costs, std::int64_t num_tokens) {
  const auto m = static_cast<double>(num_tokens);
  double mults = m * static_cast<double>(costs.every_token_params) + static_cast<double>(costs.logit_params);
  if (costs.num_experts > 0) {
    mults += m * static_cast<double>(costs.expert_params) * static_cast<double>(costs.topk) /
             static_cast<double>(costs.num_experts);
  }
  mults += m * (m + 1.0) / 2.0 * costs.attention_mults_per_pair;
  return 2.0 * mults;
}

}  // namespace nibble::models
