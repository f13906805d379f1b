// JSON that users hand to the command line.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/result.h"
#include "nibble/types.h"

namespace nibble::cli {

// A file holding a JSON list of token ids, at most 64 MiB.
Result<std::vector<TokenId>> read_token_file(const std::filesystem::path& file);

// One request line of `nibble tokenize`; exactly one of the three members that matter is there.
struct TokenizeLine {
  std::optional<std::string> text;
  std::optional<std::vector<TokenId>> ids;
  bool skip_special_tokens = false;
  bool is_chat = false;  // has "messages"; the library parses the rest
};
Result<TokenizeLine> parse_tokenize_line(std::string_view line);

}  // namespace nibble::cli
