// A command of the `nibble` binary: its options, what it does, and the table of all of them.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/result.h"

namespace nibble::cli {

class OptionSet;

class Command {
 public:
  Command() = default;
  virtual ~Command() = default;
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  // Registers the command's options; their targets live as long as the command.
  virtual void define(OptionSet& options) = 0;

  // Called after the options were read. An error's code is the exit code; an error without a
  // message ends the program with its code and nothing more to say.
  virtual Status run() = 0;

  // What was typed after the command's name, for results that record how they were made.
  void set_arguments(std::vector<std::string> arguments) { arguments_ = std::move(arguments); }

 protected:
  [[nodiscard]] const std::vector<std::string>& arguments() const { return arguments_; }

 private:
  std::vector<std::string> arguments_;
};

struct CommandInfo {
  std::string_view name;  // "run", "bench decode"
  std::string_view summary;
  std::string_view examples;  // shown by --help, one per line
  std::unique_ptr<Command> (*make)();
};

// In the order in which `nibble --help` lists them.
std::span<const CommandInfo> commands();

std::unique_ptr<Command> make_run();
std::unique_ptr<Command> make_chat();
std::unique_ptr<Command> make_logits();
std::unique_ptr<Command> make_tokenize();
std::unique_ptr<Command> make_inspect();
std::unique_ptr<Command> make_plan();
std::unique_ptr<Command> make_quantize();
std::unique_ptr<Command> make_eval_ppl();
std::unique_ptr<Command> make_eval_kld();
std::unique_ptr<Command> make_eval_table();
std::unique_ptr<Command> make_bench_decode();
std::unique_ptr<Command> make_bench_prefill();
std::unique_ptr<Command> make_bench_load();
std::unique_ptr<Command> make_bench_linear();
std::unique_ptr<Command> make_bench_moe();
std::unique_ptr<Command> make_bench_mla();
std::unique_ptr<Command> make_doctor();
std::unique_ptr<Command> make_version();

}  // namespace nibble::cli
