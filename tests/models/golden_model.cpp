#include "tests/models/golden_model.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

#include "tests/support/paths.h"
#include "tests/support/safetensors_reader.h"

namespace nibble::testing {
namespace {

namespace fs = std::filesystem;

std::string read_text(const fs::path& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// The number after `label` in `text`.
double number_after(const std::string& text, const std::string& label, const fs::path& where) {
  const std::size_t at = text.find(label);
  if (at == std::string::npos) throw std::runtime_error(where.string() + ": no \"" + label + "\"");
  return std::stod(text.substr(at + label.size()));
}

Tolerances read_tolerances(const fs::path& dir) {
  const fs::path path = dir / "README.md";
  const std::string text = read_text(path);
  return {.logits = number_after(text, "max |diff| of logits <= ", path),
          .hidden = number_after(text, "of hidden states <= ", path),
          .bf16_median = number_after(text, "over the positions of both rows <= ", path),
          .bf16_share = number_after(text, "e > 0.1 at no more than ", path) / 100.0};
}

std::vector<std::int32_t> to_i32(const std::vector<std::int64_t>& values) {
  return {values.begin(), values.end()};
}

}  // namespace

std::vector<GoldenModel> golden_models() {
  std::map<std::string, GoldenModel> found;
  for (const fs::path& root : golden_roots()) {
    if (!fs::is_directory(root)) continue;
    for (const auto& entry : fs::directory_iterator(root)) {
      const fs::path& dir = entry.path();
      if (!fs::exists(dir / "golden.safetensors") || !fs::exists(dir / "config.json")) continue;
      const auto config = nlohmann::json::parse(read_text(dir / "config.json"));
      GoldenModel model{
          .name = dir.filename().string(), .dir = dir, .model_type = config.value("model_type", "")};
      if (const auto quant = config.find("quantization_config"); quant != config.end()) {
        model.quant_method = quant->value("quant_method", "");
        if (model.quant_method == "compressed-tensors") model.quant_method = quant->value("format", "");
      }
      found.emplace(model.name, std::move(model));
    }
  }
  std::vector<GoldenModel> models;
  for (auto& [name, model] : found) models.push_back(std::move(model));
  return models;
}

bool is_runnable(const GoldenModel& model) {
  return model.model_type == "deepseek_v2" || model.model_type == "deepseek_v3";
}

GoldenReference read_reference(const GoldenModel& model) {
  const SafetensorsReader file(model.dir / "golden.safetensors");
  GoldenReference ref;
  const StoredTensor& logits = file.at("logits");
  ref.num_tokens = logits.shape.at(1);
  ref.vocab_size = logits.shape.at(2);
  const std::vector<std::int32_t> ids = to_i32(file.at("input_ids").values<std::int64_t>());
  const std::vector<float> all_logits = logits.values<float>();
  for (std::int64_t row = 0; row < logits.shape.at(0); ++row) {
    const auto ids_at = ids.begin() + row * ref.num_tokens;
    ref.input_ids.emplace_back(ids_at, ids_at + ref.num_tokens);
    const auto logits_at = all_logits.begin() + row * ref.num_tokens * ref.vocab_size;
    ref.logits.emplace_back(logits_at, logits_at + ref.num_tokens * ref.vocab_size);
  }
  ref.hidden_states = file.at("hidden_states").values<float>();
  ref.attn_out = file.at("attn_out").values<float>();
  ref.greedy_ids = to_i32(file.at("greedy_ids").values<std::int64_t>());
  ref.moe_layer_ids = file.at("moe_layer_ids").values<std::int32_t>();
  ref.router_topk = file.at("router_topk").values<std::int32_t>();
  ref.router_weights = file.at("router_weights").values<float>();
  ref.tolerances = read_tolerances(model.dir);
  return ref;
}

std::vector<std::vector<float>> read_logits(const GoldenModel& model, const std::string& name) {
  const SafetensorsReader file(model.dir / "golden.safetensors");
  if (!file.contains(name)) return {};
  const StoredTensor& logits = file.at(name);
  const std::vector<float> all = logits.values<float>();
  const std::int64_t size = logits.shape.at(1) * logits.shape.at(2);
  std::vector<std::vector<float>> rows;
  for (std::int64_t row = 0; row < logits.shape.at(0); ++row) {
    rows.emplace_back(all.begin() + row * size, all.begin() + (row + 1) * size);
  }
  return rows;
}

}  // namespace nibble::testing
