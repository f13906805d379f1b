#include "cli/option_sources.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <sstream>

#include "cli/files.h"

namespace nibble::cli {

namespace {

constexpr std::size_t kMaxOptionsFileBytes = std::size_t{1} << 20;

std::string_view trimmed(std::string_view text) {
  const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

std::string_view unquoted(std::string_view text) {
  const bool quoted =
      text.size() >= 2 && (text.front() == '"' || text.front() == '\'') && text.back() == text.front();
  return quoted ? text.substr(1, text.size() - 2) : text;
}

}  // namespace

std::string environment_name(std::string_view long_name) {
  std::string name = "NIBBLE_";
  for (const char c : long_name) {
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return name;
}

std::optional<std::string> environment_value(std::string_view long_name) {
  const char* value = std::getenv(environment_name(long_name).c_str());
  if (value == nullptr) return std::nullopt;
  return std::string(value);
}

Result<std::vector<FileOption>> read_options_file(const std::filesystem::path& file) {
  NIB_TRY(const std::string text, read_file(file, kMaxOptionsFileBytes));
  std::vector<FileOption> options;
  std::string section;
  std::istringstream lines(text);
  std::string raw;
  for (int number = 1; std::getline(lines, raw); ++number) {
    std::string_view line = trimmed(raw);
    if (line.empty() || line.front() == '#') continue;
    if (line.front() == '[' && line.back() == ']') {
      section = std::string(trimmed(line.substr(1, line.size() - 2)));
      continue;
    }
    const std::size_t equals = line.find('=');
    if (equals == std::string_view::npos) {
      return bad_input(fmt::format("expected \"key = value\" ({} line {})", file.string(), number));
    }
    std::string_view key = trimmed(line.substr(0, equals));
    while (!key.empty() && key.front() == '-') key.remove_prefix(1);
    options.push_back(
        {std::string(key), std::string(unquoted(trimmed(line.substr(equals + 1)))), section, number});
  }
  return options;
}

std::optional<bool> parse_boolean(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (lower == "1" || lower == "true" || lower == "yes" || lower == "on") return true;
  if (lower == "0" || lower == "false" || lower == "no" || lower == "off" || lower.empty()) return false;
  return std::nullopt;
}

}  // namespace nibble::cli
