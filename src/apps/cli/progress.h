// Progress of long work on stderr: a bar with rate and ETA on a terminal, JSON lines for programs.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "nibble/types.h"

namespace nibble::cli {

class Progress {
 public:
  // "auto" (a bar if stderr is a terminal), "json" or "none".
  explicit Progress(std::string_view mode);
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Valid while this lives. Returns false once Ctrl-C was pressed.
  [[nodiscard]] ProgressCallback callback();

  // Removes the bar from the terminal.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  enum class Style : std::uint8_t { bar, json, none };

  void update(std::string_view phase, std::uint64_t done, std::uint64_t total, std::string_view unit);
  void draw(std::uint64_t done, std::uint64_t total, std::string_view unit);

  Style style_;
  std::string phase_;
  Clock::time_point phase_start_;
  Clock::time_point last_shown_;
  bool drawn_ = false;
};

// "9.10 GiB", "512 B".
std::string format_bytes(std::uint64_t bytes);

}  // namespace nibble::cli
