// Tokenizer: byte-level BPE from tokenizer.json, bit-identical to Hugging Face tokenizers for
// DeepSeek's files, and the publishers' chat formats.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/result.h"
#include "nibble/types.h"

namespace nibble {

// A family's chat template. Where a publisher revised one (R1-0528, V3.1-Terminus), a tokenizer whose own
// template is the revision renders the family's format in that form.
enum class ChatFormat : std::uint8_t {
  raw,
  deepseek_v2,
  deepseek_v3,
  deepseek_r1,
  deepseek_v3_1,
  deepseek_v4
};

// "deepseek-v3.1" and so on; bad_input lists the names known.
Result<ChatFormat> chat_format_from_name(std::string_view name);
std::string_view chat_format_name(ChatFormat format) noexcept;

struct ToolCall {
  std::string type = "function";
  std::string name;
  std::string arguments;  // JSON text, as the model wrote it
};

struct ChatMessage {
  std::string role;  // system, user, assistant, tool; messages of others are left out, as the templates do
  std::optional<std::string> content;
  std::vector<ToolCall> tool_calls;
  bool has_tool_calls = false;  // given, though perhaps as an empty list, which the templates tell from none
  bool prefix = false;          // assistant message to be continued (V3.1)
};

struct ChatRequest {
  std::vector<ChatMessage> messages;
  bool add_generation_prompt = false;
  std::optional<bool> thinking;  // V3.1: <think> or </think> after the assistant marker
  std::string tools_json;        // JSON list of tool definitions, or empty
};

// {"messages":[...],"tools":[...],"add_generation_prompt":true,"thinking":false}, messages as in OpenAI's
// chat API. A missing "content" counts as null, a missing tool call "type" as "function"; keys that no
// template uses are ignored. bad_input names the field: 1 to 4,096 messages, text in UTF-8, at most 32 MiB of
// JSON.
Result<ChatRequest> parse_chat_request(std::string_view json);

class Tokenizer {
 public:
  // Reads tokenizer.json and, if present, tokenizer_config.json and chat_template.jinja of a model directory.
  // bad_input for files that are malformed or too large (64 MiB), unsupported for what Hugging Face
  // tokenizers would do and nibble does not (normalizers, other pre-tokenizers, ...); both name the file and
  // the field.
  static Result<Tokenizer> load(const std::filesystem::path& model_dir);

  // The same from the texts of tokenizer.json and tokenizer_config.json (empty: none).
  static Result<Tokenizer> from_json(std::string_view tokenizer_json, std::string_view config_json = {});

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Text to ids; added tokens written in the text are recognised. No BOS is added unless asked for.
  // bad_input if the text is not valid UTF-8 (names the byte offset).
  [[nodiscard]] Result<std::vector<TokenId>> encode(std::string_view text, bool add_bos = false) const;

  // Ids to text: invalid UTF-8 becomes U+FFFD, one per maximal invalid part. bad_input for ids out of range.
  [[nodiscard]] Result<std::string> decode(std::span<const TokenId> ids, bool skip_special = false) const;

  // The raw bytes of one token; empty for ids out of range.
  [[nodiscard]] std::string_view token_bytes(TokenId id) const;
  [[nodiscard]] bool is_special(TokenId id) const;

  [[nodiscard]] std::int32_t vocab_size() const;  // largest id plus one
  [[nodiscard]] std::optional<TokenId> bos_id() const;
  [[nodiscard]] std::optional<TokenId> eos_id() const;
  [[nodiscard]] bool add_bos() const;  // tokenizer_config.json: add_bos_token
  // The added token with this text, or else the plain token with these bytes.
  [[nodiscard]] std::optional<TokenId> token_id(std::string_view text) const;

  // What tokenizer_config.json's template and the added tokens point to; raw if nothing is recognised.
  [[nodiscard]] ChatFormat chat_format() const;

  // The rendered prompt, byte-identical to the publisher's template. bad_input where the template fails (null
  // content where it needs text, ...) and for raw; unsupported for deepseek_v4.
  [[nodiscard]] Result<std::string> render_chat(const ChatRequest& request, ChatFormat format) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

// Streaming detokenizer: turns ids into text piece by piece and never splits a code point. The
// concatenation of all pieces plus flush() equals Tokenizer::decode of all ids.
class Detokenizer {
 public:
  // `tokenizer` must outlive this.
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special = true);
  // The text that became complete with this token (may be empty). Ids out of range are skipped.
  std::string push(TokenId id);
  // What is left at the end, invalid bytes as U+FFFD; push() may be called again.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace nibble
