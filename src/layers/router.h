// Router: picks the experts of each token and their weights (DeepSeek-V2 section 2.2, V3 section
// 2.1.2). Logits, scores and choice are float32 on every device.
#pragma once

#include "kernels/args/moe.h"
#include "layers/context.h"
#include "layers/linear.h"
#include "layers/parameter.h"

namespace nibble::layers {

struct RouterConfig {
  std::int64_t hidden_size = 0;
  std::int64_t n_routed_experts = 0;
  std::int32_t num_experts_per_tok = 0;
  kernels::ScoringFunc scoring_func = kernels::ScoringFunc::softmax;
  kernels::GroupScore group_score = kernels::GroupScore::max;
  std::int32_t n_group = 1;     // 1 = experts are not grouped
  std::int32_t topk_group = 1;  // groups a token may use
  bool norm_topk_prob = false;
  float routed_scaling_factor = 1.0F;
  bool has_correction_bias = false;  // e_score_correction_bias (noaux_tc)
};

class Router {
 public:
  explicit Router(const RouterConfig& config);

  // x: [m, hidden_size] f32. topk_ids: [m, num_experts_per_tok] i32, ascending; topk_weights: the same
  // shape f32, normalised and scaled.
  void forward(Context& ctx, TensorView x, TensorView topk_ids, TensorView topk_weights) const;

  [[nodiscard]] const RouterConfig& config() const noexcept { return config_; }
  // For loading, once. The bias has size 0 if the model has none.
  [[nodiscard]] kernels::Weight& weight() noexcept { return gate_.weight(); }
  [[nodiscard]] Parameter& correction_bias() noexcept { return correction_bias_; }

 private:
  RouterConfig config_;
  Linear gate_;
  Parameter correction_bias_;
};

}  // namespace nibble::layers
