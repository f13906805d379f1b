#include "nibble/tokenizer.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "core/quote.h"
#include "text/chat_template.h"
#include "text/load_tokenizer.h"
#include "text/read_file.h"
#include "text/tokenizer_config.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace nibble {

namespace {

constexpr std::size_t kMaxConfigBytes = std::size_t{16} << 20;
constexpr std::size_t kMaxJinjaBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;  // positions in a piece are 32-bit

constexpr std::string_view kEndOfSentence = "<｜end▁of▁sentence｜>";  // where no configuration names another

constexpr std::array<std::pair<ChatFormat, std::string_view>, 6> kFormatNames = {{
    {ChatFormat::raw, "raw"},
    {ChatFormat::deepseek_v2, "deepseek-v2"},
    {ChatFormat::deepseek_v3, "deepseek-v3"},
    {ChatFormat::deepseek_r1, "deepseek-r1"},
    {ChatFormat::deepseek_v3_1, "deepseek-v3.1"},
    {ChatFormat::deepseek_v4, "deepseek-v4"},
}};

}  // namespace

Result<ChatFormat> chat_format_from_name(std::string_view name) {
  std::string known;
  for (const auto& [format, format_name] : kFormatNames) {
    if (format_name == name) return format;
    known.append(known.empty() ? "" : ", ").append(format_name);
  }
  return bad_input(fmt::format("unknown chat format {}; known are {}", quote(name, 60), known));
}

std::string_view chat_format_name(ChatFormat format) noexcept {
  for (const auto& [known, name] : kFormatNames) {
    if (known == format) return name;
  }
  return "unknown";
}

struct Tokenizer::Impl {
  text::TokenizerParts parts;
  std::string bos_text;  // empty: none
  std::string eos_text;
  std::optional<TokenId> bos_id;
  std::optional<TokenId> eos_id;
  bool add_bos = false;
  std::optional<text::ChatTemplate> chat_template;

  [[nodiscard]] std::optional<TokenId> token_id(std::string_view text) const {
    if (const auto id = parts.added.find(text)) return id;
    return parts.vocabulary.find(text);
  }

  // `is_given`: the configuration names the token, so that it must exist.
  Status set_special(const std::optional<std::string>& token, bool is_given, std::string_view field,
                     std::string& text, std::optional<TokenId>& id) const {
    if (!token) return {};
    id = token_id(*token);
    if (id) {
      text = *token;
    } else if (is_given) {
      return bad_input(fmt::format("{}: {} is not a token of tokenizer.json", field, quote(*token, 60)));
    }
    return {};
  }

  static Result<Impl> make(std::string_view tokenizer_json, std::string_view where,
                           std::string_view config_json, std::string_view config_where,
                           std::string_view jinja);
};

Result<Tokenizer::Impl> Tokenizer::Impl::make(std::string_view tokenizer_json, std::string_view where,
                                              std::string_view config_json, std::string_view config_where,
                                              std::string_view jinja) {
  NIB_TRY(const text::TokenizerConfig config, text::parse_tokenizer_config(config_json, config_where));
  Impl impl;
  NIB_TRY(impl.parts, text::parse_tokenizer_json(tokenizer_json, where));
  auto status = impl.set_special(config.bos_token, config.names_bos, "bos_token", impl.bos_text, impl.bos_id);
  if (status.ok())
    status = impl.set_special(config.eos_token, config.names_eos, "eos_token", impl.eos_text, impl.eos_id);
  if (!status.ok()) return std::move(status).error().with_context(config_where);
  impl.add_bos = config.add_bos_token && impl.bos_id;
  if (config.has_chat_template) {
    impl.chat_template = config.chat_template;
  } else if (!jinja.empty()) {
    impl.chat_template = text::recognise_template(jinja);
  } else if (impl.parts.added.find("<｜User｜>")) {
    impl.chat_template = text::ChatTemplate::deepseek_v3;
  }
  return impl;
}

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::load(const std::filesystem::path& model_dir) {
  const auto file = model_dir / "tokenizer.json";
  const auto config_file = model_dir / "tokenizer_config.json";
  NIB_TRY(const auto json, text::read_file(file, text::kMaxTokenizerJsonBytes));
  if (!json) return bad_input(fmt::format("{}: no such file; a tokenizer is needed here", file.string()));
  NIB_TRY(const auto config, text::read_file(config_file, kMaxConfigBytes));
  if (config && config->empty()) return bad_input(fmt::format("{}: empty", config_file.string()));
  NIB_TRY(const auto jinja, text::read_file(model_dir / "chat_template.jinja", kMaxJinjaBytes));
  NIB_TRY(Impl impl,
          Impl::make(*json, file.string(), config.value_or(""), config_file.string(), jinja.value_or("")));
  return Tokenizer(std::make_unique<const Impl>(std::move(impl)));
}

Result<Tokenizer> Tokenizer::from_json(std::string_view tokenizer_json, std::string_view config_json) {
  NIB_TRY(Impl impl, Impl::make(tokenizer_json, "tokenizer.json", config_json, "tokenizer_config.json", ""));
  return Tokenizer(std::make_unique<const Impl>(std::move(impl)));
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, bool add_bos) const {
  if (text.size() > kMaxTextBytes) {
    return bad_input(fmt::format("text of {} bytes, at most {} are supported", text.size(), kMaxTextBytes));
  }
  if (const std::size_t invalid = text::first_invalid_utf8(text); invalid < text.size()) {
    return bad_input(fmt::format("text is not valid UTF-8: byte 0x{:02x} at offset {}",
                                 static_cast<unsigned char>(text[invalid]), invalid));
  }
  std::vector<TokenId> ids;
  if (add_bos) {
    if (!impl_->bos_id) return bad_input("a BOS token was asked for, but tokenizer_config.json names none");
    ids.push_back(*impl_->bos_id);
  }
  const text::TokenizerParts& parts = impl_->parts;
  std::vector<text::Segment> segments;
  std::vector<text::Span> pieces;
  text::Bpe::Scratch scratch;
  parts.added.split(text, segments);
  for (const text::Segment& segment : segments) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    const std::string_view plain = text.substr(segment.span.begin, segment.span.end - segment.span.begin);
    NIB_TRY_STATUS(parts.pre_tokenizer.split(plain, pieces));
    for (const text::Span& piece : pieces) {
      NIB_TRY_STATUS(parts.bpe.encode(plain.substr(piece.begin, piece.end - piece.begin), parts.vocabulary,
                                      scratch, ids));
    }
  }
  return ids;
}

Result<std::string> Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string bytes;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size()) {
      return bad_input(fmt::format("ids[{}]: {} is out of range, the tokenizer has ids 0 to {}", i, ids[i],
                                   vocab_size() - 1));
    }
    if (skip_special && is_special(ids[i])) continue;
    bytes += token_bytes(ids[i]);
  }
  std::string text;
  text.reserve(bytes.size());
  text::append_lossy(text, bytes, false);
  return text;
}

std::string_view Tokenizer::token_bytes(TokenId id) const { return impl_->parts.vocabulary.bytes(id); }
bool Tokenizer::is_special(TokenId id) const { return impl_->parts.vocabulary.is_special(id); }
std::int32_t Tokenizer::vocab_size() const { return impl_->parts.vocabulary.size(); }
std::optional<TokenId> Tokenizer::bos_id() const { return impl_->bos_id; }
std::optional<TokenId> Tokenizer::eos_id() const { return impl_->eos_id; }
bool Tokenizer::add_bos() const { return impl_->add_bos; }
std::optional<TokenId> Tokenizer::token_id(std::string_view text) const { return impl_->token_id(text); }

ChatFormat Tokenizer::chat_format() const {
  return impl_->chat_template ? text::format_of(*impl_->chat_template) : ChatFormat::raw;
}

Result<std::string> Tokenizer::render_chat(const ChatRequest& request, ChatFormat format) const {
  if (format == ChatFormat::deepseek_v4)
    return unsupported("the chat format deepseek-v4 is not supported yet");
  auto kind = text::first_template(format);
  if (!kind) {
    return bad_input(
        "the model has no chat format that nibble knows; name one with --chat-format or give plain text");
  }
  if (chat_format() == format) kind = impl_->chat_template;
  const std::string_view eos = impl_->eos_text.empty() ? kEndOfSentence : std::string_view(impl_->eos_text);
  return text::render_template(*kind, request, {.bos = impl_->bos_text, .eos = eos});
}

namespace text {

Result<Tokenizer> load_tokenizer_from_json(std::string_view json, std::string_view where) {
  auto tokenizer = Tokenizer::from_json(json);
  if (!tokenizer.ok()) return std::move(tokenizer).error().with_context(where);
  return tokenizer;
}

}  // namespace text

}  // namespace nibble
