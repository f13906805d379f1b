// nibble: the command line. Finds the command, reads its options, runs it, and turns its error into
// a line on stderr and an exit code.

#include <fmt/format.h>
#include <langinfo.h>

#include <algorithm>
#include <clocale>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command.h"
#include "cli/files.h"
#include "cli/json_writer.h"
#include "cli/options.h"
#include "cli/signals.h"

namespace nibble::cli {

namespace {

std::string overview() {
  std::string text =
      "nibble runs official DeepSeek checkpoints with their weights kept in four or eight bits.\n\n"
      "Usage: nibble COMMAND [MODEL] [options]\n\nCommands:\n";
  for (const CommandInfo& command : commands())
    text += fmt::format("  {:<14} {}\n", command.name, command.summary);
  text +=
      "\nnibble COMMAND --help lists a command's options and shows examples.\n\nExamples:\n"
      "  nibble run DIR -p \"Once upon a time\"\n"
      "  nibble inspect DIR\n"
      "  nibble doctor\n\n"
      "Exit codes: 0 done, 1 failed while running, 2 bad input, 3 unsupported, 4 out of memory, 130 "
      "interrupted.\n";
  return text;
}

// The command that `words` begin with, and how many of them name it.
const CommandInfo* find_command(const std::vector<std::string>& words, std::size_t& used) {
  for (const CommandInfo& command : commands()) {
    if (words.size() > 1 && command.name == words[0] + " " + words[1]) {
      used = 2;
      return &command;
    }
    if (!words.empty() && command.name == words[0]) {
      used = 1;
      return &command;
    }
  }
  return nullptr;
}

Error unknown_command(const std::vector<std::string>& words) {
  if (words.empty()) return bad_input("no command given (nibble); see nibble --help");
  std::vector<std::string> names;
  std::vector<std::string> kinds;
  for (const CommandInfo& command : commands()) {
    const std::string name(command.name);
    names.push_back(name);
    if (name.rfind(words[0] + " ", 0) == 0) kinds.push_back(name.substr(words[0].size() + 1));
  }
  if (!kinds.empty()) {
    std::string list;
    for (const std::string& kind : kinds) list += (list.empty() ? "" : ", ") + kind;
    return bad_input(
        fmt::format("nibble {} needs to know what (one of {}); see nibble --help", words[0], list));
  }
  const auto near = closest(words[0], names);
  return bad_input(fmt::format("unknown command \"{}\" (nibble); {}see nibble --help", words[0],
                               near ? fmt::format("did you mean {}? ", *near) : std::string()));
}

bool any_command_knows(std::string_view option) {
  return std::any_of(commands().begin(), commands().end(), [&](const CommandInfo& info) {
    const auto command = info.make();
    OptionSet options(info.name, info.summary, info.examples);
    command->define(options);
    return options.knows(option);
  });
}

Status run_program(std::vector<std::string> words) {
  const auto asks_for_help = [&](std::size_t i) {
    return words.size() > i && (words[i] == "--help" || words[i] == "-h");
  };
  if (words.size() > 1 && words[0] == "help") {  // help COMMAND is COMMAND --help
    words.erase(words.begin());
    words.emplace_back("--help");
  }
  if (asks_for_help(0) || words == std::vector<std::string>{"help"}) return print(overview());
  if (!words.empty() && words[0] == "--version") words[0] = "version";
  std::size_t used = 0;
  const CommandInfo* info = find_command(words, used);
  if (info == nullptr && asks_for_help(1)) return print(overview());
  if (info == nullptr) return unknown_command(words);
  words.erase(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(used));

  const auto command = info->make();
  OptionSet options(info->name, info->summary, info->examples);
  command->define(options);
  NIB_TRY(const OptionSet::Outcome outcome, options.parse(words, any_command_knows));
  if (outcome.show_help) return print(outcome.help);
  command->set_arguments(std::move(words));
  return command->run();
}

int exit_code(const Status& status) {
  if (status.ok()) return 0;
  const Error& error = status.error();
  if (!error.message.empty()) fmt::print(stderr, "error: {}\n", printable(error.message));
  return static_cast<int>(error.code);
}

}  // namespace

}  // namespace nibble::cli

int main(int argc, char** argv) {
  using nibble::ErrorCode;
  // Only the terminal's character set: line editing needs it, numbers must stay as they are.
  std::setlocale(LC_CTYPE, "");
  if (std::string_view(nl_langinfo(CODESET)) != "UTF-8") std::setlocale(LC_CTYPE, "C.UTF-8");
  nibble::cli::install_signal_handlers();
  try {
    return nibble::cli::exit_code(nibble::cli::run_program({argv + 1, argv + argc}));
  } catch (const std::bad_alloc&) {
    std::fputs("error: out of memory (host); use a smaller context or model, or free memory\n", stderr);
    return static_cast<int>(ErrorCode::out_of_memory);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: internal error: %s\n", e.what());
    return static_cast<int>(ErrorCode::runtime);
  }
}
