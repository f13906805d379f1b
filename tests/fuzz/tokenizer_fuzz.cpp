// tokenizer.json: whatever the bytes are, loading returns, and a tokenizer that loads encodes and decodes.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "text/load_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::string_view kText =
    "Hello  <s>w\xC3\xB6rld\xE3\x80\x82 123\r\n\t\xE4\xB8\xAD\xE6\x96\x87 \xF0\x9F\x98\x80 x";

void check_error(const nibble::Error& error) {
  const bool expected =
      error.code == nibble::ErrorCode::bad_input || error.code == nibble::ErrorCode::unsupported;
  if (!expected || error.message.empty() || error.message.size() > 4096) std::abort();
}

// Pieces of a stream must add up to the whole.
void check_stream(const nibble::Tokenizer& tokenizer, const std::vector<nibble::TokenId>& ids) {
  const auto whole = tokenizer.decode(ids);
  nibble::Detokenizer detokenizer(tokenizer, false);
  std::string text;
  for (const nibble::TokenId id : ids) text += detokenizer.push(id);
  text += detokenizer.flush();
  if (!whole.ok() || *whole != text) std::abort();
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = nibble::text::load_tokenizer_from_json(json, "fuzz");
  if (!tokenizer.ok()) return check_error(tokenizer.error()), 0;
  const auto ids = tokenizer->encode(kText);
  if (ids.ok()) check_stream(*tokenizer, *ids);
  check_stream(*tokenizer, {0, tokenizer->vocab_size() - 1, 0});
  return 0;
}
