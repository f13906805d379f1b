// The modules on layers of the golden models, against what transformers computes: attn_out, router_topk,
// router_weights and the difference that a mixture-of-experts layer makes to the residual stream.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "nibble/modules.h"
#include "quant/float16.h"
#include "tests/modules/support.h"
#include "tests/support/paths.h"
#include "tests/support/safetensors_reader.h"

namespace nibble::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// A model of bf16 weights, all files read.
class GoldenLayers {
 public:
  explicit GoldenLayers(const fs::path& dir)
      : config(Json::parse(std::ifstream(dir / "config.json"))), golden(dir / "golden.safetensors") {
    for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("model") && name.ends_with(".safetensors")) files_.emplace_back(entry.path());
    }
  }

  [[nodiscard]] const std::vector<std::uint16_t>& bits(const std::string& name) {
    auto& values = bits_[name];
    if (values.empty()) values = find(name).values<std::uint16_t>();
    return values;
  }
  HostMatrix matrix(const std::string& name) {
    const StoredTensor& tensor = find(name);
    return {bits(name), tensor.shape.at(0), tensor.shape.at(1)};
  }
  const std::vector<float>& vector(const std::string& name) {
    auto& values = vectors_[name];
    if (!values.empty()) return values;
    if (find(name).dtype == "F32") {
      values = find(name).values<float>();
    } else {
      for (const std::uint16_t code : bits(name)) values.push_back(quant::bf16_to_float(code));
    }
    return values;
  }
  // Matrices of all experts one after the other.
  HostMatrix stacked(const std::string& prefix, const std::string& suffix, std::int64_t count) {
    auto& values = bits_[prefix + suffix];
    values.clear();
    std::int64_t columns = 0;
    for (std::int64_t e = 0; e < count; ++e) {
      const std::string name = prefix + std::to_string(e) + suffix;
      const auto& part = bits(name);
      columns = find(name).shape.at(1);
      values.insert(values.end(), part.begin(), part.end());
    }
    return {values, static_cast<std::int64_t>(values.size()) / columns, columns};
  }

  [[nodiscard]] std::int64_t number(const char* key, std::int64_t missing = 0) const {
    return config.contains(key) && !config.at(key).is_null() ? config.at(key).get<std::int64_t>() : missing;
  }

  Json config;
  SafetensorsReader golden;

 private:
  const StoredTensor& find(const std::string& name) const {
    for (const SafetensorsReader& file : files_) {
      if (file.contains(name)) return file.at(name);
    }
    throw std::out_of_range(name);
  }

  std::vector<SafetensorsReader> files_;
  std::map<std::string, std::vector<std::uint16_t>> bits_;
  std::map<std::string, std::vector<float>> vectors_;
};

// Golden models of plain bf16 weights, from whichever root has them.
std::map<std::string, fs::path> golden_dirs() {
  std::map<std::string, fs::path> dirs;
  for (const fs::path& root : golden_roots()) {
    for (const std::string name : {"v2-tiny", "v2lite-tiny", "v3-tiny"}) {
      if (fs::is_regular_file(root / name / "golden.safetensors")) dirs.try_emplace(name, root / name);
    }
  }
  return dirs;
}

std::vector<float> norm(std::span<const float> x, std::span<const float> weight, double eps) {
  std::vector<float> y;
  for (std::size_t begin = 0; begin < x.size(); begin += weight.size()) {
    double squares = 0;
    for (std::size_t i = 0; i < weight.size(); ++i)
      squares += static_cast<double>(x[begin + i]) * static_cast<double>(x[begin + i]);
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(weight.size()) + eps);
    for (std::size_t i = 0; i < weight.size(); ++i) {
      y.push_back(
          static_cast<float>(static_cast<double>(x[begin + i]) * scale * static_cast<double>(weight[i])));
    }
  }
  return y;
}

MlaModuleConfig mla_config(const GoldenLayers& model) {
  MlaModuleConfig config{.hidden_size = model.number("hidden_size"),
                         .num_heads = model.number("num_attention_heads"),
                         .q_lora_rank = model.number("q_lora_rank"),
                         .kv_lora_rank = model.number("kv_lora_rank"),
                         .qk_nope_head_dim = model.number("qk_nope_head_dim"),
                         .qk_rope_head_dim = model.number("qk_rope_head_dim"),
                         .v_head_dim = model.number("v_head_dim"),
                         .rope_theta = model.config.at("rope_theta").get<double>(),
                         .page_size = 16,
                         .max_sequences = 2,
                         .max_length = 256,
                         .max_tokens = 256};
  if (const Json& scaling = model.config.at("rope_scaling"); !scaling.is_null()) {
    config.yarn = YarnScaling{.factor = scaling.at("factor").get<double>(),
                              .beta_fast = scaling.at("beta_fast").get<double>(),
                              .beta_slow = scaling.at("beta_slow").get<double>(),
                              .mscale = scaling.at("mscale").get<double>(),
                              .mscale_all_dim = scaling.at("mscale_all_dim").get<double>(),
                              .original_max_position_embeddings =
                                  scaling.at("original_max_position_embeddings").get<std::int64_t>()};
  }
  return config;
}

MlaWeights mla_weights(GoldenLayers& model, std::int64_t layer) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".self_attn.";
  MlaWeights w;
  if (model.number("q_lora_rank") == 0) {
    w.q_proj = model.matrix(prefix + "q_proj.weight");
  } else {
    w.q_a_proj = model.matrix(prefix + "q_a_proj.weight");
    w.q_a_layernorm = model.vector(prefix + "q_a_layernorm.weight");
    w.q_b_proj = model.matrix(prefix + "q_b_proj.weight");
  }
  w.kv_a_proj_with_mqa = model.matrix(prefix + "kv_a_proj_with_mqa.weight");
  w.kv_a_layernorm = model.vector(prefix + "kv_a_layernorm.weight");
  w.kv_b_proj = model.matrix(prefix + "kv_b_proj.weight");
  w.o_proj = model.matrix(prefix + "o_proj.weight");
  return w;
}

class Golden : public OnPlace {
 protected:
  // Float32 arithmetic differs by the order of sums; the values are of the order of one.
  [[nodiscard]] double tolerance() const { return GetParam().name == "scalar" ? 2e-4 : kBf16Error; }
};

TEST_P(Golden, AttentionOfEveryLayer) {
  ASSERT_FALSE(golden_dirs().empty());
  for (const auto& [name, dir] : golden_dirs()) {
    GoldenLayers model(dir);
    const std::vector<float> hidden = model.golden.at("hidden_states").values<float>();
    const std::vector<float> attn_out = model.golden.at("attn_out").values<float>();
    const auto width = static_cast<std::size_t>(model.number("hidden_size"));
    const auto& shape = model.golden.at("attn_out").shape;
    const auto rows = static_cast<std::size_t>(shape.at(1));
    for (std::int64_t layer = 0; layer < shape.at(0); ++layer) {
      auto mla = MlaModule::create(device, mla_config(model), mla_weights(model, layer));
      ASSERT_TRUE(mla.ok()) << name << ": " << mla.error().message;
      const std::size_t begin = static_cast<std::size_t>(layer) * rows * width;
      const std::vector<float> x =
          norm({hidden.data() + begin, rows * width},
               model.vector("model.layers." + std::to_string(layer) + ".input_layernorm.weight"),
               model.config.at("rms_norm_eps").get<double>());
      // A whole prompt, and the same in chunks of many sizes that end one by one.
      for (const std::size_t chunk : {rows, std::size_t{7}}) {
        const SequenceId id = (*mla)->add_sequence().value();
        std::vector<float> y(x.size());
        for (std::size_t at = 0; at < rows;) {
          const std::size_t count = std::min(at > 30 ? 1 : chunk, rows - at);
          const MlaChunk part{id, static_cast<std::int32_t>(count)};
          ASSERT_TRUE((*mla)
                          ->forward_host({&part, 1}, {x.data() + at * width, count * width},
                                         {y.data() + at * width, count * width})
                          .ok());
          at += count;
        }
        const std::span<const float> want(attn_out.data() + begin, rows * width);
        EXPECT_LE(row_error(y, want, width), tolerance())
            << name << ", layer " << layer << ", chunks of " << chunk;
        ASSERT_TRUE((*mla)->free_sequence(id).ok());
      }
    }
  }
}

MoeModuleConfig moe_config(const GoldenLayers& model) {
  const std::string method = model.config.value("topk_method", "greedy");
  const std::int64_t inner = model.number("moe_intermediate_size");
  return {.hidden_size = model.number("hidden_size"),
          .intermediate_size = inner,
          .num_experts = model.number("n_routed_experts"),
          .experts_per_token = static_cast<std::int32_t>(model.number("num_experts_per_tok")),
          .shared_intermediate_size = inner * model.number("n_shared_experts"),
          .gate = model.config.at("scoring_func") == "sigmoid" ? MoeGate::sigmoid : MoeGate::softmax,
          .n_group = method == "greedy" ? 1 : static_cast<std::int32_t>(model.number("n_group", 1)),
          .topk_group = method == "greedy" ? 1 : static_cast<std::int32_t>(model.number("topk_group", 1)),
          .norm_topk_prob = model.config.at("norm_topk_prob").get<bool>(),
          .routed_scaling_factor = model.config.at("routed_scaling_factor").get<float>(),
          .has_correction_bias = method == "noaux_tc"};
}

MoeWeights moe_weights(GoldenLayers& model, std::int64_t layer, const MoeModuleConfig& config) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".mlp.";
  MoeWeights w;
  w.gate_proj = model.stacked(prefix + "experts.", ".gate_proj.weight", config.num_experts);
  w.up_proj = model.stacked(prefix + "experts.", ".up_proj.weight", config.num_experts);
  w.down_proj = model.stacked(prefix + "experts.", ".down_proj.weight", config.num_experts);
  w.shared_gate_proj = model.matrix(prefix + "shared_experts.gate_proj.weight");
  w.shared_up_proj = model.matrix(prefix + "shared_experts.up_proj.weight");
  w.shared_down_proj = model.matrix(prefix + "shared_experts.down_proj.weight");
  w.router = model.matrix(prefix + "gate.weight");
  if (config.has_correction_bias) w.correction_bias = model.vector(prefix + "gate.e_score_correction_bias");
  return w;
}

TEST_P(Golden, MixturesOfExperts) {
  ASSERT_FALSE(golden_dirs().empty());
  for (const auto& [name, dir] : golden_dirs()) {
    GoldenLayers model(dir);
    const MoeModuleConfig config = moe_config(model);
    const std::vector<float> hidden = model.golden.at("hidden_states").values<float>();
    const std::vector<float> attn_out = model.golden.at("attn_out").values<float>();
    const std::vector<std::int32_t> layers = model.golden.at("moe_layer_ids").values<std::int32_t>();
    const std::vector<std::int32_t> topk = model.golden.at("router_topk").values<std::int32_t>();
    const std::vector<float> topk_weights = model.golden.at("router_weights").values<float>();
    const auto width = static_cast<std::size_t>(config.hidden_size);
    const std::size_t values = static_cast<std::size_t>(model.golden.at("attn_out").shape.at(1)) * width;
    const std::size_t routes = values / width * static_cast<std::size_t>(config.experts_per_token);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const auto layer = static_cast<std::size_t>(layers[i]);
      auto moe = MoeModule::create(device, config, moe_weights(model, layers[i], config));
      ASSERT_TRUE(moe.ok()) << name << ": " << moe.error().message;
      std::vector<float> middle(values);
      for (std::size_t j = 0; j < values; ++j)
        middle[j] = hidden[layer * values + j] + attn_out[layer * values + j];
      const std::vector<float> x = norm(
          middle, model.vector("model.layers." + std::to_string(layer) + ".post_attention_layernorm.weight"),
          model.config.at("rms_norm_eps").get<double>());
      std::vector<float> y = middle;
      ASSERT_TRUE((*moe)->forward_add_host(x, y).ok());
      EXPECT_LE(row_error(y, std::span(hidden).subspan((layer + 1) * values, values), width), tolerance())
          << name << ", layer " << layer;

      const DeviceArray x_there = place(x);
      const DeviceArray ids = device->allocate(routes * sizeof(std::int32_t)).value();
      const DeviceArray weights = device->allocate(routes * sizeof(float)).value();
      ASSERT_TRUE(
          (*moe)
              ->route(static_cast<std::int32_t>(values / width), x_there.f32(), ids.i32(), weights.f32())
              .ok());
      std::vector<std::int32_t> chosen(routes);
      ASSERT_TRUE(device->download(chosen.data(), ids.data(), ids.bytes()).ok());
      EXPECT_EQ(chosen,
                std::vector<std::int32_t>(topk.begin() + static_cast<std::ptrdiff_t>(i * routes),
                                          topk.begin() + static_cast<std::ptrdiff_t>((i + 1) * routes)));
      EXPECT_LE(row_error(fetch(weights), std::span(topk_weights).subspan(i * routes, routes),
                          static_cast<std::size_t>(config.experts_per_token)),
                1e-4);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Places, Golden, ::testing::ValuesIn(places()), place_name);

}  // namespace
}  // namespace nibble::testing
