// OptionSet: the options of one command. Every option NAME can be given on the command line, as the
// environment variable NIBBLE_<NAME> and as a key of the --options file, in this order of precedence.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/result.h"

namespace nibble::cli {

// Reads a value into its target; the returned text says what was expected if the value is wrong.
using ValueParser = std::function<std::optional<std::string>(const std::string& value)>;

class OptionSet {
 public:
  // `command` is the full name ("bench decode").
  OptionSet(std::string_view command, std::string_view summary, std::string_view examples);
  ~OptionSet();
  OptionSet(const OptionSet&) = delete;
  OptionSet& operator=(const OptionSet&) = delete;

  // Options added from here on are listed under this heading.
  void heading(std::string text);

  // `names`: "--long,-s,--alias"; the first long name is the option's name. Targets must outlive
  // this object and hold the default.
  void add_flag(const std::string& names, bool& target, const std::string& help);
  void add_text(const std::string& names, std::string& target, const std::string& hint,
                const std::string& help);
  void add_path(const std::string& names, std::filesystem::path& target, const std::string& help);
  void add_choice(const std::string& names, std::string& target, std::vector<std::string> choices,
                  const std::string& help);
  void add_number(const std::string& names, float& target, float min, float max, const std::string& help);
  void add_seed(const std::string& names, std::uint64_t& target, const std::string& help);
  void add_integer(const std::string& names, std::int32_t& target, std::int32_t min, std::int32_t max,
                   const std::string& help);
  // Comma-separated whole numbers.
  void add_integers(const std::string& names, std::vector<std::int32_t>& target, std::int32_t min,
                    const std::string& help);
  // May be given several times.
  void add_repeatable(const std::string& names, std::vector<std::string>& target, const std::string& hint,
                      const std::string& help);
  // A positional argument that can also be given as an option: "MODEL,-m,--model".
  void add_positional(const std::string& names, std::filesystem::path& target, const std::string& help);

  struct Outcome {
    bool show_help = false;
    std::string help;
  };
  // `known_elsewhere` tells which keys of a shared options file belong to other commands.
  Result<Outcome> parse(const std::vector<std::string>& arguments,
                        const std::function<bool(std::string_view)>& known_elsewhere);

  // Whether the option was given, wherever.
  [[nodiscard]] bool given(std::string_view long_name) const;
  [[nodiscard]] bool knows(std::string_view long_name) const;
  [[nodiscard]] std::vector<std::string> long_names() const;

 private:
  struct Impl;
  void add_value(const std::string& names, const std::string& hint, const std::string& help,
                 ValueParser parser);
  Status parse_once(const std::vector<std::string>& arguments);
  [[nodiscard]] Status check_leftovers() const;
  // The values of options the command line leaves open, from the two other places.
  void read_environment();
  [[nodiscard]] std::string options_file() const;
  Status read_options(const std::string& file, const std::function<bool(std::string_view)>& known_elsewhere);
  // Those values as words of a command line.
  [[nodiscard]] Result<std::vector<std::string>> outside_words() const;

  std::unique_ptr<Impl> impl_;
};

// The candidate with the smallest edit distance to `word`, if it is near enough to be a typing mistake.
std::optional<std::string> closest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace nibble::cli
