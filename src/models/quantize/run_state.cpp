#include "models/quantize/run_state.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <span>
#include <utility>

#include "core/json.h"
#include "core/quote.h"
#include "core/sha256.h"
#include "formats/mapped_file.h"
#include "formats/output_file.h"

namespace nibble::models {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// Of an interrupted run of the largest models: a row per tensor.
constexpr std::size_t kMaxStateBytes = std::size_t{256} << 20;
constexpr int kVersion = 2;

std::string sha256_of(std::span<const std::byte> bytes) {
  Sha256 sha;
  sha.update(bytes);
  return sha.hex_digest();
}

Json gptq_json(const GptqSettings& gptq) {
  return {{"calibration_tokens", gptq.calibration.size()},
          {"calibration_sha256", sha256_of(std::as_bytes(std::span(gptq.calibration)))},
          {"window", gptq.window},
          {"bits", gptq.bits},
          {"group_size", gptq.group_size},
          {"act_order", gptq.act_order},
          {"zero_points", gptq.zero_points},
          {"damp_percent", gptq.damp_percent}};
}

// What a run must have in common with the one it goes on with.
std::string run_json(const QuantizeOptions& options) {
  Json json = Json::parse(options_json(options));
  json["version"] = kVersion;
  json["max_shard_bytes"] = options.max_shard_bytes;
  return json.dump();
}

// A file is taken to be the same if its size and its time are.
std::string file_identity(const fs::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return path.filename().native();
  return fmt::format("{} {} {}.{}", path.filename().native(), info.st_size, info.st_mtim.tv_sec,
                     info.st_mtim.tv_nsec);
}

std::string source_digest(const formats::Checkpoint& checkpoint) {
  Sha256 sha;
  const auto add = [&](const fs::path& path) {
    const std::string line = file_identity(path) + '\n';
    sha.update(std::as_bytes(std::span(line.data(), line.size())));
  };
  for (const fs::path& file : checkpoint.files()) add(file);
  add(checkpoint.dir() / "config.json");
  return sha.hex_digest();
}

Json to_json(const QuantizedTensor& t) {
  return {{"name", t.name},
          {"source_format", t.source_format},
          {"format", t.format},
          {"num_parameters", t.num_parameters},
          {"relative_rms_error", t.relative_rms_error},
          {"max_error", t.max_error},
          {"sum_of_squares", t.sum_of_squares},
          {"source_bytes", t.source_bytes},
          {"bytes", t.bytes},
          {"calibration_tokens", t.calibration_tokens},
          {"rounded_to_nearest", t.rounded_to_nearest}};
}

QuantizedTensor tensor_of(const Json& json) {
  return {.name = json.at("name"),
          .source_format = json.at("source_format"),
          .format = json.at("format"),
          .num_parameters = json.at("num_parameters"),
          .relative_rms_error = json.at("relative_rms_error"),
          .max_error = json.at("max_error"),
          .sum_of_squares = json.at("sum_of_squares"),
          .source_bytes = json.at("source_bytes"),
          .bytes = json.at("bytes"),
          .calibration_tokens = json.at("calibration_tokens"),
          .rounded_to_nearest = json.at("rounded_to_nearest")};
}

FinishedShard shard_of(const Json& json) {
  FinishedShard shard{.file = json.at("file"), .bytes = json.at("bytes"), .tensors = {}};
  for (const Json& tensor : json.at("tensors")) shard.tensors.push_back(tensor_of(tensor));
  return shard;
}

}  // namespace

std::string options_json(const QuantizeOptions& options) {
  Json json{{"format", options.format},
            {"attn", options.attn},
            {"mlp", options.mlp},
            {"experts", options.experts},
            {"other", options.other},
            {"exclude", options.exclude},
            {"scales", options.search_scales ? "searched" : "plain"}};
  if (!options.gptq.calibration.empty()) json["gptq"] = gptq_json(options.gptq);
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string tensor_json(const QuantizedTensor& tensor) { return to_json(tensor).dump(); }

RunState::RunState(const QuantizeOptions& options, const QuantizePlan& plan)
    : destination_(options.destination),
      options_(run_json(options)),
      source_(source_digest(plan.shape.checkpoint)) {}

Status RunState::resume() {
  const std::string where = printable(path().native(), 1024);
  NIB_TRY(const std::string text, formats::read_small_file(path(), kMaxStateBytes));
  NIB_TRY(const Json json, parse_json(text, where));
  try {
    const std::string options = json.at("options").dump();
    if (options != options_) {
      return bad_input(
          fmt::format("{}: an interrupted run with other options ({}; now {}); repeat it with "
                      "those, or start again with --overwrite",
                      where, printable(options, 1024), printable(options_, 1024)));
    }
    if (json.at("source").get<std::string>() != source_) {
      return bad_input(
          fmt::format("{}: an interrupted run of another source, or of one that has changed "
                      "since; start again with --overwrite",
                      where));
    }
    for (const Json& item : json.at("shards")) {
      FinishedShard shard = shard_of(item);
      std::error_code error;
      const bool complete =
          fs::file_size(destination_ / fs::path(shard.file).filename(), error) == shard.bytes;
      if (complete && !error) shards_.push_back(std::move(shard));
    }
  } catch (const nlohmann::json::exception&) {
    return bad_input(
        fmt::format("{}: not a state file of nibble; remove it, or start again with --overwrite", where));
  }
  return {};
}

const FinishedShard* RunState::find(const std::string& file) const {
  const auto it = std::find_if(shards_.begin(), shards_.end(), [&](const auto& s) { return s.file == file; });
  return it == shards_.end() ? nullptr : &*it;
}

Status RunState::add(FinishedShard shard) {
  shards_.push_back(std::move(shard));
  std::string text = fmt::format("{{\"options\": {},\n\"source\": \"{}\",\n\"shards\": [", options_, source_);
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    text += fmt::format("{}\n{{\"file\": {}, \"bytes\": {}, \"tensors\": [", i == 0 ? "" : ",",
                        Json(shards_[i].file).dump(), shards_[i].bytes);
    for (std::size_t t = 0; t < shards_[i].tensors.size(); ++t)
      text += (t == 0 ? "\n" : ",\n") + tensor_json(shards_[i].tensors[t]);
    text += "]}";
  }
  return formats::write_file_atomically(path(), text + "]}\n");
}

}  // namespace nibble::models
