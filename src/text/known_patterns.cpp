// Hand-written matchers for the regular expressions of DeepSeek's tokenizer.json files. Each takes time
// linear in the text; the general engine is several times slower and quadratic for "\s+$".

#include <array>
#include <utility>

#include "text/pattern.h"
#include "text/unicode.h"
#include "text/utf8.h"

namespace nibble::text {

namespace {

// Outcome of trying to match at one place: the end of the match, or where to try next.
struct Attempt {
  bool matched = false;
  std::size_t next = 0;
};

using Matcher = Attempt (*)(std::string_view text, std::size_t at);

template <class Predicate>
std::size_t skip_while(std::string_view text, std::size_t at, Predicate predicate) {
  while (at < text.size()) {
    std::size_t next = at;
    if (!predicate(next_code_point(text, next))) break;
    at = next;
  }
  return at;
}

bool is_line_end(char32_t c) { return c == U'\r' || c == U'\n'; }
bool is_space(char32_t c) { return char_class(c).is_space(); }
bool is_ascii_letter(char32_t c) { return (c | 0x20) >= U'a' && (c | 0x20) <= U'z'; }

bool is_letter_or_mark(char32_t c) {
  const auto category = char_class(c).category();
  return category == CharClass::letter || category == CharClass::mark;
}

bool is_punctuation_or_symbol(char32_t c) {
  const auto category = char_class(c).category();
  return category == CharClass::punctuation || category == CharClass::symbol;
}

// All of ASCII's punctuation and symbols.
bool is_ascii_punctuation(char32_t c) { return c < 0x80 && is_punctuation_or_symbol(c); }

// \p{N}{1,3}
Attempt match_digits(std::string_view text, std::size_t at) {
  std::size_t end = at;
  for (int i = 0; i < 3 && end < text.size(); ++i) {
    std::size_t next = end;
    if (char_class(next_code_point(text, next)).category() != CharClass::number) {
      return {.matched = i > 0, .next = i > 0 ? end : next};
    }
    end = next;
  }
  return {.matched = true, .next = end};
}

// [一-龥぀-ゟ゠-ヿ]+
Attempt match_chinese_japanese(std::string_view text, std::size_t at) {
  const auto in_class = [](char32_t c) {
    return (c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF);
  };
  const std::size_t end = skip_while(text, at, in_class);
  if (end > at) return {.matched = true, .next = end};
  next_code_point(text, at);
  return {.matched = false, .next = at};
}

// \s*[\r\n]+|\s+(?!\S)|\s+ where the text at `at` is white space: up to the last line end of the run; else
// the run without its last character unless the text ends there; else the run, which is one character then.
std::size_t match_white_space(std::string_view text, std::size_t at) {
  std::size_t end = at;
  std::size_t last = at;           // start of the run's last character
  std::size_t after_line_end = 0;  // end of its last line end
  while (end < text.size()) {
    std::size_t next = end;
    const char32_t c = next_code_point(text, next);
    if (!is_space(c)) break;
    if (is_line_end(c)) after_line_end = next;
    last = end;
    end = next;
  }
  if (after_line_end != 0) return after_line_end;
  return end == text.size() || last == at ? end : last;
}

// [\p{P}\p{S}]+[\r\n]* from `at`; `at` itself if there is none.
std::size_t match_punctuation(std::string_view text, std::size_t at) {
  const std::size_t end = skip_while(text, at, is_punctuation_or_symbol);
  return end == at ? at : skip_while(text, end, is_line_end);
}

// [!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*
//   |\s*[\r\n]+|\s+(?!\S)|\s+
Attempt match_words(std::string_view text, std::size_t at) {
  std::size_t second = at;
  const char32_t first = next_code_point(text, second);
  if (is_ascii_punctuation(first)) {
    const std::size_t end = skip_while(text, second, is_ascii_letter);
    return {.matched = true, .next = end > second ? end : match_punctuation(text, at)};
  }
  if (is_punctuation_or_symbol(first)) return {.matched = true, .next = match_punctuation(text, at)};
  if (!is_line_end(first)) {
    // A letter or mark starts the run itself; anything else may precede one.
    const std::size_t end = skip_while(text, second, is_letter_or_mark);
    if (end > second || is_letter_or_mark(first)) return {.matched = true, .next = end};
  }
  if (first == U' ') {
    const std::size_t end = match_punctuation(text, second);
    if (end > second) return {.matched = true, .next = end};
  }
  if (is_space(first)) return {.matched = true, .next = match_white_space(text, at)};
  return {.matched = false, .next = second};
}

// \s+$ ("$" also matches before a line feed).
Attempt match_space_at_line_end(std::string_view text, std::size_t at) {
  std::size_t second = at;
  if (!is_space(next_code_point(text, second))) return {.matched = false, .next = second};
  const std::size_t end = skip_while(text, second, is_space);
  if (end == text.size()) return {.matched = true, .next = end};
  const std::size_t line_feed = text.substr(second, end - second).rfind('\n');
  if (line_feed != std::string_view::npos) return {.matched = true, .next = second + line_feed};
  return {.matched = false, .next = end};  // nor does it match further on in this run
}

class KnownPattern final : public Pattern {
 public:
  explicit KnownPattern(Matcher matcher) : matcher_(matcher) {}

  Status find_all(std::string_view text, std::vector<Span>& matches) const override {
    for (std::size_t at = 0; at < text.size();) {
      const Attempt attempt = matcher_(text, at);
      if (attempt.matched) matches.push_back({.begin = at, .end = attempt.next});
      at = attempt.next;
    }
    return {};
  }

 private:
  Matcher matcher_;
};

struct Known {
  std::string_view regex;
  Matcher matcher;
};

constexpr std::array kKnown = {
    Known{"\\p{N}{1,3}", match_digits},
    Known{"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", match_chinese_japanese},
    Known{"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
          "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
          match_words},
    Known{"\\s+$", match_space_at_line_end},
};

class LiteralPattern final : public Pattern {
 public:
  explicit LiteralPattern(std::string literal) : literal_(std::move(literal)) {}

  Status find_all(std::string_view text, std::vector<Span>& matches) const override {
    std::size_t at = 0;
    while ((at = text.find(literal_, at)) != std::string_view::npos) {
      matches.push_back({.begin = at, .end = at + literal_.size()});
      at += literal_.size();
    }
    return {};
  }

 private:
  std::string literal_;
};

Attempt match_numeric(std::string_view text, std::size_t at, bool individual) {
  std::size_t next = at;
  if (!char_class(next_code_point(text, next)).is_numeric()) return {.matched = false, .next = next};
  if (individual) return {.matched = true, .next = next};
  return {.matched = true,
          .next = skip_while(text, next, [](char32_t c) { return char_class(c).is_numeric(); })};
}

}  // namespace

std::unique_ptr<Pattern> make_known_pattern(std::string_view regex) {
  for (const Known& known : kKnown) {
    if (known.regex == regex) return std::make_unique<KnownPattern>(known.matcher);
  }
  return nullptr;
}

std::unique_ptr<Pattern> make_literal_pattern(std::string literal) {
  return std::make_unique<LiteralPattern>(std::move(literal));
}

std::unique_ptr<Pattern> make_digits_pattern(bool individual_digits) {
  const Matcher individual = [](std::string_view text, std::size_t at) {
    return match_numeric(text, at, true);
  };
  const Matcher runs = [](std::string_view text, std::size_t at) { return match_numeric(text, at, false); };
  return std::make_unique<KnownPattern>(individual_digits ? individual : runs);
}

Result<std::unique_ptr<Pattern>> make_regex_pattern(std::string_view regex) {
  if (auto known = make_known_pattern(regex)) return Result(std::move(known));
  return make_pcre2_pattern(regex);
}

}  // namespace nibble::text
