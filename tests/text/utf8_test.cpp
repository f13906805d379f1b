#include "text/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace nibble::text {
namespace {

std::string lossy(std::string_view bytes) {
  std::string out;
  EXPECT_EQ(append_lossy(out, bytes, false), bytes.size());
  return out;
}

#define NIB_FFFD "\xEF\xBF\xBD"

// Expected values: the Unicode standard's examples of maximal subparts (tables 3-8 to 3-11).
TEST(Utf8, ReplacesMaximalSubparts) {
  EXPECT_EQ(lossy("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            NIB_FFFD NIB_FFFD NIB_FFFD NIB_FFFD NIB_FFFD NIB_FFFD NIB_FFFD NIB_FFFD "A");
  EXPECT_EQ(lossy("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"),
            NIB_FFFD NIB_FFFD NIB_FFFD NIB_FFFD NIB_FFFD NIB_FFFD NIB_FFFD NIB_FFFD "A");
  EXPECT_EQ(lossy("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            NIB_FFFD NIB_FFFD NIB_FFFD NIB_FFFD NIB_FFFD "A" NIB_FFFD NIB_FFFD "B");
  EXPECT_EQ(lossy("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), NIB_FFFD NIB_FFFD NIB_FFFD NIB_FFFD "A");
  EXPECT_EQ(lossy("\xF0\x9F\x98"), NIB_FFFD);
}

TEST(Utf8, HoldsBackWhatMayBecomeValid) {
  std::string out;
  EXPECT_EQ(append_lossy(out, "a\xF0\x9F\x98", true), 1U);
  EXPECT_EQ(out, "a");
  out.clear();
  EXPECT_EQ(append_lossy(out, "\xF0\x9F\x41", true), 3U);  // can't become valid any more
  EXPECT_EQ(out, NIB_FFFD "A");
}

TEST(Utf8, FindsTheFirstInvalidByte) {
  EXPECT_EQ(first_invalid_utf8(""), 0U);
  EXPECT_EQ(first_invalid_utf8("h\xC3\xA9"), 3U);
  EXPECT_EQ(first_invalid_utf8("h\xC3"), 1U);
  EXPECT_EQ(first_invalid_utf8("ab\x80"), 2U);
}

TEST(Utf8, EveryCodePointGoesBothWays) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    std::size_t at = 0;
    ASSERT_EQ(first_invalid_utf8(text), text.size()) << std::uint32_t{c};
    ASSERT_EQ(next_code_point(text, at), c);
    ASSERT_EQ(at, text.size());
  }
}

}  // namespace
}  // namespace nibble::text
