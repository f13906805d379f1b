// HfConfig: config.json of the deepseek_v2 and deepseek_v3 families, typed and validated. Fields keep
// the checkpoint's names. Unknown values are errors, not defaults.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/result.h"
#include "quant/matrix_view.h"

namespace nibble::formats {

// YaRN (legacy rope_scaling and newer rope_parameters both end here).
struct RopeScaling {
  double factor = 1.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double mscale = 1.0;
  double mscale_all_dim = 0.0;
  std::int64_t original_max_position_embeddings = 4096;
  bool operator==(const RopeScaling&) const = default;
};

// How integer weights are grouped, as the configuration says; tensors do not tell.
struct IntegerScheme {
  int bits = 4;
  std::int64_t group_size = -1;  // weights along k that share a scale; -1 = the whole row
  bool symmetric = true;
  bool act_order = false;  // channels were quantised in another order than they are stored: g_idx counts
};

// quantization_config: what the checkpoint claims to hold.
struct QuantizationConfig {
  std::string method = "none";               // quant_method
  std::string description = "none";          // for messages: "gptq, 4 bits, groups of 128"
  std::vector<quant::WeightFormat> formats;  // quantised linears may be in these, besides unquantised ones
  std::vector<IntegerScheme> integers;       // for int4 and int8
  quant::MatrixLayout layout = quant::MatrixLayout::rows;  // of qweight: gptq, gptq_v2, awq
  std::vector<std::string> ignore;                         // module names or globs left unquantised

  [[nodiscard]] bool is_none() const noexcept { return method == "none"; }
};

struct HfConfig {
  std::string model_type;    // deepseek_v2, deepseek_v3
  std::string architecture;  // DeepseekV3ForCausalLM
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t moe_intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t first_k_dense_replace = 0;
  std::int64_t moe_layer_freq = 1;
  std::int64_t num_attention_heads = 0;
  std::int64_t q_lora_rank = 0;  // 0 = null: no query compression
  std::int64_t kv_lora_rank = 0;
  std::int64_t qk_nope_head_dim = 0;
  std::int64_t qk_rope_head_dim = 0;
  std::int64_t v_head_dim = 0;
  std::int64_t n_routed_experts = 0;  // 0 = every layer dense
  std::int64_t n_shared_experts = 0;
  std::int64_t num_experts_per_tok = 0;
  std::int64_t n_group = 1;
  std::int64_t topk_group = 1;
  std::string topk_method;   // greedy, group_limited_greedy, noaux_tc
  std::string scoring_func;  // softmax, sigmoid
  bool norm_topk_prob = false;
  double routed_scaling_factor = 1.0;
  double rope_theta = 10000.0;
  std::optional<RopeScaling> rope_scaling;
  std::int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  std::int64_t num_nextn_predict_layers = 0;
  bool tie_word_embeddings = false;
  std::vector<std::int32_t> eos_token_ids;  // from generation_config.json, else config.json
  std::optional<std::int32_t> bos_token_id;
  QuantizationConfig quantization;
};

// `where` is the file name used in messages.
Result<HfConfig> parse_hf_config(std::string_view json, std::string_view where);

// config.json, with generation_config.json, hf_quant_config.json beside it if present.
Result<HfConfig> load_hf_config(const std::filesystem::path& config_json);

}  // namespace nibble::formats
