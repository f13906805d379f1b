// DeepSeek-V3, R1 and V3.1: sigmoid gate with a correction bias, limited to the groups whose two best
// experts score highest (noaux_tc, V3 section 2.1.2).
#pragma once

#include <memory>

#include "models/loadable_model.h"

namespace nibble::models::deepseek_v3 {

// unsupported for a gate this family does not have.
Result<std::unique_ptr<LoadableModel>> make(const formats::HfConfig& config, const ModelOptions& options);

}  // namespace nibble::models::deepseek_v3
