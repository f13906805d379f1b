#include "engine/stop_strings.h"

#include <gtest/gtest.h>

#include "tests/support/random.h"

namespace nibble::engine {
namespace {

struct Result {
  std::string text;
  bool stopped = false;
  friend bool operator==(const Result&, const Result&) = default;
};

Result feed(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  StopStrings matcher(stops);
  Result result;
  for (const std::string& piece : pieces) result.text += matcher.push(piece);
  result.text += matcher.flush();
  result.stopped = matcher.stopped();
  return result;
}

TEST(StopStrings, WithoutStopsTextPassesThroughAtOnce) {
  StopStrings matcher({});
  EXPECT_EQ(matcher.push("hello"), "hello");
  EXPECT_EQ(matcher.flush(), "");
}

TEST(StopStrings, HoldsBackWhatMayBecomeAStop) {
  const std::vector<std::string> stops{"END"};
  StopStrings matcher(stops);
  EXPECT_EQ(matcher.push("abcE"), "abc");
  EXPECT_EQ(matcher.push("N"), "");
  EXPECT_EQ(matcher.push("x"), "ENx") << "it did not";
  EXPECT_EQ(matcher.push("yEN"), "y");
  EXPECT_EQ(matcher.push("D and more"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.push("never"), "");
  EXPECT_EQ(matcher.flush(), "");
}

TEST(StopStrings, GivesTheHeldTextBackAtTheEnd) {
  EXPECT_EQ(feed({"END"}, {"abcEN"}), (Result{"abcEN", false}));
}

TEST(StopStrings, TheFirstToEndCountsAndOfThoseTheLongest) {
  EXPECT_EQ(feed({"bcd", "c"}, {"abcd"}), (Result{"ab", true}));
  EXPECT_EQ(feed({"c", "abc"}, {"xabcd"}), (Result{"x", true}));
}

TEST(StopStrings, FindsAStopInsideAFalseStart) {
  EXPECT_EQ(feed({"aab"}, {"a", "a", "a", "b"}), (Result{"a", true}));
  EXPECT_EQ(feed({"\n\nUser:"}, {"ok\n", "\n\n", "User", ":", " hi"}), (Result{"ok\n", true}));
}

// The rule applied to the whole text at once.
Result reference(const std::vector<std::string>& stops, const std::string& text) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t longest = 0;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0)
        longest = std::max(longest, stop.size());
    }
    if (longest > 0) return {text.substr(0, end - longest), true};
  }
  return {text, false};
}

TEST(StopStrings, ResultsDoNotDependOnWhereTheTextIsCut) {
  testing::Random random(5);
  const auto word = [&](std::int64_t max_length) {
    std::string s(static_cast<std::size_t>(1 + random.below(max_length)), 'a');
    for (char& c : s) c = static_cast<char>('a' + random.below(2));
    return s;
  };
  int num_stopped = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (std::int64_t n = 1 + random.below(3); n > 0; --n) stops.push_back(word(6));
    const std::string text = word(20);
    std::vector<std::string> pieces;
    for (std::size_t at = 0; at < text.size();) {
      pieces.push_back(text.substr(at, static_cast<std::size_t>(random.below(5))));
      at += pieces.back().size();
    }
    const Result expected = reference(stops, text);
    ASSERT_EQ(feed(stops, pieces), expected) << text;
    num_stopped += expected.stopped ? 1 : 0;
  }
  EXPECT_GT(num_stopped, 1000);
  EXPECT_LT(num_stopped, 2900);
}

TEST(CheckStopStrings, Limits) {
  const auto ok = [](std::vector<std::string> stops) { return check_stop_strings(stops).ok(); };
  EXPECT_TRUE(ok({}));
  EXPECT_TRUE(ok(std::vector<std::string>(kMaxStopStrings, "x")));
  EXPECT_FALSE(ok(std::vector<std::string>(kMaxStopStrings + 1, "x")));
  EXPECT_TRUE(ok({std::string(kMaxStopStringBytes, 'x')}));
  EXPECT_FALSE(ok({std::string(kMaxStopStringBytes + 1, 'x')}));
  EXPECT_FALSE(ok({"a", ""}));
}

}  // namespace
}  // namespace nibble::engine
