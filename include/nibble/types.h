// Small vocabulary types shared by the public headers.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

using TokenId = std::int32_t;

enum class DeviceKind : std::uint8_t { cpu, cuda };

// How multi-head latent attention is computed (DeepSeek-V2 paper, section 2.1).
enum class MlaMode : std::uint8_t {
  automatic,  // naive for long prefill chunks, absorbed otherwise
  naive,      // keys and values rebuilt from the latent
  absorb,     // kv_b_proj folded into the query and the output; attention over the latent
};

// Reports long work. `unit` is what done and total count ("bytes", "tokens"); total 0 = unknown.
// Called from one thread at a time; returning false asks the work to stop (ErrorCode::interrupted).
using ProgressCallback = std::function<bool(std::string_view phase, std::uint64_t done, std::uint64_t total,
                                            std::string_view unit)>;

}  // namespace nibble
