#include "text/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "text/utf8.h"

namespace nibble::text {

namespace {

constexpr bool is_printable(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

constexpr std::size_t kAlphabetEnd = 0x144;

// Byte of each character below kAlphabetEnd, -1 for none.
constexpr std::array<std::int16_t, kAlphabetEnd> make_bytes() {
  std::array<std::int16_t, kAlphabetEnd> bytes{};
  bytes.fill(-1);
  std::size_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    bytes[is_printable(byte) ? static_cast<std::size_t>(byte) : next++] = static_cast<std::int16_t>(byte);
  }
  return bytes;
}

constexpr auto kBytes = make_bytes();

}  // namespace

std::optional<unsigned char> byte_of(char32_t c) noexcept {
  if (c >= kAlphabetEnd || kBytes[c] < 0) return std::nullopt;
  return static_cast<unsigned char>(kBytes[c]);
}

bool append_bytes(std::string& out, std::string_view token) {
  const std::size_t size = out.size();
  for (std::size_t at = 0; at < token.size();) {
    const auto byte = byte_of(next_code_point(token, at));
    if (!byte) return out.resize(size), false;
    out.push_back(static_cast<char>(*byte));
  }
  return true;
}

}  // namespace nibble::text
