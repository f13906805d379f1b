#include "core/quote.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

TEST(Quote, PlainTextStays) {
  EXPECT_EQ(quote("model.layers.0"), "\"model.layers.0\"");
  EXPECT_EQ(quote(""), "\"\"");
  EXPECT_EQ(printable("\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80"), "\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80");
}

TEST(Quote, ControlCharactersAndInvalidUtf8AreEscaped) {
  EXPECT_EQ(printable(std::string_view("a\0b\n\x7f", 5)), "a\\x00b\\x0a\\x7f");
  EXPECT_EQ(printable("\xff\xC3"), "\\xff\\xc3");
  EXPECT_EQ(printable("\xC0\xAF"), "\\xc0\\xaf") << "overlong";
  EXPECT_EQ(printable("\xE0\x80\x80"), "\\xe0\\x80\\x80") << "overlong";
  EXPECT_EQ(printable("\xED\xA0\x80"), "\\xed\\xa0\\x80") << "surrogate";
  EXPECT_EQ(printable("\xF4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80") << "past U+10FFFF";
  EXPECT_EQ(printable("\xE2\x82"), "\\xe2\\x82") << "cut short";
}

TEST(Quote, LongTextIsCutBetweenCharacters) {
  EXPECT_EQ(quote("abcdef", 3), "\"abc...\"");
  EXPECT_EQ(printable("ab\xC3\xA9z", 3), "ab\xC3\xA9...");
  EXPECT_EQ(printable("abc", 3), "abc");
}

}  // namespace
}  // namespace nibble
