#include "models/quantize/destination.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/json.h"
#include "core/quote.h"
#include "formats/mapped_file.h"
#include "formats/output_file.h"
#include "models/quantize/run_state.h"

namespace nibble::models {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::string_view kReportFile = "quantization_report.json";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";
constexpr std::string_view kModelOptFile = "hf_quant_config.json";
constexpr std::size_t kMaxConfigBytes = std::size_t{16} << 20;

// Files that mean the same whatever the weights are.
constexpr std::array kCopied = {
    "generation_config.json", "tokenizer*.json", "tokenizer.model",   "special_tokens_map.json",
    "added_tokens.json",      "chat_template*",  "vocab.json",        "merges.txt",
    "configuration_*.py",     "modeling_*.py",   "tokenization_*.py", "LICENSE*"};

// What an earlier checkpoint leaves in a directory.
constexpr std::array kReplaced = {"model*.safetensors",           "model*.safetensors.partial",
                                  "model.safetensors.index.json", "hf_quant_config.json",
                                  "quantize_config.json",         "quant_config.json",
                                  "quantization_report.json",     "quantize_state.json"};

template <std::size_t N>
bool matches(const std::array<const char*, N>& globs, const std::string& name) {
  return std::any_of(globs.begin(), globs.end(),
                     [&](const char* glob) { return ::fnmatch(glob, name.c_str(), 0) == 0; });
}

std::string shown(const fs::path& path) { return printable(path.native(), 1024); }

// Names in a directory, sorted.
Result<std::vector<std::string>> list_names(const fs::path& dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error))
    names.push_back(it->path().filename().native());
  if (error) return bad_input(fmt::format("{}: cannot list: {}", shown(dir), error.message()));
  std::sort(names.begin(), names.end());
  return names;
}

Status check_apart(const fs::path& source, const fs::path& destination) {
  std::error_code error;
  const fs::path from = fs::weakly_canonical(source, error);
  const fs::path to = fs::weakly_canonical(destination, error);
  const auto [left, right] = std::mismatch(from.begin(), from.end(), to.begin(), to.end());
  // A directory's path may end in an empty part.
  if (left != from.end() && !left->empty()) return {};
  const std::string_view what =
      right == to.end() || right->empty() ? "is the source itself" : "is inside the source";
  return bad_input(fmt::format("{}: the destination {}, {}; choose another directory", shown(destination),
                               what, shown(source)));
}

Status write_index(const QuantizeOptions& options, const QuantizePlan& plan) {
  if (plan.shards.size() < 2) return {};
  std::vector<std::pair<std::string_view, std::string_view>> placement;
  std::uint64_t bytes = 0;
  for (const QuantizeShard& shard : plan.shards) {
    for (const std::size_t i : shard.items) {
      bytes += plan.items[i].output_bytes();
      for (const formats::TensorHeader& t : plan.items[i].outputs) placement.emplace_back(t.name, shard.file);
    }
  }
  std::sort(placement.begin(), placement.end());
  // Put together by hand: the library's objects look for duplicates among all their keys.
  std::string text = fmt::format("{{\n  \"metadata\": {{\"total_size\": {}}},\n  \"weight_map\": {{", bytes);
  for (std::size_t i = 0; i < placement.size(); ++i) {
    text += fmt::format("{}\n    {}: {}", i == 0 ? "" : ",", Json(placement[i].first).dump(),
                        Json(placement[i].second).dump());
  }
  return formats::write_file_atomically(options.destination / kIndexFile, text + "\n  }\n}\n");
}

}  // namespace

Result<DestinationState> open_destination(const QuantizeOptions& options) {
  NIB_TRY_STATUS(check_apart(options.source, options.destination));
  std::error_code error;
  fs::create_directories(options.destination, error);
  if (error) {
    return bad_input(
        fmt::format("{}: cannot create the directory: {}", shown(options.destination), error.message()));
  }
  NIB_TRY(const std::vector<std::string> names, list_names(options.destination));
  if (options.overwrite || names.empty()) return DestinationState::fresh;
  if (std::binary_search(names.begin(), names.end(), kStateFile)) return DestinationState::resumable;
  // Interrupted in its first shard.
  if (std::all_of(names.begin(), names.end(), [](const std::string& name) {
        return ::fnmatch("model*.safetensors.partial", name.c_str(), 0) == 0;
      })) {
    return DestinationState::fresh;
  }
  return bad_input(
      fmt::format("{}: the directory is not empty (it holds {}) and no interrupted run is in it; choose "
                  "another, or replace its checkpoint with --overwrite",
                  shown(options.destination), quote(names.front())));
}

Status clear_destination(const QuantizeOptions& options) {
  NIB_TRY(const std::vector<std::string> names, list_names(options.destination));
  for (const std::string& name : names) {
    if (!matches(kReplaced, name)) continue;
    std::error_code error;
    fs::remove(options.destination / name, error);
    if (error) {
      return runtime_error(
          fmt::format("{}: cannot remove: {}", shown(options.destination / name), error.message()));
    }
  }
  return {};
}

Status write_small_files(const QuantizeOptions& options, const QuantizePlan& plan) {
  NIB_TRY_STATUS(write_index(options, plan));
  const fs::path config = options.source / "config.json";
  NIB_TRY(const std::string text, formats::read_small_file(config, kMaxConfigBytes));
  NIB_TRY(const std::string changed, formats::replace_quantization_config(text, shown(config), plan.claim));
  NIB_TRY_STATUS(formats::write_file_atomically(options.destination / "config.json", changed));
  if (plan.claim.method == formats::QuantMethod::modelopt) {
    NIB_TRY_STATUS(formats::write_file_atomically(options.destination / kModelOptFile,
                                                  formats::hf_quant_config_text(plan.claim)));
  }
  NIB_TRY(const std::vector<std::string> names, list_names(options.source));
  for (const std::string& name : names) {
    std::error_code error;
    if (!matches(kCopied, name) || !fs::is_regular_file(options.source / name, error)) continue;
    NIB_TRY_STATUS(formats::copy_file_atomically(options.source / name, options.destination / name));
  }
  return {};
}

Status write_report(const QuantizeOptions& options, const QuantizeReport& report) {
  Json head = Json::parse(options_json(options));
  head.update({{"files", report.files},
               {"source_bytes", report.source_bytes},
               {"bytes", report.bytes},
               {"num_quantized", report.num_quantized},
               {"relative_rms_error", report.relative_rms_error},
               {"notes", report.notes}});
  std::string text = head.dump(2, ' ', false, Json::error_handler_t::replace);
  text.resize(text.rfind('\n'));  // its closing brace comes after the tensors
  text += ",\n  \"tensors\": [";
  for (std::size_t i = 0; i < report.tensors.size(); ++i)
    text += (i == 0 ? "\n    " : ",\n    ") + tensor_json(report.tensors[i]);
  return formats::write_file_atomically(options.destination / kReportFile, text + "\n  ]\n}\n");
}

}  // namespace nibble::models
