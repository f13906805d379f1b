// tokenizer_config.json: which tokens begin and end a text, and which chat template the publisher means.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "nibble/result.h"
#include "text/chat_template.h"

namespace nibble::text {

struct TokenizerConfig {
  // Content of the token; nothing if there is none. Where the file does not say, DeepSeek's own.
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  bool names_bos = false;  // the file does say
  bool names_eos = false;
  bool add_bos_token = false;
  bool has_chat_template = false;
  std::optional<ChatTemplate> chat_template;  // the one recognised
};

// `json` empty: no file. Messages start with `where`.
Result<TokenizerConfig> parse_tokenizer_config(std::string_view json, std::string_view where);

}  // namespace nibble::text
