#include "core/json.h"

#include <fmt/format.h>

#include <set>
#include <string>
#include <vector>

namespace nibble {
namespace {

constexpr int kMaxDepth = 64;

using Json = nlohmann::ordered_json;

// Thrown inside the parser callback, caught by parse_json.
struct JsonRefused {
  std::string reason;
};

}  // namespace

Result<nlohmann::ordered_json> parse_json(std::string_view text, std::string_view where) {
  std::vector<std::set<std::string>> keys;
  const Json::parser_callback_t callback = [&](int depth, Json::parse_event_t event, Json& value) {
    switch (event) {
      case Json::parse_event_t::object_start:
        keys.emplace_back();
        [[fallthrough]];
      case Json::parse_event_t::array_start:
        if (depth >= kMaxDepth) throw JsonRefused{fmt::format("nested deeper than {}", kMaxDepth)};
        break;
      case Json::parse_event_t::object_end:
        keys.pop_back();
        break;
      case Json::parse_event_t::key:
        if (!keys.back().insert(value.get<std::string>()).second) {
          throw JsonRefused{fmt::format("duplicate key \"{}\"", value.get<std::string>())};
        }
        break;
      default:
        break;
    }
    return true;
  };
  try {
    return Json::parse(text, callback);
  } catch (const JsonRefused& refused) {
    return bad_input(fmt::format("{}: invalid JSON: {}", where, refused.reason));
  } catch (const nlohmann::json::exception& e) {
    return bad_input(fmt::format("{}: invalid JSON: {}", where, e.what()));
  }
}

}  // namespace nibble
