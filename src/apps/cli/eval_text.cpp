#include "cli/eval_text.h"

#include <limits>

#include "cli/files.h"
#include "cli/options.h"

namespace nibble::cli {

namespace {

constexpr std::size_t kMaxTextBytes = std::size_t{256} << 20;

}  // namespace

PerplexityOptions TextOptions::windows() const {
  return {.stride = stride, .prepend_bos = prepend_bos, .num_tokens = num_tokens};
}

void add_text_options(OptionSet& options, TextOptions& text, const std::string& file_help) {
  constexpr std::int32_t kMaxInt = std::numeric_limits<std::int32_t>::max();
  options.heading("Text");
  options.add_path("--text", text.file, file_help);
  options.add_integer("--tokens", text.num_tokens, 0, kMaxInt,
                      "Only so many tokens from the start of the text; 0 for all");
  options.add_integer(
      "--stride", text.stride, 1, kMaxInt,
      "Tokens between the starts of windows of --max-model-len; the window's length if not given");
  options.add_flag("--bos", text.prepend_bos, "Begin every window with the beginning-of-sequence token");
}

Result<std::string> read_text(const TextOptions& text) {
  if (text.file.empty()) return bad_input("no text given (--text); name a file");
  return read_file(text.file, kMaxTextBytes);
}

}  // namespace nibble::cli
