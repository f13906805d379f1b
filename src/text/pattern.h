// Patterns that a pre-tokenizer splits text at.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/result.h"

namespace nibble::text {

// Bytes [begin, end) of a text.
struct Span {
  std::size_t begin = 0;
  std::size_t end = 0;
  friend bool operator==(const Span&, const Span&) = default;
};

// Immutable; may be used from several threads.
class Pattern {
 public:
  virtual ~Pattern() = default;

  // Appends all matches in `text` (valid UTF-8) from left to right, as Hugging Face's iterator finds them.
  // runtime error if a backtracking limit is reached.
  virtual Status find_all(std::string_view text, std::vector<Span>& matches) const = 0;
};

// An Oniguruma regular expression, as tokenizer.json's {"Regex": ...}: hand-written code for the patterns of
// DeepSeek's files that are worth it, PCRE2 for the rest. unsupported if it uses syntax nibble does not know.
Result<std::unique_ptr<Pattern>> make_regex_pattern(std::string_view regex);

// The same, always through PCRE2.
Result<std::unique_ptr<Pattern>> make_pcre2_pattern(std::string_view regex);

// The hand-written one, or null.
std::unique_ptr<Pattern> make_known_pattern(std::string_view regex);

// tokenizer.json's {"String": ...}. Precondition: not empty.
std::unique_ptr<Pattern> make_literal_pattern(std::string literal);

// Runs of numeric characters, or each one.
std::unique_ptr<Pattern> make_digits_pattern(bool individual_digits);

}  // namespace nibble::text
