#include "formats/json_text.h"

#include <fmt/format.h>

#include <cstdint>

#include "core/quote.h"

namespace nibble::formats {

using simdjson::dom::element_type;

std::string describe(simdjson::dom::element value) {
  switch (value.type()) {
    case element_type::ARRAY: return fmt::format("an array of {}", simdjson::dom::array(value).size());
    case element_type::OBJECT: return "an object";
    case element_type::INT64: return fmt::format("{}", std::int64_t(value));
    case element_type::UINT64: return fmt::format("{}", std::uint64_t(value));
    case element_type::DOUBLE: return fmt::format("{} (not an integer)", double(value));
    case element_type::STRING: return quote(std::string_view(value));
    case element_type::BOOL: return bool(value) ? "true" : "false";
    case element_type::NULL_VALUE: return "null";
  }
  return "an unknown value";
}

Result<simdjson::dom::object> JsonDocument::parse_object(std::span<const std::byte> text,
                                                         std::string_view where) {
  const simdjson::padded_string copy(reinterpret_cast<const char*>(text.data()), text.size());
  simdjson::dom::element root;
  // simdjson's bound counts one level more than the nesting it lets through.
  simdjson::error_code error = parser_.allocate(text.size(), max_depth_ + 1);
  if (error == simdjson::SUCCESS) error = parser_.parse(copy).get(root);
  if (error == simdjson::MEMALLOC) {
    return out_of_memory(fmt::format("{}: no memory to parse {} bytes of JSON", where, text.size()));
  }
  if (error == simdjson::DEPTH_ERROR) {
    return bad_input(fmt::format("{}: nested deeper than {} levels", where, max_depth_));
  }
  if (error != simdjson::SUCCESS) {
    return bad_input(fmt::format("{}: invalid JSON: {}", where, simdjson::error_message(error)));
  }
  simdjson::dom::object object;
  if (root.get(object) != simdjson::SUCCESS) {
    return bad_input(fmt::format("{}: expected a JSON object, found {}", where, describe(root)));
  }
  return object;
}

}  // namespace nibble::formats
