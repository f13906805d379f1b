#include "nibble/tokenizer.h"
#include "text/utf8.h"

namespace nibble {

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(&tokenizer), skip_special_(skip_special) {}

std::string Detokenizer::push(TokenId id) {
  std::string text;
  if (skip_special_ && tokenizer_->is_special(id)) return text;
  pending_ += tokenizer_->token_bytes(id);
  pending_.erase(0, text::append_lossy(text, pending_, true));
  return text;
}

std::string Detokenizer::flush() {
  std::string text;
  text::append_lossy(text, pending_, false);
  pending_.clear();
  return text;
}

}  // namespace nibble
