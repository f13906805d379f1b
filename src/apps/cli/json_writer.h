// JsonWriter: builds JSON text piece by piece, keys in the order given. Strings come out as valid
// UTF-8 whatever goes in (invalid parts become U+FFFD); numbers that JSON cannot hold become null.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::cli {

class JsonWriter {
 public:
  JsonWriter& begin_object() { return open('{'); }
  JsonWriter& end_object() { return close('}'); }
  JsonWriter& begin_array() { return open('['); }
  JsonWriter& end_array() { return close(']'); }
  JsonWriter& key(std::string_view name);

  JsonWriter& value(std::string_view text);
  JsonWriter& value(const char* text) { return value(std::string_view(text)); }
  JsonWriter& value(const std::string& text) { return value(std::string_view(text)); }
  JsonWriter& value(double number);
  JsonWriter& value(bool truth);
  template <std::integral T>
  JsonWriter& value(T number) {
    separate();
    text_ += std::to_string(number);
    return *this;
  }
  template <class T>
  JsonWriter& value(std::span<const T> list) {
    begin_array();
    for (const T& item : list) value(item);
    return end_array();
  }
  template <class T>
  JsonWriter& value(const std::vector<T>& list) {
    return value(std::span<const T>(list));
  }
  // JSON text that is already valid.
  JsonWriter& raw(std::string_view json);

  template <class T>
  JsonWriter& field(std::string_view name, const T& v) {
    return key(name).value(v);
  }

  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  JsonWriter& open(char bracket);
  JsonWriter& close(char bracket);
  void separate();
  void append_string(std::string_view text);

  std::string text_;
  bool needs_comma_ = false;
};

// For people: control characters as \n or \x1b, invalid UTF-8 as U+FFFD, so that a name from a hostile
// file can't drive the terminal.
std::string printable(std::string_view text);

// How many bytes at the front of `text` form one valid UTF-8 code point; 0 if they do not.
std::size_t valid_utf8_prefix(std::string_view text);

}  // namespace nibble::cli
