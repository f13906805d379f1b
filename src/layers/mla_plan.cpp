#include "layers/mla_plan.h"

namespace nibble::layers {
namespace {

// Causal pairs of query and key: row i of the chunk sees length - rows + i + 1 keys.
double causal_pairs(std::int64_t rows, std::int64_t length) {
  const auto m = static_cast<double>(rows);
  return m * static_cast<double>(length) - m * (m - 1.0) / 2.0;
}

double per_head(const MlaConfig& config, double values) {
  return static_cast<double>(config.num_attention_heads) * values;
}

// kv_b_proj applied to one vector: of a key when rebuilding, of a query and an output when absorbing.
double kv_b_cost(const MlaConfig& config) {
  return per_head(config,
                  static_cast<double>((config.qk_nope_head_dim + config.v_head_dim) * config.kv_lora_rank));
}

}  // namespace

double naive_mla_cost(const MlaConfig& config, std::int64_t rows, std::int64_t length) {
  const auto per_pair = static_cast<double>(config.qk_head_dim() + config.v_head_dim);
  return static_cast<double>(length) * kv_b_cost(config) +
         per_head(config, causal_pairs(rows, length) * per_pair);
}

double absorbed_mla_cost(const MlaConfig& config, std::int64_t rows, std::int64_t length) {
  const auto per_pair = static_cast<double>(2 * config.kv_lora_rank + config.qk_rope_head_dim);
  return static_cast<double>(rows) * kv_b_cost(config) +
         per_head(config, causal_pairs(rows, length) * per_pair);
}

std::size_t naive_mla_scratch_bytes(const MlaConfig& config, std::int64_t length) {
  const std::int64_t per_position =
      config.num_attention_heads * (config.qk_nope_head_dim + config.v_head_dim) + config.kv_lora_rank +
      config.qk_rope_head_dim;
  return static_cast<std::size_t>(length * per_position) * sizeof(float);
}

std::int64_t max_automatic_naive_length(const MlaConfig& config, const MlaRule& rule) {
  return static_cast<std::int64_t>(rule.max_naive_scratch_bytes / naive_mla_scratch_bytes(config, 1));
}

MlaMode choose_mla_mode(const MlaConfig& config, const MlaRule& rule, MlaMode requested, std::int64_t rows,
                        std::int64_t length) {
  if (requested != MlaMode::automatic) return requested;
  if (rows < kMinNaiveRows || length > max_automatic_naive_length(config, rule)) return MlaMode::absorb;
  return naive_mla_cost(config, rows, length) < absorbed_mla_cost(config, rows, length) ? MlaMode::naive
                                                                                        : MlaMode::absorb;
}

}  // namespace nibble::layers
