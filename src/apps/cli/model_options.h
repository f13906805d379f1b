// Options that many commands share, and loading a model by them.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "nibble/llm.h"
#include "nibble/result.h"

namespace nibble::cli {

class OptionSet;

// Offered by every command.
struct CommonOptions {
  bool json = false;
  std::string progress = "auto";
  std::string device = "auto";
  std::int32_t threads = 0;  // 0 = all cores
  std::filesystem::path options_file;
};

// `json_help` says what --json prints; device_used tells whether the command computes anything.
void add_common_options(OptionSet& options, CommonOptions& common, const std::string& json_help,
                        bool device_used = true);

// What to load and how to run it.
struct ModelOptions {
  LlmOptions llm;
  std::string load_format = "auto";
  std::string mla = "auto";
  std::string isa = "auto";
  std::string scales = "searched";
};

void add_model_options(OptionSet& options, ModelOptions& model);
void add_max_num_seqs(OptionSet& options, ModelOptions& model);

// The library's options; bad_input for flags that contradict each other or a model that isn't named.
Result<LlmOptions> resolve(const ModelOptions& model, const CommonOptions& common);

// Loads with progress; Ctrl-C ends the loading (ErrorCode::interrupted).
Result<std::unique_ptr<Llm>> load_model(const LlmOptions& options, const CommonOptions& common);

// bad_input if no model directory was given.
Status require_model(const std::filesystem::path& model);

// Short name for results: the directory's last part; for dummy weights the config's directory.
std::string model_name(const LlmOptions& options);

// The error of work that Ctrl-C ended: nothing needs to be said.
Error interrupted_error();

}  // namespace nibble::cli
