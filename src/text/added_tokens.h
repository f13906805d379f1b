// Added tokens: matched in the text before it is pre-tokenized.
#pragma once

#include <bitset>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/types.h"
#include "text/pattern.h"

namespace nibble::text {

// Longest text one may have. Bounds the work per character of the text.
inline constexpr std::size_t kMaxAddedTokenBytes = 1024;

struct AddedToken {
  std::string content;
  TokenId id = -1;
  bool special = false;      // left out by skip_special decoding
  bool normalized = false;   // matched after those that are not
  bool single_word = false;  // only where no word character is next to it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
};

// A part of the text: an added token, or (id -1) what is to be encoded.
struct Segment {
  Span span;
  TokenId id = -1;
};

class AddedTokens {
 public:
  AddedTokens() = default;

  // Precondition: contents are not empty and differ.
  explicit AddedTokens(std::vector<AddedToken> tokens);

  // Replaces `segments` by the parts of `text` (valid UTF-8), left to right.
  void split(std::string_view text, std::vector<Segment>& segments) const;

  [[nodiscard]] std::optional<TokenId> find(std::string_view content) const;

 private:
  // Tokens matched in the same pass: leftmost first, the longest of these.
  struct Pass {
    std::vector<AddedToken> tokens;  // sorted by content
    std::bitset<256> first_bytes;

    [[nodiscard]] const AddedToken* longest_at(std::string_view text, std::size_t at) const;
    void split(std::string_view text, std::size_t offset, std::vector<Segment>& segments) const;
  };
  Pass exact_;
  Pass normalized_;
};

}  // namespace nibble::text
