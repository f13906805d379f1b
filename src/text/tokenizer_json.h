// tokenizer.json, read and checked.
#pragma once

#include <string_view>

#include "nibble/result.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/pre_tokenizer.h"
#include "text/vocabulary.h"

namespace nibble::text {

inline constexpr std::size_t kMaxTokenizerJsonBytes = std::size_t{64} << 20;

struct TokenizerParts {
  Vocabulary vocabulary;
  Bpe bpe;
  AddedTokens added;
  PreTokenizer pre_tokenizer;
};

// Messages start with `where`. bad_input: malformed, or inconsistent (ids twice or out of range, merges of
// tokens that don't exist); unsupported: something Hugging Face tokenizers would do that nibble does not.
Result<TokenizerParts> parse_tokenizer_json(std::string_view json, std::string_view where);

}  // namespace nibble::text
