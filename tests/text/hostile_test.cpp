// tokenizer.json files that are wrong: each is refused with a message that names the field.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "tests/support/paths.h"
#include "tests/text/test_files.h"

namespace nibble::text {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::read_text;

struct Case {
  const char* name;
  std::function<void(json&)> spoil;
  const char* message;
  ErrorCode code = ErrorCode::bad_input;
};

constexpr ErrorCode kUnsupported = ErrorCode::unsupported;

const json& good() {
  static const json tokenizer =
      json::parse(read_text(nibble::testing::test_data("golden/tokenizer/tokenizer.json")));
  return tokenizer;
}

json& step(json& t, int i) { return t["pre_tokenizer"]["pretokenizers"][static_cast<std::size_t>(i)]; }
json& vocab(json& t) { return t["model"]["vocab"]; }
json& merges(json& t) { return t["model"]["merges"]; }
json& added(json& t, std::size_t i) { return t["added_tokens"][i]; }

json nested(int depth) {
  json value = json::array();
  for (int i = 0; i < depth; ++i) value = json::array({value});
  return value;
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"root is a list", [](json& t) { t = json::array(); }, "expected an object"},
      {"root is null", [](json& t) { t = nullptr; }, "expected an object"},
      {"deep nesting", [](json& t) { t["extra"] = nested(200); }, "nested deeper"},
      {"too many keys",
       [](json& t) {
         for (int i = 0; i < 300; ++i) t[std::to_string(i)] = i;
       },
       "more than 256 keys"},
      {"other version", [](json& t) { t["version"] = "2.0"; }, "version: \"2.0\"", kUnsupported},
      {"version is a number", [](json& t) { t["version"] = 1; }, "version: expected a string"},
      {"truncation",
       [](json& t) {
         t["truncation"] = {{"max_length", 5}};
       },
       "truncation", kUnsupported},
      {"padding",
       [](json& t) {
         t["padding"] = {{"strategy", "Fixed"}};
       },
       "padding", kUnsupported},
      {"normalizer",
       [](json& t) {
         t["normalizer"] = {{"type", "NFC"}};
       },
       "normalizer.type: \"NFC\"", kUnsupported},
      {"normalizer in a list",
       [](json& t) {
         t["normalizer"]["normalizers"] = {{{"type", "Lowercase"}}};
       },
       "normalizer.normalizers[].type: \"Lowercase\"", kUnsupported},
      {"normalizer is a string", [](json& t) { t["normalizer"] = "NFC"; }, "normalizer: expected an object"},
      {"post-processor", [](json& t) { t["post_processor"]["type"] = "BertProcessing"; },
       "post_processor.type", kUnsupported},
      {"no decoder", [](json& t) { t["decoder"] = nullptr; }, "decoder: missing"},
      {"other decoder", [](json& t) { t["decoder"]["type"] = "WordPiece"; }, "decoder.type", kUnsupported},
      {"decoder without type", [](json& t) { t["decoder"].erase("type"); }, "decoder.type: missing"},
      {"no pre-tokenizer", [](json& t) { t.erase("pre_tokenizer"); }, "pre_tokenizer: missing"},
      {"pre-tokenizer is null", [](json& t) { t["pre_tokenizer"] = nullptr; },
       "pre_tokenizer: missing (null)"},
      {"pre-tokenizer is a number", [](json& t) { t["pre_tokenizer"] = 3; },
       "pre_tokenizer: expected an object, found 3"},
      {"unknown pre-tokenizer", [](json& t) { t["pre_tokenizer"]["type"] = "Metaspace"; }, "\"Metaspace\"",
       kUnsupported},
      {"unknown step", [](json& t) { step(t, 1)["type"] = "Whitespace"; },
       "pretokenizers[1].type: \"Whitespace\"", kUnsupported},
      {"steps are no list", [](json& t) { t["pre_tokenizer"]["pretokenizers"] = 1; },
       "pretokenizers: expected an array"},
      {"no steps", [](json& t) { t["pre_tokenizer"]["pretokenizers"] = json::array(); }, "no ByteLevel",
       kUnsupported},
      {"no byte level", [](json& t) { t["pre_tokenizer"]["pretokenizers"].erase(3); }, "no ByteLevel",
       kUnsupported},
      {"step after byte level", [](json& t) { t["pre_tokenizer"]["pretokenizers"].push_back(step(t, 0)); },
       "after ByteLevel", kUnsupported},
      {"too many steps",
       [](json& t) {
         json& steps = t["pre_tokenizer"]["pretokenizers"];
         for (int i = 0; i < 100; ++i) steps.insert(steps.begin(), step(t, 0));
       },
       "more than 64 steps"},
      {"prefix space", [](json& t) { step(t, 3)["add_prefix_space"] = true; }, "add_prefix_space",
       kUnsupported},
      {"use_regex is a string", [](json& t) { step(t, 3)["use_regex"] = "no"; },
       "use_regex: expected true or false"},
      {"no pattern", [](json& t) { step(t, 0).erase("pattern"); }, "pretokenizers[0].pattern: missing"},
      {"pattern is a string", [](json& t) { step(t, 0)["pattern"] = "x"; }, "pattern: expected an object"},
      {"pattern of neither kind",
       [](json& t) {
         step(t, 0)["pattern"] = {{"Glob", "*"}};
       },
       "pattern.Regex: missing"},
      {"empty literal",
       [](json& t) {
         step(t, 0)["pattern"] = {{"String", ""}};
       },
       "pattern.String: empty"},
      {"regex does not compile", [](json& t) { step(t, 0)["pattern"]["Regex"] = "("; },
       "pattern.Regex: regular expression"},
      {"regex with a back reference", [](json& t) { step(t, 0)["pattern"]["Regex"] = "(a)\\1"; }, "\\1",
       kUnsupported},
      {"regex is long", [](json& t) { step(t, 0)["pattern"]["Regex"] = std::string(100000, 'a'); },
       "100000 bytes", kUnsupported},
      {"unknown behavior", [](json& t) { step(t, 0)["behavior"] = "Shuffled"; }, "behavior: \"Shuffled\"",
       kUnsupported},
      {"no behavior", [](json& t) { step(t, 0).erase("behavior"); }, "behavior: missing"},
      {"invert is a number", [](json& t) { step(t, 0)["invert"] = 1; },
       "invert: expected true or false, found 1"},
      {"no model", [](json& t) { t.erase("model"); }, "model: missing"},
      {"model is a list", [](json& t) { t["model"] = json::array(); }, "model: expected an object"},
      {"other model", [](json& t) { t["model"]["type"] = "Unigram"; }, "model.type: \"Unigram\"",
       kUnsupported},
      {"model without type", [](json& t) { t["model"].erase("type"); }, "model.type: missing"},
      {"dropout", [](json& t) { t["model"]["dropout"] = 0.1; }, "model.dropout", kUnsupported},
      {"prefix", [](json& t) { t["model"]["continuing_subword_prefix"] = "##"; }, "continuing_subword_prefix",
       kUnsupported},
      {"suffix", [](json& t) { t["model"]["end_of_word_suffix"] = "</w>"; }, "end_of_word_suffix",
       kUnsupported},
      {"ignore_merges is a string", [](json& t) { t["model"]["ignore_merges"] = "x"; },
       "ignore_merges: expected"},
      {"no vocabulary", [](json& t) { t["model"].erase("vocab"); }, "model.vocab: missing"},
      {"vocabulary is a list", [](json& t) { vocab(t) = json::array(); }, "model.vocab: expected an object"},
      {"vocabulary is empty", [](json& t) { vocab(t) = json::object(); }, "model.vocab: empty"},
      {"id is a string", [](json& t) { vocab(t)["!"] = "3"; }, "model.vocab[\"!\"]: expected a token id"},
      {"id is a fraction", [](json& t) { vocab(t)["!"] = 3.5; }, "found 3.5"},
      {"id is negative", [](json& t) { vocab(t)["!"] = -1; }, "found -1"},
      {"id is huge", [](json& t) { vocab(t)["!"] = 1 << 20; }, "found 1048576"},
      {"id is 2^63", [](json& t) { vocab(t)["!"] = std::uint64_t{1} << 63; }, "found 9223372036854775808"},
      {"id twice", [](json& t) { vocab(t)["!"] = vocab(t)["\""]; }, "is also that of"},
      {"no merges", [](json& t) { t["model"].erase("merges"); }, "model.merges: missing"},
      {"merges are an object", [](json& t) { merges(t) = json::object(); },
       "model.merges: expected an array"},
      {"merge is a number", [](json& t) { merges(t)[7] = 7; }, "model.merges[7]: merge: expected"},
      {"merge without space", [](json& t) { merges(t)[7] = "ab"; }, "model.merges[7]: merge: expected"},
      {"merge with two spaces", [](json& t) { merges(t)[7] = "a b c"; }, "model.merges[7]: merge: expected"},
      {"merge of three",
       [](json& t) {
         merges(t)[7] = {"a", "b", "c"};
       },
       "model.merges[7]: merge: expected"},
      {"merge pair of numbers",
       [](json& t) {
         merges(t)[7] = {1, 2};
       },
       "model.merges[7]: merge: expected"},
      {"merge of an unknown token", [](json& t) { merges(t)[7] = "nosuchtoken b"; },
       "token \"nosuchtoken\" is not in"},
      {"merge to an unknown token", [](json& t) { merges(t)[7] = "q \xC4\xA0"; }, "is not in model.vocab"},
      {"merge of an empty token", [](json& t) { merges(t)[7] = " a"; }, "token \"\" is not in"},
      {"added tokens are an object", [](json& t) { t["added_tokens"] = json::object(); },
       "added_tokens: expected an array"},
      {"added token is a string", [](json& t) { added(t, 3) = "x"; }, "added_tokens[3]: expected an object"},
      {"added token without content", [](json& t) { added(t, 3).erase("content"); },
       "added_tokens[3].content: missing"},
      {"added token without text", [](json& t) { added(t, 3)["content"] = ""; },
       "added_tokens[3].content: empty"},
      {"added token is long", [](json& t) { added(t, 3)["content"] = std::string(2000, 'x'); }, "2000 bytes",
       kUnsupported},
      {"added token without id", [](json& t) { added(t, 3).erase("id"); }, "added_tokens[3].id: missing"},
      {"added token with a huge id", [](json& t) { added(t, 3)["id"] = 1e18; },
       "added_tokens[3].id: expected a token id"},
      {"added token with another's id", [](json& t) { added(t, 3)["id"] = 77; },
       "added_tokens[3].id: 77 is also the id of"},
      {"added token with two ids", [](json& t) { added(t, 0)["id"] = 4096; },
       "added_tokens[0].id: 4096, but model.vocab"},
      {"added token twice", [](json& t) { t["added_tokens"].push_back(added(t, 3)); }, "is there twice"},
      {"special is a string", [](json& t) { added(t, 3)["special"] = "yes"; },
       "special: expected true or false"},
      {"lstrip is a number", [](json& t) { added(t, 3)["lstrip"] = 0; }, "lstrip: expected true or false"},
  };
  return all;
}

void expect_refused(const std::string& text, ErrorCode code, const std::string& message,
                    const std::string& name) {
  const auto loaded = Tokenizer::from_json(text);
  ASSERT_FALSE(loaded.ok()) << name;
  EXPECT_EQ(loaded.error().code, code) << name << ": " << loaded.error().message;
  EXPECT_THAT(loaded.error().message, HasSubstr(message)) << name;
  EXPECT_THAT(loaded.error().message, HasSubstr("tokenizer.json")) << name;
  EXPECT_LT(loaded.error().message.size(), 1000U) << name;
}

TEST(HostileTokenizer, EveryMutationIsRefused) {
  EXPECT_GE(cases().size(), 70U);
  for (const Case& one : cases()) {
    json tokenizer = good();
    one.spoil(tokenizer);
    expect_refused(tokenizer.dump(), one.code, one.message, one.name);
  }
}

TEST(HostileTokenizer, TruncationIsRefused) {
  const std::string text = good().dump();
  for (std::size_t i = 0; i < 200; ++i)
    expect_refused(text.substr(0, i * text.size() / 200), ErrorCode::bad_input, "", "cut");
}

TEST(HostileTokenizer, RawTextThatIsNoJson) {
  const std::vector<std::pair<std::string, std::string>> samples = {
      {"", "invalid JSON"},
      {std::string(1, '\0'), "invalid JSON"},
      {"\xEF\xBB\xBF{}", "invalid JSON"},
      {"{\"a\":\"\xFF\"}", "invalid JSON"},
      {R"({"a":"\ud800"})", "invalid JSON"},
      {R"({"model":{},"model":{}})", "model: duplicate key"},
      {std::string(1 << 20, '[') + std::string(1 << 20, ']'), "nested deeper"},
      {std::string(1 << 20, '['), "invalid JSON"},
      {std::string(1 << 16, ' '), "invalid JSON"},
  };
  for (const auto& [text, message] : samples) expect_refused(text, ErrorCode::bad_input, message, message);
}

TEST(HostileTokenizer, DuplicateVocabularyKey) {
  std::string text = good().dump();
  text.replace(text.find("\"vocab\":{") + 9, 0, "\"!\":3,");
  expect_refused(text, ErrorCode::bad_input, "model.vocab[\"!\"]: duplicate key", "duplicate");
}

TEST(HostileTokenizer, TheUnspoiltFileLoads) { EXPECT_TRUE(Tokenizer::from_json(good().dump()).ok()); }

}  // namespace
}  // namespace nibble::text
