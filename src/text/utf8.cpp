#include "text/utf8.h"

namespace nibble::text {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct LeadByte {
  std::uint8_t length = 0;  // 0: never starts a sequence
  unsigned char second_min = 0x80;
  unsigned char second_max = 0xBF;
};

// Table 3-7 of the Unicode standard: the second byte's range excludes overlong forms, surrogates and
// values past U+10FFFF.
LeadByte classify(unsigned char lead) noexcept {
  if (lead < 0xC2) return {};
  if (lead < 0xE0) return {.length = 2};
  if (lead == 0xE0) return {.length = 3, .second_min = 0xA0};
  if (lead == 0xED) return {.length = 3, .second_max = 0x9F};
  if (lead < 0xF0) return {.length = 3};
  if (lead == 0xF0) return {.length = 4, .second_min = 0x90};
  if (lead < 0xF4) return {.length = 4};
  if (lead == 0xF4) return {.length = 4, .second_max = 0x8F};
  return {};
}

}  // namespace

Utf8Unit utf8_unit(std::string_view text, std::size_t at) noexcept {
  const auto lead = static_cast<unsigned char>(text[at]);
  if (lead < 0x80) return {.code_point = lead, .length = 1, .valid = true};
  const LeadByte kind = classify(lead);
  if (kind.length == 0) return {};
  char32_t c = lead & (0x7FU >> kind.length);
  for (std::uint8_t i = 1; i < kind.length; ++i) {
    if (at + i == text.size()) return {.length = i, .truncated = true};
    const auto byte = static_cast<unsigned char>(text[at + i]);
    const unsigned char min = i == 1 ? kind.second_min : 0x80;
    const unsigned char max = i == 1 ? kind.second_max : 0xBF;
    if (byte < min || byte > max) return {.length = i};
    c = c << 6 | (byte & 0x3FU);
  }
  return {.code_point = c, .length = kind.length, .valid = true};
}

std::size_t first_invalid_utf8(std::string_view text) noexcept {
  std::size_t at = 0;
  while (at < text.size()) {
    const Utf8Unit unit = utf8_unit(text, at);
    if (!unit.valid) return at;
    at += unit.length;
  }
  return at;
}

void append_utf8(std::string& out, char32_t c) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  const auto tail = [&](int shift) { put(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    tail(0);
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    tail(6);
    tail(0);
  } else {
    put(0xF0 | c >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

std::size_t append_lossy(std::string& out, std::string_view bytes, bool more_follows) {
  std::size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Unit unit = utf8_unit(bytes, at);
    if (unit.truncated && more_follows) break;
    out += unit.valid ? bytes.substr(at, unit.length) : kReplacement;
    at += unit.length;
  }
  return at;
}

}  // namespace nibble::text
