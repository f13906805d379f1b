// simdjson for the large JSON of a checkpoint (safetensors headers, shard index), as Result values.
// Include from .cpp files only.
#pragma once

#include <simdjson.h>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "nibble/result.h"

namespace nibble::formats {

// What a value is, for "expected ..., found ..." messages: "\"abc\"", "-3", "an array of 5".
std::string describe(simdjson::dom::element value);

// One parsed document; views into it live as long as this object. Numbers that fit u64 or i64 are
// read exactly. Duplicate keys are kept: callers check them.
class JsonDocument {
 public:
  // Objects and arrays may nest max_depth deep.
  explicit JsonDocument(std::size_t max_depth) : max_depth_(max_depth) {}

  // Copies `text` once (simdjson reads past its end). bad_input, prefixed by `where`, unless it is one
  // valid UTF-8 JSON object.
  Result<simdjson::dom::object> parse_object(std::span<const std::byte> text, std::string_view where);

 private:
  std::size_t max_depth_;
  simdjson::dom::parser parser_;
};

}  // namespace nibble::formats
