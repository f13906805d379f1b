// The mixture-of-experts block of DeepSeek-V2 and V3: routed experts plus shared ones that every token
// passes (DeepSeekMoE, V2 section 2.2). V2 and V3 differ in the router's configuration only.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "layers/context.h"
#include "layers/fused_moe.h"
#include "layers/gated_mlp.h"
#include "layers/residual.h"
#include "layers/router.h"
#include "models/weight_spec.h"

namespace nibble::models::deepseek_mla {

struct MoeConfig {
  layers::RouterConfig router;
  std::int64_t moe_intermediate_size = 0;
  std::int64_t shared_intermediate_size = 0;  // 0 = no shared experts
};

class Moe {
 public:
  explicit Moe(const MoeConfig& config);

  // Adds experts(x) + shared(x) to the stream, which has nothing pending. x: [m, hidden_size] f32.
  void forward(layers::Context& ctx, std::int32_t layer_idx, TensorView x,
               layers::ResidualStream& stream) const;

  void append_specs(std::vector<WeightSpec>& specs, const std::string& prefix);

 private:
  struct Routes {
    TensorView topk_ids;      // [m, topk] i32
    TensorView topk_weights;  // [m, topk] f32
  };
  void route(layers::Context& ctx, TensorView x, const Routes& routes) const;
  static void record(layers::Context& ctx, std::int32_t layer_idx, const Routes& routes);

  layers::Router gate_;
  layers::FusedMoe experts_;
  std::optional<layers::GatedMlp> shared_experts_;
};

// gate_proj, up_proj and down_proj under `prefix`.
void append_mlp_specs(std::vector<WeightSpec>& specs, const std::string& prefix, layers::GatedMlp& mlp);

}  // namespace nibble::models::deepseek_mla
