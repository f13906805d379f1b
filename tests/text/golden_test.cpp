// Ids, texts and splits computed by Hugging Face tokenizers.

#include <gtest/gtest.h>

#include "tests/text/test_files.h"
#include "text/tokenizer_json.h"

namespace nibble::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::golden_directories;
using testing::golden_tokenizer;
using testing::read_lines;
using testing::read_text;

// Line numbers of failures, for messages that stay short.
struct Failures {
  int count = 0;
  void check(bool ok, const std::string& where) {
    if (!ok && ++count <= 5) ADD_FAILURE() << where;
  }
};

std::string describe(const fs::path& file, std::size_t line, const json& row) {
  return file.string() + ":" + std::to_string(line + 1) + ": " + row["text"].dump();
}

Tokenizer tokenizer_of(const fs::path& file) {
  auto loaded = Tokenizer::from_json(read_text(file));
  EXPECT_TRUE(loaded.ok()) << loaded.error().message;
  return std::move(loaded).value();
}

void check_row(const Tokenizer& tokenizer, const json& row, const std::string& where, Failures& failures) {
  const std::string text = row["text"];
  const std::vector<TokenId> ids = row["ids"];
  const auto encoded = tokenizer.encode(text);
  failures.check(encoded.ok() && *encoded == ids, "ids of " + where);
  const auto decoded = tokenizer.decode(ids);
  failures.check(decoded.ok() && *decoded == row.value("decoded", text), "decoded " + where);
  const auto plain = tokenizer.decode(ids, true);
  failures.check(plain.ok() && *plain == row.value("decoded_skip_special", text),
                 "decoded without special " + where);
}

TEST(Golden, EncodesAndDecodesWithBothMergeForms) {
  for (const fs::path& directory : golden_directories("tokenizer")) {
    for (const char* name : {"tokenizer.json", "tokenizer.pairs.json"}) {
      const Tokenizer tokenizer = tokenizer_of(directory / name);
      EXPECT_EQ(tokenizer.vocab_size(), 4096);
      const fs::path file = directory / "tokenizer_golden.jsonl";
      const auto rows = read_lines(file);
      EXPECT_GE(rows.size(), 600U);
      Failures failures;
      for (std::size_t i = 0; i < rows.size(); ++i) {
        check_row(tokenizer, rows[i], describe(file, i, rows[i]) + " with " + name, failures);
      }
      EXPECT_EQ(failures.count, 0);
    }
  }
}

TEST(Golden, DecodesInvalidUtf8) {
  for (const fs::path& directory : golden_directories("tokenizer")) {
    for (const json& row : read_lines(directory / "tokenizer_decode_golden.jsonl")) {
      const std::vector<TokenId> ids = row["ids"];
      EXPECT_EQ(*golden_tokenizer().decode(ids), row["decoded"].get<std::string>());
      EXPECT_EQ(*golden_tokenizer().decode(ids, true), row["decoded_skip_special"].get<std::string>());
    }
  }
}

TEST(Golden, EncodesRandomUnicodeAndAddedTokensWithFlags) {
  for (const fs::path& directory : golden_directories("tokenizer-vectors")) {
    const Tokenizer v2 = tokenizer_of(directory / "tokenizer_v2.json");
    const auto rows = read_lines(directory / "encode.jsonl");
    Failures failures;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const Tokenizer& tokenizer = rows[i]["tokenizer"] == "v2" ? v2 : golden_tokenizer();
      check_row(tokenizer, rows[i], describe(directory / "encode.jsonl", i, rows[i]), failures);
    }
    EXPECT_EQ(failures.count, 0);
  }
}

std::vector<PreTokenizer> read_pre_tokenizers(const fs::path& file) {
  std::vector<PreTokenizer> made;
  for (const json& state : json::parse(read_text(file))) {
    json tokenizer = {{"model", {{"type", "BPE"}, {"vocab", {{"a", 0}}}, {"merges", json::array()}}},
                      {"decoder", {{"type", "ByteLevel"}}},
                      {"pre_tokenizer", state}};
    auto parts = parse_tokenizer_json(tokenizer.dump(), "test");
    EXPECT_TRUE(parts.ok()) << parts.error().message;
    made.push_back(std::move(parts->pre_tokenizer));
  }
  return made;
}

TEST(Golden, SplitsRandomUnicode) {
  for (const fs::path& directory : golden_directories("tokenizer-vectors")) {
    const auto pre_tokenizers = read_pre_tokenizers(directory / "pre_tokenizers.json");
    const auto rows = read_lines(directory / "splits.jsonl");
    Failures failures;
    std::vector<Span> pieces;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::string text = rows[i]["text"];
      const auto status = pre_tokenizers.at(rows[i]["p"]).split(text, pieces);
      std::vector<std::size_t> found;
      for (const Span& piece : pieces) found.insert(found.end(), {piece.begin, piece.end});
      failures.check(status.ok() && found == rows[i]["pieces"].get<std::vector<std::size_t>>(),
                     describe(directory / "splits.jsonl", i, rows[i]) + " by " + rows[i]["p"].dump());
    }
    EXPECT_EQ(failures.count, 0);
  }
}

}  // namespace
}  // namespace nibble::text
