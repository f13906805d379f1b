// LineReader: reads lines from the user, with history and editing when libedit is installed and the
// input is a terminal. The prompt goes to stderr; stdout is for replies.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace nibble::cli {

class LineReader {
 public:
  LineReader();
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  enum class Event : std::uint8_t {
    line,
    end,                // Ctrl-D, or the end of a file
    interrupt,          // Ctrl-C at an empty prompt
    interrupt_in_line,  // Ctrl-C after something was typed; what was typed is dropped
    too_long,           // a line of more than 1 MiB
  };
  Event read(const std::string& prompt, std::string& line);

  // Whether libedit can be loaded.
  static bool editing_available();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble::cli
