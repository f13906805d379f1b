#include "core/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble {
namespace {

using ::testing::HasSubstr;

std::string message_of(std::string_view text) {
  const auto json = parse_json(text, "config.json");
  if (json.ok()) return "accepted";
  EXPECT_EQ(json.error().code, ErrorCode::bad_input);
  return json.error().message;
}

std::string nested(int depth) {
  return std::string(static_cast<std::size_t>(depth), '[') +
         std::string(static_cast<std::size_t>(depth), ']');
}

TEST(ParseJson, AcceptsValidJsonAndKeepsTheOrder) {
  const auto json = parse_json(R"( {"b": [1, 2.5, "x"], "a": {"é": null}, "": true} )", "config.json");
  ASSERT_TRUE(json.ok());
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.value().items()) keys.push_back(key);
  EXPECT_THAT(keys, ::testing::ElementsAre("b", "a", ""));
  EXPECT_EQ(json.value()["b"][1], 2.5);
}

TEST(ParseJson, EqualKeysInDifferentObjectsAreFine) {
  EXPECT_EQ(message_of(R"({"a": {"a": {"a": 1}}, "b": [{"a": 1}, {"a": 2}]})"), "accepted");
}

TEST(ParseJson, RefusesDuplicateKeys) {
  EXPECT_THAT(message_of(R"({"x": 1, "hidden_size": 2, "hidden_size": 3})"),
              ::testing::AllOf(HasSubstr("config.json"), HasSubstr("duplicate key \"hidden_size\"")));
  EXPECT_THAT(message_of(R"({"a": [{"b": 1, "b": 1}]})"), HasSubstr("duplicate key"));
  EXPECT_THAT(message_of(R"({"a": 1, "\u0061": 1})"), HasSubstr("duplicate key"));
}

TEST(ParseJson, LimitsTheDepth) {
  EXPECT_EQ(message_of(nested(64)), "accepted");
  EXPECT_THAT(message_of(nested(65)), HasSubstr("nested deeper than 64"));
  EXPECT_THAT(message_of(nested(1'000'000)), HasSubstr("nested deeper than 64"));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_THAT(message_of(objects), HasSubstr("nested deeper than 64"));
}

TEST(ParseJson, RefusesBrokenText) {
  for (const std::string_view text :
       {"", "{", "{\"a\":}", "[1,]", "nul", "{\"a\":1}x", "{'a':1}", "\"\xff\"", "[1e999]",
        "{\"a\":1}{\"b\":2}", "[\"\\ud800\"]", "[01]", "[NaN]", "// c\n{}"}) {
    EXPECT_THAT(message_of(text), HasSubstr("config.json: invalid JSON")) << text;
  }
}

// Key by key lookup is linear: without a bound a small file could take minutes.
TEST(ParseJson, LimitsTheKeysOfAnObject) {
  std::string text = "{";
  for (std::size_t i = 0; i < kMaxJsonKeys; ++i) text += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":0";
  EXPECT_EQ(message_of(text + "}"), "accepted");
  EXPECT_THAT(message_of(text + ",\"one more\":0}"), HasSubstr("more than 4096 keys"));
}

TEST(ParseJson, QuotesBrokenTextShortAndPrintable) {
  const std::string message = message_of("{\"a\": \"" + std::string(100'000, 'x') + "\x1b\xff\"}");
  EXPECT_LT(message.size(), 400U);
  EXPECT_EQ(message.find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace nibble
