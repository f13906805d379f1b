// Configs that must be read, in the forms publishers and transformers write them. Refusals are covered
// by the malformed files.
#include "formats/hf_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/formats/container.h"

namespace nibble::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kV2Lite = R"({
  "architectures": ["DeepseekV2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV2Config"}, "aux_loss_alpha": 0.001,
  "bos_token_id": 100000, "eos_token_id": 100001, "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 2048,
  "initializer_range": 0.02, "intermediate_size": 10944, "kv_lora_rank": 512, "max_position_embeddings": 163840,
  "model_type": "deepseek_v2", "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 64,
  "n_shared_experts": 2, "norm_topk_prob": false, "num_attention_heads": 16, "num_experts_per_tok": 6,
  "num_hidden_layers": 27, "num_key_value_heads": 16, "pretraining_tp": 1, "q_lora_rank": null, "qk_nope_head_dim": 128,
  "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40,
  "mscale": 0.707, "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096, "type": "yarn"},
  "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax", "seq_aux": true,
  "tie_word_embeddings": false, "topk_group": 1, "topk_method": "greedy", "torch_dtype": "bfloat16",
  "transformers_version": "4.33.1", "use_cache": true, "v_head_dim": 128, "vocab_size": 102400})";

constexpr const char* kV3 = R"({
  "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1,
  "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
  "max_position_embeddings": 163840, "model_type": "deepseek_v3", "moe_intermediate_size": 2048, "moe_layer_freq": 1,
  "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 128,
  "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
  "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                          "weight_block_size": [128, 128], "scale_fmt": "ue8m0"},
  "rms_norm_eps": 1e-06, "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
  "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096, "type": "yarn"}, "rope_theta": 10000,
  "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": false, "topk_group": 4,
  "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "v_head_dim": 128, "vocab_size": 129280})";

HfConfig parse_ok(std::string_view json) {
  auto config = parse_hf_config(json, "config.json");
  EXPECT_TRUE(config.ok()) << config.error().message;
  return config.ok() ? std::move(config).value() : HfConfig{};
}

TEST(HfConfig, V2LiteAsPublished) {
  const HfConfig c = parse_ok(kV2Lite);
  EXPECT_EQ(c.model_type, "deepseek_v2");
  EXPECT_EQ(c.q_lora_rank, 0);
  EXPECT_EQ(c.n_routed_experts, 64);
  EXPECT_EQ(c.topk_method, "greedy");
  EXPECT_EQ(c.scoring_func, "softmax");
  EXPECT_EQ(c.eos_token_ids, std::vector<std::int32_t>{100001});
  ASSERT_TRUE(c.rope_scaling);
  EXPECT_EQ(c.rope_scaling->mscale, 0.707);
  EXPECT_EQ(c.rope_scaling->mscale_all_dim, 0.707);
  EXPECT_EQ(c.quantization.method, "none");
}

TEST(HfConfig, V3AsPublished) {
  const HfConfig c = parse_ok(kV3);
  EXPECT_EQ(c.quantization.method, "fp8");
  EXPECT_THAT(c.quantization.formats, ElementsAre(quant::WeightFormat::fp8, quant::WeightFormat::mxfp4));
  EXPECT_EQ(c.n_group, 8);
  EXPECT_EQ(c.topk_group, 4);
  EXPECT_EQ(c.num_nextn_predict_layers, 1);
  EXPECT_EQ(c.first_k_dense_replace, 3);
}

// transformers' own classes leave out what they do not implement as a choice.
TEST(HfConfig, GateDefaultsFollowTheFamily) {
  const std::string moe = R"(, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 4,
                             "first_k_dense_replace": 0, "n_group": 2, "topk_group": 1)";
  const HfConfig v3 = parse_ok(small_config(moe));
  EXPECT_EQ(v3.scoring_func, "sigmoid");
  EXPECT_EQ(v3.topk_method, "noaux_tc");
  std::string text = small_config(moe);
  text.replace(text.find("deepseek_v3"), 11, "deepseek_v2");
  const HfConfig v2 = parse_ok(text);
  EXPECT_EQ(v2.scoring_func, "softmax");
  EXPECT_EQ(v2.topk_method, "greedy");
  EXPECT_EQ(v2.n_group, 1) << "greedy knows no groups";
}

TEST(HfConfig, DenseModelNeedsNoGate) {
  const HfConfig c = parse_ok(small_config());
  EXPECT_EQ(c.n_routed_experts, 0);
  EXPECT_FALSE(c.rope_scaling);
  EXPECT_EQ(c.architecture, "DeepseekV3ForCausalLM");
}

TEST(HfConfig, RopeParameters) {
  const HfConfig yarn =
      parse_ok(small_config(R"(, "rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4,
      "original_max_position_embeddings": 64, "mscale": 1.0, "mscale_all_dim": 0.5})"));
  EXPECT_EQ(yarn.rope_theta, 5e5);
  ASSERT_TRUE(yarn.rope_scaling);
  EXPECT_EQ(yarn.rope_scaling->factor, 4.0);
  EXPECT_EQ(yarn.rope_scaling->beta_fast, 32.0);
  EXPECT_EQ(yarn.rope_scaling->mscale_all_dim, 0.5);
  const HfConfig plain =
      parse_ok(small_config(R"(, "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0})"));
  EXPECT_EQ(plain.rope_theta, 20000.0);
  EXPECT_FALSE(plain.rope_scaling);
}

TEST(HfConfig, BothRopeFormsMayAgree) {
  const HfConfig c = parse_ok(small_config(
      R"(, "rope_theta": 10000, "rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 64},
         "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32,
                             "original_max_position_embeddings": 64})"));
  EXPECT_TRUE(c.rope_scaling);
}

// Without mscale_all_dim transformers scales cos and sin by 0.1 ln(factor) + 1, whatever mscale says.
TEST(HfConfig, MscaleCountsOnlyAsAPair) {
  const HfConfig c =
      parse_ok(small_config(R"(, "rope_scaling": {"type": "yarn", "factor": 4, "mscale": 0.707})"));
  ASSERT_TRUE(c.rope_scaling);
  EXPECT_EQ(c.rope_scaling->mscale, 1.0);
  EXPECT_EQ(c.rope_scaling->mscale_all_dim, 0.0);
  EXPECT_EQ(c.rope_scaling->original_max_position_embeddings, 256) << "max_position_embeddings";
}

TEST(HfConfig, EmptyRopeScalingIsNone) {
  EXPECT_FALSE(parse_ok(small_config(R"(, "rope_scaling": {})")).rope_scaling);
  EXPECT_FALSE(parse_ok(small_config(R"(, "rope_scaling": null)")).rope_scaling);
}

TEST(HfConfig, EosMayBeAList) {
  EXPECT_THAT(parse_ok(small_config(R"(, "eos_token_id": [1, 3])")).eos_token_ids, ElementsAre(1, 3));
  EXPECT_TRUE(parse_ok(small_config(R"(, "eos_token_id": null)")).eos_token_ids.empty());
}

TEST(HfConfig, QuantizationMethods) {
  EXPECT_EQ(parse_ok(small_config(R"(, "quantization_config": null)")).quantization.method, "none");
  EXPECT_EQ(
      parse_ok(
          small_config(
              R"(, "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})"))
          .quantization.method,
      "mxfp4");
  const HfConfig modelopt = parse_ok(small_config(
      R"(, "quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head", "x*"],
           "kv_cache_scheme": {"num_bits": 8, "type": "float"}})"));
  EXPECT_EQ(modelopt.quantization.method, "modelopt");
  EXPECT_THAT(modelopt.quantization.ignore, ElementsAre("lm_head", "x*"));
}

IntegerScheme only_scheme(const HfConfig& config) {
  EXPECT_EQ(config.quantization.integers.size(), 1U);
  return config.quantization.integers.empty() ? IntegerScheme{} : config.quantization.integers.front();
}

TEST(HfConfig, Gptq) {
  const HfConfig v1 = parse_ok(small_config(
      R"(, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": false,
           "desc_act": true, "dynamic": {"-:.*gate$": {}}})"));
  EXPECT_EQ(v1.quantization.layout, quant::MatrixLayout::gptq);
  EXPECT_THAT(v1.quantization.formats, ElementsAre(quant::WeightFormat::int4));
  EXPECT_EQ(only_scheme(v1).group_size, 128);
  EXPECT_FALSE(only_scheme(v1).symmetric);
  EXPECT_TRUE(only_scheme(v1).act_order);
  const HfConfig v2 = parse_ok(small_config(
      R"(, "quantization_config": {"quant_method": "gptq", "bits": 8, "group_size": -1, "checkpoint_format": "gptq_v2"})"));
  EXPECT_EQ(v2.quantization.layout, quant::MatrixLayout::gptq_v2);
  EXPECT_THAT(v2.quantization.formats, ElementsAre(quant::WeightFormat::int8));
  EXPECT_TRUE(only_scheme(v2).symmetric);
}

TEST(HfConfig, AwqHasZeroPoints) {
  const HfConfig c = parse_ok(small_config(
      R"(, "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": true})"));
  EXPECT_EQ(c.quantization.layout, quant::MatrixLayout::awq);
  EXPECT_FALSE(only_scheme(c).symmetric);
  EXPECT_EQ(only_scheme(c).group_size, 64);
}

TEST(HfConfig, CompressedTensorsIntegers) {
  const HfConfig c = parse_ok(small_config(
      R"(, "quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized",
           "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int",
             "symmetric": true, "group_size": 32, "strategy": "group", "actorder": "weight"}}}})"));
  EXPECT_THAT(c.quantization.formats, ::testing::Contains(quant::WeightFormat::int4));
  EXPECT_EQ(only_scheme(c).group_size, 32);
  EXPECT_FALSE(only_scheme(c).act_order) << "\"weight\" leaves the channels where they are";
}

TEST(HfConfig, SideFilesOfGptqAndAwq) {
  for (const char* name : {"quantize_config.json", "quant_config.json"}) {
    TestDirectory dir;
    dir.write("config.json", small_config(""));
    dir.write(name, R"({"w_bit": 4, "q_group_size": 64})");
    const auto config = load_hf_config(dir.path() / "config.json");
    ASSERT_TRUE(config.ok()) << config.error().message;
    EXPECT_EQ(only_scheme(*config).group_size, 64);
  }
}

TEST(HfConfig, SideFiles) {
  TestDirectory dir;
  dir.write("config.json", small_config(R"(, "eos_token_id": 1)"));
  dir.write("generation_config.json", R"({"eos_token_id": [2, 5], "temperature": 0.6})");
  dir.write(
      "hf_quant_config.json",
      R"({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8",
                "group_size": 16, "exclude_modules": ["lm_head"]}})");
  const auto config = load_hf_config(dir.path() / "config.json");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_THAT(config->eos_token_ids, ElementsAre(2, 5));
  EXPECT_EQ(config->quantization.method, "modelopt");
  EXPECT_THAT(config->quantization.ignore, ElementsAre("lm_head"));
}

// A megabyte of keys must not take quadratic time.
TEST(HfConfig, ManyKeysAreRefusedQuickly) {
  std::string extra;
  for (int i = 0; i < 100'000; ++i) extra += ",\"" + std::to_string(i) + "\":0";
  const auto config = parse_hf_config(small_config(extra), "config.json");
  ASSERT_FALSE(config.ok());
  EXPECT_THAT(config.error().message, HasSubstr("more than 4096 keys"));
}

}  // namespace
}  // namespace nibble::formats
