// JSON for configuration and requests: nlohmann behind limits. Its parser has no depth limit and
// silently keeps the last of duplicate keys; this one refuses both.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "nibble/result.h"

namespace nibble {

// Keys one object may have. ordered_json searches them one after the other, so without a bound a small
// file could take minutes; files with large objects (shard index, tokenizer) are read with simdjson.
inline constexpr std::size_t kMaxJsonKeys = 4096;
inline constexpr int kMaxJsonDepth = 64;

// Depth <= kMaxJsonDepth, no duplicate keys, valid UTF-8. `where` (file name) prefixes messages.
Result<nlohmann::ordered_json> parse_json(std::string_view text, std::string_view where);

}  // namespace nibble
