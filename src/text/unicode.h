// Character classes as Hugging Face tokenizers sees them (see unicode_ranges.h for their versions).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace nibble::text {

// What is known of a code point: its general category's first letter, if it is one of five, and flags.
class CharClass {
 public:
  enum Category : std::uint8_t { other = 0, letter = 1, mark = 2, number = 3, punctuation = 4, symbol = 5 };

  explicit constexpr CharClass(std::uint8_t flags) : flags_(flags) {}
  [[nodiscard]] constexpr Category category() const { return static_cast<Category>(flags_ & 7); }
  [[nodiscard]] constexpr bool is_space() const { return (flags_ & 8) != 0; }     // \s
  [[nodiscard]] constexpr bool is_numeric() const { return (flags_ & 16) != 0; }  // Rust's is_numeric
  [[nodiscard]] constexpr bool is_word() const { return (flags_ & 32) != 0; }     // \w of Rust's regex
  [[nodiscard]] constexpr bool is_digit() const { return (flags_ & 64) != 0; }    // \d, \p{Nd}
  [[nodiscard]] constexpr bool is_after_unicode14() const { return (flags_ & 128) != 0; }

 private:
  std::uint8_t flags_;
};

// Any value is allowed; past U+10FFFF everything is `other`.
CharClass char_class(char32_t c) noexcept;

// The code points for which `predicate(CharClass)` holds, as the inside of a PCRE2 character class:
// "\x{41}-\x{5a}\x{61}".
std::string class_ranges(const std::function<bool(CharClass)>& predicate);

}  // namespace nibble::text
