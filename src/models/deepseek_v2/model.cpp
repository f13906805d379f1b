#include "models/deepseek_v2/model.h"

#include <fmt/format.h>

#include "models/deepseek_mla/config.h"
#include "models/deepseek_mla/model.h"

namespace nibble::models::deepseek_v2 {
namespace {

Result<layers::RouterConfig> router_config(const formats::HfConfig& config) {
  layers::RouterConfig router = deepseek_mla::router_sizes(config);
  if (config.n_routed_experts == 0) return router;
  if (config.scoring_func != "softmax") {
    return unsupported(
        fmt::format("config.json: scoring_func is \"{}\"; deepseek_v2 models with \"softmax\" are "
                    "supported",
                    config.scoring_func));
  }
  router.scoring_func = kernels::ScoringFunc::softmax;
  router.group_score = kernels::GroupScore::max;
  if (config.topk_method == "greedy") {
    router.n_group = 1;  // whatever the fields say, greedy looks at all experts
    router.topk_group = 1;
  } else if (config.topk_method != "group_limited_greedy") {
    return unsupported(
        fmt::format("config.json: topk_method is \"{}\"; deepseek_v2 models with \"greedy\" or "
                    "\"group_limited_greedy\" are supported",
                    config.topk_method));
  }
  // The publisher's V2 gate either normalises or scales, never both.
  if (router.norm_topk_prob) router.routed_scaling_factor = 1.0F;
  return router;
}

}  // namespace

Result<std::unique_ptr<LoadableModel>> make(const formats::HfConfig& config, const ModelOptions& options) {
  NIB_TRY(const layers::RouterConfig router, router_config(config));
  return std::unique_ptr<LoadableModel>(std::make_unique<deepseek_mla::DeepseekMla>(config, router, options));
}

}  // namespace nibble::models::deepseek_v2
