#include "text/tokenizer_config.h"

#include <fmt/format.h>

#include "core/json.h"
#include "core/quote.h"

namespace nibble::text {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxConfigBytes = std::size_t{16} << 20;

Error expected(std::string_view where, std::string_view key, std::string_view what, const Json& value) {
  return bad_input(fmt::format("{}: {}: expected {}, found {}", where, key, what, value.type_name()));
}

// "text", {"content": "text", ...} or null; `missing` if the key is not there.
Result<std::optional<std::string>> token_of(const Json& root, const char* key, std::string_view missing,
                                            std::string_view where) {
  const auto found = root.find(key);
  if (found == root.end()) return std::optional<std::string>(missing);
  if (found->is_null()) return std::optional<std::string>();
  if (found->is_string()) return std::optional(found->get<std::string>());
  if (found->is_object()) {
    const auto content = found->find("content");
    if (content != found->end() && content->is_string()) return std::optional(content->get<std::string>());
  }
  return expected(where, key, "a string, null or an object with a string \"content\"", *found);
}

Result<bool> flag_of(const Json& root, const char* key, bool missing, std::string_view where) {
  const auto found = root.find(key);
  if (found == root.end() || found->is_null()) return missing;
  if (!found->is_boolean()) return expected(where, key, "true or false", *found);
  return found->get<bool>();
}

// A string, or a list of {"name", "template"} of which "default" counts.
Result<std::string> chat_template_of(const Json& value, std::string_view where) {
  if (value.is_string()) return value.get<std::string>();
  const Json* chosen = nullptr;
  for (std::size_t i = 0; value.is_array() && i < value.size(); ++i) {
    const Json& item = value[i];
    if (!item.is_object() || !item.contains("name") || !item.contains("template")) continue;
    if (chosen == nullptr || item["name"] == "default") chosen = &item["template"];
  }
  if (chosen == nullptr || !chosen->is_string()) {
    return expected(where, "chat_template", "a string or a list of {\"name\", \"template\"}", value);
  }
  return chosen->get<std::string>();
}

}  // namespace

Result<TokenizerConfig> parse_tokenizer_config(std::string_view json, std::string_view where) {
  if (json.size() > kMaxConfigBytes) {
    return bad_input(
        fmt::format("{}: {} bytes, at most {} are supported", where, json.size(), kMaxConfigBytes));
  }
  Json root = Json::object();
  if (!json.empty()) {
    NIB_TRY(root, parse_json(json, where));
  }
  if (!root.is_object())
    return bad_input(fmt::format("{}: expected an object, found {}", where, root.type_name()));
  TokenizerConfig config;
  NIB_TRY(config.bos_token, token_of(root, "bos_token", "<｜begin▁of▁sentence｜>", where));
  NIB_TRY(config.eos_token, token_of(root, "eos_token", "<｜end▁of▁sentence｜>", where));
  config.names_bos = root.contains("bos_token");
  config.names_eos = root.contains("eos_token");
  // The class decides where the file is silent: Llama's tokenizers add a BOS, the others don't.
  const auto tokenizer_class = root.find("tokenizer_class");
  const bool is_llama = tokenizer_class != root.end() && tokenizer_class->is_string() &&
                        tokenizer_class->get_ref<const std::string&>().starts_with("LlamaTokenizer");
  NIB_TRY(config.add_bos_token, flag_of(root, "add_bos_token", is_llama, where));
  const auto jinja = root.find("chat_template");
  if (jinja != root.end() && !jinja->is_null()) {
    NIB_TRY(const std::string text, chat_template_of(*jinja, where));
    config.has_chat_template = true;
    config.chat_template = recognise_template(text);
  }
  return config;
}

}  // namespace nibble::text
