// UTF-8: decoding, validation, and replacing what is invalid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace nibble::text {

// Result of looking at the bytes at one place. `length` >= 1 bytes belong together: a code point, or a
// maximal invalid part (Unicode 3.9, "substitution of maximal subparts"; what Rust and Python replace by
// one U+FFFD). `truncated`: invalid only because the text ends here.
struct Utf8Unit {
  char32_t code_point = 0;
  std::uint8_t length = 1;
  bool valid = false;
  bool truncated = false;
};

// Precondition: at < text.size().
Utf8Unit utf8_unit(std::string_view text, std::size_t at) noexcept;

// For text known to be valid: the code point at `at`; `at` moves past it.
inline char32_t next_code_point(std::string_view text, std::size_t& at) noexcept {
  const auto byte = [&](std::size_t i) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[at + i]));
  };
  const char32_t lead = byte(0);
  if (lead < 0x80) return ++at, lead;
  char32_t c = 0;
  if (lead < 0xE0) {
    c = (lead & 0x1F) << 6 | (byte(1) & 0x3F);
    at += 2;
  } else if (lead < 0xF0) {
    c = (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    at += 3;
  } else {
    c = (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
    at += 4;
  }
  return c;
}

// Byte offset of the first invalid byte; text.size() if the text is valid.
std::size_t first_invalid_utf8(std::string_view text) noexcept;

void append_utf8(std::string& out, char32_t code_point);

// Appends `bytes` to `out` with U+FFFD for each maximal invalid part. Returns how many bytes were used:
// with `more_follows`, a sequence cut off at the end is left for the next call, else all are.
std::size_t append_lossy(std::string& out, std::string_view bytes, bool more_follows);

}  // namespace nibble::text
