#include "engine/stop_strings.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nibble::engine {

Status check_stop_strings(std::span<const std::string> stops) {
  if (stops.size() > kMaxStopStrings) {
    return bad_input(fmt::format("{} stop strings, at most {} are allowed", stops.size(), kMaxStopStrings));
  }
  for (const std::string& stop : stops) {
    if (stop.empty()) return bad_input("a stop string is empty");
    if (stop.size() > kMaxStopStringBytes) {
      return bad_input(fmt::format("a stop string has {} bytes, at most {} are allowed", stop.size(),
                                   kMaxStopStringBytes));
    }
  }
  return {};
}

std::string StopStrings::push(std::string_view text) {
  if (stopped_) return {};
  if (stops_.empty()) return std::string(text);
  // Whether a stop ends at a byte depends on that byte and those before it: pieces do not matter.
  for (const char c : text) {
    held_ += c;
    const std::size_t stop = longest_stop_at_end(held_);
    if (stop == 0) continue;
    stopped_ = true;
    held_.resize(held_.size() - stop);
    return std::exchange(held_, {});
  }
  const std::size_t keep = longest_prefix_at_end();
  std::string ready = held_.substr(0, held_.size() - keep);
  held_.erase(0, ready.size());
  return ready;
}

std::string StopStrings::flush() { return std::exchange(held_, {}); }

std::size_t StopStrings::longest_stop_at_end(std::string_view text) const {
  std::size_t longest = 0;
  for (const std::string& stop : stops_) {
    if (stop.size() > longest && text.ends_with(stop)) longest = stop.size();
  }
  return longest;
}

std::size_t StopStrings::longest_prefix_at_end() const {
  std::size_t longest = 0;
  for (const std::string& stop : stops_) {
    const std::size_t most = std::min(stop.size() - 1, held_.size());
    for (std::size_t n = most; n > longest; --n) {
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) longest = n;
    }
  }
  return longest;
}

}  // namespace nibble::engine
