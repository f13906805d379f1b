#include "core/json.h"

#include <fmt/format.h>

#include <string>
#include <unordered_set>
#include <vector>

#include "core/quote.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

// Thrown inside the parser callback, caught by parse_json.
struct JsonRefused {
  std::string reason;
};

// Refuses nesting, duplicate keys and objects past the limits while the parser runs.
class Limits {
 public:
  bool operator()(int depth, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start) {
      if (depth >= kMaxJsonDepth)
        throw JsonRefused{fmt::format("nested deeper than {} levels", kMaxJsonDepth)};
    }
    if (event == Json::parse_event_t::object_start) keys_.emplace_back();
    if (event == Json::parse_event_t::object_end) keys_.pop_back();
    if (event == Json::parse_event_t::key) add_key(value.get<std::string>());
    return true;
  }

 private:
  void add_key(const std::string& key) {
    if (!keys_.back().insert(key).second) throw JsonRefused{fmt::format("duplicate key {}", quote(key))};
    if (keys_.back().size() > kMaxJsonKeys) {
      throw JsonRefused{fmt::format("an object has more than {} keys", kMaxJsonKeys)};
    }
  }

  std::vector<std::unordered_set<std::string>> keys_;  // of the objects being read, outermost first
};

// nlohmann's text without its "[json.exception.parse_error.101] " prefix, fit for a terminal (it quotes
// the offending input, which may be long and not UTF-8).
std::string plain_text(std::string_view what) {
  const std::size_t prefix = what.find("] ");
  if (prefix != std::string_view::npos) what.remove_prefix(prefix + 2);
  return printable(what);
}

}  // namespace

Result<nlohmann::ordered_json> parse_json(std::string_view text, std::string_view where) {
  Limits limits;
  const Json::parser_callback_t callback = [&](int depth, Json::parse_event_t event, Json& value) {
    return limits(depth, event, value);
  };
  try {
    return Json::parse(text, callback);
  } catch (const JsonRefused& refused) {
    return bad_input(fmt::format("{}: invalid JSON: {}", where, refused.reason));
  } catch (const nlohmann::json::exception& e) {
    return bad_input(fmt::format("{}: invalid JSON: {}", where, plain_text(e.what())));
  }
}

}  // namespace nibble
