// DeepSeek-V2 and V2-Lite: softmax gate, greedy or limited to the groups with the best expert.
#pragma once

#include <memory>

#include "models/loadable_model.h"

namespace nibble::models::deepseek_v2 {

// unsupported for a gate this family does not have.
Result<std::unique_ptr<LoadableModel>> make(const formats::HfConfig& config, const ModelOptions& options);

}  // namespace nibble::models::deepseek_v2
