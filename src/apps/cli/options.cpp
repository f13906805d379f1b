#include "cli/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <numeric>

#include "cli/option_sources.h"

namespace nibble::cli {

namespace {

// "--max-model-len,-c,--ctx-size" to "max-model-len".
std::string long_name_of(const std::string& names) {
  for (const std::string& name : CLI::detail::split(names, ',')) {
    if (name.rfind("--", 0) == 0) return name.substr(2);
  }
  return names;
}

template <class T>
std::optional<T> parse_number(std::string_view text) {
  if (text.size() > 1 && text.front() == '+') text.remove_prefix(1);
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string range_text(std::int32_t min, std::int32_t max) {
  if (max == std::numeric_limits<std::int32_t>::max())
    return fmt::format("a whole number of at least {}", min);
  return fmt::format("a whole number from {} to {}", min, max);
}

// One value that came from the environment or the options file.
struct OutsideValue {
  std::string key;
  std::string value;
  std::string origin;
};

}  // namespace

struct OptionSet::Impl {
  struct Entry {
    std::string name;
    CLI::Option* option;
    bool is_flag;
  };

  Impl(std::string_view command_name, std::string_view summary)
      : command(command_name), app(std::string(summary), "nibble " + command) {}

  [[nodiscard]] const Entry* find(std::string_view long_name) const {
    const auto it = std::find_if(entries.begin(), entries.end(), [&](const Entry& e) {
      return e.name == long_name || e.option->check_lname(std::string(long_name));
    });
    return it == entries.end() ? nullptr : &*it;
  }

  void keep(const std::string& names, CLI::Option* option, bool is_flag) {
    if (!current_heading.empty()) option->group(current_heading);
    if (!is_flag) option->expected(1)->allow_extra_args(false);
    entries.push_back({long_name_of(names), option, is_flag});
  }

  std::string command;
  std::string current_heading;
  CLI::App app;
  std::vector<Entry> entries;
  std::vector<OutsideValue> outside;
};

OptionSet::OptionSet(std::string_view command, std::string_view summary, std::string_view examples)
    : impl_(std::make_unique<Impl>(command, summary)) {
  impl_->app.allow_extras();
  impl_->app.get_formatter()->column_width(34);
  std::string footer = "Examples:\n";
  for (const std::string& line : CLI::detail::split(std::string(examples), '\n')) {
    if (!line.empty()) footer += "  " + line + "\n";
  }
  footer +=
      "\nEvery option can also be set as NIBBLE_<OPTION> in the environment or in a file given by --options.";
  impl_->app.footer(footer);
}

OptionSet::~OptionSet() = default;

void OptionSet::heading(std::string text) { impl_->current_heading = std::move(text); }

void OptionSet::add_flag(const std::string& names, bool& target, const std::string& help) {
  const auto set = [&target](std::int64_t count) { target = count > 0; };
  impl_->keep(names, impl_->app.add_flag_function(names, set, help), true);
}

void OptionSet::add_value(const std::string& names, const std::string& hint, const std::string& help,
                          ValueParser parser) {
  const std::string name = long_name_of(names);
  const auto callback = [parser = std::move(parser), name](const CLI::results_t& results) {
    if (const auto expected = parser(results.back())) {
      throw CLI::ValidationError(
          fmt::format("--{}: expected {}, found \"{}\"", name, *expected, results.back()));
    }
    return true;
  };
  CLI::Option* option = impl_->app.add_option(names, callback, help);
  option->type_name(hint);
  impl_->keep(names, option, false);
  option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

void OptionSet::add_text(const std::string& names, std::string& target, const std::string& hint,
                         const std::string& help) {
  add_value(names, hint, help, [&target](const std::string& value) -> std::optional<std::string> {
    target = value;
    return std::nullopt;
  });
}

void OptionSet::add_path(const std::string& names, std::filesystem::path& target, const std::string& help) {
  add_value(names, "FILE", help, [&target](const std::string& value) -> std::optional<std::string> {
    if (value.empty()) return "a path";
    target = value;
    return std::nullopt;
  });
}

void OptionSet::add_choice(const std::string& names, std::string& target, std::vector<std::string> choices,
                           const std::string& help) {
  const std::string hint = fmt::format("{}", fmt::join(choices, "|"));
  const std::string shown = target.empty() ? help : fmt::format("{} [{}]", help, target);
  add_value(names, hint, shown,
            [&target, choices = std::move(choices)](const std::string& value) -> std::optional<std::string> {
              if (std::find(choices.begin(), choices.end(), value) == choices.end()) {
                return fmt::format("one of {}", fmt::join(choices, ", "));
              }
              target = value;
              return std::nullopt;
            });
}

void OptionSet::add_number(const std::string& names, float& target, float min, float max,
                           const std::string& help) {
  add_value(names, "X", fmt::format("{} [{}]", help, target),
            [&target, min, max](const std::string& value) -> std::optional<std::string> {
              const auto number = parse_number<float>(value);
              if (!number || !(*number >= min && *number <= max)) {
                return fmt::format("a number from {} to {}", min, max);
              }
              target = *number;
              return std::nullopt;
            });
}

void OptionSet::add_seed(const std::string& names, std::uint64_t& target, const std::string& help) {
  add_value(names, "N", fmt::format("{} [{}]", help, target),
            [&target](const std::string& value) -> std::optional<std::string> {
              const auto number = parse_number<std::uint64_t>(value);
              if (!number) return "a whole number from 0 to 18446744073709551615";
              target = *number;
              return std::nullopt;
            });
}

void OptionSet::add_integer(const std::string& names, std::int32_t& target, std::int32_t min,
                            std::int32_t max, const std::string& help) {
  const bool has_default = target >= min && target > 0;
  add_value(names, "N", has_default ? fmt::format("{} [{}]", help, target) : help,
            [&target, min, max](const std::string& value) -> std::optional<std::string> {
              const auto number = parse_number<std::int32_t>(value);
              if (!number || *number < min || *number > max) return range_text(min, max);
              target = *number;
              return std::nullopt;
            });
}

void OptionSet::add_integers(const std::string& names, std::vector<std::int32_t>& target, std::int32_t min,
                             const std::string& help) {
  const std::string shown = target.empty() ? help : fmt::format("{} [{}]", help, fmt::join(target, ","));
  add_value(names, "N,N,...", shown, [&target, min](const std::string& value) -> std::optional<std::string> {
    target.clear();
    for (const std::string& part : CLI::detail::split(value, ',')) {
      const auto number = parse_number<std::int32_t>(CLI::detail::trim_copy(part));
      if (!number || *number < min) {
        return fmt::format("whole numbers of at least {}, separated by commas", min);
      }
      target.push_back(*number);
    }
    return std::nullopt;
  });
}

void OptionSet::add_repeatable(const std::string& names, std::vector<std::string>& target,
                               const std::string& hint, const std::string& help) {
  const auto callback = [&target](const CLI::results_t& results) {
    target = results;
    return true;
  };
  CLI::Option* option = impl_->app.add_option(names, callback, help + " (repeatable)");
  option->type_name(hint);
  impl_->keep(names, option, false);
  option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void OptionSet::add_positional(const std::string& names, std::filesystem::path& target,
                               const std::string& help) {
  const auto callback = [&target](const CLI::results_t& results) {
    target = results.back();
    return true;
  };
  CLI::Option* option = impl_->app.add_option(names, callback, help);
  option->type_name("DIR");
  impl_->keep(names, option, false);
}

bool OptionSet::given(std::string_view long_name) const {
  const Impl::Entry* entry = impl_->find(long_name);
  return entry != nullptr && entry->option->count() > 0;
}

bool OptionSet::knows(std::string_view long_name) const { return impl_->find(long_name) != nullptr; }

std::vector<std::string> OptionSet::long_names() const {
  std::vector<std::string> names{"help"};
  for (const Impl::Entry& entry : impl_->entries) {
    for (const std::string& name : entry.option->get_lnames()) names.push_back(name);
  }
  return names;
}

Status OptionSet::check_leftovers() const {
  for (const std::string& word : impl_->app.remaining()) {
    if (word.size() < 2 || word.front() != '-') {
      return bad_input(fmt::format(
          "unexpected argument \"{}\" (nibble {}); quote a text that contains spaces", word, impl_->command));
    }
    const std::string name = word.substr(0, word.find('='));
    const auto near = closest(name.substr(name.find_first_not_of('-')), long_names());
    return bad_input(
        fmt::format("unknown option {} (nibble {}); {}see nibble {} --help", name, impl_->command,
                    near ? fmt::format("did you mean --{}? ", *near) : std::string(), impl_->command));
  }
  return {};
}

Status OptionSet::parse_once(const std::vector<std::string>& arguments) {
  std::vector<std::string> reversed;
  for (const std::string& word : arguments) {
    // CLI11 would take the next word as the value of "--name=".
    const bool empty_value = word.size() > 3 && word.rfind("--", 0) == 0 && word.find('=') == word.size() - 1;
    if (empty_value) {
      reversed.push_back(word.substr(0, word.size() - 1));
      reversed.emplace_back();
    } else {
      reversed.push_back(word == "-np" ? "--max-num-seqs" : word);
    }
  }
  std::reverse(reversed.begin(), reversed.end());
  try {
    impl_->app.parse(std::move(reversed));
  } catch (const CLI::CallForHelp&) {
    throw;
  } catch (const CLI::ParseError& e) {
    std::string origin;
    for (const OutsideValue& value : impl_->outside) {
      if (std::string_view(e.what()).rfind("--" + value.key + ":", 0) == 0) origin = ", " + value.origin;
    }
    return bad_input(fmt::format("{} (nibble {}{}); see nibble {} --help", e.what(), impl_->command, origin,
                                 impl_->command));
  }
  return check_leftovers();
}

void OptionSet::read_environment() {
  for (const Impl::Entry& entry : impl_->entries) {
    if (entry.option->count() > 0) continue;
    if (auto value = environment_value(entry.name)) {
      impl_->outside.push_back({entry.name, *std::move(value), "from " + environment_name(entry.name)});
    }
  }
}

std::string OptionSet::options_file() const {
  const Impl::Entry* entry = impl_->find("options");
  if (entry == nullptr) return {};
  if (entry->option->count() > 0) return entry->option->results().back();
  return environment_value("options").value_or("");
}

Status OptionSet::read_options(const std::string& file,
                               const std::function<bool(std::string_view)>& known_elsewhere) {
  NIB_TRY(const std::vector<FileOption> lines, read_options_file(file));
  for (const FileOption& line : lines) {
    if (!line.section.empty() && line.section != impl_->command) continue;
    const Impl::Entry* entry = impl_->find(line.key);
    if (entry == nullptr && line.section.empty() && known_elsewhere(line.key)) continue;
    if (entry == nullptr) {
      const auto near = closest(line.key, long_names());
      return bad_input(fmt::format("unknown option \"{}\" ({} line {}){}", line.key, file, line.line,
                                   near ? fmt::format("; did you mean {}?", *near) : std::string()));
    }
    const bool already_given = entry->option->count() > 0 || environment_value(entry->name).has_value();
    if (already_given) continue;
    impl_->outside.push_back({entry->name, line.value, fmt::format("from {} line {}", file, line.line)});
  }
  return {};
}

Result<std::vector<std::string>> OptionSet::outside_words() const {
  std::vector<std::string> words;
  for (const OutsideValue& value : impl_->outside) {
    if (!impl_->find(value.key)->is_flag) {
      words.push_back("--" + value.key);
      words.push_back(value.value);
      continue;
    }
    const std::optional<bool> on = parse_boolean(value.value);
    if (!on) {
      return bad_input(fmt::format("--{}: expected true or false, found \"{}\" ({})", value.key, value.value,
                                   value.origin));
    }
    if (*on) words.push_back("--" + value.key);
  }
  return words;
}

Result<OptionSet::Outcome> OptionSet::parse(const std::vector<std::string>& arguments,
                                            const std::function<bool(std::string_view)>& known_elsewhere) {
  try {
    NIB_TRY_STATUS(parse_once(arguments));
    read_environment();
    if (const std::string file = options_file(); !file.empty()) {
      NIB_TRY_STATUS(read_options(file, known_elsewhere));
    }
    NIB_TRY(std::vector<std::string> all, outside_words());
    if (all.empty()) return Outcome{};
    // The command line's own words come last: they win, and "--" keeps its meaning.
    all.insert(all.end(), arguments.begin(), arguments.end());
    NIB_TRY_STATUS(parse_once(all));
  } catch (const CLI::CallForHelp&) {
    return Outcome{true, impl_->app.help()};
  }
  return Outcome{};
}

std::optional<std::string> closest(std::string_view word, const std::vector<std::string>& candidates) {
  const auto distance = [](std::string_view a, std::string_view b) {
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 0; i < a.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i + 1;
      for (std::size_t j = 0; j < b.size(); ++j) {
        const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
        diagonal = row[j + 1];
        row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, replaced});
      }
    }
    return row[b.size()];
  };
  std::optional<std::string> best;
  std::size_t best_distance = std::max<std::size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const std::size_t d = word.size() > 64 ? best_distance : distance(word, candidate);
    if (d < best_distance) {
      best = candidate;
      best_distance = d;
    }
  }
  return best;
}

}  // namespace nibble::cli
