// The golden model directories: what they hold, their references and the tolerances their READMEs state.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace nibble::testing {

struct GoldenModel {
  std::string name;
  std::filesystem::path dir;
  std::string model_type;    // of config.json
  std::string quant_method;  // of config.json; empty if none
};

// Every golden model directory of every root, by name; a name found twice is taken once.
std::vector<GoldenModel> golden_models();

// Those this engine runs: deepseek_v2 and deepseek_v3, in any format.
bool is_runnable(const GoldenModel& model);

struct Tolerances {
  double logits = 0;       // float32: max |diff|
  double hidden = 0;       // float32: max |diff| of the residual stream
  double bf16_median = 0;  // bf16: median of e over positions
  double bf16_share = 0;   // bf16: share of positions with e > 0.1
};

// What the reference computed; see the README beside each model.
struct GoldenReference {
  std::int64_t num_tokens = 0;
  std::int64_t vocab_size = 0;
  std::vector<std::vector<std::int32_t>> input_ids;  // two rows
  std::vector<std::vector<float>> logits;            // per row [num_tokens, vocab]
  std::vector<float> hidden_states;                  // [layers + 1, num_tokens, hidden]
  std::vector<float> attn_out;                       // [layers, num_tokens, hidden]
  std::vector<std::int32_t> greedy_ids;
  std::vector<std::int32_t> moe_layer_ids;
  std::vector<std::int32_t> router_topk;  // [moe layers, num_tokens, topk]
  std::vector<float> router_weights;
  Tolerances tolerances;
};

// Throws std::runtime_error if a part is missing.
GoldenReference read_reference(const GoldenModel& model);

// Another tensor of logits beside the reference's, per row; empty if the model has none of that name.
std::vector<std::vector<float>> read_logits(const GoldenModel& model, const std::string& name);

}  // namespace nibble::testing
