#include "models/deepseek_mla/config.h"

#include <cmath>

namespace nibble::models::deepseek_mla {

layers::RopeConfig rope_config(const formats::HfConfig& config) {
  layers::RopeConfig rope{.dim = config.qk_rope_head_dim, .theta = config.rope_theta};
  if (config.rope_scaling) {
    const formats::RopeScaling& scaling = *config.rope_scaling;
    rope.yarn =
        layers::YarnConfig{.factor = scaling.factor,
                           .beta_fast = scaling.beta_fast,
                           .beta_slow = scaling.beta_slow,
                           .mscale = scaling.mscale,
                           .mscale_all_dim = scaling.mscale_all_dim,
                           .original_max_position_embeddings = scaling.original_max_position_embeddings};
  }
  return rope;
}

layers::MlaConfig mla_config(const formats::HfConfig& config) {
  layers::MlaConfig mla{.hidden_size = config.hidden_size,
                        .num_attention_heads = config.num_attention_heads,
                        .q_lora_rank = config.q_lora_rank,
                        .kv_lora_rank = config.kv_lora_rank,
                        .qk_nope_head_dim = config.qk_nope_head_dim,
                        .qk_rope_head_dim = config.qk_rope_head_dim,
                        .v_head_dim = config.v_head_dim,
                        .norm_eps = kLoraNormEps};
  mla.softmax_scale = static_cast<float>(layers::yarn_softmax_factor(rope_config(config)) /
                                         std::sqrt(static_cast<double>(mla.qk_head_dim())));
  return mla;
}

MoeConfig moe_config(const formats::HfConfig& config, const layers::RouterConfig& router) {
  return {.router = router,
          .moe_intermediate_size = config.moe_intermediate_size,
          .shared_intermediate_size = config.n_shared_experts * config.moe_intermediate_size};
}

bool is_moe_layer(const formats::HfConfig& config, std::int64_t layer_idx) {
  return config.n_routed_experts > 0 && layer_idx >= config.first_k_dense_replace &&
         layer_idx % config.moe_layer_freq == 0;
}

layers::RouterConfig router_sizes(const formats::HfConfig& config) {
  return {.hidden_size = config.hidden_size,
          .n_routed_experts = config.n_routed_experts,
          .num_experts_per_tok = static_cast<std::int32_t>(config.num_experts_per_tok),
          .n_group = static_cast<std::int32_t>(config.n_group),
          .topk_group = static_cast<std::int32_t>(config.topk_group),
          .norm_topk_prob = config.norm_topk_prob,
          .routed_scaling_factor = static_cast<float>(config.routed_scaling_factor)};
}

}  // namespace nibble::models::deepseek_mla
