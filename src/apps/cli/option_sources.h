// Where option values come from besides the command line: the environment and an options file.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/result.h"

namespace nibble::cli {

// "max-tokens" to "NIBBLE_MAX_TOKENS".
std::string environment_name(std::string_view long_name);

// The value of an option's environment variable, if it is set.
std::optional<std::string> environment_value(std::string_view long_name);

struct FileOption {
  std::string key;  // without dashes
  std::string value;
  std::string section;  // command it is meant for; empty: every command
  int line = 0;
};

// Lines "key = value" (a value may be quoted), comments after # at the start of a line, sections
// "[bench decode]" for keys that only one command shall read. At most 1 MiB.
Result<std::vector<FileOption>> read_options_file(const std::filesystem::path& file);

// true for 1/true/yes/on, false for 0/false/no/off, nothing for anything else.
std::optional<bool> parse_boolean(std::string_view text);

}  // namespace nibble::cli
