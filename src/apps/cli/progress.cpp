#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "cli/json_writer.h"
#include "cli/signals.h"

namespace nibble::cli {

namespace {

constexpr auto kInterval = std::chrono::milliseconds(100);
constexpr int kBarWidth = 24;

std::string amount(double value, std::string_view unit) {
  if (unit == "bytes") return format_bytes(static_cast<std::uint64_t>(value));
  return fmt::format("{:.0f} {}", value, unit);
}

std::string clock_time(double seconds) {
  const auto whole = static_cast<long>(std::min(std::ceil(seconds), 359999.0));
  return whole >= 3600 ? fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60)
                       : fmt::format("{:02}:{:02}", whole / 60, whole % 60);
}

void write_stderr(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); }

}  // namespace

std::string format_bytes(std::uint64_t bytes) {
  static constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1024.0 && unit + 1 < kUnits.size(); ++unit) value /= 1024.0;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.2f} {}", value, kUnits[unit]);
}

Progress::Progress(std::string_view mode) : style_(Style::none) {
  if (mode == "json") style_ = Style::json;
  if (mode == "auto" && ::isatty(STDERR_FILENO) == 1) style_ = Style::bar;
}

ProgressCallback Progress::callback() {
  return [this](std::string_view phase, std::uint64_t done, std::uint64_t total, std::string_view unit) {
    if (style_ != Style::none) update(phase, done, total, unit);
    return !interrupted();
  };
}

void Progress::update(std::string_view phase, std::uint64_t done, std::uint64_t total,
                      std::string_view unit) {
  const auto now = Clock::now();
  const bool new_phase = phase != phase_;
  if (new_phase) {
    phase_ = phase;
    phase_start_ = now;
  }
  const bool finished = total > 0 && done >= total;
  if (!new_phase && !finished && now - last_shown_ < kInterval) return;
  last_shown_ = now;
  if (style_ == Style::bar) {
    draw(done, total, unit);
    return;
  }
  JsonWriter line;
  line.begin_object()
      .field("phase", phase)
      .field("done", done)
      .field("total", total)
      .field("unit", unit)
      .end_object();
  write_stderr(line.text() + "\n");
}

void Progress::draw(std::uint64_t done, std::uint64_t total, std::string_view unit) {
  const double seconds = std::chrono::duration<double>(Clock::now() - phase_start_).count();
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  std::string line = fmt::format("\r\x1b[K{:<10} ", phase_);
  if (total > 0) {
    const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
    const int filled = static_cast<int>(share * kBarWidth);
    line +=
        fmt::format("[{:=<{}}{: <{}}] {:3.0f} %  {} of {}", "", filled, "", kBarWidth - filled, share * 100,
                    amount(static_cast<double>(done), unit), amount(static_cast<double>(total), unit));
  } else {
    line += amount(static_cast<double>(done), unit);
  }
  if (rate > 0) line += fmt::format("  {}/s", amount(rate, unit));
  if (rate > 0 && total > done) line += "  ETA " + clock_time(static_cast<double>(total - done) / rate);
  write_stderr(line);
  std::fflush(stderr);
  drawn_ = true;
}

void Progress::clear() {
  if (drawn_) write_stderr("\r\x1b[K");
  drawn_ = false;
}

}  // namespace nibble::cli
