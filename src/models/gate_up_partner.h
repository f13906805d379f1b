// gate_proj and up_proj of one module see the same input and share NVFP4's global scale (ModelOpt).
#pragma once

#include <string>
#include <string_view>

namespace nibble::models {

// The module whose scale `module` shares: "...up_proj" of "...gate_proj" and the other way round; empty if
// it has none.
inline std::string gate_up_partner(std::string_view module) {
  constexpr std::string_view kGate = "gate_proj";
  constexpr std::string_view kUp = "up_proj";
  if (module.ends_with(kGate)) return std::string(module.substr(0, module.size() - kGate.size())).append(kUp);
  if (module.ends_with(kUp)) return std::string(module.substr(0, module.size() - kUp.size())).append(kGate);
  return {};
}

}  // namespace nibble::models
