#include "text/chat_template.h"

#include <fmt/format.h>

#include <cstddef>

#include "core/log.h"
#include "core/quote.h"

namespace nibble::text {

namespace {

constexpr std::string_view kUser = "<｜User｜>";
constexpr std::string_view kAssistant = "<｜Assistant｜>";
constexpr std::string_view kEndOfSentence = "<｜end▁of▁sentence｜>";
constexpr std::string_view kCallsBegin = "<｜tool▁calls▁begin｜>";
constexpr std::string_view kCallsEnd = "<｜tool▁calls▁end｜>";
constexpr std::string_view kCallBegin = "<｜tool▁call▁begin｜>";
constexpr std::string_view kCallEnd = "<｜tool▁call▁end｜>";
constexpr std::string_view kSeparator = "<｜tool▁sep｜>";
constexpr std::string_view kOutputsBegin = "<｜tool▁outputs▁begin｜>";
constexpr std::string_view kOutputsEnd = "<｜tool▁outputs▁end｜>";
constexpr std::string_view kOutputBegin = "<｜tool▁output▁begin｜>";
constexpr std::string_view kOutputEnd = "<｜tool▁output▁end｜>";
constexpr std::string_view kThink = "<think>";
constexpr std::string_view kThinkEnd = "</think>";

bool has_tool_calls(const ChatMessage& message) {
  return message.has_tool_calls || !message.tool_calls.empty();
}

std::string_view after_first_think(std::string_view content) {
  const std::size_t end = content.find(kThinkEnd);
  return end == std::string_view::npos ? content : content.substr(end + kThinkEnd.size());
}

std::string_view after_last_think(std::string_view content) {
  const std::size_t end = content.rfind(kThinkEnd);
  return end == std::string_view::npos ? content : content.substr(end + kThinkEnd.size());
}

// What the templates share: the output, and messages whose content must be text.
class Renderer {
 public:
  explicit Renderer(const ChatRequest& request) : request_(request) {}
  virtual ~Renderer() = default;

  Result<std::string> render(std::string_view bos) {
    out_ = bos;
    NIB_TRY_STATUS(system_prompt());
    for (const ChatMessage& message : request_.messages) NIB_TRY_STATUS(one(message));
    finish();
    return std::move(out_);
  }

 protected:
  // Written before all messages.
  virtual Status system_prompt() { return {}; }
  virtual Status system(const ChatMessage&) { return {}; }
  virtual Status user(const ChatMessage& message) = 0;
  virtual Status assistant(const ChatMessage& message) = 0;
  virtual Status tool(const ChatMessage&) { return {}; }
  virtual void finish() = 0;

  template <class... Parts>
  void put(const Parts&... parts) {
    (out_.append(parts), ...);
  }

  [[nodiscard]] const ChatRequest& request() const { return request_; }

  Result<std::string_view> content(const ChatMessage& message) const {
    if (message.content) return std::string_view(*message.content);
    return bad_input(
        fmt::format("messages[{}].content: the chat template needs text for this {} message, found null",
                    idx_of(message), quote(message.role, 40)));
  }

  // V3, V3.1: all system messages with a blank line between them.
  Status joined_system_prompt() {
    bool is_first = true;
    for (const ChatMessage& message : request_.messages) {
      if (message.role != "system") continue;
      NIB_TRY(const std::string_view text, content(message));
      put(is_first ? "" : "\n\n", text);
      is_first = false;
    }
    return {};
  }

 private:
  [[nodiscard]] std::ptrdiff_t idx_of(const ChatMessage& message) const {
    return &message - request_.messages.data();
  }

  Status one(const ChatMessage& message) {
    if (message.role == "user") return user(message);
    if (message.role == "assistant") return assistant(message);
    if (message.role == "tool") return tool(message);
    if (message.role == "system") return system(message);
    log(LogLevel::warning, "messages[{}] is left out: the chat template has no role {}", idx_of(message),
        quote(message.role, 40));
    return {};
  }

  const ChatRequest& request_;
  std::string out_;
};

class V2Renderer final : public Renderer {
 public:
  V2Renderer(const ChatRequest& request, std::string_view eos) : Renderer(request), eos_(eos) {}

 private:
  Status system(const ChatMessage& message) override { return write("", message, "\n\n"); }
  Status user(const ChatMessage& message) override { return write("User: ", message, "\n\n"); }
  Status assistant(const ChatMessage& message) override { return write("Assistant: ", message, eos_); }

  void finish() override {
    if (request().add_generation_prompt) put("Assistant:");
  }

  Status write(std::string_view before, const ChatMessage& message, std::string_view after) {
    NIB_TRY(const std::string_view text, content(message));
    put(before, text, after);
    return {};
  }

  std::string_view eos_;
};

// Tool calls and results as V3 and R1 write them.
class V3ToolRenderer : public Renderer {
 public:
  using Renderer::Renderer;

 protected:
  void put_call(const ToolCall& call) {
    put(kCallBegin, call.type, kSeparator, call.name, "\n```json\n", call.arguments, "\n```", kCallEnd);
  }

  Status tool(const ChatMessage& message) override {
    NIB_TRY(const std::string_view text, content(message));
    is_last_user_ = false;
    is_tool_ = true;
    put(is_first_output_ ? kOutputsBegin : "\n", kOutputBegin, text, kOutputEnd);
    is_first_output_ = false;
    return {};
  }

  bool is_tool_ = false;
  bool is_first_output_ = true;
  bool is_last_user_ = false;
};

class V3Renderer final : public V3ToolRenderer {
 public:
  // R1-0528 is V3-0324 with the reasoning dropped from former answers.
  V3Renderer(const ChatRequest& request, bool drops_reasoning)
      : V3ToolRenderer(request), drops_reasoning_(drops_reasoning) {}

 private:
  Status system_prompt() override { return joined_system_prompt(); }

  Status user(const ChatMessage& message) override {
    NIB_TRY(const std::string_view text, content(message));
    is_tool_ = false;
    is_last_user_ = true;
    put(kUser, text, kAssistant);
    return {};
  }

  Status assistant(const ChatMessage& message) override {
    std::string_view text;
    const bool may_be_null = has_tool_calls(message) && !drops_reasoning_;
    if (message.content || !may_be_null) {
      NIB_TRY(text, content(message));
    }
    if (drops_reasoning_) text = after_last_think(text);
    is_last_user_ = false;
    if (is_tool_) put(kOutputsEnd);
    is_tool_ = false;
    if (has_tool_calls(message)) {
      put_calls(message, text);
    } else {
      put(text);
    }
    put(kEndOfSentence);
    return {};
  }

  void put_calls(const ChatMessage& message, std::string_view text) {
    is_first_output_ = true;
    bool is_first = true;
    for (const ToolCall& call : message.tool_calls) {
      if (is_first) {
        put(text, kCallsBegin);
      } else {
        put("\n");
      }
      put_call(call);
      is_first = false;
    }
    put(kCallsEnd);
  }

  void finish() override {
    if (is_tool_) put(kOutputsEnd);
    if (request().add_generation_prompt && !is_last_user_ && !is_tool_) put(kAssistant);
  }

  bool drops_reasoning_;
};

// Kept as published: calls are only read where there is no content, only the first one of a conversation
// opens the list, only the second and later ones close it, and only the first result opens the outputs.
class R1Renderer final : public V3ToolRenderer {
 public:
  using V3ToolRenderer::V3ToolRenderer;

 private:
  // The last system message stands for all.
  Status system_prompt() override {
    std::string_view last;
    for (const ChatMessage& message : request().messages) {
      if (message.role != "system") continue;
      NIB_TRY(last, content(message));
    }
    put(last);
    return {};
  }

  Status user(const ChatMessage& message) override {
    NIB_TRY(const std::string_view text, content(message));
    is_tool_ = false;
    put(kUser, text);
    return {};
  }

  Status assistant(const ChatMessage& message) override {
    if (!message.content) return put_calls(message);
    if (is_tool_) {
      is_tool_ = false;
      put(kOutputsEnd, *message.content, kEndOfSentence);
    } else {
      put(kAssistant, after_last_think(*message.content), kEndOfSentence);
    }
    return {};
  }

  Status put_calls(const ChatMessage& message) {
    is_tool_ = false;
    for (const ToolCall& call : message.tool_calls) {
      if (is_first_call_) {
        put(kAssistant, kCallsBegin);
        put_call(call);
        is_first_call_ = false;
      } else {
        put("\n");
        put_call(call);
        put(kCallsEnd, kEndOfSentence);
      }
    }
    return {};
  }

  void finish() override {
    if (is_tool_) put(kOutputsEnd);
    if (request().add_generation_prompt && !is_tool_) put(kAssistant, kThink, "\n");
  }

  bool is_first_call_ = true;
};

class V31Renderer final : public Renderer {
 public:
  V31Renderer(const ChatRequest& request, bool is_terminus) : Renderer(request), is_terminus_(is_terminus) {
    for (const ChatMessage& message : request.messages) {
      if (message.role == "system") is_only_system_ = is_terminus;
    }
  }

 private:
  [[nodiscard]] bool thinking() const { return request().thinking.value_or(false); }

  Status system_prompt() override { return joined_system_prompt(); }

  Status user(const ChatMessage& message) override {
    NIB_TRY(const std::string_view text, content(message));
    is_tool_ = false;
    is_last_user_ = true;
    is_only_system_ = false;
    put(kUser, text);
    return {};
  }

  Status assistant(const ChatMessage& message) override {
    auto status = has_tool_calls(message) ? put_calls(message) : put_answer(message);
    is_last_user_ = false;
    is_tool_ = false;
    is_only_system_ = false;
    return status;
  }

  Status put_calls(const ChatMessage& message) {
    if (is_last_user_ || is_only_system_) put(kAssistant, kThinkEnd);
    bool is_first = true;
    for (const ToolCall& call : message.tool_calls) {
      if (is_first) put(message.content.value_or(""), kCallsBegin);
      put(kCallBegin, call.name, kSeparator, call.arguments, kCallEnd);
      is_first = false;
    }
    put(kCallsEnd, kEndOfSentence);
    return {};
  }

  Status put_answer(const ChatMessage& message) {
    NIB_TRY(const std::string_view text, content(message));
    if (is_last_user_) put(kAssistant, message.prefix && thinking() ? kThink : kThinkEnd);
    saw_prefix_ = saw_prefix_ || message.prefix;
    put(is_tool_ ? text : after_first_think(text), kEndOfSentence);
    return {};
  }

  Status tool(const ChatMessage& message) override {
    NIB_TRY(const std::string_view text, content(message));
    is_last_user_ = false;
    is_tool_ = true;
    is_only_system_ = false;
    put(kOutputBegin, text, kOutputEnd);
    return {};
  }

  void finish() override {
    const bool is_due = is_terminus_ ? is_last_user_ || is_only_system_ || !saw_prefix_ : is_last_user_;
    if (request().add_generation_prompt && !is_tool_ && is_due)
      put(kAssistant, thinking() ? kThink : kThinkEnd);
  }

  bool is_terminus_;
  bool is_tool_ = false;
  bool is_last_user_ = false;
  bool is_only_system_ = false;  // system messages there are, and nothing came before the message at hand
  bool saw_prefix_ = false;
};

}  // namespace

ChatFormat format_of(ChatTemplate kind) noexcept {
  switch (kind) {
    case ChatTemplate::deepseek_v2: return ChatFormat::deepseek_v2;
    case ChatTemplate::deepseek_v3: return ChatFormat::deepseek_v3;
    case ChatTemplate::deepseek_r1:
    case ChatTemplate::deepseek_r1_0528: return ChatFormat::deepseek_r1;
    case ChatTemplate::deepseek_v3_1:
    case ChatTemplate::deepseek_v3_1_terminus: return ChatFormat::deepseek_v3_1;
  }
  return ChatFormat::raw;
}

std::optional<ChatTemplate> first_template(ChatFormat format) noexcept {
  switch (format) {
    case ChatFormat::deepseek_v2: return ChatTemplate::deepseek_v2;
    case ChatFormat::deepseek_v3: return ChatTemplate::deepseek_v3;
    case ChatFormat::deepseek_r1: return ChatTemplate::deepseek_r1;
    case ChatFormat::deepseek_v3_1: return ChatTemplate::deepseek_v3_1;
    case ChatFormat::raw:
    case ChatFormat::deepseek_v4: break;
  }
  return std::nullopt;
}

std::optional<ChatTemplate> recognise_template(std::string_view jinja) {
  const auto has = [&](std::string_view text) { return jinja.find(text) != std::string_view::npos; };
  if (!has(kUser)) {
    return has("'User: '") && has("'Assistant:'") ? std::optional(ChatTemplate::deepseek_v2) : std::nullopt;
  }
  if (has("is_only_sys")) return ChatTemplate::deepseek_v3_1_terminus;
  if (has("not thinking")) return ChatTemplate::deepseek_v3_1;
  if (has("<think>\\n") || has("<think>\n")) return ChatTemplate::deepseek_r1;
  if (has("split('</think>')")) return ChatTemplate::deepseek_r1_0528;
  return ChatTemplate::deepseek_v3;
}

Result<std::string> render_template(ChatTemplate kind, const ChatRequest& request,
                                    const ChatMarkers& markers) {
  switch (kind) {
    case ChatTemplate::deepseek_v2: return V2Renderer(request, markers.eos).render(markers.bos);
    case ChatTemplate::deepseek_v3: return V3Renderer(request, false).render(markers.bos);
    case ChatTemplate::deepseek_r1_0528: return V3Renderer(request, true).render(markers.bos);
    case ChatTemplate::deepseek_r1: return R1Renderer(request).render(markers.bos);
    case ChatTemplate::deepseek_v3_1: return V31Renderer(request, false).render(markers.bos);
    case ChatTemplate::deepseek_v3_1_terminus: return V31Renderer(request, true).render(markers.bos);
  }
  return unsupported("unknown chat template");
}

}  // namespace nibble::text
