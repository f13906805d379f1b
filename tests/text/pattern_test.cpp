// The hand-written patterns against the general engine, and what the general engine refuses.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <random>
#include <string>
#include <vector>

#include "text/oniguruma.h"
#include "text/pattern.h"
#include "text/unicode.h"
#include "text/utf8.h"

namespace nibble::text {
namespace {

using ::testing::HasSubstr;

const std::vector<std::string> kHandWritten = {
    "\\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    "\\s+$",
};

// Any code point but surrogates, most of them where the rules differ.
char32_t random_code_point(std::mt19937& random) {
  static constexpr std::array<char32_t, 24> kFavourites = {
      ' ', ' ', '\n', '\r', '\t',   '\v',   'a',   'Z',    '1',    '9',    '.',  '\'',
      '<', '_', 0x85, 0xA0, 0x2028, 0x3000, 0x301, 0x4E2D, 0x3042, 0x30FB, 0xBD, 0x1F600};
  const std::uint32_t kind = random() % 8;
  if (kind < 5) return kFavourites[random() % kFavourites.size()];
  const char32_t c = kind == 5 ? random() % 0x250 : kind == 6 ? random() % 0x3400 : random() % 0x110000;
  return c >= 0xD800 && c < 0xE000 ? U'x' : c;
}

std::vector<Span> matches_of(const Pattern& pattern, std::string_view text) {
  std::vector<Span> matches;
  const Status status = pattern.find_all(text, matches);
  EXPECT_TRUE(status.ok()) << status.error().message;
  return matches;
}

TEST(Pattern, HandWrittenAgreesWithPcre2OnRandomText) {
  std::mt19937 random(20240521);
  for (const std::string& regex : kHandWritten) {
    const auto known = make_known_pattern(regex);
    const auto general = make_pcre2_pattern(regex);
    ASSERT_NE(known, nullptr) << regex;
    ASSERT_TRUE(general.ok()) << general.error().message;
    for (int i = 0; i < 4000; ++i) {
      std::string text;
      for (std::uint32_t length = random() % 24; length > 0; --length)
        append_utf8(text, random_code_point(random));
      ASSERT_EQ(matches_of(*known, text), matches_of(**general, text))
          << regex << " on " << ::testing::PrintToString(text);
    }
  }
}

TEST(Pattern, HandWrittenAgreesWithPcre2OnEveryCodePoint) {
  for (const std::string& regex : kHandWritten) {
    const auto known = make_known_pattern(regex);
    const auto general = make_pcre2_pattern(regex);
    for (char32_t first = 0; first < 0x110000; first += 64) {
      std::string text;
      for (char32_t c = first; c < first + 64; ++c) {
        if (c >= 0xD800 && c < 0xE000) continue;
        append_utf8(text, c);
        text += " a";
      }
      ASSERT_EQ(matches_of(*known, text), matches_of(**general, text))
          << regex << " from " << std::uint32_t{first};
    }
  }
}

TEST(Pattern, EmptyMatchesMoveOn) {
  const auto pattern = make_pcre2_pattern("x*");
  ASSERT_TRUE(pattern.ok());
  const std::vector<Span> expected = {{0, 0}, {1, 3}, {4, 4}};
  EXPECT_EQ(matches_of(**pattern, "axxb"), expected);
}

TEST(Pattern, AnchorsAreOniguruma) {
  const auto pattern = make_pcre2_pattern("^.|.$");
  ASSERT_TRUE(pattern.ok());
  const std::vector<Span> expected = {{0, 1}, {2, 3}, {4, 5}, {5, 6}};  // CR is no line end
  EXPECT_EQ(matches_of(**pattern, "a\rb\ncd"), expected);
}

TEST(Pattern, RefusesWhatItWouldGetWrong) {
  for (const char* regex :
       {"\\b",         "\\G",        "\\K",   "\\R",   "\\X",         "\\1",       "\\k<a>", "\\Qx",
        "\\c",         "(?<name>a)", "(?x)a", "(?#c)", "(*ACCEPT)",   "(?R)",      "(?1)",   "[[a]]",
        "[[:alpha:]]", "[a&&b]",     "[]",    "[]a]",  "a{,3}",       "a{2}+",     "{",      "a}",
        "]",           "\\p{Nope}",  "\\p{L", "\\pL",  "\\x{110000}", "\\x{d800}", "\\xff",  "\\u12",
        "[z-a]",       "[a-\\s]",    "[a",    "\\",    "[\\W]",       "a{1,2,3}"}) {
    const auto pattern = make_pcre2_pattern(regex);
    ASSERT_FALSE(pattern.ok()) << regex;
    EXPECT_EQ(pattern.error().code, ErrorCode::unsupported) << regex << ": " << pattern.error().message;
  }
}

TEST(Pattern, MalformedIsBadInput) {
  for (const char* regex : {"(", ")", "*a", "(?=", "a{70000}", "(?<=a*)b"}) {
    const auto pattern = make_pcre2_pattern(regex);
    ASSERT_FALSE(pattern.ok()) << regex;
    EXPECT_EQ(pattern.error().code, ErrorCode::bad_input) << regex << ": " << pattern.error().message;
  }
  EXPECT_FALSE(make_pcre2_pattern(std::string(20000, 'a')).ok());
}

TEST(Pattern, CatastrophicBacktrackingIsAnError) {
  const auto pattern = make_pcre2_pattern("(?:a|aa)+[bc]");
  ASSERT_TRUE(pattern.ok());
  std::vector<Span> matches;
  const Status status = (*pattern)->find_all(std::string(4000, 'a'), matches);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::runtime);
  EXPECT_THAT(status.error().message, HasSubstr("limit"));
}

// 4 MB that make a backtracking engine quadratic; linear code needs milliseconds.
TEST(Pattern, HandWrittenIsLinear) {
  const std::string spaces = std::string(4 << 20, ' ') + "1";
  for (const std::string& regex : kHandWritten) {
    std::vector<Span> matches;
    ASSERT_TRUE(make_known_pattern(regex)->find_all(spaces, matches).ok());
    EXPECT_LE(matches.size(), 2U);
  }
}

TEST(Unicode, ClassesOfKnownCharacters) {
  EXPECT_EQ(char_class(U'a').category(), CharClass::letter);
  EXPECT_EQ(char_class(0x0301).category(), CharClass::mark);
  EXPECT_EQ(char_class(U'½').category(), CharClass::number);
  EXPECT_FALSE(char_class(U'½').is_digit());
  EXPECT_TRUE(char_class(0x0663).is_digit());
  EXPECT_EQ(char_class(U'_').category(), CharClass::punctuation);
  EXPECT_EQ(char_class(U'+').category(), CharClass::symbol);
  EXPECT_EQ(char_class(U'\0').category(), CharClass::other);
  EXPECT_TRUE(char_class(0x85).is_space());
  EXPECT_FALSE(char_class(0x180E).is_space());  // no white space since Unicode 6.3
  EXPECT_TRUE(char_class(U'_').is_word());
  EXPECT_EQ(char_class(0x10FFFF).category(), CharClass::other);
  EXPECT_EQ(char_class(0xFFFFFFFF).category(), CharClass::other);
}

TEST(Unicode, KnowsWhatUnicode16Added) {
  EXPECT_EQ(char_class(0x105C0).category(), CharClass::letter);
  EXPECT_EQ(char_class(0x10D40).category(), CharClass::number);
  EXPECT_TRUE(char_class(0x105C0).is_after_unicode14());
  EXPECT_FALSE(char_class(U'a').is_after_unicode14());
}

}  // namespace
}  // namespace nibble::text
