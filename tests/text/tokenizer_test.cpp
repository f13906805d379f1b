// Tokenizer and detokenizer: the public interface beyond the golden files.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/support/paths.h"
#include "tests/support/random.h"
#include "tests/text/test_files.h"
#include "text/bpe.h"

namespace nibble::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::ElementsAre;
using testing::golden_tokenizer;
using ::testing::HasSubstr;
using testing::read_text;

// A tokenizer.json whose vocabulary is the 256 bytes (id = byte), then `merges` in order, then the added
// tokens.
json small_tokenizer(const std::vector<std::pair<std::string, std::string>>& merges = {}) {
  json vocabulary = json::object();
  const json golden = json::parse(read_text(nibble::testing::test_data("golden/tokenizer/tokenizer.json")));
  for (const auto& [text, id] : golden["model"]["vocab"].items()) {
    const std::string_view bytes = golden_tokenizer().token_bytes(id);
    if (bytes.size() == 1) vocabulary[text] = static_cast<unsigned char>(bytes.front());
  }
  EXPECT_EQ(vocabulary.size(), 256U);
  json rules = json::array();
  for (const auto& [left, right] : merges) {
    if (!vocabulary.contains(left + right)) vocabulary[left + right] = vocabulary.size();
    rules.push_back({left, right});
  }
  return {{"added_tokens", json::array()},
          {"pre_tokenizer", golden["pre_tokenizer"]},
          {"decoder", golden["decoder"]},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", rules}}}};
}

Tokenizer make(const json& tokenizer, const std::string& config = "") {
  auto made = Tokenizer::from_json(tokenizer.dump(), config);
  EXPECT_TRUE(made.ok()) << made.error().message;
  return std::move(made).value();
}

TEST(Tokenizer, NamesTheInvalidByte) {
  const auto ids = golden_tokenizer().encode("abc\xC3(");
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.error().code, ErrorCode::bad_input);
  EXPECT_THAT(ids.error().message, HasSubstr("0xc3 at offset 3"));
}

TEST(Tokenizer, RefusesIdsOutOfRange) {
  for (const TokenId id : {-1, 4096, 1 << 30}) {
    const std::vector<TokenId> ids = {1, id};
    const auto text = golden_tokenizer().decode(ids);
    ASSERT_FALSE(text.ok());
    EXPECT_EQ(text.error().code, ErrorCode::bad_input);
    EXPECT_THAT(text.error().message, HasSubstr("ids[1]: " + std::to_string(id)));
    EXPECT_EQ(golden_tokenizer().token_bytes(id), "");
    EXPECT_FALSE(golden_tokenizer().is_special(id));
  }
}

TEST(Tokenizer, KnowsItsSpecialTokens) {
  const Tokenizer& tokenizer = golden_tokenizer();
  EXPECT_EQ(tokenizer.bos_id(), 0);
  EXPECT_EQ(tokenizer.eos_id(), 1);
  EXPECT_FALSE(tokenizer.add_bos());
  EXPECT_TRUE(tokenizer.is_special(0));
  EXPECT_FALSE(tokenizer.is_special(4074));
  EXPECT_EQ(tokenizer.token_id("<think>"), 4074);
  EXPECT_EQ(tokenizer.token_id("!"), 3);
  EXPECT_EQ(tokenizer.token_id("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer.token_bytes(4074), "<think>");
  EXPECT_EQ(tokenizer.chat_format(), ChatFormat::deepseek_v3);  // by its added tokens
  EXPECT_THAT(*tokenizer.encode("!", true), ElementsAre(0, 3));
}

TEST(Tokenizer, ReadsTheConfiguration) {
  const json plain = small_tokenizer();
  const Tokenizer tokenizer =
      make(plain, R"({"bos_token":"a","eos_token":{"content":"b"},"add_bos_token":true})");
  EXPECT_EQ(tokenizer.bos_id(), 'a');
  EXPECT_EQ(tokenizer.eos_id(), 'b');
  EXPECT_TRUE(tokenizer.add_bos());
  EXPECT_EQ(tokenizer.chat_format(), ChatFormat::raw);
  EXPECT_TRUE(make(plain, R"({"bos_token":"a","tokenizer_class":"LlamaTokenizerFast"})").add_bos());
  EXPECT_FALSE(make(plain, R"({"bos_token":"a","tokenizer_class":"PreTrainedTokenizerFast"})").add_bos());
  EXPECT_FALSE(make(plain, R"({"bos_token":null})").bos_id().has_value());
  EXPECT_FALSE(make(plain).bos_id().has_value());
  EXPECT_EQ(make(plain).encode("a", true).error().code, ErrorCode::bad_input);
}

TEST(Tokenizer, RecognisesTheChatFormatOfTheConfiguration) {
  const json plain = small_tokenizer();
  EXPECT_EQ(make(plain, R"({"chat_template":"{{'User: ' + x}}{{'Assistant:'}}"})").chat_format(),
            ChatFormat::deepseek_v2);
  EXPECT_EQ(make(plain, R"({"chat_template":[{"name":"tool","template":"x"},
                            {"name":"default","template":"<｜User｜>{{'<think>\\n'}}"}]})")
                .chat_format(),
            ChatFormat::deepseek_r1);
  EXPECT_EQ(make(plain, R"({"chat_template":"{{ something else }}"})").chat_format(), ChatFormat::raw);
}

TEST(Tokenizer, RendersWithItsOwnMarkers) {
  const ChatRequest request{
      .messages = {{.role = "user", .content = "x"}, {.role = "assistant", .content = "y"}},
      .add_generation_prompt = true};
  const Tokenizer own = make(small_tokenizer(), R"({"bos_token":"a","eos_token":"b"})");
  EXPECT_EQ(*own.render_chat(request, ChatFormat::deepseek_v2), "aUser: x\n\nAssistant: ybAssistant:");
  const Tokenizer none = make(small_tokenizer());
  EXPECT_EQ(*none.render_chat(request, ChatFormat::deepseek_v2),
            "User: x\n\nAssistant: y<｜end▁of▁sentence｜>Assistant:");
}

// A tokenizer whose own template is a revision renders the family's format in that form.
TEST(Tokenizer, RendersTheRevisionItCarries) {
  const ChatRequest request{
      .messages = {{.role = "user", .content = "x"}, {.role = "assistant", .content = "y"}},
      .add_generation_prompt = true};
  const Tokenizer terminus =
      make(small_tokenizer(),
           R"({"chat_template":"{{'<｜User｜>'}}{% if not thinking %}{% set ns.is_only_sys = true %}"})");
  EXPECT_EQ(terminus.chat_format(), ChatFormat::deepseek_v3_1);
  EXPECT_THAT(*terminus.render_chat(request, ChatFormat::deepseek_v3_1),
              ::testing::EndsWith("y<｜end▁of▁sentence｜><｜Assistant｜></think>"));
  EXPECT_THAT(*golden_tokenizer().render_chat(request, ChatFormat::deepseek_v3_1),
              ::testing::EndsWith("y<｜end▁of▁sentence｜>"));
}

TEST(Tokenizer, ConfigurationErrorsNameTheField) {
  const std::string plain = small_tokenizer().dump();
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[]", "expected an object"},
      {"{", "invalid JSON"},
      {R"({"bos_token":5})", "bos_token: expected"},
      {R"({"bos_token":{"content":5}})", "bos_token: expected"},
      {R"({"bos_token":"nope"})", "bos_token: \"nope\" is not a token"},
      {R"({"eos_token":"nope"})", "eos_token: \"nope\" is not a token"},
      {R"({"add_bos_token":"yes"})", "add_bos_token: expected true or false"},
      {R"({"chat_template":5})", "chat_template: expected"},
      {R"({"chat_template":[1]})", "chat_template: expected"},
      {R"({"a":1,"a":2})", "duplicate key"},
  };
  for (const auto& [config, message] : cases) {
    const auto made = Tokenizer::from_json(plain, config);
    ASSERT_FALSE(made.ok()) << config;
    EXPECT_EQ(made.error().code, ErrorCode::bad_input);
    EXPECT_THAT(made.error().message, HasSubstr("tokenizer_config.json"));
    EXPECT_THAT(made.error().message, HasSubstr(message));
  }
}

TEST(Tokenizer, MergesByRankThenPosition) {
  const Tokenizer tokenizer = make(small_tokenizer({{"b", "c"}, {"a", "b"}, {"a", "bc"}, {"a", "a"}}));
  EXPECT_THAT(*tokenizer.encode("abc"), ElementsAre(258));  // b+c first, then a+bc
  EXPECT_THAT(*tokenizer.encode("ab"), ElementsAre(257));
  EXPECT_THAT(*tokenizer.encode("aaa"), ElementsAre(259, 'a'));  // leftmost of equal rank
}

TEST(Tokenizer, LaterDuplicateMergeWins) {
  json tokenizer = small_tokenizer({{"a", "b"}, {"b", "c"}});
  EXPECT_THAT(*make(tokenizer).encode("abc"), ElementsAre(256, 'c'));
  tokenizer["model"]["merges"].push_back({"a", "b"});
  EXPECT_THAT(*make(tokenizer).encode("abc"), ElementsAre('a', 257));
}

TEST(Tokenizer, IgnoreMergesTakesWholeWords) {
  json tokenizer = small_tokenizer({{"b", "c"}});
  tokenizer["model"]["vocab"]["abc"] = 300;
  EXPECT_THAT(*make(tokenizer).encode("abc"), ElementsAre('a', 256));
  tokenizer["model"]["ignore_merges"] = true;
  EXPECT_THAT(*make(tokenizer).encode("abc"), ElementsAre(300));
  EXPECT_EQ(make(tokenizer).vocab_size(), 301);
  EXPECT_EQ(*make(tokenizer).decode(std::vector<TokenId>{'x', 299, 'y'}), "xy");  // an unused id
}

TEST(Tokenizer, ByteWithoutTokenIsAnError) {
  json tokenizer = small_tokenizer();
  tokenizer["model"]["vocab"].erase("z");
  const auto ids = make(tokenizer).encode("xyz");
  ASSERT_FALSE(ids.ok());
  EXPECT_THAT(ids.error().message, HasSubstr("0x7a"));
  tokenizer["model"]["unk_token"] = "a";  // would stand in for it
  EXPECT_EQ(Tokenizer::from_json(tokenizer.dump()).error().code, ErrorCode::unsupported);
}

// Megabytes that stay one piece, or consist of very many: n log n finishes, n squared would not.
TEST(Tokenizer, LongTextsTakeNoTimeToSpeakOf) {
  for (const std::string unit :
       {"a", "ab", "\xE4\xB8\xAD", " ", "\n", "!", "1", "<", "<\xEF\xBD\x9C", "e\xCC\x81"}) {
    std::string text;
    while (text.size() < (1U << 20)) text += unit;
    const auto ids = golden_tokenizer().encode(text);
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(*golden_tokenizer().decode(*ids), text);
  }
}

TEST(Tokenizer, LoadNamesMissingAndOddFiles) {
  const fs::path directory = fs::path(::testing::TempDir()) / "nibble_tokenizer_load";
  fs::remove_all(directory);
  fs::create_directories(directory);
  const auto missing = Tokenizer::load(directory);
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::bad_input);
  EXPECT_THAT(missing.error().message, HasSubstr("tokenizer.json: no such file"));
  fs::create_directories(directory / "tokenizer.json");
  EXPECT_THAT(Tokenizer::load(directory).error().message, HasSubstr("not a regular file"));
  fs::remove(directory / "tokenizer.json");
  std::ofstream(directory / "tokenizer.json") << small_tokenizer().dump();
  EXPECT_TRUE(Tokenizer::load(directory).ok());
  std::ofstream(directory / "chat_template.jinja") << "{{ '<｜User｜>' }}{% if not thinking %}";
  EXPECT_EQ(Tokenizer::load(directory)->chat_format(), ChatFormat::deepseek_v3_1);
  std::ofstream(directory / "tokenizer_config.json").flush();
  EXPECT_THAT(Tokenizer::load(directory).error().message, HasSubstr("tokenizer_config.json: empty"));
  fs::resize_file(directory / "tokenizer.json", (std::uintmax_t{64} << 20) + 1);
  EXPECT_THAT(Tokenizer::load(directory).error().message, HasSubstr("at most 67108864"));
  fs::remove_all(directory);
}

// Any ids, in any order: the pieces are whole code points and add up to what decode() says.
TEST(Detokenizer, PiecesAddUpToDecode) {
  nibble::testing::Random random(7);
  const Tokenizer& tokenizer = golden_tokenizer();
  for (int round = 0; round < 2000; ++round) {
    const bool skip_special = random.below(2) == 0;
    const TokenId bound = random.below(2) == 0 ? 260 : tokenizer.vocab_size();  // often single bytes
    Detokenizer detokenizer(tokenizer, skip_special);
    std::vector<TokenId> ids(static_cast<std::size_t>(random.below(30)));
    std::string text;
    for (TokenId& id : ids) {
      id = static_cast<TokenId>(random.below(bound));
      const std::string piece = detokenizer.push(id);
      ASSERT_TRUE(tokenizer.encode(piece).ok()) << "not whole code points";
      text += piece;
    }
    text += detokenizer.flush();
    ASSERT_EQ(text, *tokenizer.decode(ids, skip_special));
    ASSERT_EQ(detokenizer.flush(), "");
  }
}

TEST(Detokenizer, HoldsBackHalfACharacter) {
  const Tokenizer tokenizer = make(small_tokenizer());
  Detokenizer detokenizer(tokenizer);
  EXPECT_EQ(detokenizer.push('a'), "a");
  EXPECT_EQ(detokenizer.push(0xF0), "");
  EXPECT_EQ(detokenizer.push(0x9F), "");
  EXPECT_EQ(detokenizer.push(0x98), "");
  EXPECT_EQ(detokenizer.push(0x80), "\xF0\x9F\x98\x80");
  EXPECT_EQ(detokenizer.push(0xE4), "");
  EXPECT_EQ(detokenizer.push('b'),
            "\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(detokenizer.push(0xC3), "");
  EXPECT_EQ(detokenizer.push(1 << 20), "");
  EXPECT_EQ(detokenizer.flush(), "\xEF\xBF\xBD");
}

}  // namespace
}  // namespace nibble::text
