#include "models/deepseek_v3/model.h"

#include <fmt/format.h>

#include "models/deepseek_mla/config.h"
#include "models/deepseek_mla/model.h"

namespace nibble::models::deepseek_v3 {
namespace {

Result<layers::RouterConfig> router_config(const formats::HfConfig& config) {
  layers::RouterConfig router = deepseek_mla::router_sizes(config);
  if (config.n_routed_experts == 0) return router;
  if (config.scoring_func != "sigmoid" || config.topk_method != "noaux_tc") {
    return unsupported(
        fmt::format("config.json: scoring_func \"{}\" with topk_method \"{}\"; deepseek_v3 models with "
                    "\"sigmoid\" and \"noaux_tc\" are supported",
                    config.scoring_func, config.topk_method));
  }
  router.scoring_func = kernels::ScoringFunc::sigmoid;
  router.group_score = kernels::GroupScore::top2_sum;
  router.has_correction_bias = true;
  return router;
}

}  // namespace

Result<std::unique_ptr<LoadableModel>> make(const formats::HfConfig& config, const ModelOptions& options) {
  NIB_TRY(const layers::RouterConfig router, router_config(config));
  return std::unique_ptr<LoadableModel>(std::make_unique<deepseek_mla::DeepseekMla>(config, router, options));
}

}  // namespace nibble::models::deepseek_v3
