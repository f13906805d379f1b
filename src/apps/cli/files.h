// Files and streams of the command line: bounded reading, atomic writing, results on stdout.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "nibble/result.h"

namespace nibble::cli {

// The whole file, or standard input for "-". bad_input if it can't be read or is larger than max_bytes.
Result<std::string> read_file(const std::filesystem::path& file, std::size_t max_bytes);

// Standard input up to its end.
Result<std::string> read_stdin(std::size_t max_bytes);

// Lines of standard input, without the newline. read() is interrupted by signals.
class LineSource {
 public:
  explicit LineSource(std::size_t max_line_bytes) : max_line_bytes_(max_line_bytes) {}
  enum class Status : std::uint8_t { line, end, interrupted, too_long, failed };
  Status next(std::string& line);

 private:
  std::size_t max_line_bytes_;
  std::string buffer_;
  std::size_t start_ = 0;
  bool at_end_ = false;
};

// Writes `parts` one after the other to a temporary file beside `file`, then renames it: `file` is
// complete or not there. The temporary file is removed on failure.
Status write_file_atomically(const std::filesystem::path& file, std::span<const std::string_view> parts);

// Writes to stdout and flushes. If the reader has gone, the error has no message (nobody to tell).
Status print(std::string_view text);
// The same plus a newline.
Status print_line(std::string_view text);

}  // namespace nibble::cli
