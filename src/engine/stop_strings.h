// StopStrings: finds the end of a reply in text that arrives in pieces, and holds back what may be
// the beginning of a stop string.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/result.h"

namespace nibble::engine {

// Bounds of a request: a stop string is searched for at every byte of the reply.
inline constexpr std::size_t kMaxStopStrings = 16;
inline constexpr std::size_t kMaxStopStringBytes = 256;

// bad_input: too many, too long, or empty.
Status check_stop_strings(std::span<const std::string> stops);

class StopStrings {
 public:
  explicit StopStrings(std::span<const std::string> stops) : stops_(stops.begin(), stops.end()) {}

  // Adds text and returns what is certain to come before any stop string. The stop that counts is the
  // one whose end comes first, of those the longest, however the text was cut; nothing from its
  // beginning on is ever returned.
  std::string push(std::string_view text);

  // What was held back, at the end of the text; empty after a stop.
  std::string flush();

  [[nodiscard]] bool stopped() const { return stopped_; }

 private:
  [[nodiscard]] std::size_t longest_stop_at_end(std::string_view text) const;
  [[nodiscard]] std::size_t longest_prefix_at_end() const;

  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace nibble::engine
