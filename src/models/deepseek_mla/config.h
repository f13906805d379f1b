// How config.json's fields become the layers' dimensions: what V2 and V3 read the same way.
#pragma once

#include <cstdint>

#include "formats/hf_config.h"
#include "layers/mla_plan.h"
#include "layers/rope.h"
#include "layers/router.h"
#include "models/deepseek_mla/moe.h"

namespace nibble::models::deepseek_mla {

// The norms inside attention (q_a_layernorm, kv_a_layernorm) do not take rms_norm_eps from config.json:
// the publisher's code leaves them at the class's default.
inline constexpr float kLoraNormEps = 1e-6F;

layers::RopeConfig rope_config(const formats::HfConfig& config);
layers::MlaConfig mla_config(const formats::HfConfig& config);
MoeConfig moe_config(const formats::HfConfig& config, const layers::RouterConfig& router);

// Dense below first_k_dense_replace, then every moe_layer_freq-th layer has experts.
bool is_moe_layer(const formats::HfConfig& config, std::int64_t layer_idx);

// Sizes and factors of the router; scoring and grouping are the family's.
layers::RouterConfig router_sizes(const formats::HfConfig& config);

}  // namespace nibble::models::deepseek_mla
