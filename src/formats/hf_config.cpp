#include "formats/hf_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>

#include "core/json.h"
#include "core/quote.h"
#include "formats/config_fields.h"
#include "formats/mapped_file.h"
#include "formats/quantization_config.h"

namespace nibble::formats {
namespace {

namespace fs = std::filesystem;
using Json = ConfigFields::Json;

constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 20;

// Bounds far above any published model; they keep every later product inside 64 bits.
constexpr IntRange kVocab{1, 1 << 24};
constexpr IntRange kWidth{1, 1 << 20};
constexpr IntRange kHeadDim{1, 1 << 14};
constexpr IntRange kHeads{1, 1 << 14};
constexpr IntRange kLayers{1, 1024};
constexpr IntRange kExperts{0, 65536};
constexpr IntRange kContext{1, std::int64_t{1} << 30};
constexpr RealRange kTheta{1.0 + 1e-6, 1e12};

// One row per model family: the model_type of config.json, its class, and how its gate routes.
struct Family {
  std::string_view model_type;
  std::string_view architecture;
  std::string_view scoring_func;
  std::array<std::string_view, 2> topk_methods;  // the first is the default; the second may be empty
};
constexpr std::array kFamilies = {
    Family{"deepseek_v2", "DeepseekV2ForCausalLM", "softmax", {"greedy", "group_limited_greedy"}},
    Family{"deepseek_v3", "DeepseekV3ForCausalLM", "sigmoid", {"noaux_tc", ""}},
};
constexpr std::array<std::string_view, 2> kModelTypes = {"deepseek_v2", "deepseek_v3"};

const Family* read_family(ConfigFields& fields, HfConfig& config) {
  fields.string("model_type", config.model_type);
  if (!fields.ok()) return nullptr;
  for (const Family& family : kFamilies) {
    if (family.model_type == config.model_type) return &family;
  }
  fields.fail_unsupported("model_type", config.model_type, kModelTypes);
  return nullptr;
}

void read_architecture(ConfigFields& fields, const Family& family, HfConfig& config) {
  std::vector<std::string> architectures;
  config.architecture = family.architecture;
  if (!fields.optional_strings("architectures", architectures)) return;
  if (architectures.size() != 1) {
    fields.fail_expected("architectures", "a list of one name");
  } else if (architectures[0] != family.architecture) {
    fields.fail_unsupported("architectures", architectures[0], {&family.architecture, 1});
  }
}

void read_dimensions(ConfigFields& fields, HfConfig& config) {
  fields.integer("vocab_size", config.vocab_size, kVocab);
  fields.integer("hidden_size", config.hidden_size, kWidth);
  fields.integer("intermediate_size", config.intermediate_size, kWidth);
  fields.integer("num_hidden_layers", config.num_hidden_layers, kLayers);
  fields.integer("max_position_embeddings", config.max_position_embeddings, kContext);
  fields.real("rms_norm_eps", config.rms_norm_eps, {1e-30, 1.0});
  fields.optional_integer("num_nextn_predict_layers", config.num_nextn_predict_layers, {0, 16});
  fields.optional_boolean("tie_word_embeddings", config.tie_word_embeddings);
}

void read_attention(ConfigFields& fields, HfConfig& config) {
  fields.integer("num_attention_heads", config.num_attention_heads, kHeads);
  fields.integer("kv_lora_rank", config.kv_lora_rank, kWidth);
  fields.integer("qk_nope_head_dim", config.qk_nope_head_dim, kHeadDim);
  fields.integer("qk_rope_head_dim", config.qk_rope_head_dim, kHeadDim);
  fields.integer("v_head_dim", config.v_head_dim, kHeadDim);
  fields.optional_integer("q_lora_rank", config.q_lora_rank, {0, kWidth.max});  // null and 0: no compression
  if (config.qk_rope_head_dim % 2 != 0) fields.fail_expected("qk_rope_head_dim", "an even number");
  std::int64_t kv_heads = config.num_attention_heads;
  if (fields.optional_integer("num_key_value_heads", kv_heads, kHeads) &&
      kv_heads != config.num_attention_heads) {
    fields.fail_expected("num_key_value_heads",
                         fmt::format("num_attention_heads ({}): latent attention has one key "
                                     "head per query head",
                                     config.num_attention_heads));
  }
}

// Fields whose other values would need code nibble does not have.
void check_fixed_choices(ConfigFields& fields, HfConfig& config) {
  fields.only_string("hidden_act", "silu");
  fields.only_boolean("attention_bias", false);
  fields.only_boolean("rope_interleave", true);
  constexpr std::string_view kOne = "1";
  if (fields.optional_integer("moe_layer_freq", config.moe_layer_freq, {1, kLayers.max}) &&
      config.moe_layer_freq != 1) {
    fields.fail_unsupported("moe_layer_freq", fmt::format("{}", config.moe_layer_freq), {&kOne, 1});
  }
}

// The stored type is read from the tensors; the field only has to be one that exists.
void check_dtype(ConfigFields& fields) {
  static constexpr std::array<std::string_view, 4> kTypes = {"bfloat16", "float16", "float32", "auto"};
  for (const std::string_view name : {"dtype", "torch_dtype"}) {
    std::string dtype;
    if (!fields.optional_string(name, dtype)) continue;
    const std::string_view plain = dtype.starts_with("torch.") ? std::string_view(dtype).substr(6) : dtype;
    if (std::find(kTypes.begin(), kTypes.end(), plain) == kTypes.end())
      fields.fail_unsupported(name, dtype, kTypes);
  }
}

void read_gate(ConfigFields& fields, const Family& family, HfConfig& config) {
  config.scoring_func = family.scoring_func;
  config.topk_method = family.topk_methods[0];
  if (fields.optional_string("scoring_func", config.scoring_func) &&
      config.scoring_func != family.scoring_func) {
    fields.fail_unsupported("scoring_func", config.scoring_func, {&family.scoring_func, 1});
  }
  const std::size_t count = family.topk_methods[1].empty() ? 1 : 2;
  const std::span<const std::string_view> methods(family.topk_methods.data(), count);
  if (fields.optional_string("topk_method", config.topk_method) &&
      std::find(methods.begin(), methods.end(), config.topk_method) == methods.end()) {
    fields.fail_unsupported("topk_method", config.topk_method, methods);
  }
  fields.optional_boolean("norm_topk_prob", config.norm_topk_prob);
  fields.optional_real("routed_scaling_factor", config.routed_scaling_factor, {1e-6, 1e6});
}

// Groups as the gate uses them; greedy looks at no groups, whatever the file says.
void read_groups(ConfigFields& fields, HfConfig& config) {
  const bool grouped = config.topk_method != "greedy";
  fields.optional_integer("n_group", config.n_group, {1, kExperts.max});
  fields.optional_integer("topk_group", config.topk_group, {1, kExperts.max});
  if (!fields.ok()) return;
  if (!grouped) {
    config.n_group = config.topk_group = 1;
    return;
  }
  const std::int64_t group_size = config.n_routed_experts / config.n_group;
  if (config.n_routed_experts % config.n_group != 0) {
    fields.fail_expected("n_group",
                         fmt::format("a divisor of n_routed_experts ({})", config.n_routed_experts));
  } else if (config.topk_group > config.n_group) {
    fields.fail_expected("topk_group", fmt::format("at most n_group ({})", config.n_group));
  } else if (config.num_experts_per_tok > config.topk_group * group_size) {
    fields.fail_expected("num_experts_per_tok", fmt::format("at most the experts of topk_group groups ({})",
                                                            config.topk_group * group_size));
  } else if (config.topk_method == "noaux_tc" && group_size < 2) {
    fields.fail_expected("n_group",
                         "at least two experts per group (a group's score is the sum of its best two)");
  }
}

void read_moe(ConfigFields& fields, const Family& family, HfConfig& config) {
  fields.optional_integer("n_routed_experts", config.n_routed_experts, kExperts);
  fields.optional_integer("first_k_dense_replace", config.first_k_dense_replace, {0, kLayers.max});
  read_gate(fields, family, config);
  if (config.n_routed_experts == 0) return;
  if (!fields.has("first_k_dense_replace")) fields.fail("first_k_dense_replace", "missing");
  fields.integer("moe_intermediate_size", config.moe_intermediate_size, kWidth);
  fields.optional_integer("n_shared_experts", config.n_shared_experts, {0, 1024});
  fields.integer("num_experts_per_tok", config.num_experts_per_tok, {1, kExperts.max});
  if (fields.ok() && config.num_experts_per_tok > config.n_routed_experts) {
    fields.fail_expected("num_experts_per_tok",
                         fmt::format("at most n_routed_experts ({})", config.n_routed_experts));
  }
  read_groups(fields, config);
}

// mscale as transformers reads it: the pair counts only if both are given and not zero; otherwise the
// cosines are scaled by 0.1 ln(factor) + 1, which is mscale 1 with mscale_all_dim 0.
void read_mscale(ConfigFields& yarn, RopeScaling& scaling) {
  yarn.optional_real("mscale", scaling.mscale, {0.0, 100.0});
  yarn.optional_real("mscale_all_dim", scaling.mscale_all_dim, {0.0, 100.0});
  if (scaling.mscale_all_dim == 0.0) {
    scaling.mscale = 1.0;
  } else if (scaling.mscale == 0.0 || !yarn.has("mscale")) {
    yarn.fail_expected("mscale", "a positive number, as mscale_all_dim is given");
  }
}

RopeScaling read_yarn(ConfigFields& yarn, const HfConfig& config) {
  RopeScaling scaling{.original_max_position_embeddings = config.max_position_embeddings};
  yarn.real("factor", scaling.factor, {1.0, 1e6});
  yarn.optional_real("beta_fast", scaling.beta_fast, {1e-6, 1e6});
  yarn.optional_real("beta_slow", scaling.beta_slow, {1e-6, 1e6});
  yarn.optional_integer("original_max_position_embeddings", scaling.original_max_position_embeddings,
                        kContext);
  if (scaling.beta_fast < scaling.beta_slow) yarn.fail_expected("beta_fast", "at least beta_slow");
  read_mscale(yarn, scaling);
  yarn.only_absent("attention_factor");
  yarn.only_boolean("truncate", true);
  return scaling;
}

struct Rope {
  double theta;
  std::optional<RopeScaling> scaling;
  bool operator==(const Rope&) const = default;
};

std::string read_rope_type(ConfigFields& rope) {
  std::string type;
  std::string rope_type;
  const bool has_type = rope.optional_string("type", type);
  const bool has_rope_type = rope.optional_string("rope_type", rope_type);
  if (has_type && has_rope_type && type != rope_type) {
    rope.fail_expected("rope_type", fmt::format("the value of type ({})", quote(type)));
  }
  return has_rope_type ? rope_type : type;
}

// Legacy `rope_scaling` {type, ...} or newer `rope_parameters` {rope_type, rope_theta, ...}. Absent,
// null and empty objects give nothing.
std::optional<Rope> read_rope_object(ConfigFields& fields, std::string_view name, const HfConfig& config) {
  static constexpr std::array<std::string_view, 2> kTypes = {"yarn", "default"};
  std::optional<ConfigFields> object = fields.optional_object(name);
  if (!object || fields.find(name)->empty()) return std::nullopt;
  Rope rope{.theta = config.rope_theta};
  object->optional_real("rope_theta", rope.theta, kTheta);
  double rotary_factor = 1.0;
  if (object->optional_real("partial_rotary_factor", rotary_factor, {0.0, 1.0}) && rotary_factor != 1.0) {
    constexpr std::string_view kWhole = "1 (the rope part is qk_rope_head_dim)";
    object->fail_unsupported("partial_rotary_factor", fmt::format("{}", rotary_factor), {&kWhole, 1});
  }
  const std::string type = read_rope_type(*object);
  if (type == "yarn") {
    rope.scaling = read_yarn(*object, config);
  } else if (type.empty() && object->has("factor")) {
    object->fail("rope_type", "missing; expected \"yarn\" or \"default\"");
  } else if (!type.empty() && type != "default") {
    object->fail_unsupported(object->has("rope_type") ? "rope_type" : "type", type, kTypes);
  }
  fields.absorb(object->status());
  return rope;
}

void read_rope(ConfigFields& fields, HfConfig& config) {
  fields.optional_real("rope_theta", config.rope_theta, kTheta);
  const std::optional<Rope> legacy = read_rope_object(fields, "rope_scaling", config);
  const std::optional<Rope> current = read_rope_object(fields, "rope_parameters", config);
  if (legacy && current && *legacy != *current) {
    fields.fail("rope_parameters", "differs from rope_scaling; leave one of the two out");
  }
  if (const std::optional<Rope>& rope = current ? current : legacy) {
    config.rope_theta = rope->theta;
    config.rope_scaling = rope->scaling;
  }
}

// eos_token_id: one id or a list. Absent leaves `ids` alone.
void read_eos(ConfigFields& fields, std::int64_t vocab_size, std::vector<std::int32_t>& ids) {
  const Json* value = fields.find("eos_token_id");
  if (value == nullptr || !fields.ok()) return;
  const Json list = value->is_array() ? *value : Json::array({*value});
  std::vector<std::int32_t> found;
  for (const Json& item : list) {
    if (!item.is_number_integer() || item < 0 || item >= vocab_size) {
      fields.fail_expected("eos_token_id", fmt::format("token ids from 0 to {}", vocab_size - 1));
      return;
    }
    found.push_back(item.get<std::int32_t>());
  }
  ids = std::move(found);
}

void read_tokens(ConfigFields& fields, HfConfig& config) {
  read_eos(fields, config.vocab_size, config.eos_token_ids);
  std::int64_t bos = 0;
  if (fields.optional_integer("bos_token_id", bos, {0, config.vocab_size - 1})) {
    config.bos_token_id = static_cast<std::int32_t>(bos);
  }
}

void read_quantization(ConfigFields& fields, HfConfig& config) {
  std::optional<ConfigFields> quantization = fields.optional_object("quantization_config");
  if (!quantization) return;
  Result<QuantizationConfig> parsed = parse_quantization_config(*std::move(quantization));
  if (parsed.ok()) {
    config.quantization = std::move(parsed).value();
  } else {
    fields.absorb(std::move(parsed).error());
  }
}

struct SmallJson {
  Json json;
  std::string where;
};

Result<SmallJson> read_object(const fs::path& path) {
  SmallJson file{.json = {}, .where = printable(path.native(), 1024)};
  NIB_TRY(const std::string text, read_small_file(path, kMaxConfigBytes));
  NIB_TRY(file.json, parse_json(text, file.where));
  NIB_TRY_STATUS(check_is_object(file.json, file.where));
  return file;
}

Status read_generation_config(const fs::path& path, HfConfig& config) {
  NIB_TRY(const SmallJson file, read_object(path));
  ConfigFields fields(file.json, file.where);
  read_eos(fields, config.vocab_size, config.eos_token_ids);
  return fields.status();
}

// Formats that older tools describe beside config.json instead of inside it.
Status read_quantization_side_files(const fs::path& dir, HfConfig& config) {
  std::error_code ignored;
  const fs::path modelopt = dir / "hf_quant_config.json";
  if (fs::exists(modelopt, ignored)) {
    NIB_TRY(const SmallJson file, read_object(modelopt));
    NIB_TRY(config.quantization, parse_hf_quant_config(ConfigFields(file.json, file.where)));
    return {};
  }
  struct SideFile {
    std::string_view name;
    std::string_view method;
  };
  for (const SideFile& side :
       {SideFile{"quantize_config.json", "gptq"}, SideFile{"quant_config.json", "awq"}}) {
    if (!fs::exists(dir / side.name, ignored)) continue;
    NIB_TRY(const SmallJson file, read_object(dir / side.name));
    NIB_TRY(config.quantization,
            parse_quantization_side_file(side.method, ConfigFields(file.json, file.where)));
    return {};
  }
  return {};
}

}  // namespace

Result<HfConfig> parse_hf_config(std::string_view json, std::string_view where) {
  NIB_TRY(const Json object, parse_json(json, where));
  NIB_TRY_STATUS(check_is_object(object, where));
  ConfigFields fields(object, std::string(where));
  HfConfig config;
  if (const Family* family = read_family(fields, config)) {
    read_architecture(fields, *family, config);
    read_dimensions(fields, config);
    read_attention(fields, config);
    check_fixed_choices(fields, config);
    check_dtype(fields);
    read_moe(fields, *family, config);
    read_rope(fields, config);
    read_tokens(fields, config);
    read_quantization(fields, config);
  }
  NIB_TRY_STATUS(fields.status());
  return config;
}

Result<HfConfig> load_hf_config(const fs::path& config_json) {
  NIB_TRY(const std::string text, read_small_file(config_json, kMaxConfigBytes));
  NIB_TRY(HfConfig config, parse_hf_config(text, printable(config_json.native(), 1024)));
  const fs::path dir = config_json.parent_path();
  std::error_code ignored;
  if (fs::exists(dir / "generation_config.json", ignored)) {
    NIB_TRY_STATUS(read_generation_config(dir / "generation_config.json", config));
  }
  if (config.quantization.is_none()) NIB_TRY_STATUS(read_quantization_side_files(dir, config));
  return config;
}

}  // namespace nibble::formats
