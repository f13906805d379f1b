#include "core/sha256.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string_view>

namespace nibble {
namespace {

std::string digest(std::string_view text, std::size_t piece = SIZE_MAX) {
  Sha256 hash;
  for (std::size_t at = 0; at < text.size(); at += std::min(piece, text.size() - at)) {
    hash.update(std::as_bytes(std::span(text.substr(at, piece))));
  }
  return hash.hex_digest();
}

// FIPS 180-4's published examples.
TEST(Sha256, PublishedVectors) {
  EXPECT_EQ(digest(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(digest(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesDoNotMatter) {
  for (const std::size_t size : {55U, 56U, 63U, 64U, 65U, 119U, 120U, 128U, 200U}) {
    const std::string text(size, 'x');
    for (const std::size_t piece : {1U, 7U, 63U, 64U, 65U})
      EXPECT_EQ(digest(text, piece), digest(text)) << size;
  }
}

}  // namespace
}  // namespace nibble
