// Chat requests: JSON in, typed messages out.

#include <fmt/format.h>

#include "core/json.h"
#include "core/quote.h"
#include "nibble/tokenizer.h"

namespace nibble {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxRequestBytes = std::size_t{32} << 20;
constexpr std::size_t kMaxMessages = 4096;
constexpr std::size_t kMaxToolCalls = 128;  // of one message
constexpr std::size_t kMaxTools = 128;

// The value of a key that is there and not null.
const Json* find(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

Error expected(std::string_view path, std::string_view what, const Json& value) {
  return bad_input(
      fmt::format("{}: expected {}, found {}", path, what,
                  value.is_string() ? quote(value.get_ref<const std::string&>(), 60) : value.type_name()));
}

Result<std::optional<std::string>> text_of(const Json& object, const char* key, const std::string& path) {
  const Json* const value = find(object, key);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string()) return expected(fmt::format("{}.{}", path, key), "text", *value);
  return std::optional(value->get<std::string>());
}

Result<std::string> required_text(const Json& object, const char* key, const std::string& path) {
  NIB_TRY(std::optional<std::string> text, text_of(object, key, path));
  if (!text) return bad_input(fmt::format("{}.{}: missing", path, key));
  return *std::move(text);
}

Result<bool> flag_of(const Json& object, const char* key, const std::string& path) {
  const Json* const value = find(object, key);
  if (value == nullptr) return false;
  if (!value->is_boolean()) return expected(path + key, "true or false", *value);
  return value->get<bool>();
}

Result<ToolCall> parse_tool_call(const Json& json, const std::string& path) {
  if (!json.is_object()) return expected(path, "an object", json);
  ToolCall call;
  NIB_TRY(const std::optional<std::string> type, text_of(json, "type", path));
  if (type) call.type = *type;
  const Json* const function = find(json, "function");
  if (function == nullptr) return bad_input(path + ".function: missing");
  if (!function->is_object()) return expected(path + ".function", "an object", *function);
  NIB_TRY(call.name, required_text(*function, "name", path + ".function"));
  NIB_TRY(call.arguments, required_text(*function, "arguments", path + ".function"));
  return call;
}

Status parse_tool_calls(const Json& json, const std::string& path, ChatMessage& message) {
  const Json* const calls = find(json, "tool_calls");
  if (calls == nullptr) return {};
  if (!calls->is_array()) return expected(path + ".tool_calls", "an array", *calls);
  if (calls->size() > kMaxToolCalls) {
    return bad_input(fmt::format("{}.tool_calls: {} entries, at most {} are supported", path, calls->size(),
                                 kMaxToolCalls));
  }
  message.has_tool_calls = true;
  for (const Json& call : *calls) {
    NIB_TRY(ToolCall parsed,
            parse_tool_call(call, fmt::format("{}.tool_calls[{}]", path, message.tool_calls.size())));
    message.tool_calls.push_back(std::move(parsed));
  }
  return {};
}

Result<ChatMessage> parse_message(const Json& json, const std::string& path) {
  if (!json.is_object()) return expected(path, "an object", json);
  ChatMessage message;
  NIB_TRY(message.role, required_text(json, "role", path));
  NIB_TRY(message.content, text_of(json, "content", path));
  NIB_TRY_STATUS(parse_tool_calls(json, path, message));
  NIB_TRY(message.prefix, flag_of(json, "prefix", path + "."));
  return message;
}

Status parse_messages(const Json& root, ChatRequest& request) {
  const Json* const messages = find(root, "messages");
  if (messages == nullptr) return bad_input("messages: missing");
  if (!messages->is_array()) return expected("messages", "an array", *messages);
  if (messages->empty()) return bad_input("messages: empty, at least one is needed");
  if (messages->size() > kMaxMessages) {
    return bad_input(
        fmt::format("messages: {} entries, at most {} are supported", messages->size(), kMaxMessages));
  }
  for (const Json& message : *messages) {
    NIB_TRY(ChatMessage parsed, parse_message(message, fmt::format("messages[{}]", request.messages.size())));
    request.messages.push_back(std::move(parsed));
  }
  return {};
}

Status parse_tools(const Json& root, ChatRequest& request) {
  const Json* const tools = find(root, "tools");
  if (tools == nullptr) return {};
  if (!tools->is_array()) return expected("tools", "an array", *tools);
  if (tools->size() > kMaxTools) {
    return bad_input(fmt::format("tools: {} entries, at most {} are supported", tools->size(), kMaxTools));
  }
  request.tools_json = tools->dump();
  return {};
}

}  // namespace

Result<ChatRequest> parse_chat_request(std::string_view json) {
  if (json.size() > kMaxRequestBytes) {
    return bad_input(
        fmt::format("chat request: {} bytes, at most {} are supported", json.size(), kMaxRequestBytes));
  }
  NIB_TRY(const Json root, parse_json(json, "chat request"));
  if (!root.is_object()) return expected("chat request", "an object", root);
  ChatRequest request;
  NIB_TRY_STATUS(parse_messages(root, request));
  NIB_TRY_STATUS(parse_tools(root, request));
  NIB_TRY(request.add_generation_prompt, flag_of(root, "add_generation_prompt", ""));
  if (find(root, "thinking") != nullptr) {
    NIB_TRY(request.thinking, flag_of(root, "thinking", ""));
  }
  return request;
}

}  // namespace nibble
