// The text that the eval commands score, and how it is cut into windows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "nibble/llm.h"
#include "nibble/result.h"

namespace nibble::cli {

class OptionSet;

struct TextOptions {
  std::filesystem::path file;
  std::int32_t stride = 0;
  std::int32_t num_tokens = 0;  // 0 = all
  bool prepend_bos = false;

  [[nodiscard]] PerplexityOptions windows() const;
};

void add_text_options(OptionSet& options, TextOptions& text, const std::string& file_help);

// The file's contents; bad_input if none was named.
Result<std::string> read_text(const TextOptions& text);

}  // namespace nibble::cli
