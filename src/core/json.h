// JSON for configuration and requests: nlohmann behind limits. Its parser has no depth limit and
// silently keeps the last of duplicate keys; this one refuses both.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "nibble/result.h"

namespace nibble {

// Depth <= 64, no duplicate keys, valid UTF-8. `where` (file name) prefixes messages.
Result<nlohmann::ordered_json> parse_json(std::string_view text, std::string_view where);

}  // namespace nibble
