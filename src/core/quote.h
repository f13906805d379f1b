// Names and values from untrusted files, made fit for an error message.
#pragma once

#include <string>
#include <string_view>

namespace nibble {

// `text` in double quotes: control characters and bytes that are not valid UTF-8 become \xNN, and
// everything past `max_bytes` becomes "...".
std::string quote(std::string_view text, std::size_t max_bytes = 160);

// The same without the quotes.
std::string printable(std::string_view text, std::size_t max_bytes = 160);

}  // namespace nibble
