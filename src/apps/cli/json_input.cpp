#include "cli/json_input.h"

#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "cli/files.h"

namespace nibble::cli {

namespace {

using nlohmann::json;

constexpr std::size_t kMaxTokenFileBytes = std::size_t{64} << 20;
constexpr int kMaxDepth = 64;

// nlohmann has no depth limit of its own (a deep enough nest would exhaust memory) and keeps the last
// of two equal keys without a word.
Result<json> parse_limited(std::string_view text) {
  std::vector<std::set<std::string>> keys;
  const auto check = [&keys](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth) throw std::length_error(fmt::format("nested deeper than {} levels", kMaxDepth));
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      throw std::length_error(fmt::format("key {} given twice", parsed.dump()));
    }
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::exception& e) {
    return bad_input(fmt::format("not valid JSON: {}", e.what()));
  } catch (const std::length_error& e) {
    return bad_input(fmt::format("JSON refused: {}", e.what()));
  }
}

Result<std::vector<TokenId>> token_list(const json& list) {
  if (!list.is_array())
    return bad_input(fmt::format("expected a list of token ids, found {}", list.type_name()));
  std::vector<TokenId> ids;
  ids.reserve(list.size());
  for (const json& item : list) {
    const bool fits = item.is_number_integer() && item >= 0 && item <= std::numeric_limits<TokenId>::max();
    if (!fits) {
      return bad_input(fmt::format("expected a token id (a whole number of at least 0) at index {}, found {}",
                                   ids.size(),
                                   item.dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 40)));
    }
    ids.push_back(item.get<TokenId>());
  }
  return ids;
}

Result<TokenizeLine> ids_line(const json& object) {
  TokenizeLine request;
  auto ids = token_list(object["ids"]);
  if (!ids.ok()) return std::move(ids).error().with_context("\"ids\"");
  request.ids = *std::move(ids);
  if (const auto skip = object.find("skip_special_tokens"); skip != object.end()) {
    if (!skip->is_boolean()) return bad_input("\"skip_special_tokens\": expected true or false");
    request.skip_special_tokens = skip->get<bool>();
  }
  return request;
}

}  // namespace

Result<std::vector<TokenId>> read_token_file(const std::filesystem::path& file) {
  NIB_TRY(const std::string text, read_file(file, kMaxTokenFileBytes));
  auto parsed = parse_limited(text);
  if (!parsed.ok()) return std::move(parsed).error().with_context(file.string());
  auto ids = token_list(*parsed);
  if (!ids.ok()) return std::move(ids).error().with_context(file.string());
  if (ids->empty())
    return bad_input(fmt::format("the list of token ids is empty ({}); give at least one", file.string()));
  return ids;
}

Result<TokenizeLine> parse_tokenize_line(std::string_view line) {
  NIB_TRY(const json object, parse_limited(line));
  const char* const expected = R"(expected an object with one of "text", "ids" or "messages")";
  if (!object.is_object()) return bad_input(fmt::format("{}, found {}", expected, object.type_name()));
  const auto members = object.count("text") + object.count("ids") + object.count("messages");
  if (members != 1) return bad_input(fmt::format("{}, found {} of them", expected, members));
  if (object.contains("ids")) return ids_line(object);
  TokenizeLine request;
  request.is_chat = object.contains("messages");
  if (!request.is_chat) {
    if (!object["text"].is_string()) {
      return bad_input(fmt::format("\"text\": expected a string, found {}", object["text"].type_name()));
    }
    request.text = object["text"].get<std::string>();
  }
  return request;
}

}  // namespace nibble::cli
