// GPT-2's byte alphabet: tokenizer.json writes the 256 bytes as printable characters.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace nibble::text {

// The byte that `c` stands for, or nothing: most of ASCII and Latin-1 stands for itself, U+0100 to U+0143 for
// the bytes that are not printable, in order.
std::optional<unsigned char> byte_of(char32_t c) noexcept;

// Appends the bytes of a token written in the alphabet and returns true; appends nothing and returns false if
// it has other characters in it.
bool append_bytes(std::string& out, std::string_view token);

}  // namespace nibble::text
